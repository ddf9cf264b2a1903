"""What steps a method takes, found by asking it on a toy problem and carrying out none of its phases.

A method may choose its phases by its settings, and so no declaration of the class could tell whether an add-on fits. The toy has a
convolutional net with norm layers, three classes and 30 pictures; edits are carried out, because later steps may rest on them.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.source import TensorSource
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy

_MOST = 100
"""Steps that are enough to know a method by."""


@dataclass(frozen=True)
class Planned:
    """The steps of a method.

    Attributes:
        context: the toy on which they were made.
        phases: its phases; none was carried out.
        edits: its edits.
        complete: whether the method said that it was done. If it did not, what is missing is not known.
    """

    context: Context
    phases: tuple[Phase, ...]
    edits: tuple[Edit, ...]
    complete: bool


def plan(method: Method) -> Planned:
    """Return what a method would do with its present settings."""
    try:
        return _remembered(method)
    except TypeError:  # a field that cannot be a key
        return _ask(method)


@lru_cache(maxsize=512)
def _remembered(method: Method) -> Planned:
    return _ask(method)


def _ask(method: Method) -> Planned:
    phases: list[Phase] = []
    edits: list[Edit] = []
    complete = False
    with torch.random.fork_rng(devices=[]):
        context = _toy(method)
        try:
            for step in islice(_carried_out(context, method.steps(context)), _MOST):
                if isinstance(step, Phase):
                    phases.append(step)
                else:
                    edits.append(step)
            complete = len(phases) + len(edits) < _MOST
        except Exception:  # what fails on a toy, such as a layer that it lacks, may work on a model
            complete = False
    return Planned(context, tuple(phases), tuple(edits), complete)


def _carried_out(context: Context, steps: Steps) -> Steps:
    for step in steps:
        if isinstance(step, Phase):
            context.phase += 1
        else:
            with torch.no_grad(), suppress(Exception):  # it may rest on a phase, such as the choice of an epoch
                step.apply(context)
        yield step


class _OneEpoch:
    """Stands for a training recipe."""

    def steps(self, ctx: Context, stream: str = "train") -> Iterator[Phase]:
        yield Phase([Term(stream, cross_entropy)], name="training")


def _toy(method: Method) -> Context:
    index, y = torch.arange(42), torch.arange(42) % 3
    made = torch.Generator().manual_seed(0)
    source = TensorSource(torch.randint(0, 256, (42, 3, 8, 8), generator=made, dtype=torch.uint8), y)
    forget = index[:30][y[:30] == 0] if "class" in method.scenarios else index[:30][y[:30] == 0][:6]
    parts = {"forget": forget, "retain": _without(index[:30], forget), "validation": index[30:36], "surrogate": index[36:]}
    return Context(
        _net(0),
        {name: Stream(name, source, part) for name, part in parts.items()},
        needs=method.needs,
        seed=0,
        num_classes=3,
        forget_classes=(0,) if "class" in method.scenarios else (),
        kind="class" if "class" in method.scenarios else next(iter(sorted(method.scenarios))),
        recipe=_OneEpoch(),
        oracle=_net(1),
    )


def _without(index: Tensor, part: Iterable[Any]) -> Tensor:
    left_out = set(torch.as_tensor(part).tolist())
    return torch.tensor([number for number in index.tolist() if number not in left_out])


def _net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, 2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
