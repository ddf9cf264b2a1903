"""A record -> the words and positions that the template prints. No number is computed here that the record does not hold."""

import json
from typing import Any

from expunge import registry
from expunge.report import audits, doses, epsilons, ranks
from expunge.report.bars import bar
from expunge.report.cautions import cautions
from expunge.report.columns import AIMS, GROUPS, MARKS, Column, columns, half_width, outside, percent, ruling, side
from expunge.report.headline import card
from expunge.report.numerals import typeset

SECTIONS = {
    "verdict": "Verdict",
    "leaderboard": "Leaderboard",
    "tradeoff": "Trade-off",
    "forgetting": "Forgetting",
    "audits": "Audits",
    "doses": "Doses",
    "inside": "Inside",
    "along": "Along the way",
    "compare": "Compare",
    "provenance": "Provenance",
}
"""Section -> words, in order."""
FIGURES = ("losses", "roc", "examples", "gallery", "confusion", "inside", "relearning", "epochs", "pairs")
"""What is drawn from run folders; see `expunge.report.figures.payload`."""
MOST_ROWS = 200
"""Rows of a leaderboard; of more the best are shown."""


def present(record: dict[str, Any], number: int, payload: dict[str, Any], left_out: int = 0) -> dict[str, Any]:
    """Return what the template needs for one request.

    Args:
        record: one request's results.
        number: of the request in the report, from 1; makes the anchors unique.
        payload: what figures show beyond the record.
        left_out: rows that `thin` took out.
    """
    table = record["table"]
    shown = columns(table)
    places = ranks.mean_ranks(table)
    rows = [_row(row, record, shown, places.get(row["name"])) for row in table["rows"]]
    pinned = [row for row in rows if row["role"] in ("original", "retrained")]
    methods = [row for row in rows if row["role"] == "unlearned"]
    return {
        "id": f"request-{number}",
        "number": number,
        "sections": [(key, words) for key, words in SECTIONS.items() if key != "doses" or record.get("doses")],
        "title": record["title"],
        "asked": asked(record["request"]),
        "facts": _facts(record["request"]),
        "warnings": cautions(record["request"], table["rows"]),
        "summary": _summary(methods),
        "columns": shown,
        "groups": _groups(shown),
        "headline": _headline(record),
        "audits": audits.present(record),
        "doses": doses.present(record),
        "completeness": _completeness(record, shown),
        "unmeasured": _unmeasured(record),
        "outputs_only": not any(column.group == "inside" for column in shown),
        "per_example": not record["audits"].get("reason"),
        "pinned": pinned,
        "rows": methods,
        "controls": _controls(table["rows"]),
        "skipped": table["skipped"],
        "aims": [words for target, words in AIMS.items() if any(column.target == target for column in shown)],
        "seeds": table["seeds"],
        "retrained_models": table["retrained_models"],
        "level": f"{100 * table['level']:.0f} %",
        "families": sorted({row["family"] for row in methods}),
        "addons": sorted({name for row in methods for name in row["addon_names"] or ["none"]}),
        "thinned": _thinned(left_out),
        "epsilons": epsilons.present(record),
        "provenance": _provenance(record, payload),
        "payload": _absences(payload),
        "histograms": bool(record.get("histograms", {}).get("loss")),
    }


def thin(record: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return a record with so many rows as a page can hold, and how many were taken out: those with most tests outside their bands."""
    rows = record["table"]["rows"]
    if len(rows) <= MOST_ROWS + 2:
        return record, 0
    references = [row for row in rows if row["role"] != "unlearned"]
    methods = [row for row in rows if row["role"] == "unlearned"]
    kept = sorted(methods, key=lambda row: (not row["cells"], outside(row)[0]))[:MOST_ROWS]
    names = {row["name"] for row in [*references, *kept]}
    held = {key: {name: value for name, value in record[key].items() if name in names} for key in ("methods", "cost")}
    return {**record, **held, "table": {**record["table"], "rows": [*references, *kept]}}, len(methods) - len(kept)


def _thinned(left_out: int) -> str:
    if not left_out:
        return ""
    return f"{left_out:,} further rows, with more tests outside their bands than these, are in record.json and table.csv beside this page."


def _absences(payload: dict[str, Any]) -> dict[str, Any]:
    """Return for each figure why it is not there, if it is not."""
    found: dict[str, Any] = {name: {"reason": payload[name].get("reason")} for name in FIGURES}
    found["epochs"]["rows"] = bool(payload["epochs"].get("rows"))
    return found | {"missing": payload["missing"], "beyond": payload["beyond"]}


def _groups(shown: list[Column]) -> list[tuple[str, str, int]]:
    """Return the choices of columns as (class, words, how many); none where every metric is a key metric."""
    counts = [(name, words, sum(column.group == name for column in shown)) for name, words in GROUPS.items()]
    key = sum(column.key for column in shown)
    choices = [("key", "key metrics", key), *(choice for choice in counts if choice[2]), ("all", "all", len(shown))]
    return choices if key < len(shown) else []


def _headline(record: dict[str, Any]) -> dict[str, Any]:
    """Return the headline cards, methods first, and the table over them: parts that nobody measured are sentences below it."""
    rows = record["table"]["rows"]
    cards = {row["name"]: card(record, row["name"]) for row in rows}
    first = next(iter(cards.values()))
    parts = range(len(first.entries))
    measured = [part for part in parts if any(held.entries[part].short != "–" for held in cards.values())]
    retrained = [max((held.entries[part].retrained for held in cards.values()), key=len) for part in measured]
    ordered = sorted(rows, key=lambda row: row["role"] != "unlearned")
    return {
        "heads": [first.entries[part].label for part in measured],
        "table": [(row["name"], row["role"], ruling(row), [cards[row["name"]].entries[part] for part in measured]) for row in rows],
        "retrained": retrained,
        "missing": [first.entries[part].sentence for part in parts if part not in measured],
        "power": first.power,
        "cards": {row["name"]: cards[row["name"]] for row in ordered},
        "single": sum(row["role"] == "unlearned" for row in rows) == 1,
    }


def _completeness(record: dict[str, Any], shown: list[Column]) -> dict[str, Any] | None:
    """Return the completeness indices, tests by methods; None where there are none."""
    methods = [row for row in record["table"]["rows"] if row["role"] == "unlearned" and row["cells"]]
    tests = [column for column in shown if column.tested]
    lines = [(column, [_index(row["cells"].get(column.name, {}).get("completeness")) for row in methods]) for column in tests]
    kept = [(column, cells) for column, cells in lines if any(cells)]
    return {"rows": [row["name"] for row in methods], "lines": kept, "dropped": len(lines) - len(kept)} if kept else None


def _index(found: dict[str, float] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    texts = {key: typeset(f"{value:.2f}") for key, value in found.items()}
    return {"number": found["value"], **texts}


def _unmeasured(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (row, metric, reason) of what a row gave too little evidence for, though others did not."""
    skipped, heads = record["table"]["skipped"], record["table"]["metrics"]
    return [
        (row["name"], heads.get(name, {}).get("label", name), reason)
        for row in record["table"]["rows"]
        for name, reason in row.get("unmeasured", {}).items()
        if name not in skipped
    ]


def asked(request: dict[str, Any]) -> str:
    """Return in plain words what was to be forgotten."""
    train = request["forget"] + request["retain"]
    share = f"{100 * request['forget'] / train:.2g}" if train else "0"
    start = f"Remove {request['forget']:,} of {train:,} training examples ({share} %) of {request['data']} from {request['model']}."
    return f"{start} {_chosen(request)} Success would be a model like one that was trained without them."


def _chosen(request: dict[str, Any]) -> str:
    classes = _listed(request["forget_classes"])
    plural = len(request["forget_classes"]) != 1
    if request["kind"] == "class":
        return f"They are all examples of the class{'es' if plural else ''} {classes}."
    if request["kind"] == "subclass":
        return f"They are a part of the class{'es' if plural else ''} {classes}."
    name = request["scenario"].get("name", "")
    return "They were drawn at random." if name == "random" else f"They were chosen by the scenario {name}."


def _listed(names: list[str]) -> str:
    shown = [f"“{name}”" for name in names[:8]] + ([f"{len(names) - 8} more"] if len(names) > 8 else [])
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _facts(request: dict[str, Any]) -> list[tuple[str, str]]:
    parts = [(part, f"{request[part]:,}") for part in ("forget", "retain", "validation", "test", "unseen")]
    models = [("seeds", str(request["seeds"])), ("retrained models", str(request["retrained"]))]
    models += [("tier", request["tier"])] if "tier" in request else []
    return parts + models + [("scenario", _scenario(request["scenario"]))]


def _scenario(scenario: dict[str, Any]) -> str:
    fields = ", ".join(f"{key} {_plain(value)}" for key, value in scenario.items() if key != "name" and value is not None)
    return f"{scenario.get('name', '')}{f' ({fields})' if fields else ''}"


def _summary(methods: list[dict[str, Any]]) -> str:
    if not methods:
        return "No method was run: the table shows the two reference rows only."
    kinds = [method["ruling"].kind for method in methods]
    counts = [_counted(kinds.count("fails"), "fails", "fail"), _counted(kinds.count("none"), "has no verdict", "have no verdict")]
    counts.insert(1, _counted(kinds.count("open"), "shows no evidence of failure", "show no evidence of failure"))
    return f"Of {len(kinds)} method{'' if len(kinds) == 1 else 's'}, {' and '.join(filter(None, counts))}."


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}" if count else ""


def _controls(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_control(row) for row in rows if row["role"] in ("original", "retrained")]


def _control(row: dict[str, Any]) -> dict[str, Any]:
    kind = ruling(row).kind
    if row["role"] == "original":
        words = {
            "fails": "fails, as it should: these tests can see the forget set in a model that was trained on it.",
            "open": "does not fail. The tests cannot tell even the untouched model from retrained ones, "
            "so “no evidence of failure” below means nothing here.",
            "none": "could not be judged.",
        }
        return {"name": row["name"], "ok": kind == "fails", "text": words[kind]}
    words = {
        "open": "shows no evidence of failure, as it should: each retrained model was judged by the others.",
        "fails": "fails: one retrained model is unlike the others. The band is not to be trusted; train more retrained models.",
        "none": "could not be judged: a control needs more retrained models.",
    }
    return {"name": row["name"], "ok": kind == "open", "text": words[kind]}


def _row(row: dict[str, Any], record: dict[str, Any], shown: list[Column], rank: float | None) -> dict[str, Any]:
    cost = record["cost"].get(row["name"]) or {}
    method = record["methods"].get(row["name"])
    out, tests = outside(row)
    judged = ruling(row)
    return {
        "name": row["name"],
        "role": row["role"],
        "method": _method(method) if method else None,
        "family": family(method["name"]) if method else "other",
        "addon_names": sorted(addon.get("name", "") for addon in method["addons"]) if method else [],
        "rank": rank,
        "rank_text": None if rank is None else f"{rank:.1f}",
        "ruling": judged,
        "details": [judged.detail] if row["status"] != "finished" else judged.detail.split("; "),
        "status": row["status"],
        "reason": row["reason"],
        "seeds": f"{row['seeds'] - row['failed_seeds']} of {row['seeds']} seeds" if row["failed_seeds"] else "",
        "outside": out,
        "tests": tests,
        "cells": [_cell(column, row["cells"].get(column.name), row.get("unmeasured", {}).get(column.name)) for column in shown]
        if row["cells"]
        else [],
        "time": percent(cost.get("seconds_ratio")),
        "time_ratio": cost.get("seconds_ratio"),
        "passes": percent(cost.get("passes_ratio")),
        "passes_ratio": cost.get("passes_ratio"),
        "seconds": duration(cost.get("seconds")),
        "memory": _bytes(cost.get("peak_memory_bytes")),
        "memory_bytes": cost.get("peak_memory_bytes"),
    }


def _cell(column: Column, cell: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    if cell is None:
        return {"column": column, "value": None, "reason": f"not measured: {reason}" if reason else "not measured"}
    where, spread = side(cell), half_width(cell)
    return {
        "column": column,
        "value": cell["value"],
        "text": column.text(cell["value"]),
        "spread": None if spread is None else column.text(spread),
        "side": where,
        "mark": MARKS[where],
        "words": _words(column, cell, where),
        "bar": _bar(column, cell),
    }


def _words(column: Column, cell: dict[str, Any], where: str) -> str:
    """Return a cell in a sentence, with all digits: for the tooltip and for screen readers."""
    value = f"{column.label} {cell['value']:.6g} {column.unit}".rstrip()
    if where == "unjudged":
        return f"{value}; no band: {cell['band_reason']}"
    place = {"inside": "inside", "above": "above", "below": "below", "apart": "inside, but one model is far from the others,"}[where]
    finding = f" ({cell['finding']})" if cell["finding"] else ""
    note = f"; {cell['note']}" if cell["note"] else ""
    index = cell.get("completeness")
    note += f"; completeness {index['value']:.2f} ({index['low']:.2f} to {index['high']:.2f})" if index else ""
    return f"{value}, {place} the band {cell['band']['low']:.6g} to {cell['band']['high']:.6g}, p = {cell['p_value']:.2g}{finding}{note}"


def _bar(column: Column, cell: dict[str, Any]) -> dict[str, Any] | None:
    band, interval = cell["band"], cell["interval"]
    free = {"zero_up_to_band": "below", "lower": "below", "higher": "above"}.get(column.target)
    limits = (interval["low"], interval["high"]) if interval else None
    return bar(cell["value"], limits, band and (band["low"], band["high"]), bool(cell["in_band"]), free)


def _method(method: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": method["name"],
        "summary": method["summary"],
        "source": method["source"],
        "hyperparameters": [(key, _plain(value)) for key, value in method["hyperparameters"].items()],
        "addons": [_scenario(addon) for addon in method["addons"]],
        "deviations": method["deviations"],
    }


def family(method: str) -> str:
    """Return the family of a method: the folder that holds it; ``other`` for one that this installation does not know."""
    module, _ = registry.modules("methods").get(method, ("", ""))
    parts = module.split(".")
    return parts[2].replace("_", " ") if module.startswith("expunge.methods.") and len(parts) > 3 else "other"


def _provenance(record: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    provenance = record["provenance"]
    environment = dict(provenance["environment"])
    versions = environment.pop("versions", {})
    pairs = [(key, _plain(value)) for key, value in environment.items()]
    return {
        "command": provenance["command"],
        "config": provenance["config"],
        "fingerprint": provenance["fingerprint"],
        "data": list(payload["fingerprints"].items()),
        "runs": list(payload["folders"].items()),
        "duration": duration(provenance["seconds"]),
        "environment": pairs + [(name, str(version)) for name, version in versions.items()],
    }


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def duration(seconds: float | None) -> str:
    """Return a duration in the two largest units that matter."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def _bytes(count: int | None) -> str:
    if count is None:
        return "–"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
