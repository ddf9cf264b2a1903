"""Serve the waiting requests of a ledger, each from the model that the one before left, with an audit record for each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge import config, registry, runs
from expunge.errors import BadInput, RunFailed
from expunge.models import checkpoint
from expunge.pools import locks, remote, stages, store
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace
from expunge.requests import record as records
from expunge.requests import sequence
from expunge.requests.ledger import Known, Ledger
from expunge.requests.sequence import Splits

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Served:
    """One request that was served.

    Attributes:
        request: its name.
        folder: with the weights and ``audit.json``.
        record: the audit record.
    """

    request: str
    folder: Path
    record: dict[str, Any]


def serve(ledger: Ledger, tree: dict[str, Any], report: Report, splits: Splits = "fresh", evidence: Path | None = None) -> list[Served]:
    """Serve every request that is waiting, in the order in which they came, and return what was done.

    The first starts from ``model.weights``, or from an original that is trained, and each other one from the model of the request before
    it, as the ledger names it: other settings than last time change nothing that is done. Killed and called again, it goes on. Called
    twice at once, the second waits for the first.

    Args:
        ledger: of the requests.
        tree: the experiment with a method and without a forget set.
        report: hears the events of the runs.
        splits: whether a method is given each request alone or all requests so far.
        evidence: an evaluation of the method, to be named in the records.

    Raises:
        BadInput: nothing is waiting, the model of the last request is not there any more, or wrong input.
        RunFailed: a run diverged; the request is marked as failed, and those after it wait.
    """
    if tree.get("forget") is not None:
        raise BadInput("forget", "the ledger says what is forgotten.", "Leave forget out.")
    remote.refuse(tree.get("out"), "serve", "the ledger names its models by their folders.")
    proof = records.evidence_of(evidence, _name_of(tree.get("method")))
    turn = ledger.path.parent / f".{ledger.path.name}.serve.d"

    def tell(holder: str) -> None:
        report({"event": "waiting", "title": "serve", "folder": str(turn), "for": holder})

    with locks.hold(turn, tell):
        waiting = [request for request in ledger.requests().values() if request.status in ("waiting", "started", "failed")]
        if not waiting:
            raise BadInput(str(ledger.path), "no request is waiting.", "Add one with `expunge ledger FILE --add=REQUESTS.csv`.")
        return [_one(ledger, request, tree, report, splits, proof) for request in waiting]


def _name_of(method: Any) -> str:
    """Return the registry name of a chosen method; empty where none is, which is refused later."""
    chosen = config.as_choice(method)
    name = chosen.get("name", "") if isinstance(chosen, dict) else ""
    return registry.find("methods", name.partition(":")[0], "method").name if name else ""


def _one(ledger: Ledger, request: Known, tree: dict[str, Any], report: Report, splits: Splits, proof: dict[str, Any] | None) -> Served:
    done = ledger.served()
    work = _workplace(tree, [*done, request], report)
    try:
        step = _step(work, [*done, request], splits)
    except BadInput as error:
        if not error.where.startswith("forget"):
            raise
        remedy = f"{error.remedy} Or take the request back: `expunge ledger {ledger.path} --withdraw={request.name}`."
        raise BadInput(f"request {request.name}", f"{error.where}: {error.problem}", remedy.strip()) from None
    start = _start(ledger, work, done)
    sequence.check(work, [step])
    runs.check_writable(work.out)
    if request.status != "started":
        ledger.note("started", request.name)
    run = stages.unlearn(work, start, sequence.seed_of(work, 0, len(done)), request.name, step.request, training_seed=work.seed_of(0))
    if run.status != "ok":
        reason = run.record["failure"]["reason"]
        ledger.note("failed", request.name, reason=reason)
        raise RunFailed(f"{request.name} {run.status}: {reason} It is marked as failed; the requests after it wait.")
    return _recorded(ledger, request, run, work, done, proof)


def _recorded(ledger: Ledger, request: Known, run: Run, work: Workplace, done: list[Known], proof: dict[str, Any] | None) -> Served:
    before = {"request_before": done[-1].name if done else None}
    place = {"file": ledger.path.name, "head": ledger.head}
    record = records.write(run.folder, request.name, request.keys, work.plain_data, before=before, ledger=place, evidence=proof)
    facts = {"record": record["hash"], "after": record["weights"]["after"]}
    ledger.note("served", request.name, folder=_relative(run.folder, ledger.path.parent), **facts)
    return Served(request.name, run.folder, record)


def _workplace(tree: dict[str, Any], requests: list[Known], report: Report) -> Workplace:
    """Return the experiment whose forget set is all that should be gone after the last of these requests."""
    keys = sorted(key for request in requests for key in request.keys)
    return Workplace(config.resolve({**tree, "forget": {"name": "ids", "ids": keys}}), report)


def _step(work: Workplace, requests: list[Known], splits: Splits) -> sequence.Step:
    labels = work.data.labels.numpy()
    return sequence.steps(work.split, labels, [np.array(request.keys, dtype=np.int64) for request in requests], splits)[-1]


def _start(ledger: Ledger, work: Workplace, done: list[Known]) -> Path | None:
    """Return the run folder to start from; None for the weights file of the configuration.

    Raises:
        BadInput: the model of the last request is not there, or is another than the ledger says.
    """
    if not done:
        return None if work.experiment.model.weights is not None else stages.original(work, 0).folder
    last = done[-1]
    folder = ledger.path.parent / last.facts["folder"]
    if not checkpoint.is_whole(folder / "weights.safetensors"):
        raise BadInput(
            f"request {last.name}", f"its model is not in {folder} any more.", "Put the folder back: the next request starts there."
        )
    found = store.find(folder)
    held = checkpoint.tensors_hash(checkpoint.read_state(folder / "weights.safetensors"))
    if {found.record["weights"], held} != {last.facts["after"]}:
        raise BadInput(f"request {last.name}", f"the model in {folder} is not the one of the ledger.", "Put the folder back as it was.")
    return found.folder


def _relative(folder: Path, to: Path) -> str:
    """Return a folder as seen from another, so that both can be moved together; as it is where they share nothing."""
    try:
        return Path(folder).resolve().relative_to(to.resolve()).as_posix()
    except ValueError:
        return str(Path(folder).resolve())
