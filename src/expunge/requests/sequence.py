"""Requests that arrive one after another: each is unlearned from the model that the one before left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from expunge import config
from expunge.data.split import Split, compared_classes
from expunge.engine import randomness
from expunge.engine import run as engine
from expunge.errors import BadInput, NotApplicable
from expunge.pools import stages, store
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace

Splits = Literal["fresh", "cumulative"]
"""What a method is given as the forget set of a request: its own examples, or those of all requests so far."""


@dataclass(frozen=True, eq=False)
class Step:
    """One request of a sequence.

    Attributes:
        number: from 0.
        request: what the method is asked: this request's examples, or with cumulative splits those of all up to it, against all that is
            left after it. With fresh splits earlier requests are in no part.
        so_far: what the model should have forgotten by now: all requests up to this one. Its retained examples are what a retrained
            model is trained on, and its parts are what the step is measured on.
        new: this request's examples alone as the forget set; for measuring.
        earlier: those of the requests before it; None for the first. A model may remember them again.
    """

    number: int
    request: Split
    so_far: Split
    new: Split
    earlier: Split | None


def divide(split: Split, count: int, labels: np.ndarray | None = None) -> list[np.ndarray]:
    """Return the forget set as ``count`` requests of about equal size, at random by the split's seed; each ascending.

    Args:
        split: with the forget set.
        count: how many.
        labels: of all examples, int64 ``[N + T]``. Where whole classes are forgotten, a request then is of whole classes too, if there
            are enough of them.

    Raises:
        BadInput: fewer than one request, or more than there are examples.
    """
    if not 1 <= count <= len(split.forget):
        raise BadInput("requests", f"a forget set of {len(split.forget)} cannot be {count} requests.", "Choose a smaller number.")
    if labels is not None and split.kind == "class" and count <= len(split.forget_classes):
        parts = np.array_split(np.array(split.forget_classes), count)
        return [split.forget[np.isin(labels[split.forget], part)] for part in parts]
    order = randomness.shuffle(split.seed, "forget/sequence", 0, torch.from_numpy(split.forget)).numpy()
    return [np.sort(part) for part in np.array_split(order, count)]


def steps(split: Split, labels: np.ndarray, requests: Sequence[np.ndarray], splits: Splits = "fresh") -> list[Step]:
    """Return the splits of successive requests.

    Args:
        split: the division before any of them; its forget set is all that will be forgotten.
        labels: of all examples, int64 ``[N + T]``.
        requests: canonical indices of each, which together are the forget set.
        splits: what a method is given as the forget set of a request.

    Raises:
        BadInput: a request is empty, or they are not a partition of the forget set.
    """
    if not requests or not all(map(len, requests)) or np.sort(np.concatenate(requests)).tolist() != split.forget.tolist():
        found = f"the requests hold {sum(map(len, requests))} examples, the forget set {len(split.forget)}."
        raise BadInput("requests", found, "Each example of the forget set must be in one request, and no request may be empty.")
    found_steps = []
    for number, request in enumerate(requests):
        before = np.sort(np.concatenate([np.empty(0, np.int64), *requests[:number]]))
        gone = np.sort(np.concatenate([before, request]))
        so_far = _with(split, labels, gone, gone, {"request": number + 1, "of": len(requests)})
        alone = _with(split, labels, request, gone, {**so_far.notes, "alone": True})
        earlier = _with(split, labels, before, gone, {**so_far.notes, "earlier": True}) if number else None
        found_steps.append(Step(number, alone if splits == "fresh" else so_far, so_far, alone, earlier))
    return found_steps


def _with(split: Split, labels: np.ndarray, forget: np.ndarray, gone: np.ndarray, notes: dict[str, object]) -> Split:
    """Return the split with this forget set, when ``gone`` is what nobody keeps any more."""
    retain = np.setdiff1d(np.concatenate([split.forget, split.retain]), gone)
    lost = np.setdiff1d(labels[gone], labels[retain])
    touched = np.unique(labels[forget])
    held_out: dict[str, Any] = {}
    for kept, forgotten in (("test", "test_forgotten"), ("validation", "validation_forgotten")):
        both = np.sort(np.concatenate([split.index(kept), split.index(forgotten)]))
        held_out |= {kept: both[~np.isin(labels[both], lost)], forgotten: both[np.isin(labels[both], lost)]}
    whole = np.isin(touched, lost).all()
    return replace(
        split,
        forget=forget,
        retain=retain,
        **held_out,
        unseen=_unseen(split, labels, touched, lost),
        forget_classes=tuple(np.intersect1d(touched, lost).tolist()),
        kind="class" if whole else "subclass" if len(touched) == 1 else "random",
        notes={**split.notes, **notes},
    )


def _unseen(split: Split, labels: np.ndarray, touched: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Return what a request's examples are compared with: unseen examples of their classes, as for one request alone."""
    compared = compared_classes(touched, np.intersect1d(touched, lost), int(labels.max()) + 1)
    found = split.unseen[np.isin(labels[split.unseen], compared)]
    return found if len(found) else split.unseen


def of(work: Workplace, count: int, splits: Splits = "fresh") -> list[Step]:
    """Return the steps into which the forget set of an experiment is divided."""
    labels = work.data.labels.numpy()
    return steps(work.split, labels, divide(work.split, count, labels), splits)


def check(work: Workplace, found: Sequence[Step]) -> None:
    """Refuse a method or an add-on that cannot serve every request, before any work.

    Raises:
        NotApplicable: which request, and why.
    """
    stages.check_request(work)
    for step in found:
        streams = tuple(work.streams(step.request))
        try:
            engine.check(
                work.experiment.method, work.experiment.addons, kind=step.request.kind, streams=streams, artefacts=("recipe", "oracle")
            )
        except NotApplicable as refused:
            where = f"request {step.number + 1} of {len(found)}"
            raise NotApplicable(
                where, f"it is a {step.request.kind} request. {refused}", "Divide otherwise, or take another method."
            ) from None


def unlearn(work: Workplace, found: Sequence[Step], number: int) -> list[Run]:
    """Unlearn the requests one after another, starting from original ``number``, and return the run after each.

    A run that is there is looked up. The sequence ends at the first run that diverged, which is the last one returned.

    Raises:
        BadInput: there is no method, or it cannot serve a request of the sequence.
    """
    stages.check_request(work)
    start, made = stages.original(work, number), list[Run]()
    for step in found:
        run = _serve(work, step, len(found), number, start.folder)
        made.append(run)
        if run.status != "ok":
            break
        start = run
    return made


def seed_of(work: Workplace, number: int, request: int) -> int:
    """Return the seed of what a method draws for a request of model ``number``; that of the first is as for one request alone.

    Each request has one of its own: noise that is drawn twice cancels in the difference of two models, and hides nothing.
    """
    drawn = work.unlearning_seed_of(number, work.seed_of(number))
    return randomness.derive(drawn, "request", request) if request else drawn


def _serve(work: Workplace, step: Step, count: int, number: int, start: Path) -> Run:
    title = f"{work.experiment.method.name} request {step.number + 1} of {count}, model {number}"
    return stages.unlearn(work, start, seed_of(work, number, step.number), title, step.request, work.seed_of(number))


def retrained(work: Workplace, found: Sequence[Step], number: int) -> list[Run]:
    """Return for each step the model of the same seed that was trained without all requests up to it."""
    return [_retrain(work, step, number) for step in found]


def _retrain(work: Workplace, step: Step, number: int) -> Run:
    return stages.train(work, step.so_far.retain, work.seed_of(number), f"retrained {number} after request {step.number + 1}")


def run_job(
    stage: str,
    tree: dict[str, Any],
    count: int,
    splits: Splits,
    step: int,
    number: int,
    results: dict[str, str],
    report: Callable[[dict[str, Any]], None],
) -> str:
    """Run one step of a sequence as a job and return its name: its folder, or its address.

    Args:
        stage: retrained or unlearned.
        tree: the experiment.
        count: how many requests the forget set is divided into.
        splits: see `steps`.
        step: from 0.
        number: seed number.
        results: for unlearning, the folder of the model to start from comes first.
        report: hears the events.

    Raises:
        BadInput: the model to start from diverged.
    """
    work = Workplace(config.resolve(tree), report)
    found = of(work, count, splits)
    if stage == "retrained":
        return _retrain(work, found[step], number).name
    before = store.find(next(iter(results.values())))
    if before.status != "ok":
        reason = before.record["failure"]["reason"]
        raise BadInput(f"request {step + 1}", f"there is no model to start from: request {step} {before.status}. {reason}")
    return _serve(work, found[step], count, number, before.folder).name
