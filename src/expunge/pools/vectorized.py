"""The vectorised executor: many models of a pool trained at once on one device, as the same run folders that worker processes make.

Model k is the model that a worker process makes of the same seed and examples, up to rounding: 1e-10 in float64, and 1e-5 after twenty
steps in float32 unless a ReLU or a maximum whose inputs lie within rounding of each other falls the other way, as it may on another
device. Training enlarges such differences, so the folder has a name of its own, and its record says ``executor: vectorized``.
"""

import contextlib
import gc
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge import runs
from expunge.config import fingerprint
from expunge.engine.run import Outcome
from expunge.engine.stream import Stream
from expunge.errors import BadInput, Diverged
from expunge.pools import executor, locks, remote, stages, store
from expunge.pools.stacked import refusal, train_together
from expunge.pools.stacked_net import outputs_together
from expunge.pools.store import Run
from expunge.pools.trial import batch_sizes, chunk_size, difference, phases, seconds_alone, seconds_together
from expunge.pools.workplace import Report, Workplace, code_fingerprint

_PROBE_TOLERANCE = 1e-3
_AVAILABLE: dict[str, str | None] = {}
_FASTER: dict[str, bool] = {}


def available(work: Workplace) -> str | None:
    """Return why the configured model and recipe cannot be trained many at once; None if they can.

    Two models take two steps both ways, in float64 and on different numbers of examples, so that a layer which is not what it seems is
    found here and not in the results.
    """
    key = _key(work)
    if key not in _AVAILABLE:
        _AVAILABLE[key] = _reason(work)
    return _AVAILABLE[key]


def _key(work: Workplace, *more: Any) -> str:
    experiment = work.experiment
    parts = [experiment.model.tree(), experiment.train.tree(), experiment.data.tree()]
    return json.dumps([str(work.device), list(work.data.input_shape), work.data.num_classes, *parts, *more], sort_keys=True, default=str)


def _reason(work: Workplace) -> str | None:
    if work.device.type not in ("cpu", "cuda"):
        return f"a device of type {work.device.type} is not supported"
    model = work.new_model(0, weights=False)
    for phase in phases(work, model):
        reason = refusal(phase, model)
        if reason:
            return reason
    try:
        distance = difference(work)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, UserWarning, BadInput, Diverged) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if "randomness" in text:
            return "the model draws random numbers in its forward pass (dropout), which would be others than in a model trained alone"
        return f"the model cannot be vmapped: {text[:200]}"
    if not distance <= _PROBE_TOLERANCE:
        return f"after two steps the models differ from models trained alone by {distance:.1e} of what they moved"
    return None


def faster(work: Workplace, models: int, workers: int | None = None) -> bool:
    """Return whether a model takes less time among ``models`` trained at once than in worker processes; measured once in a process.

    A few steps are timed both ways. Worker processes are credited with perfect scaling, which on a GPU they do not reach, so that
    vectorised training is chosen only where it surely pays.

    Args:
        work: the experiment; `available` must have no objection.
        models: how many are to be trained.
        workers: worker processes that there would be; the configured number if None.
    """
    together = min(models, chunk_size(work))
    workers = min(workers or executor.places(work), models)
    key = _key(work, together, workers)
    if key not in _FASTER:
        _FASTER[key] = seconds_together(work, together) / together < seconds_alone(work) / workers
    return _FASTER[key]


def chosen(work: Workplace, models: int, report: Report) -> bool:
    """Return whether the models of an experiment's pools are trained at once, as ``evaluate.executor`` says.

    ``auto`` does so on a CUDA device where the model and the recipe allow it and a short measurement finds it faster. That is decided
    once for an output folder and kept there, so that the pools of one experiment are made in one way: after many steps the two ways
    give models that are alike but not equal, and original k must be what unlearned k starts from.

    Args:
        work: the experiment.
        models: how many models the pool is to have.
        report: hears of the decision.

    Raises:
        BadInput: it is demanded, and the model or the recipe does not allow it.
    """
    if _setting(work) == "processes":
        return False
    if _setting(work) == "vectorized":
        reason = available(work)
        if reason:
            raise BadInput(
                "evaluate.executor", f"these models cannot be trained at once: {reason}.", "Write evaluate.executor=auto, or processes."
            )
        return True
    if not remote.pull_file(_decision(work)):
        reason = available(work) or (None if faster(work, models) else "a short measurement finds worker processes faster")
        found = {"executor": "processes" if reason else "vectorized", "reason": reason}
        runs.write_json(_decision(work), found)
        remote.push_file(_decision(work))
        report({"event": "executor", **found})
    return bool(promise(work))


def promise(work: Workplace) -> dict[str, str]:
    """Return what the evidence of a pool must say about its executor: nothing where worker processes make it."""
    setting = _setting(work)
    if setting == "auto":
        path = _decision(work)
        setting = runs.read_json(path)["executor"] if remote.pull_file(path) else "processes"
    return {"executor": "vectorized", "executor code": _code()} if setting == "vectorized" else {}


def _setting(work: Workplace) -> str:
    """Return processes, vectorized, or auto where there is something to decide."""
    setting = work.experiment.evaluate.executor
    return "processes" if setting == "auto" and work.device.type != "cuda" else setting


def _decision(work: Workplace) -> Path:
    """Return where the choice of ``auto`` is kept."""
    return work.out / "evidence" / f"executor-{fingerprint(_key(work, _code()))}.json"


def _code() -> str:
    return code_fingerprint(*(f"pools/{name}.py" for name in ("vectorized", "stacked", "stacked_net", "feed")))


def identity(work: Workplace, index: np.ndarray, seed: int) -> dict[str, Any]:
    """Return all that decides the weights of a model, up to rounding; ``index`` is ascending."""
    return {**stages.train_identity(work, index, seed), "executor": "vectorized", "executor code": _code()}


@dataclass(frozen=True)
class _Wanted:
    """A model that is to be made."""

    place: int
    index: np.ndarray
    seed: int
    title: str
    identity: dict[str, Any]


def train(work: Workplace, index: np.ndarray, seed: int, title: str) -> Run:
    """Return one model of the vectorised executor, trained alone if it is not there; see `expunge.pools.stages.train`."""
    return next(train_chunks(work, [index], [seed], work.report, [title]))[1]


def train_many(
    work: Workplace, indices: Sequence[np.ndarray], seeds: Sequence[int], report: Report, titles: Sequence[str] | None = None
) -> list[Run]:
    """Train many models at once, or find them trained, and return their runs in order; see `train_chunks`."""
    found = dict(train_chunks(work, indices, seeds, report, titles))
    return [found[place] for place in range(len(seeds))]


def train_chunks(
    work: Workplace, indices: Sequence[np.ndarray], seeds: Sequence[int], report: Report, titles: Sequence[str] | None = None
) -> Iterator[tuple[int, Run]]:
    """Yield (place in the lists, finished run), first those that are there, then those of a chunk when all of it is saved.

    Nothing but locks is written while a chunk trains, so a process that is killed leaves nothing of it, and the chunk is trained again.
    What another process makes at the same time, on this machine or on another that shares the folder, is taken from there.

    Args:
        work: the experiment; `available` must have no objection.
        indices: for each model the canonical indices of the examples to train on.
        seeds: for each model its training seed: initial weights, order, augmentation.
        report: hears the events, each with the title of its model.
        titles: what the models are called.

    Raises:
        Diverged: a model stopped being finite; the others of its chunk have been saved and yielded.
        Busy: another process is making one, in a worker that can take other work; everybody else waits for it.
    """
    work, wanted = replace(work, report=report), []
    for place, (index, seed) in enumerate(zip(indices, seeds, strict=True)):
        index = np.sort(np.asarray(index, dtype=np.int64))
        one = _Wanted(place, index, seed, titles[place] if titles else f"model {place}", identity(work, index, seed))
        found = store.look_up(work, one.identity, one.title)
        if found is None:
            wanted.append(one)
        else:
            yield place, found
    if work.device.type == "cpu":
        torch.set_num_threads(work.experiment.evaluate.threads)
    for group in _groups(work, wanted):
        yield from _train_group(work, group, report)


def _groups(work: Workplace, wanted: Sequence[_Wanted]) -> list[list[_Wanted]]:
    """Return the models by how many steps an epoch of theirs has; only such can go in step."""
    found: dict[tuple[int, ...], list[_Wanted]] = {}
    sizes = batch_sizes(work) if wanted else ()
    for one in wanted:
        found.setdefault(tuple(-(-len(one.index) // size) for size in sizes), []).append(one)
    return list(found.values())


def _train_group(work: Workplace, group: list[_Wanted], report: Report) -> Iterator[tuple[int, Run]]:
    """Train the models of a group in chunks of nearly equal size; a chunk that the device's memory cannot hold is halved.

    A model that another process is making at the moment is left for last: by then it is there, or that process is dead.
    """
    limit, elsewhere = chunk_size(work), list[_Wanted]()
    while group or elsewhere:
        if not group:
            _wait(work, elsewhere[0], report)
            group, elsewhere = elsewhere, []
        size = math.ceil(len(group) / math.ceil(len(group) / limit))
        with _held(work, group[:size]) as (mine, busy):
            found = {one.place: run for one in mine if (run := store.look_up(work, one.identity, one.title, held=True)) is not None}
            chunk = [one for one in mine if one.place not in found]
            made = _made(work, chunk, report)
        yield from found.items()  # not before: whoever takes a run may lock its folder
        if made is None:
            gc.collect()
            torch.cuda.empty_cache()
            limit, group = len(chunk) // 2, [one for one in group if one.place not in found]
            continue
        failures = [result for _, result in made if isinstance(result, Diverged)]
        yield from ((one.place, result) for one, result in made if isinstance(result, Run))
        if failures:
            raise failures[0]
        group, elsewhere = group[size:], [*elsewhere, *busy]


@contextlib.contextmanager
def _held(work: Workplace, chunk: Sequence[_Wanted]) -> Iterator[tuple[list[_Wanted], list[_Wanted]]]:
    """Hold the runs of a chunk for the time of the block, and yield those that are held and those that another process holds.

    Two processes would make each run of a chunk twice, and not bit by bit alike where their chunks differ: the second would replace weights
    from which something has been unlearned by then. Nobody waits here, so that two processes never wait for each other.
    """
    mine, busy = list[_Wanted](), list[_Wanted]()
    try:
        with contextlib.ExitStack() as held:
            for one in chunk:
                try:
                    with locks.impatient():
                        held.enter_context(locks.hold(store.folder_of(work, one.identity)))
                    mine.append(one)
                except locks.Busy:
                    busy.append(one)
            yield mine, busy
    finally:
        for one in mine:
            with contextlib.suppress(OSError):  # a folder with something in it stays
                store.folder_of(work, one.identity).rmdir()


def _wait(work: Workplace, one: _Wanted, report: Report) -> None:
    """Wait until nobody makes a run any more; a worker that can take other work is told by `expunge.pools.locks.Busy`."""
    folder = store.folder_of(work, one.identity)
    with locks.hold(folder, lambda holder: report({"event": "waiting", "title": one.title, "folder": str(folder), "for": holder})):
        pass


def _made(work: Workplace, chunk: list[_Wanted], report: Report) -> list[tuple[_Wanted, Run | Diverged]] | None:
    """Return the models of a chunk; None where the device's memory cannot hold several of them."""
    try:
        return _train_chunk(work, chunk, report) if chunk else []
    except torch.OutOfMemoryError:
        if len(chunk) == 1:
            raise
        return None


def _train_chunk(work: Workplace, chunk: list[_Wanted], report: Report) -> list[tuple[_Wanted, Run | Diverged]]:
    models = [work.new_model(one.seed, weights=False) for one in chunk]
    streams = [Stream("train", work.data.source, torch.from_numpy(one.index)) for one in chunk]
    events: list[list[dict[str, Any]]] = [[] for _ in chunk]
    for one in chunk:
        report({"event": "start", "title": one.title, "folder": str(store.folder_of(work, one.identity))})

    def hear(number: int, event: dict[str, Any]) -> None:
        events[number].append(event)
        report({**event, "title": chunk[number].title})

    seeds = [one.seed for one in chunk]
    outcomes = train_together(models, streams, work.experiment.train, seeds=seeds, num_classes=work.data.num_classes, report=hear)
    outputs = _outputs(work, models)
    found: list[tuple[_Wanted, Run | Diverged]] = []
    for place, (one, outcome) in enumerate(zip(chunk, outcomes, strict=True)):
        if isinstance(outcome, Diverged):
            found.append((one, outcome))
        else:
            own = {name: logits[place] for name, logits in outputs.items()}
            found.append((one, _keep(work, one, models[place], outcome, own, events[place], len(chunk))))
    return found


def _outputs(work: Workplace, models: Sequence[nn.Module]) -> dict[str, np.ndarray]:
    """Return the evidence of all models, ``[M, n, C]`` by name."""
    size, source = work.scoring_size, work.data.source
    found = {"logits": outputs_together(models, Stream("all", source, torch.arange(len(source))), size).numpy()}
    if work.triggered_test is not None:
        found["triggered"] = outputs_together(models, work.triggered_test, size).numpy()
    return found


def _keep(
    work: Workplace,
    one: _Wanted,
    model: nn.Module,
    outcome: Outcome,
    outputs: dict[str, np.ndarray],
    events: list[dict[str, Any]],
    together: int,
) -> Run:
    record = {"phases": outcome.phases, "cost": {**outcome.cost, "models_at_once": together}, "examples": len(one.index)}
    return store.keep(work, one.identity, one.title, model, record, outputs, events, held=True)
