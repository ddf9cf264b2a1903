"""A method that somebody contributes: a folder with its file and its configuration, and the row of a leaderboard that they give.

A folder holds ``NAME.py`` (the method), ``config.yaml`` (an experiment with ``method: NAME`` in it, and ``contribution:`` with author and
source) and ``README.md``. Running it writes ``row.json`` and ``row.md``, and the leaderboard of the folder above. Checking it runs nothing:
it says whether the row names the files as they are.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from expunge import config, registry, runs
from expunge.errors import BadInput, RunFailed

FORMAT: Final = "expunge leaderboard row 1"
SHOWN = ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "loss_auc", "average_gap")
"""Metrics of a line of the leaderboard."""
FEWEST = 3
"""Seeds and retrained models below which a row says nothing."""

Report = Callable[[dict[str, Any]], None]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Author(_Checked):
    """Who contributes, and where the method was published."""

    author: str = Field(min_length=1)
    source: str = Field(min_length=1)


class Value(_Checked):
    """A metric: mean over seeds, its interval, the gap to the retrained models, and where these lie."""

    label: str
    unit: str
    value: float
    low: float | None
    high: float | None
    gap: float | None
    band_low: float | None
    band_high: float | None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in ((self.low, self.high), (self.band_low, self.band_high)):
            if low is not None and high is not None and low > high:
                raise ValueError(f"{self.label}: {low} to {high} is no interval")
        return self


class LeaderboardRow(_Checked):
    """What a contributed method shows on one setting.

    Attributes:
        method: its name.
        label: of the row, with add-ons, and with ``tuned`` or ``oracle-tuned``.
        setting: data, model and recipe with all that is not their default, request, sizes and seed; rows that share it are comparable.
        reads_retrained: whether it reads retrained models, or was tuned on some.
        original: the row that does nothing, for comparison.
        cost: seconds and sample-passes, and their ratio to retraining.
        files: SHA-256 of the files that it was made from.
        made_with: versions.
    """

    format: Literal["expunge leaderboard row 1"]
    method: str
    label: str
    summary: str
    contribution: Author
    setting: dict[str, str | int | float]
    hyperparameters: dict[str, Any]
    addons: list[dict[str, Any]]
    tuned: dict[str, Any] | None
    reads_retrained: bool
    status: Literal["finished"]
    verdict: str
    seeds: int = Field(ge=FEWEST)
    retrained: int = Field(ge=FEWEST)
    metrics: dict[str, Value] = Field(min_length=1)
    original: dict[str, Value]
    cost: dict[str, float]
    files: dict[str, str]
    made_with: dict[str, str]


def files_of(folder: Path) -> tuple[Path, Path]:
    """Return the method's file and its configuration.

    Raises:
        BadInput: one of them, or the README, is missing, or there are several methods.
    """
    if not folder.is_dir():
        raise BadInput(str(folder), "no such folder.", "Give the folder of a contributed method.")
    methods = sorted(folder.glob("*.py"))
    if len(methods) != 1:
        raise BadInput(str(folder), f"expected one Python file, found {len(methods)}.", "A folder holds one method: NAME.py.")
    for name in ("config.yaml", "README.md"):
        if not (folder / name).is_file():
            raise BadInput(str(folder), f"there is no {name}.", "docs/how-to/contribute-a-method.md says what belongs in it.")
    return methods[0], folder / "config.yaml"


def read(folder: Path, overrides: Sequence[str] = ()) -> tuple[config.Experiment, Author]:
    """Return the experiment of a folder, with its method made known, and who contributes it.

    Raises:
        BadInput: a file is missing, or what it holds is not allowed.
    """
    method, file = files_of(folder)
    name = registry.contribute(method)
    loaded = config.read_yaml(file)
    if not isinstance(loaded, dict):
        raise BadInput(str(file), "expected keys and values.")
    author = _author(loaded.pop("contribution", None), file)
    tree: dict[str, Any] = {}
    for key, value in [*loaded.items(), *map(config.parse_override, overrides)]:
        config.assign(tree, str(key), value)
    found = config.resolve(tree)
    if found.method is None or found.method.name != name:
        given = "none" if found.method is None else found.method.name
        raise BadInput(f"{file}: method", f"expected the folder's own method {name}, got {given}.", f"Write method: {name}.")
    if min(found.evaluate.seeds, found.evaluate.retrained) < FEWEST:
        raise BadInput("evaluate.seeds", f"a row needs {FEWEST} seeds and as many retrained models.", "Write evaluate: {seeds: 6}.")
    return found, author


def _author(given: Any, file: Path) -> Author:
    try:
        return Author.model_validate(given)
    except ValidationError:
        raise BadInput(
            f"{file}: contribution", f"expected author and source, got {given!r}.", "Write contribution: {author: , source: }."
        ) from None


def run(folder: Path, overrides: Sequence[str], report: Report, command: str) -> LeaderboardRow:
    """Run a folder's experiment, write its row, and the leaderboard of the folder above.

    Args:
        folder: of the method.
        overrides: where and how it is computed: ``out``, ``device`` and fields of ``evaluate`` that decide no result.
        report: hears the events.
        command: what was typed, for the record.

    Raises:
        BadInput: what cannot work.
        RunFailed: the method gave no model for a seed.
    """
    from expunge.bench.compare import WHERE, compare, request_of

    for word in overrides:
        key = word.partition("=")[0]
        if key not in ("out", "device", *(f"evaluate.{name}" for name in WHERE)):
            raise BadInput(key, "a row is made of config.yaml as it is.", "Change the file, or give out, device or evaluate.workers.")
    experiment, author = read(folder, overrides)
    records, _ = compare([request_of(experiment, "Contribution")], report, command)
    row = row_of(records[0], folder, author)
    _write(folder / "row.json", json.dumps(row.model_dump(), indent=1, allow_nan=False) + "\n")
    _write(folder / "row.md", markdown([row]))
    _write(folder.absolute().parent / "leaderboard.md", leaderboard(folder.absolute().parent))
    return row


def row_of(record: dict[str, Any], folder: Path, author: Author) -> LeaderboardRow:
    """Return the row of a record.

    Raises:
        RunFailed: the method gave no model for a seed.
    """
    table = record["table"]
    rows = {row["role"]: row for row in table["rows"]}
    mine, label = rows["unlearned"], rows["unlearned"]["name"]
    if mine["status"] != "finished":
        raise RunFailed(f"{label}: {mine['status']}: {mine['reason']}")
    method, asked, environment = record["methods"][label], record["request"], record["provenance"]["environment"]
    tuned = method.get("tuned")
    sizes = {key: asked[key] for key in ("forget", "retain", "test")}
    tree = config.parse_yaml(record["provenance"]["config"], "provenance.config")
    parts = {key: _described(key, tree[key]) for key in ("data", "model", "train")}
    seeds = {key: tree[key] for key in ("seed", *config.SEEDS) if key in tree}
    setting = {**parts, **{key: asked[key] for key in ("tier", "kind")}, "request": _request(asked), **sizes, **seeds}
    cost = {key: value for key, value in record["cost"][label].items() if key in ("seconds", "passes", "seconds_ratio", "passes_ratio")}
    return LeaderboardRow(
        format=FORMAT,
        method=method["name"],
        label=label,
        summary=method["summary"],
        contribution=author,
        setting=setting,
        hyperparameters=method["hyperparameters"],
        addons=method["addons"],
        tuned=tuned,
        reads_retrained="oracle" in method["needs"] or (tuned or {}).get("label") == "oracle-tuned",
        status="finished",
        verdict=mine["verdict"],
        seeds=table["seeds"],
        retrained=table["retrained_models"],
        metrics=_values(mine, rows["retrained"], table["metrics"]),
        original=_values(rows["original"], rows["retrained"], table["metrics"]),
        cost={key: float(value) for key, value in cost.items()},
        files=hashes(folder),
        made_with={"python": environment["python"], **{key: environment["versions"][key] for key in ("expunge", "torch")}},
    )


def _described(key: str, tree: dict[str, Any]) -> str:
    """Return the name of a component with the fields that are not as its class has them: rows that differ in one are not comparable."""
    try:
        usual = config.build(config.KINDS[key], {"name": tree["name"]}, key).tree()
    except BadInput:  # it has fields without a default
        usual = {}
    fields = {name: value for name, value in tree.items() if name != "name" and (name not in usual or usual[name] != value)}
    return " ".join([tree["name"], *(f"{name}={json.dumps(value).replace(chr(34), '')}" for name, value in fields.items())])


def _request(asked: dict[str, Any]) -> str:
    fields = {key: value for key, value in asked["scenario"].items() if key != "name" and value not in (None, [])}
    return " ".join([asked["scenario"]["name"], *(f"{key}={value}" for key, value in fields.items())])


def _values(row: dict[str, Any], retrained: dict[str, Any], heads: dict[str, Any]) -> dict[str, Value]:
    found = {}
    for name, cell in row["cells"].items():
        interval, band, aim = cell["interval"] or {}, heads[name]["band"] or {}, retrained["cells"].get(name)
        found[name] = Value(
            label=heads[name]["label"],
            unit=heads[name]["unit"],
            value=float(cell["value"]),
            low=interval.get("low"),
            high=interval.get("high"),
            gap=None if aim is None else float(cell["value"] - aim["value"]),
            band_low=band.get("low"),
            band_high=band.get("high"),
        )
    return found


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files that a row is made from, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files_of(folder)}


def check(folder: Path) -> list[LeaderboardRow]:
    """Return the rows of a folder, or of all folders in it, after a look at whether they are whole and name the files as they are.

    That the numbers came out of a run it does not show: only running it again does.

    Raises:
        BadInput: what is wrong with which file.
    """
    held = sorted({path.parent for name in ("config.yaml", "row.json") for path in folder.glob(f"*/{name}")})
    folders = [folder] if (folder / "config.yaml").is_file() else held
    if not folders:
        raise BadInput(str(folder), "holds no contributed method.", "Give a folder with config.yaml in it, or one of such folders.")
    rows = [_check_one(one) for one in folders]
    board = folder / "leaderboard.md"
    if folders != [folder] and (not board.is_file() or board.read_text(encoding="utf-8") != leaderboard(folder)):
        raise BadInput(str(board), "is not what the rows give.", "Run `expunge contribute` for one of its folders.")
    return rows


def _check_one(folder: Path) -> LeaderboardRow:
    method, _ = files_of(folder)
    row = load(folder)
    found = hashes(folder)
    for name, value in found.items():
        if row.files.get(name) != value:
            raise BadInput(str(folder / "row.json"), f"was made from another {name}.", f"Run `expunge contribute {folder}` again.")
    if row.method != method.stem:
        raise BadInput(str(folder / "row.json"), f"is of {row.method}, and the folder of {method.stem}.")
    if not (folder / "row.md").is_file() or (folder / "row.md").read_text(encoding="utf-8") != markdown([row]):
        raise BadInput(str(folder / "row.md"), "does not say what row.json says.", f"Run `expunge contribute {folder}` again.")
    return row


def load(folder: Path) -> LeaderboardRow:
    """Return the row of a folder.

    Raises:
        BadInput: there is none, or it is not of the format.
    """
    file = folder / "row.json"
    if not file.is_file():
        raise BadInput(str(folder), "there is no row.json.", f"Run `expunge contribute {folder}`.")
    try:
        return LeaderboardRow.model_validate(runs.read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"{file}: {where}", f"{first['msg'].lower()}.", "Run `expunge contribute` again; rows are not written by hand."
        ) from None


def leaderboard(folder: Path) -> str:
    """Return the rows of all folders in a folder as one page, with a table for each setting."""
    rows = [load(path.parent) for path in sorted(folder.glob("*/row.json"))]
    settings = dict.fromkeys(json.dumps([row.setting, row.seeds, row.retrained]) for row in rows)
    parts = [markdown([row for row in rows if json.dumps([row.setting, row.seeds, row.retrained]) == setting]) for setting in settings]
    return "# Leaderboard\n\nMade by `expunge contribute`; do not edit.\n\n" + "\n".join(parts)


def markdown(rows: Sequence[LeaderboardRow]) -> str:
    """Return rows of one setting as a table, the row that does nothing first."""
    first = rows[0]
    names = [name for name in SHOWN if name in first.metrics]
    heads = [_cell(f"{first.metrics[name].label} {first.metrics[name].unit}") for name in names]
    title = ", ".join(f"{key} {value}" for key, value in first.setting.items())
    lines = [f"{_cell(title)}, {first.seeds} seeds, {first.retrained} retrained models.", ""]
    lines += [
        "| method | " + " | ".join(heads) + " | time of retraining | verdict | by |",
        "| --- |" + " ---: |" * (len(names) + 1) + " --- | --- |",
    ]
    lines += ["| original | " + " | ".join(_printed(first.original.get(name)) for name in names) + " | | | |"]
    for row in rows:
        values = " | ".join(_printed(row.metrics.get(name)) for name in names)
        ratio = row.cost.get("seconds_ratio")
        share = "–" if ratio is None else f"{100 * ratio:.3g} %"
        mark = "‡" if row.reads_retrained else ""
        word = row.verdict.partition(":")[0]
        lines.append(f"| {_cell(row.label)}{mark} | {values} | {share} | {_cell(word)} | {_cell(row.contribution.author)} |")
    lines += ["", "Mean over seeds, in brackets the gap to the retrained models. ‡ reads retrained models, or was tuned on some."]
    return "\n".join(lines) + "\n"


def _printed(value: Value | None) -> str:
    if value is None:
        return "–"
    spread = "" if value.low is None or value.high is None else f" ± {(value.high - value.low) / 2:.3g}"
    return f"{value.value:.4g}{spread}" + ("" if value.gap is None else f" ({value.gap:+.3g})")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _write(path: Path, text: str) -> None:
    with runs.atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
