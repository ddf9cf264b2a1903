"""A context for any method and add-on of the registry, on data that notice who reads them."""

import torch

from conftest import CLASSES, SIZE, SOURCE, split, trained_net
from expunge import registry
from expunge.engine.context import Context
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd

KINDS = ("random", "class", "subclass")
ARTEFACTS = ("recipe", "oracle")
SMALL = {"epochs": 1, "batch_size": 16, "forget_batch_size": 16, "max_epochs": 1, "examples": 64, "repair_epochs": 1}

EAGER = {
    "ssd": {"alpha": 1.0},
    "fsf": {"cycles": (1,)},
    "l2ul": {"pictures": 2, "moves": 10},
    "lfssd": {"alpha": 1.0},
    "neg_merge": {"runs": 2},
    "rni": {"epochs": 5},
    "sfron": {"iterations": 12},
    "unsir": {"noise_examples": 16, "copies": 2, "noise_steps": 5},
}
"""Settings under which a method that does nothing by default on this small task does something."""


class Recording:
    """The shared pictures, with a record of which were read, and with labels that are wrong where nobody may look."""

    def __init__(self, allowed: torch.Tensor):
        self.read: set[int] = set()
        self.labels = torch.full_like(SOURCE.labels, CLASSES)  # a class that does not exist
        self.labels[allowed] = SOURCE.labels[allowed]

    def __len__(self) -> int:
        return len(SOURCE)

    def batches(self, order, size, **how):
        self.read |= set(order.tolist())
        return SOURCE.batches(order, size, **how)


class OneEpoch:
    """A stand-in for a training recipe: one epoch of SGD, or a few."""

    def __init__(self, epochs: int = 1):
        self.epochs = epochs

    def steps(self, ctx, stream="train"):
        yield Phase([Term(stream, cross_entropy)], epochs=self.epochs, optimizer=sgd(0.05), batch_size=64, name="train")


def all_streams(kind: str) -> dict[str, torch.Tensor]:
    """Return indices of every stream that a request can have."""
    return {**split(kind), "surrogate": torch.arange(SIZE + 50, SIZE + 100)}


def small(kind: str, name: str, request: str = "random", **fields):
    """Return a component that runs quickly, with its defaults for the request."""
    found = registry.find(kind, name)
    component = found(**{**getattr(found, "scenario_defaults", {}).get(request, {}), **fields})
    quick = {
        key: value for key, value in {**SMALL, **EAGER.get(name, {})}.items() if key in type(component).model_fields and key not in fields
    }
    return component.but(**quick) if quick else component


def context_for(
    method, addons=(), *, kind: str = "random", seed: int = 0, report=None, recipe_epochs: int = 1, frozen=()
) -> tuple[Context, Recording]:
    """Return a context that grants what the method and its add-ons declare, and the record of what they read.

    ``frozen`` names parameters of the net that the author does not want to move.
    """
    needs = set().union(method.needs, *(addon.needs for addon in addons))
    index = all_streams(kind)
    granted = [index[name] for name in needs if name in index]
    source = Recording(torch.cat(granted) if granted else torch.zeros(0, dtype=torch.int64))
    net = trained_net()
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
    context = Context(
        net,
        {name: Stream(name, source, where) for name, where in index.items()},
        needs=needs,
        seed=seed,
        num_classes=CLASSES,
        forget_classes=(2,) if kind == "class" else (),
        kind=kind,
        recipe=OneEpoch(recipe_epochs),
        oracle=trained_net(1) if "oracle" in needs else None,
        report=report,
    )
    if not granted:
        context.architecture  # noqa: B018 - finding the head needs the shape of an input, from any stream
        source.read.clear()
    return context, source


def state_of(context: Context) -> dict[str, torch.Tensor]:
    """Return a copy of the model's weights and buffers."""
    return {name: value.detach().clone() for name, value in context.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Return whether two states are equal, bit for bit, names in the same order."""
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def finish(method, addons=(), *, kind: str = "random", seed: int = 0):
    """Run and return (context, outcome, record)."""
    context, source = context_for(method, addons, kind=kind, seed=seed)
    return context, run(context, method, addons), source
