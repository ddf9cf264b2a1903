"""The folder of a finished run: found, made, written, checked. It is finished when its record exists.

A run is made by one process at a time, on one machine or on several that share the store: see `expunge.pools.locks`. A store may be at an
address instead of in a folder: see `expunge.pools.remote`.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge import config, runs
from expunge.config import fingerprint
from expunge.data.split import Split
from expunge.engine import parallel
from expunge.engine.divided import divide
from expunge.errors import BadInput, is_about_results
from expunge.models import checkpoint
from expunge.pools import evidence, locks, remote
from expunge.pools.workplace import Report, Workplace


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """Where it is, for other machines too; `find` takes it."""
        return remote.name_of(self.folder)

    @property
    def status(self) -> str:
        """``ok`` or ``diverged``."""
        return self.record["status"]

    def logits(self) -> np.ndarray:
        """Return the evidence, float32 ``[N + T, C]``."""
        return evidence.load(self.folder / "logits.npy")

    @property
    def has_triggered(self) -> bool:
        """Whether there is evidence about test pictures with a trigger."""
        return "triggered" in self.record.get("evidence", ())

    def triggered(self) -> np.ndarray | None:
        """Return the logits of test pictures with a trigger, float32 ``[n, C]``; None where the request forgets no backdoor."""
        return evidence.load(self.folder / "triggered.npy") if self.has_triggered else None


Compute = Callable[[Path, Report], tuple[nn.Module, dict[str, Any]]]
"""(folder, report) -> a model with its final weights, and what its record says of how they came about."""


def make(work: Workplace, identity: dict[str, Any], title: str, compute: Compute, split: Split | None = None) -> Run:
    """Return the run that an identity names: found if it is there, else computed and written.

    Args:
        work: the experiment.
        identity: all that decides the weights; it names the folder.
        title: what progress reports call the run.
        compute: makes the model.
        split: another division of the same data than the request's, to be kept in its place.

    Raises:
        Busy: another process is making it, in a worker that can take other work; everybody else waits, and then finds it.
    """
    found = look_up(work, identity, title)
    if found is not None:
        if not parallel.rank():
            with contextlib.suppress(BadInput):  # a store that is not ours to write in is whole enough
                _describe(work, found.folder, split, anew=False)
        return found
    folder = folder_of(work, identity)

    def tell(holder: str) -> None:
        work.report({"event": "waiting", "title": title, "folder": str(folder), "for": holder})

    with locks.hold(folder, tell, wait=parallel.ranks() > 1):
        return look_up(work, identity, title, held=True) or _make(work, identity, title, compute, split)


def _make(work: Workplace, identity: dict[str, Any], title: str, compute: Compute, split: Split | None) -> Run:
    folder = folder_of(work, identity)
    _prepare(work, folder, identity, split)
    _check_shared(folder)
    if work.device.type == "cpu":
        torch.set_num_threads(work.experiment.evaluate.threads)
    work.report({"event": "start", "title": title, "folder": str(folder)})

    def report(event: dict[str, Any]) -> None:
        runs.append_event(folder / "events.jsonl", **event)
        work.report({**event, "title": title})

    model, record = compute(folder, report)
    return _finish(work, identity, title, model, record, lambda: _outputs(work, model))


def find(name: str | Path) -> Run:
    """Return a finished run by its folder or by its name, after bringing it here where it is at an address alone.

    Raises:
        BadInput: it is not finished.
    """
    folder = remote.local(name)
    found = _finished(folder) or _brought(folder)
    if found is None:
        raise BadInput(str(name), "is not a finished run.", "Run the command that made it again; it goes on.")
    return found


def look_up(work: Workplace, identity: dict[str, Any], title: str, *, held: bool = False, bring: bool = True) -> Run | None:
    """Return a finished run, and tell that it was found; None if it is still to be made.

    Args:
        work: the experiment.
        identity: what names the folder.
        title: what the run is called.
        held: whether the caller holds the lock on the folder.
        bring: have its files here; of a run that is at an address alone, only the record is read otherwise.
    """
    folder, attack = folder_of(work, identity), work.triggered_test
    found = _kept(work, folder, held, bring) if not parallel.rank() else None
    lacks_trigger = found is not None and attack is not None and found.status == "ok" and not found.has_triggered
    if lacks_trigger and bring:
        remote.distrust(folder)
    if not parallel.agreed(found is not None and not lacks_trigger):
        return None
    found = found or find(folder)
    work.report({"event": "found", "title": title, "folder": str(folder)})
    return found


def _kept(work: Workplace, folder: Path, held: bool, bring: bool) -> Run | None:
    """Return a run that is finished here or at the address of the store, and let the address have what it lacks."""
    found = _finished(folder)
    if not bring:
        record = remote.record(folder) if found is None else None
        return found or (Run(folder, record) if isinstance(record, dict) and "status" in record else None)
    if found is not None:
        remote.push(folder, work.report)  # a command that was cut off before has left it here alone
    return found or _brought(folder, work.report, held)


def _brought(folder: Path, report: Report = lambda event: None, held: bool = False) -> Run | None:
    """Return a run that is finished at the address of its store alone, and is brought from there; None if there is none that is whole."""
    if not remote.has(folder):
        return None
    with contextlib.nullcontext() if held else locks.hold(folder):
        found = _finished(folder)
        if found is not None or not remote.pull(folder, report):
            return found
        found = _finished(folder)
        if found is not None and _is_true(found):
            return found
        remote.distrust(folder)
    message = f"what lies at {remote.name_of(folder)} is damaged; it is made again"
    report({"event": "warning", "title": folder.name, "message": message})
    return None


def _is_true(run: Run) -> bool:
    """Return whether the weights of a run are those that its record tells of."""
    try:
        held = checkpoint.tensors_hash(checkpoint.read_state(run.folder / weights_name(run.status)))
    except BadInput:
        return False
    return held == run.record["weights"]


def keep(
    work: Workplace,
    identity: dict[str, Any],
    title: str,
    model: nn.Module,
    record: dict[str, Any],
    outputs: dict[str, np.ndarray],
    events: Sequence[dict[str, Any]],
    *,
    held: bool = False,
) -> Run:
    """Write the run folder of a model that was made elsewhere than in a stage of its own.

    Args:
        work: the experiment.
        identity: what names the folder.
        title: what the run is called.
        model: with its final weights.
        record: what its training did.
        outputs: ``logits`` and, where a backdoor is forgotten, ``triggered``.
        events: what its training reported.
        held: whether the caller holds the lock on the folder.
    """
    folder = folder_of(work, identity)
    with contextlib.nullcontext() if held else locks.hold(folder):
        _prepare(work, folder, identity)
        for event in events:
            runs.append_event(folder / "events.jsonl", **event)
        return _finish(work, identity, title, model, record, lambda: outputs)


def folder_of(work: Workplace, identity: dict[str, Any]) -> Path:
    """Return the folder of the run that an identity names."""
    return work.out / f"{identity['stage']}-{fingerprint(identity)}"


def _finish(
    work: Workplace,
    identity: dict[str, Any],
    title: str,
    model: nn.Module,
    record: dict[str, Any],
    outputs: Callable[[], dict[str, np.ndarray]],
) -> Run:
    """Write evidence, weights and, last, the record; then send them to the address of the store, if it has one."""
    folder = folder_of(work, identity)
    record = {"status": "ok", **record, "title": title, "identity": identity, "weights": checkpoint.weights_hash(model)}
    if record["status"] == "ok":
        record |= _collect(outputs(), folder)
    checkpoint.save(model, folder / weights_name(record["status"]), work.experiment.lasting())
    runs.write_json(folder / "record.json", record)
    if not parallel.rank():
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    runs.append_event(folder / "events.jsonl", event="end", status=record["status"], cost=record.get("cost"), weights=record["weights"])
    remote.push(folder, work.report)
    work.report({"event": "end", "title": title, "folder": str(folder), "status": record["status"]})
    return Run(folder, parallel.agreed(record))


def _check_shared(folder: Path) -> None:
    """See that all ranks look at the same folder, which rank 0 has just made."""
    parallel.wait()
    if not parallel.everywhere((folder / "config.yaml").is_file()):
        raise BadInput("out", f"{folder} is not seen by all ranks.", "Choose a folder that all machines share, with out=FOLDER.")


def _outputs(work: Workplace, model: nn.Module) -> dict[str, np.ndarray]:
    size = work.scoring_size
    divide(model)
    found = {"logits": evidence.collect(model, work.data, size)}
    if work.triggered_test is not None:
        found["triggered"] = evidence.outputs(model, work.triggered_test, size)
    return found


def _collect(found: dict[str, np.ndarray], folder: Path) -> dict[str, Any]:
    """Write what a model says, and return what its record says about that."""
    rows = sum(int((~np.isfinite(logits).all(axis=1)).sum()) for logits in found.values())
    if rows:
        reason = f"its outputs are not finite for {rows} of {sum(map(len, found.values()))} examples"
        return {"status": "diverged", "failure": {"reason": reason}}
    for name, logits in found.items():
        evidence.save(folder / f"{name}.npy", logits)
    return {"evidence": sorted(found)}


def _finished(folder: Path) -> Run | None:
    """Return a run whose record and files are all there; a folder with anything missing or damaged is made again.

    Raises:
        BadInput: the system does not give the record; what is there may be whole.
    """
    try:
        if not (folder / "record.json").is_file():
            return None
    except OSError as error:
        raise runs.unreadable(folder, error) from None
    try:
        run = Run(folder, runs.read_json(folder / "record.json"))
        if not {"cost", "identity", "weights"} <= set(run.record):
            return None
        outputs = [run.logits(), run.triggered()] if run.status == "ok" else []
        complete = checkpoint.is_whole(folder / weights_name(run.status)) and all(found is None or len(found) for found in outputs)
    except (BadInput, KeyError, TypeError) as error:
        if is_about_results(error):
            raise
        return None
    return run if complete else None


def weights_name(status: str) -> str:
    """Return the name of a run's weights; those of a run that diverged cannot be taken for a result."""
    return "weights.safetensors" if status == "ok" else "last_good.safetensors"


def _prepare(work: Workplace, folder: Path, identity: dict[str, Any], split: Split | None = None) -> None:
    runs.remove_leftovers(folder)
    _describe(work, folder, split)
    runs.write_json(folder / "environment.json", runs.environment())
    runs.append_event(folder / "events.jsonl", event="start", identity=identity)


def _describe(work: Workplace, folder: Path, split: Split | None, *, anew: bool = True) -> None:
    """Write configuration and split; where they are not anew, those that somebody has lost."""
    if anew or not (folder / "config.yaml").is_file():
        with runs.atomic_write(folder / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml(work.experiment.lasting()), encoding="utf-8")
    if work.experiment.forget is not None and (anew or not (folder / "split.json").is_file()):
        (split or work.split).save(folder / "split.json")
