"""The loss around and between the original, the unlearned and the retrained net."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from expunge.config import Experiment, PositiveFloat, PositiveInt, hyper
from expunge.data.split import Split, make_split
from expunge.engine.parameters import is_norm
from expunge.engine.randomness import shuffle
from expunge.engine.stream import Batch
from expunge.errors import BadInput
from expunge.lab import directions, recomputed, surface_page
from expunge.lab.figures import numbers
from expunge.lab.influence import answers_at, weights_of
from expunge.lab.lab import Lab, Sheet
from expunge.lab.world import Report, World, part, world_of
from expunge.metrics import scores

PARTS = ("forget", "retain", "unseen")
_AT_ONCE = 20_000
"""Examples that go through nets at once, counted over all nets."""
_ROOM = 0.35
"""Room around the three nets, as a share of how far they lie apart."""


class Surface(Lab):
    """The loss on the plane through the original, the unlearned and the retrained net, on the lines between them, and around each.

    Distances on the plane are distances of the weights. Around each net the two random directions are scaled filter by filter, so that nets
    which compute the same with weights of another scale look alike.

    BatchNorm's running statistics belong to one place in the space of weights. So they are computed anew at every place, the three nets
    included, from retained examples that go through the net there.
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
    references: PositiveInt = hyper(300, "retained examples from which BatchNorm takes its statistics at every place", ge=2)
    radius: PositiveFloat = hyper(1.0, "how far the random directions go; 1 is as long as the filters themselves")

    def run(self, experiment: Experiment, report: Report) -> dict[str, Any]:
        """Return losses on the plane, on lines and around each net; see `Lab.run`."""
        world = world_of(experiment)
        split = make_split(world.data, experiment.forget, experiment.seed)
        report({"event": "plan", "jobs": ["nets", "plane", "surroundings"]})
        with part(report, "nets") as told:
            models, path = self._models(world, split, told)
        asked = self._asked(split, experiment.seed)
        losses = Losses(world, asked, self._references(models["original"], split, experiment.seed))
        span = directions.span(torch.stack([weights_of(model) for model in models.values()]))
        found: dict[str, Any] = {"data": world.data.name, "method": experiment.method.name, "classes": world.data.num_classes}
        found["weights"] = len(span.origin)
        found["sizes"] = {name: len(index) for name, index in asked.items()}
        with part(report, "plane"):
            found |= self._plane(losses, models, path, span)
        with part(report, "surroundings"):
            found["around"] = {name: self._around(losses, model, experiment.seed) for name, model in models.items()}
        if losses.references is not None:
            own = {name: [losses.own(model, name) for model in models.values()] for name in asked}
            found["statistics"] = {"examples": len(losses.references), "own": own}
        return found

    def sheet(self, found: dict[str, Any]) -> Sheet:
        """Return the page; see `Lab.sheet`."""
        made = surface_page.sheet(found)
        return _with_statistics(made, found) if "statistics" in found else made

    def _models(self, world: World, split: Split, report: Report) -> tuple[dict[str, nn.Module], list[Tensor]]:
        seed = world.experiment.seed
        fresh = world.new(seed)
        odd = next((type(module).__name__ for module in fresh.modules() if is_norm(module) and type(module) not in recomputed.NORMS), None)
        if odd is not None:
            raise BadInput(
                "model",
                f"its {odd} keeps running statistics, which belong to one place in the space of weights, and are not recomputed elsewhere.",
                "Choose a model with BatchNorm or without running statistics, such as model=small_cnn or model=mlp.",
            )
        original, retrained = world.trained([split.train, split.retain], [seed, seed], report)
        path: list[Tensor] = []

        def watch(model: nn.Module, event: dict[str, Any]) -> None:
            if event["event"] in ("epoch", "edit"):
                path.append(weights_of(model))

        unlearned = world.unlearned(
            original,
            split,
            seed,
            oracle=retrained,
            watch=watch,
        )
        return {"original": original, "unlearned": unlearned, "retrained": retrained}, [weights_of(original), *path, weights_of(unlearned)]

    def _asked(self, split: Split, seed: int) -> dict[str, np.ndarray]:
        """Return a random sample of each part, at most ``examples``."""
        parts = {"forget": split.forget, "retain": split.retain, "unseen": split.test}
        return {name: shuffle(seed, "asked", 0, torch.from_numpy(index)).numpy()[: self.examples] for name, index in parts.items()}

    def _references(self, model: nn.Module, split: Split, seed: int) -> np.ndarray | None:
        """Return the retained examples that give BatchNorm its statistics; None for a model without it."""
        if not recomputed.has_norms(model):
            return None
        return shuffle(seed, "references", 0, torch.from_numpy(split.retain)).numpy()[: self.references]

    def _plane(self, at: "Losses", models: dict[str, nn.Module], path: Sequence[Tensor], span: directions.Span) -> dict[str, Any]:
        low, high = span.places.min(0).values, span.places.max(0).values
        center, half = (low + high) / 2, float((high - low).max()) * (0.5 + _ROOM)
        axes = [torch.linspace(float(center[axis]) - half, float(center[axis]) + half, self.grid, dtype=torch.float64) for axis in (0, 1)]
        places = torch.stack([axes[0].repeat(self.grid), axes[1].repeat_interleave(self.grid)], dim=1)
        original = models["original"]
        losses = at(original, span.at(places))
        seen, off = span.seen(torch.stack(list(path)))
        return {
            "x": numbers(axes[0]),
            "y": numbers(axes[1]),
            "losses": {name: numbers(values.reshape(self.grid, self.grid)) for name, values in losses.items()},
            "places": {name: numbers(place) for name, place in zip(models, span.places, strict=True)},
            "at": {name: numbers(values) for name, values in at(original, span.at(span.places)).items()},
            "path": {"places": numbers(seen), "off": numbers(off)},
            "lines": self._lines(at, original, span, list(models)),
        }

    def _lines(self, at: "Losses", model: nn.Module, span: directions.Span, names: list[str]) -> dict[str, Any]:
        """Return the losses on the straight lines between any two nets."""
        shares = torch.linspace(-0.25, 1.25, 61, dtype=torch.float64)
        found = {}
        for (i, first), (j, second) in combinations(enumerate(names), 2):
            places = span.places[i] + shares[:, None] * (span.places[j] - span.places[i])
            losses = {name: numbers(values) for name, values in at(model, span.at(places)).items()}
            length = float((span.places[i] - span.places[j]).norm())
            found[f"{first} to {second}"] = {"share": numbers(shares), "length": length, "losses": losses}
        return found

    def _around(self, at: "Losses", model: nn.Module, seed: int) -> dict[str, Any]:
        """Return the loss on two random directions around a net, and how much it rises at a tenth and a half of the filters' length."""
        axes = torch.stack([directions.filter_normalized(model, seed, number) for number in range(2)])
        steps = torch.linspace(-self.radius, self.radius, self.grid, dtype=torch.float64)
        places = torch.stack([steps.repeat(self.grid), steps.repeat_interleave(self.grid)], dim=1)
        center = weights_of(model)
        losses, still = at(model, center + places @ axes), at(model, center[None])
        rises = {}
        for share in (0.1, 0.5):
            moved = torch.stack([directions.filter_normalized(model, seed, 2 + number) for number in range(20)])
            values = at(model, center + share * moved)
            rises[str(share)] = {name: numbers(values[name] - still[name][0]) for name in values}
        return {
            "steps": numbers(steps),
            "losses": {name: numbers(values.reshape(self.grid, self.grid)) for name, values in losses.items()},
            "rises": rises,
        }


@dataclass(frozen=True)
class Losses:
    """The mean cross entropy, in nats, of nets with other weights on some parts of the data.

    Attributes:
        world: with the examples.
        asked: part -> canonical indices.
        references: of the examples that give BatchNorm its statistics; None where there is none.
    """

    world: World
    asked: dict[str, np.ndarray]
    references: np.ndarray | None = None

    def __call__(self, model: nn.Module, weights: Tensor) -> dict[str, np.ndarray]:
        """Return part -> losses, float64 ``[M]``, of nets with the architecture of ``model`` and weights ``[M, P]``."""
        x = torch.cat([self._batch(index).x for index in self.asked.values()])
        if self.references is None:
            logits = answers_at(model, weights, x, chunk=max(1, _AT_ONCE // len(x)))
        else:
            logits = recomputed.answers_at(model, weights, self._batch(self.references).x, x)
        ends = np.cumsum([len(index) for index in self.asked.values()])[:-1]
        return {name: self._mean(part, name) for name, part in zip(self.asked, np.split(logits, ends, axis=1), strict=True)}

    def own(self, model: nn.Module, name: str) -> float:
        """Return the loss of a net as it is, with the running statistics that it has."""
        with torch.no_grad():
            logits = model.eval()(self._batch(self.asked[name]).x).float().cpu().numpy()
        return float(self._mean(logits[None], name)[0])

    def _batch(self, index: np.ndarray) -> Batch:
        return next(iter(self.world.stream("asked", index).batches(len(index))))

    def _mean(self, logits: np.ndarray, name: str) -> np.ndarray:
        labels = self._batch(self.asked[name]).y.cpu().numpy()
        return np.array([-scores.log_softmax(one)[np.arange(len(labels)), labels].mean() for one in logits])


def _with_statistics(sheet: Sheet, found: dict[str, Any]) -> Sheet:
    """Return the page with what a reader must know of recomputed statistics."""
    held = found["statistics"]
    pairs = [
        f"{name} {' / '.join(f'{there:.2f} ({own:.2f})' for there, own in zip(found['at'][name], held['own'][name], strict=True))}"
        for name in held["own"]
    ]
    said = (
        f"BatchNorm takes its statistics anew at every place, from {held['examples']} retained examples, because running ones belong to "
        "one place. At the original / unlearned / retrained net the loss is so, and in brackets with the net's own running statistics: "
        f"{'; '.join(pairs)}."
    )
    facts = [*sheet.facts, ("BatchNorm", f"statistics of {held['examples']} retained examples at every place")]
    return replace(sheet, findings=[*sheet.findings, said], facts=facts)
