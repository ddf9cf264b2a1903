"""The audit record of a deletion: one JSON file beside the unlearned weights, and what it proves.

It names examples by their key and by a hash of their content, and nobody by name. A hash of content is no secret: whoever holds a copy of a
picture can see that it was deleted.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from expunge import config, runs
from expunge.data.dataset import Data
from expunge.data.split import Split
from expunge.data.split_file import hash_tree
from expunge.errors import BadInput
from expunge.models import checkpoint
from expunge.pools.workplace import Workplace

NAME = "audit.json"
FORMAT = "expunge audit record 1"
FILES = ("weights.safetensors", "split.json", "config.yaml", "environment.json", "record.json")
"""Of a run folder; their hashes are in the record."""
REQUIRED = {
    **{name: str for name in ("format", "request", "written")},
    **{name: dict for name in ("deleted", "method", "weights", "split", "files", "code", "evidence")},
    **{name: list for name in ("proves", "does_not_prove")},
}
"""What every record holds -> of which type."""

WHOLE = 64
"""Digits of a hash of tensors; a run that started from a weights file knows it by fewer of the file's."""
PROVES = (
    "these files are the ones that were written: any change of weights, split, configuration or record since then shows",
    "the deleted keys were in the forget set that the method was given, and in no part that it was told to keep or to stop by",
    "the weights changed, from those with the hash 'before' to those with the hash 'after'",
    "whoever has the data, the code and the weights 'before' can repeat the run and compare the hash 'after'",
)
DOES_NOT = (
    "that the influence of the examples is gone from the weights: only an evaluation says how close they are to retrained ones, and only "
    "for the attacks that it made; no audit of weights alone can show it",
    "that the record was not written anew together with all the files it names, unless its hash was kept elsewhere at the time",
    "anything about other copies: the weights 'before', earlier models, caches, logits, backups, or the data set itself",
    "that no near copy of a deleted example was kept, under another key",
)


def write(folder: Path, request: str, keys: Sequence[int], data: Data | None = None, **more: Any) -> dict[str, Any]:
    """Write the record of a finished unlearning into its run folder and return it.

    Args:
        folder: of the run.
        request: its name.
        keys: what was deleted by this request, canonical indices; the split may hold those of earlier ones too.
        data: the examples, for hashes of their content; without it the record has keys alone.
        more: ``before`` (facts about the model it started from), ``ledger`` (where the request stands), ``evidence`` (see `evidence_of`).

    Raises:
        BadInput: the folder holds no finished unlearning, or its files are not those of the run.
    """
    run = runs.read_json(folder / "record.json")
    if run.get("status") != "ok" or run.get("identity", {}).get("stage") != "unlearn":
        raise BadInput(str(folder), "holds no finished unlearning.", "Give the folder that `expunge unlearn` or `expunge serve` wrote.")
    identity, split = run["identity"], Split.load(folder / "split.json")
    _check_own(folder, run, split)
    held = {
        "format": FORMAT,
        "request": request,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "deleted": {"count": len(keys), "keys": sorted(map(int, keys)), "content": contents(data, keys), "data": split.data_fingerprint},
        "method": {"method": identity["method"], "addons": identity["addons"], "seed": identity["seed"]},
        "weights": {**_before(folder, identity["original"]), "after": run["weights"], **more.get("before", {})},
        "split": {"content_hash": split.content_hash, "forget": len(split.forget), "retain": len(split.retain)},
        "cost": run["cost"],
        "files": {name: file_hash(folder / name) for name in FILES},
        "code": {"fingerprint": identity["code"], **_versions(folder)},
        "ledger": more.get("ledger"),
        "evidence": _evidence(more.get("evidence"), identity),
        "proves": list(PROVES),
        "does_not_prove": list(DOES_NOT),
    }
    record = {**held, "hash": hash_tree(held)}
    runs.write_json(folder / NAME, record)
    return record


def _check_own(folder: Path, run: Mapping[str, Any], split: Split) -> None:
    """Refuse weights that the run did not leave, and a split that its method was not given."""
    weights = checkpoint.tensors_hash(checkpoint.read_state(folder / "weights.safetensors"))
    for name, fits in (("weights.safetensors", weights == run["weights"]), ("split.json", split.fingerprint == run["identity"]["split"])):
        if not fits:
            raise BadInput(str(folder / name), "is not that of the run.", "Restore the folder, or run it again.")


def _before(folder: Path, original: str) -> dict[str, str]:
    """Return the hash of the tensors that the run started from; those of a weights file are read for it, whose own hash is noted too.

    Raises:
        BadInput: the weights file is not there any more, or is another now.
    """
    if len(original) == WHOLE:
        return {"before": original}
    settings = settings_of(folder)
    path = settings.model.weights
    if path is None or not str(file_hash(path)).startswith(original):
        raise BadInput("model.weights", f"{path} is not the file that the run started from.", "Put it back; its weights are compared.")
    return {"before": checkpoint.weights_hash(Workplace(settings).new_model(0, weights=True)), "file": original}


def read(folder: Path) -> dict[str, Any]:
    """Return the record of a run folder.

    Raises:
        BadInput: there is none.
    """
    if not folder.is_dir():
        raise BadInput(str(folder), "no such folder or file.", "Give a run folder with an audit record, or a ledger.")
    if not (folder / NAME).is_file():
        remedy = f"`expunge serve` writes one; `expunge verify {folder} --write=REQUEST` does now."
        raise BadInput(str(folder), "holds no audit record.", remedy)
    found = runs.read_json(folder / NAME)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadInput(str(folder / NAME), "is no audit record of this version.")
    return found


def contents(data: Data | None, keys: Sequence[int]) -> dict[str, str] | None:
    """Return key -> 128-bit hash of the example as the data set stores it; None where the data is not at hand or is streamed."""
    if data is None or not hasattr(data.source, "digests"):
        return None
    digests = data.source.digests()
    return {str(key): np.asarray(digests[key]).tobytes().hex() for key in keys}


def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if it is not there."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def evidence_of(path: Path | None, method: str = "") -> dict[str, Any] | None:
    """Return what a record says about an evaluation: where it is, its hash, and the verdict and the settings of every row.

    Args:
        path: a folder that ``expunge evaluate``, ``bench`` or ``sequence`` wrote, or its ``record.json``.
        method: that serves the requests.

    Raises:
        BadInput: it is none, or one of other methods.
    """
    if path is None:
        return None
    file = path / "record.json" if path.is_dir() else path
    if not file.is_file():
        raise BadInput("--evidence", f"{path} holds no record.json.", "Give the folder of an evaluation.")
    held = runs.read_json(file)
    if not isinstance(held, list) or not all(isinstance(record, dict) and "title" in record for record in held):
        raise BadInput("--evidence", f"{file} is not the record of an evaluation.", "Give the folder of an evaluation.")
    verdicts = {record["title"]: _verdicts(record) for record in held}
    methods = {f"{record['title']}: {label}": row for record in held for label, row in _methods(record).items()}
    names = sorted({row["method"]["name"] for row in methods.values()})
    if method and method not in names:
        found = f"{file} evaluates {', '.join(names) or 'no method'}, and the requests are served by {method}."
        raise BadInput("--evidence", found, "Give the folder of an evaluation of this method.")
    about = {"file": f"{file.parent.name}/{file.name}", "sha256": file_hash(file)}
    return {"kind": "evaluation", **about, "verdicts": verdicts, "methods": methods}


def _methods(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the method and the add-ons of each row, as plain values; without add-ons where the record does not hold them."""
    if record.get("kind") == "sequence":
        return {label: {key: row[key] for key in ("method", "addons") if key in row} for label, row in record["rows"].items()}
    return {
        label: {"method": {"name": row["name"], **row["hyperparameters"]}, "addons": row["addons"]}
        for label, row in record["methods"].items()
    }


def _evidence(given: Mapping[str, Any] | None, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of its evaluation, and which of its rows have the method, every setting and the add-ons of the run."""
    if given is None:
        return {"kind": "none", "words": "no evaluation is attached"}
    held, asked = dict(given), {key: json.loads(json.dumps(identity[key])) for key in ("method", "addons")}
    methods = held.pop("methods")
    return {**held, "same_settings": [label for label, row in methods.items() if row == asked]}


def _verdicts(record: Mapping[str, Any]) -> dict[str, str]:
    if record.get("kind") == "sequence":
        return {label: row["verdict"] for label, row in record["rows"].items()}
    return {row["name"]: row["verdict"] for row in record["table"]["rows"]}


def _versions(folder: Path) -> dict[str, Any]:
    environment = runs.read_json(folder / "environment.json")
    return {"commit": environment.get("commit"), "versions": environment.get("versions", {})}


def settings_of(folder: Path) -> config.Experiment:
    """Return the experiment of a run folder."""
    return config.resolve(config.read(folder / "config.yaml"))


def plain_hash(record: Mapping[str, Any]) -> str:
    """Return the hash that a record should have."""
    return hash_tree({key: json.loads(json.dumps(value)) for key, value in record.items() if key != "hash"})
