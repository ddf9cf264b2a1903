"""The loss around and between the original, the unlearned and the retrained net."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from expunge.config import Experiment, PositiveFloat, PositiveInt, hyper
from expunge.data.split import Split, make_split
from expunge.engine.parameters import is_norm
from expunge.engine.randomness import shuffle
from expunge.errors import BadInput
from expunge.lab import directions, surface_page
from expunge.lab.figures import numbers
from expunge.lab.influence import answers_at, weights_of
from expunge.lab.lab import Lab, Sheet
from expunge.lab.world import Report, World, part, world_of
from expunge.metrics import scores

PARTS = ("forget", "retain", "unseen")
_ROOM = 0.35
"""Room around the three nets, as a share of how far they lie apart."""


class Surface(Lab):
    """The loss on the plane through the original, the unlearned and the retrained net, on the lines between them, and around each.

    Distances on the plane are distances of the weights. Around each net the two random directions are scaled filter by filter, so that nets
    which compute the same with weights of another scale look alike.
    """

    title: ClassVar[str] = "The loss between forgetting and retraining"
    source: ClassVar[str] = "source 003 (loss surface on two random directions); filter normalisation after Li et al., NeurIPS 2018"
    defaults: ClassVar[dict[str, Any]] = {
        "data": {"name": "digits"},
        "model": {"name": "mlp", "hidden": [32]},
        "train": {"name": "tiny", "epochs": 15},
        "forget": {"name": "class", "classes": ["3"]},
        "method": {"name": "neggrad_plus", "lr": 0.005, "epochs": 10, "batch_size": 128},
    }

    grid: PositiveInt = hyper(33, "places each way", ge=5, le=151)
    examples: PositiveInt = hyper(300, "examples of each part that a loss is a mean over, at most")
    radius: PositiveFloat = hyper(1.0, "how far the random directions go; 1 is as long as the filters themselves")

    def run(self, experiment: Experiment, report: Report) -> dict[str, Any]:
        """Return losses on the plane, on lines and around each net; see `Lab.run`."""
        world = world_of(experiment)
        split = make_split(world.data, experiment.forget, experiment.seed)
        report({"event": "plan", "jobs": ["nets", "plane", "surroundings"]})
        with part(report, "nets") as told:
            models, path = self._models(world, split, told)
        asked = self._asked(split, experiment.seed)
        span = directions.span(torch.stack([weights_of(model) for model in models.values()]))
        found: dict[str, Any] = {"data": world.data.name, "method": experiment.method.name, "classes": world.data.num_classes}
        found["weights"] = len(span.origin)
        found["sizes"] = {name: len(index) for name, index in asked.items()}
        with part(report, "plane"):
            found |= self._plane(world, models, path, span, asked)
        with part(report, "surroundings"):
            found["around"] = {name: self._around(world, model, asked) for name, model in models.items()}
        return found

    def sheet(self, found: dict[str, Any]) -> Sheet:
        """Return the page; see `Lab.sheet`."""
        return surface_page.sheet(found)

    def _models(self, world: World, split: Split, report: Report) -> tuple[dict[str, nn.Module], list[Tensor]]:
        seed = world.experiment.seed
        fresh = world.new(seed)
        if any(is_norm(module) for module in fresh.modules()):
            raise BadInput(
                "model",
                "keeps running statistics, which belong to one place in the space of weights and to no other.",
                "Choose a model without BatchNorm, such as model=mlp or model.norm=group.",
            )
        original, retrained = world.trained([split.train, split.retain], [seed, seed], report)
        path: list[Tensor] = []

        def watch(model: nn.Module, event: dict[str, Any]) -> None:
            if event["event"] in ("epoch", "edit"):
                path.append(weights_of(model))

        unlearned = world.unlearned(
            original,
            world.streams(split),
            seed,
            kind=split.kind,
            forget_classes=split.forget_classes,
            oracle=retrained,
            watch=watch,
        )
        return {"original": original, "unlearned": unlearned, "retrained": retrained}, [weights_of(original), *path, weights_of(unlearned)]

    def _asked(self, split: Split, seed: int) -> dict[str, np.ndarray]:
        """Return a random sample of each part, at most ``examples``."""
        parts = {"forget": split.forget, "retain": split.retain, "unseen": split.test}
        return {name: shuffle(seed, "asked", 0, torch.from_numpy(index)).numpy()[: self.examples] for name, index in parts.items()}

    def _plane(
        self, world: World, models: dict[str, nn.Module], path: Sequence[Tensor], span: directions.Span, asked: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        low, high = span.places.min(0).values, span.places.max(0).values
        center, half = (low + high) / 2, float((high - low).max()) * (0.5 + _ROOM)
        axes = [torch.linspace(float(center[axis]) - half, float(center[axis]) + half, self.grid, dtype=torch.float64) for axis in (0, 1)]
        places = torch.stack([axes[0].repeat(self.grid), axes[1].repeat_interleave(self.grid)], dim=1)
        original = models["original"]
        losses = {name: _losses(world, original, span.at(places), index) for name, index in asked.items()}
        seen, off = span.seen(torch.stack(list(path)))
        return {
            "x": numbers(axes[0]),
            "y": numbers(axes[1]),
            "losses": {name: numbers(values.reshape(self.grid, self.grid)) for name, values in losses.items()},
            "places": {name: numbers(place) for name, place in zip(models, span.places, strict=True)},
            "at": {name: numbers(_losses(world, original, span.at(span.places), index)) for name, index in asked.items()},
            "path": {"places": numbers(seen), "off": numbers(off)},
            "lines": self._lines(world, original, span, list(models), asked),
        }

    def _lines(
        self, world: World, model: nn.Module, span: directions.Span, names: list[str], asked: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return the losses on the straight lines between any two nets."""
        shares = torch.linspace(-0.25, 1.25, 61, dtype=torch.float64)
        found = {}
        for (i, first), (j, second) in combinations(enumerate(names), 2):
            places = span.places[i] + shares[:, None] * (span.places[j] - span.places[i])
            losses = {name: numbers(_losses(world, model, span.at(places), index)) for name, index in asked.items()}
            length = float((span.places[i] - span.places[j]).norm())
            found[f"{first} to {second}"] = {"share": numbers(shares), "length": length, "losses": losses}
        return found

    def _around(self, world: World, model: nn.Module, asked: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the loss on two random directions around a net, and how much it rises at a tenth and a half of the filters' length."""
        seed = world.experiment.seed
        axes = torch.stack([directions.filter_normalized(model, seed, number) for number in range(2)])
        steps = torch.linspace(-self.radius, self.radius, self.grid, dtype=torch.float64)
        places = torch.stack([steps.repeat(self.grid), steps.repeat_interleave(self.grid)], dim=1)
        center = weights_of(model)
        losses = {name: _losses(world, model, center + places @ axes, index) for name, index in asked.items()}
        rises = {}
        for share in (0.1, 0.5):
            moved = torch.stack([directions.filter_normalized(model, seed, 2 + number) for number in range(20)])
            values = {name: _losses(world, model, center + share * moved, index) for name, index in asked.items()}
            still = {name: _losses(world, model, center[None], index)[0] for name, index in asked.items()}
            rises[str(share)] = {name: numbers(values[name] - still[name]) for name in values}
        return {
            "steps": numbers(steps),
            "losses": {name: numbers(values.reshape(self.grid, self.grid)) for name, values in losses.items()},
            "rises": rises,
        }


def _losses(world: World, model: nn.Module, weights: Tensor, index: np.ndarray) -> np.ndarray:
    """Return the mean cross entropy in nats of nets with other weights ``[M, P]``, float64 ``[M]``."""
    batch = next(iter(world.stream("asked", index).batches(len(index))))
    logits = answers_at(model, weights, batch.x)
    labels = batch.y.cpu().numpy()
    return np.array([-scores.log_softmax(one)[np.arange(len(labels)), labels].mean() for one in logits])
