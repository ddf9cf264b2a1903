"""Records -> the table of a publication, as plain values; `expunge.report.formats` writes it.

Every cell is a mean over seeds with its 95 % interval, its signed gap to the retrained models, a rank and a mark of significance:

- Rank: on a judged metric a row falls short by its distance from the retrained models' mean where it should equal that, and by what it is
  on the wrong side of it where only one side counts. The interval over seeds gives an interval of shortfalls. A row's rank is one more than
  the number of rows whose shortfalls lie wholly below its own, so that rows that cannot be told apart share a rank. A row that failed
  for any seed, and a row of one seed, has none.
- Significance: outside the band of the retrained models beyond chance over all tests of all unlearned rows of the request (Holm, 5 %),
  those of audits among them.

What the pools of a request show stands among the metrics: an audit is a column like them, with the law of its value among retrained
models in the place of a band.

Numbers of others (`expunge.report.published`) are lines of their own, and enter no mean, band, rank or test.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge import registry, statistics
from expunge.errors import BadInput, nearest
from expunge.report.columns import Column, columns
from expunge.report.html import FORMAT
from expunge.report.published import Setting
from expunge.runs import read_json

Record = dict[str, Any]

LEVEL = 0.05
FAILED, ORACLE = "†", "‡"
UNNAMED = ("optimizer", "last_k")
"""Add-ons by which no published row is named: they say how, or in which layers, the others of the row move the weights."""
AUDITS = ("example_auc", "set_classifier", "ulira_privacy", "forgetting_quality")
"""Audits that are shown first, where a record has them; the others are there by name."""


@dataclass(frozen=True)
class Cell:
    """A value of a row, in the metric's unit.

    Attributes:
        value: mean over seeds; of the band its middle, of a published line what was printed.
        low: end of the 95 % interval over seeds, or of the band; None for one seed.
        high: the other end.
        gap: value minus that of the retrained row.
        rank: see the module.
        p_holm: probability of lying this far outside the band by chance, over all tests of all rows; None where nothing is tested.
    """

    value: float
    low: float | None = None
    high: float | None = None
    gap: float | None = None
    rank: int | None = None
    p_holm: float | None = None

    @property
    def significant(self) -> bool:
        """Whether it lies outside the band beyond chance."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        name: label of the row.
        role: original, retrained, band, unlearned or published.
        cells: by metric; what is missing could not be measured.
        cost: seconds, passes and their ratio to retraining.
        failure: why some or all of its runs gave no model; empty if all did.
        oracle: whether it reads retrained models, or its hyper-parameters were chosen by looking at some.
        source: of published numbers.
        tuned: where its hyper-parameters come from, as `expunge tune` writes it; empty for those of nobody's tuning.
    """

    name: str
    role: str
    cells: Mapping[str, Cell]
    cost: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    oracle: bool = False
    source: str = ""
    tuned: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """The table of one request.

    Attributes:
        title: of the request.
        setting: data, model and sizes, in words.
        columns: the metrics.
        lines: original, retrained, band, the methods, then what others have printed.
        notes: how to read it.
    """

    title: str
    setting: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str]


def load(paths: Sequence[Path]) -> list[Record]:
    """Return all records, in the order of the paths.

    Raises:
        BadInput: nothing is there, or it is no record of this version.
    """
    found = [record for path in paths for file in _files(Path(path)) for record in _records(file)]
    if not found:
        raise BadInput(
            "table", "there is no record.", "Give a folder such as runs, or a record.json of `expunge evaluate` or `expunge bench`."
        )
    return found


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInput(str(path), "no such file or folder.", "Give a folder such as runs, or a record.json.")
    if (path / "record.json").is_file():
        return [path / "record.json"]
    found = sorted([*path.glob("compare-*/record.json"), *path.glob("bench-*/record.json")])
    if not found:
        raise BadInput(
            str(path), "holds no compare-* or bench-* folder.", "Run `expunge evaluate` or `expunge bench` with out= this folder."
        )
    return found


def _records(path: Path) -> list[Record]:
    held = read_json(path)
    held = held if isinstance(held, list) else [held]
    for record in held:
        if not isinstance(record, dict) or "table" not in record:
            raise BadInput(str(path), "is not the record of a comparison.", "Take record.json from a compare-* or bench-* folder.")
        if record.get("format") != FORMAT:
            found = f"has format {record.get('format')!r}; this version of expunge reads format {FORMAT}."
            raise BadInput(str(path), found, "Evaluate again with this version.")
    return held


def merge(records: Sequence[Record]) -> list[Record]:
    """Return records in which those that share request, originals and retrained models are one, with the rows of all.

    A row that is there twice with the same runs is taken once; with other runs it gets a number behind its name.
    """
    found: dict[str, Record] = {}
    for record in records:
        key = json.dumps(_reference(record), sort_keys=True)
        found[key] = _joined(found[key], record) if key in found else record
    return list(found.values())


def _reference(record: Record) -> list[Any]:
    """Return what two records must share so that their rows are judged by the same models."""
    runs, table = record["provenance"]["runs"], record["table"]
    bands = {name: head["band"] for name, head in table["metrics"].items()}
    made = sorted(_tail(key, path) for key, path in runs.items() if key.startswith(("original/", "retrained/")))
    return [record["request"], table["seeds"], made, bands]


def _tail(key: str, path: str) -> list[str]:
    """Return stage, seed and name of the folder of a run."""
    return [key.partition("/")[0], key.rpartition("/")[2], Path(path).name]


def _runs_of(record: Record, label: str) -> list[str]:
    """Return the names of the folders of a row's runs, in the order of seeds."""
    found = {key.rpartition("/"): path for key, path in record["provenance"]["runs"].items() if key.startswith("unlearned/")}
    mine = {int(seed): Path(path).name for (before, _, seed), path in found.items() if before.split("/", 2)[2] == label}
    return [mine[seed] for seed in sorted(mine)]


def _joined(first: Record, second: Record) -> Record:
    rows, methods, cost, runs = list(first["table"]["rows"]), dict(first["methods"]), dict(first["cost"]), dict(first["provenance"]["runs"])
    there, added = {row["name"]: _runs_of(first, row["name"]) for row in rows if row["role"] == "unlearned"}, dict[str, str]()
    for row in second["table"]["rows"]:
        made = _runs_of(second, row["name"])
        if row["role"] != "unlearned" or (row["name"] in there and there[row["name"]] == made):
            continue
        label, number = row["name"], 2
        while label in there:
            label, number = f"{row['name']} ({number})", number + 1
        rows.append({**row, "name": label})
        there[label], added[row["name"]] = made, label
        methods[label] = second["methods"].get(row["name"], {})
        cost |= {label: second["cost"][row["name"]]} if row["name"] in second["cost"] else {}
        runs |= {f"unlearned/0/{label}/{seed}": folder for seed, folder in enumerate(made)}
    table = {**first["table"], "rows": rows}
    joined = {"table": table, "audits": _joined_audits(first, second, added), "methods": methods, "cost": cost}
    return {**first, **joined, "provenance": {**first["provenance"], "runs": runs}}


def _joined_audits(first: Record, second: Record, added: Mapping[str, str]) -> dict[str, Any]:
    """Return the audits of a record with what the same ones found about rows of another, by their names there and here."""
    judged, more = first.get("audits") or {}, (second.get("audits") or {}).get("audits") or {}
    heads = {}
    for name, head in (judged.get("audits") or {}).items():
        alike = name in more and more[name]["null"] == head["null"]
        found = {here: more[name]["rows"][there] for there, here in added.items() if there in more[name]["rows"]} if alike else {}
        heads[name] = {**head, "rows": {**head["rows"], **found}}
    return {**judged, "audits": heads} if heads else judged


def check_metrics(records: Sequence[Record], metrics: Sequence[str] | None) -> None:
    """Refuse a metric that no record has."""
    known = {name for record in records for name in with_audits(record)["metrics"]}
    for name in metrics or ():
        if name not in known:
            raise BadInput("--metrics", f"no record has a metric {name!r}.", nearest(name, known))


def section(record: Record, metrics: Sequence[str] | None = None, published: Sequence[Setting] = ()) -> Section:
    """Return the table of one record."""
    table = with_audits(record)
    found = {column.name: column for column in columns(table)}
    if metrics:
        shown = [found[name] for name in metrics if name in found]
    else:
        shown = [column for column in found.values() if column.key] + [found[name] for name in AUDITS if name in found]
    adjusted, reference = adjust(table["rows"]), _row(table["rows"], "retrained")
    ranked = {column.name: ranks(table["rows"], column.name, column.target) for column in shown}
    lines = []
    for row in table["rows"]:
        cells = {column.name: _cell(row, column.name, reference, ranked, adjusted) for column in shown if column.name in row["cells"]}
        lines.append(_line(record, row, cells))
        if row["role"] == "retrained":
            lines.append(Line("band", "band", {column.name: _band(column.band) for column in shown if column.band}))
    others = [line for setting in published for line in _published(setting, record, shown)]
    return Section(
        record["title"], _setting(record["request"]), shown, [*lines, *others], _notes(table, lines, adjusted, published, record)
    )


def with_audits(record: Record) -> Record:
    """Return the table of a record with its audits among the metrics, and what they found among the cells of the rows."""
    table, judged = record["table"], record.get("audits") or {}
    heads = {name: head for name, head in (judged.get("audits") or {}).items() if name not in table["metrics"]}
    bands = {name: band_of(head, judged["models"]["reference"]) for name, head in heads.items()}
    metrics = {name: _audit_head(head, bands[name]) for name, head in heads.items()}
    rows = [{**row, "cells": {**row["cells"], **_audit_cells(row["name"], heads, bands)}} for row in table["rows"]]
    return {**table, "metrics": {**table["metrics"], **metrics}, "rows": rows}


def band_of(head: Mapping[str, Any], models: int) -> dict[str, Any] | None:
    """Return where an audit of retrained models lies, as the table has it; None for a game, whose value without a leak is known."""
    null, (lowest, highest) = head["null"], head["limits"] or (0.0, float("inf"))
    if null["draws"] == 0:
        return None
    low, high = (edge if found is None else found for found, edge in ((null["low"], lowest), (null["high"], highest)))
    return {"low": low, "high": high, "mean": null["mean"], "n": models}


def _audit_head(head: Mapping[str, Any], band: dict[str, Any] | None) -> dict[str, Any]:
    reason = None if band else "a game, whose value without a leak is known by definition"
    return {
        **{key: head[key] for key in ("label", "unit", "target")},
        "tested": head["target"] != "report",
        "band": band,
        "band_reason": reason,
    }


def _audit_cells(row: str, heads: Mapping[str, Any], bands: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, head in heads.items():
        cell = head["rows"].get(row)
        if cell is None or cell["value"] is None:
            continue
        ends = None if cell["interval"] is None or None in cell["interval"] else dict(zip(("low", "high"), cell["interval"], strict=True))
        tested = head["target"] != "report"
        found[name] = {"value": cell["value"], "interval": ends, "band": bands[name], "tested": tested, "p_value": cell["p_value"]}
    return found


def _row(rows: Sequence[dict[str, Any]], role: str) -> dict[str, Any] | None:
    return next((row for row in rows if row["role"] == role), None)


def _band(band: dict[str, Any]) -> Cell:
    return Cell(band["mean"], band["low"], band["high"])


def _cell(row: Any, metric: str, reference: Any, ranked: Mapping[str, Mapping[str, int]], adjusted: Mapping[Any, float]) -> Cell:
    cell, compared = row["cells"][metric], reference["cells"].get(metric) if reference else None
    interval = cell["interval"] or {"low": None, "high": None}
    gap = cell["value"] - compared["value"] if compared and row is not reference else None
    return Cell(cell["value"], interval["low"], interval["high"], gap, ranked[metric].get(row["name"]), adjusted.get((row["name"], metric)))


def _line(record: Record, row: dict[str, Any], cells: dict[str, Cell]) -> Line:
    cost = {key: value for key, value in (record["cost"].get(row["name"]) or {}).items() if key != "peak_memory_bytes"}
    failure = "" if row["status"] == "finished" else f"{row['status']}: {row['reason']}"
    method = record["methods"].get(row["name"], {})
    tuned = method.get("tuned") or {}
    oracle = _reads_oracle(method) or tuned.get("label") == "oracle-tuned"
    return Line(row["name"], row["role"], cells, cost, failure, oracle, tuned=tuned)


def _reads_oracle(method: Mapping[str, Any]) -> bool:
    """Return whether a method, or an add-on, reads retrained models; asked of the registry where the record does not say."""
    if "needs" in method:
        return "oracle" in method["needs"]
    parts = [("methods", method.get("name")), *(("addons", addon["name"]) for addon in method.get("addons", ()))]
    return any("oracle" in _needs(kind, name) for kind, name in parts if name)


def _needs(kind: str, name: str) -> frozenset[str]:
    try:
        return frozenset(registry.find(kind, name).needs)  # type: ignore[attr-defined]
    except BadInput:
        return frozenset()


def adjust(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Return p-values adjusted by Holm over all tests of all unlearned rows that finished, by row and metric."""
    keys = [
        (row["name"], name)
        for row in rows
        if row["role"] == "unlearned" and row["status"] == "finished"
        for name, cell in row["cells"].items()
        if cell["tested"] and cell["p_value"] is not None
    ]
    cells = {row["name"]: row["cells"] for row in rows}
    if not keys:
        return {}
    adjusted = statistics.holm([cells[label][name]["p_value"] for label, name in keys])
    return {key: float(value) for key, value in zip(keys, adjusted, strict=True)}


def ranks(rows: Sequence[dict[str, Any]], metric: str, target: str) -> dict[str, int]:
    """Return the rank of each unlearned row that has one, by its name; none on a metric that is not judged. See the module."""
    reference = _row(rows, "retrained")
    if target == "report" or reference is None or metric not in reference["cells"]:
        return {}
    aim = reference["cells"][metric]["value"]
    held = {
        row["name"]: row["cells"][metric]
        for row in rows
        if row["role"] == "unlearned" and row["status"] == "finished" and metric in row["cells"]
    }
    spans = {
        name: shortfall(target, aim, cell["interval"]["low"], cell["interval"]["high"]) for name, cell in held.items() if cell["interval"]
    }
    return {name: 1 + sum(high < low for other, (_, high) in spans.items() if other != name) for name, (low, _) in spans.items()}


def shortfall(target: str, aim: float, low: float, high: float) -> tuple[float, float]:
    """Return the smallest and the largest shortfall of an interval of values.

    Args:
        target: what the metric aims at; see `expunge.metrics.metric.Target`.
        aim: mean of the retrained models.
        low: lower end of the interval.
        high: its upper end.
    """
    if target == "retrained":
        ends = abs(low - aim), abs(high - aim)
        return (0.0 if low <= aim <= high else min(ends)), max(ends)
    if target == "higher":
        low, high, aim = -high, -low, -aim
    return max(0.0, low - aim), max(0.0, high - aim)


def _published(setting: Setting, record: Record, shown: Sequence[Column]) -> Iterator[Line]:
    """Yield what a setting has for the rows of a record: the same method with the same add-ons, whatever its hyper-parameters."""
    ours = {"original", "retrained", *(_published_name(held) for held in record["methods"].values() if held)}
    names = {column.name for column in shown}
    for name, values in setting.rows.items():
        cells = {metric: Cell(value) for metric, value in values.items() if metric in names}
        if name in ours and cells:
            cost = {"seconds": 60 * setting.minutes[name]} if name in setting.minutes else {}
            yield Line(name, "published", cells, cost, source=f"{setting.name}: {setting.source}")


def _published_name(method: Mapping[str, Any]) -> str:
    return "+".join([method["name"], *(addon["name"] for addon in method["addons"] if addon["name"] not in UNNAMED)])


def _setting(request: Mapping[str, Any]) -> str:
    sizes = f"{request['forget']:,} of {request['forget'] + request['retain']:,} examples forgotten"
    return f"{request['data']}, {request['model']}, {sizes}, {request['seeds']} seeds, {request['retrained']} retrained models"


def _tuning(line: Line) -> str:
    """Return where the hyper-parameters of a row come from, in a sentence."""
    held = line.tuned
    spent = f"{held['trials']} settings within {held['budget']:,} sample-passes"
    return f"{line.name}: {held['label']}, hyper-parameters chosen by {held['rule']} among {spent} (study {held['study']})."


def _notes(table: Any, lines: Sequence[Line], adjusted: Mapping[Any, float], published: Sequence[Setting], record: Record) -> list[str]:
    notes = []
    if table["seeds"] > 1:
        notes.append(f"Mean ± half of the {100 * table['level']:.0f} % interval over {table['seeds']} seeds.")
    if any(line.role == "retrained" for line in lines):
        notes.append("In brackets the signed gap to the retrained models; band: where as many other retrained models would lie.")
    if any(cell.rank for line in lines for cell in line.cells.values()):
        notes.append(
            "#: rank, one more than the number of rows that are closer to the aim beyond both intervals; rows that overlap share a rank."
        )
    if adjusted:
        notes.append(f"*: outside the band beyond chance over all {len(adjusted)} tests of all methods (Holm, {100 * LEVEL:.0f} %).")
    notes += [f"{FAILED} {line.name}: {' '.join(line.failure.split())}" for line in lines if line.failure]
    if any(line.oracle for line in lines):
        notes.append(f"{ORACLE}: reads retrained models, or was tuned on some, which somebody who must unlearn does not have.")
    notes += [_tuning(line) for line in lines if line.tuned]
    for setting in published:
        differences = setting.differences(record["request"])
        recipe = f"trained by the authors' recipe, ours by {record['request'].get('train', 'another')}"
        notes.append(f"Published ({setting.name}): {setting.source}; {recipe}; in no mean, rank or test of ours. {setting.note}".strip())
        notes += [f"{setting.name} is another setting: {'; '.join(differences)}."] if differences else []
    return notes
