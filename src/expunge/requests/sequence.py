"""Requests that arrive one after another: each is unlearned from the model that the one before left."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from expunge.data.split import Split
from expunge.engine import randomness
from expunge.errors import BadInput
from expunge.pools import stages
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace


@dataclass(frozen=True, eq=False)
class Step:
    """One request of a sequence.

    Attributes:
        number: from 0.
        request: what the method is asked: this request's examples against all that is left after it. Earlier requests are in no part.
        so_far: what the model should have forgotten by now: all requests up to this one. Its retained examples are what a retrained
            model is trained on, and its parts are what the step is measured on.
    """

    number: int
    request: Split
    so_far: Split


def divide(split: Split, count: int) -> list[np.ndarray]:
    """Return the forget set as ``count`` requests of about equal size, at random by the split's seed; each ascending.

    Raises:
        BadInput: fewer than one request, or more than there are examples.
    """
    if not 1 <= count <= len(split.forget):
        raise BadInput("requests", f"a forget set of {len(split.forget)} cannot be {count} requests.", "Choose a smaller number.")
    order = randomness.shuffle(split.seed, "forget/sequence", 0, torch.from_numpy(split.forget)).numpy()
    return [np.sort(part) for part in np.array_split(order, count)]


def steps(split: Split, labels: np.ndarray, requests: Sequence[np.ndarray]) -> list[Step]:
    """Return the splits of successive requests.

    Args:
        split: the division before any of them; its forget set is all that will be forgotten.
        labels: of all examples, int64 ``[N + T]``.
        requests: canonical indices of each, which together are the forget set.

    Raises:
        BadInput: a request is empty, or they are not a partition of the forget set.
    """
    if not requests or not all(map(len, requests)) or np.sort(np.concatenate(requests)).tolist() != split.forget.tolist():
        found = f"the requests hold {sum(map(len, requests))} examples, the forget set {len(split.forget)}."
        raise BadInput("requests", found, "Each example of the forget set must be in one request, and no request may be empty.")
    found_steps = []
    for number, request in enumerate(requests):
        gone = np.sort(np.concatenate(requests[: number + 1]))
        so_far = _with(split, labels, gone, gone, {"request": number + 1, "of": len(requests)})
        found_steps.append(Step(number, _with(split, labels, request, gone, {**so_far.notes, "alone": True}), so_far))
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
        forget_classes=tuple(np.intersect1d(touched, lost).tolist()),
        kind="class" if whole else "subclass" if len(touched) == 1 else "random",
        notes={**split.notes, **notes},
    )


def unlearn(work: Workplace, found: Sequence[Step], number: int) -> list[Run]:
    """Unlearn the requests one after another, starting from original ``number``, and return the run after each.

    A run that is there is looked up. The sequence ends at the first run that diverged, which is the last one returned.

    Raises:
        BadInput: there is no method, or it cannot serve a request of the sequence.
    """
    stages.check_request(work)
    seed, start, made = work.seed_of(number), stages.original(work, number), list[Run]()
    for step in found:
        run = stages.unlearn(work, start.folder, seed, f"request {step.number + 1} of {len(found)}, model {number}", step.request)
        made.append(run)
        if run.status != "ok":
            break
        start = run
    return made


def retrained(work: Workplace, found: Sequence[Step], number: int) -> list[Run]:
    """Return for each step the model of the same seed that was trained without all requests up to it."""
    return [
        stages.train(work, step.so_far.retain, work.seed_of(number), f"retrained {number} after request {step.number + 1}")
        for step in found
    ]
