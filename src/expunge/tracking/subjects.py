"""Run folders and comparison folders -> what trackers are told about them beside their events."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge import config, runs
from expunge.errors import BadInput
from expunge.tracking.reading import Tail, is_number, series
from expunge.tracking.tracker import Outcome, Point, Subject

OF_STAGE = {"train": ("data", "model", "train"), "score": ("data", "model")}
"""Keys of the configuration that decide a run of a stage; an unlearning takes all of them."""
GROUPS = ("compare", "bench")


def stage_of(folder: Path) -> str:
    """Return the stage in a folder's name; empty where it is no run of ours."""
    stage = folder.name.partition("-")[0]
    return stage if stage in ("train", "unlearn", "score", *GROUPS) else ""


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a result."""
    return (folder / "record.json").is_file()


def subject_of(folder: Path, title: str = "") -> Subject:
    """Return a run or a comparison by its folder.

    Args:
        folder: with a configuration, or of a comparison with a record.
        title: what it is called, where no record says it yet.

    Raises:
        BadInput: something cannot be read.
    """
    stage = stage_of(folder)
    if stage in GROUPS:
        records = runs.read_json(folder / "record.json")
        began = (folder / "record.json").stat().st_mtime - records[0]["provenance"]["seconds"]
        return Subject(folder.name, f"{stage}: {_group_title(records)}", stage, folder, _shared_parameters(records), began)
    start = next((event for event in Tail(folder / "events.jsonl").read() if event["event"] == "start"), {})
    if is_finished(folder):
        title = runs.read_json(folder / "record.json").get("title", title)
    tree = config.parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"), str(folder / "config.yaml"))
    kept = {key: value for key, value in tree.items() if key in OF_STAGE.get(stage, tuple(tree)) or key == "seed"}
    identity = start.get("identity", {})
    own = {"stage": stage, "run_seed": identity.get("seed"), "device": identity.get("device"), "code": identity.get("code")}
    parameters = {**flatten({key: value for key, value in kept.items() if key not in ("out", "device", "evaluate")}), **own}
    known = {key: value for key, value in parameters.items() if value is not None}
    return Subject(folder.name, title or folder.name, stage, folder, known, start.get("time", folder.stat().st_mtime))


def outcome_of(folder: Path) -> Outcome:
    """Return how a finished run or comparison ended.

    Raises:
        BadInput: it is not finished.
    """
    record = runs.read_json(folder / "record.json")
    ended = (folder / "record.json").stat().st_mtime
    if stage_of(folder) in GROUPS:
        return _group_outcome(record, folder, ended)
    cost = [Point(f"cost/{name}", value, 0, ended) for name, value in record.get("cost", {}).items()]
    facts = {"weights_hash": record["weights"], "status": record["status"]}
    if record["status"] != "ok":
        facts["reason"] = record["failure"]["reason"]
    files = [folder / name for name in ("config.yaml", "record.json", "environment.json", "events.jsonl", "split.json")]
    weights = folder / ("weights.safetensors" if record["status"] == "ok" else "last_good.safetensors")
    return Outcome(record["status"], ended, facts, cost, [file for file in files if file.is_file()], weights)


def runs_in(folder: Path) -> list[Path]:
    """Return the runs and comparisons that a folder is or holds, comparisons last.

    Raises:
        BadInput: there is none.
    """
    found = [folder] if stage_of(folder) else sorted(path.parent for path in folder.glob("*/record.json") if stage_of(path.parent))
    if not found or (found == [folder] and not (folder / "record.json").is_file() and not (folder / "events.jsonl").is_file()):
        raise BadInput(str(folder), "there is no run in it.", "Give a run folder, or the folder that holds them, such as runs.")
    return sorted(found, key=lambda path: stage_of(path) in GROUPS)


def members_of(folder: Path) -> list[Path]:
    """Return the run folders that a comparison rests on, as far as they are there: where it says, or beside it."""
    if stage_of(folder) not in GROUPS:
        return []
    said = [Path(path) for record in runs.read_json(folder / "record.json") for path in record["provenance"]["runs"].values()]
    here = [path if path.is_dir() else folder.parent / path.name for path in said]
    return list(dict.fromkeys(path for path in here if path.is_dir()))


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys; a component in a list goes by its name, other lists are texts."""
    if isinstance(value, Mapping):
        return {key: leaf for name, part in value.items() for key, leaf in flatten(part, f"{path}.{name}" if path else str(name)).items()}
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        named = {item["name"]: {key: part for key, part in item.items() if key != "name"} for item in value}
        return {path: ", ".join(named), **flatten(named, path)}
    if value is None or value == [] or value == {}:
        return {}
    return {path: value if isinstance(value, str | int | float | bool) else json.dumps(value)}


def _group_title(records: list[dict[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(record["title"] for record in records))[:200]


def _shared_parameters(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all requests of a comparison share of their configuration."""
    trees = [flatten(config.parse_yaml(record["provenance"]["config"], "config")) for record in records]
    return {key: value for key, value in trees[0].items() if key != "out" and all(tree.get(key) == value for tree in trees)}


def _group_outcome(records: list[dict[str, Any]], folder: Path, ended: float) -> Outcome:
    facts = {"command": str(records[0]["provenance"].get("command", ""))}
    points: list[Point] = []
    members: dict[str, list[Point]] = {}
    table: list[list[Any]] = [["request", "row", "metric", "value", "standard error", "band low", "band high"]]
    for record in records:
        where = "table/" if len(records) == 1 else f"table/{series(record['title'])}/"
        for row in record["table"]["rows"]:
            if row.get("verdict"):
                facts[series(f"verdict {record['title']} {row['name']}")] = row["verdict"]
            for metric, cell in row["cells"].items():
                if cell is None or not is_number(cell.get("value")):
                    continue
                points.append(Point(f"{where}{series(row['name'])}/{metric}", cell["value"], 0, ended))
                band = cell.get("band") or {}
                own = [cell["value"], cell.get("standard_error"), band.get("low"), band.get("high")]
                table.append([record["title"], row["name"], metric, *own])
        for key, each in _of_members(record, ended):
            members.setdefault(key, []).extend(each)
    files = [folder / name for name in ("record.json", "table.csv", "report.html", "grid.json") if (folder / name).is_file()]
    return Outcome("ok", ended, facts, points, files, None, table, members)


def _of_members(record: Mapping[str, Any], ended: float) -> Iterator[tuple[str, list[Point]]]:
    """Yield the key of each run of a request with what its metrics are; nothing for rows that lost a seed, whose places are unknown."""
    rows = {row["name"]: row for row in record["table"]["rows"] if not row["failed_seeds"]}
    for key, folder in record["provenance"]["runs"].items():
        words = key.split("/")
        label, seed = words[0] if words[0] != "unlearned" else "/".join(words[2:-1]), int(words[-1])
        cells = rows.get(label, {}).get("cells", {})
        values = {metric: cell["per_seed"][seed] for metric, cell in cells.items() if cell and seed < len(cell.get("per_seed") or ())}
        yield Path(folder).name, [Point(f"final/{metric}", value, 0, ended) for metric, value in values.items() if is_number(value)]
