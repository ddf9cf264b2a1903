"""How much a net remembers as it grows, before and after unlearning."""

from typing import Any, ClassVar

import numpy as np

from expunge import config
from expunge.attacks import roc
from expunge.config import Component, Experiment, PositiveInt, hyper
from expunge.data.split import Split, make_split
from expunge.errors import BadInput
from expunge.lab import capacity_page
from expunge.lab.lab import Lab, Sheet
from expunge.lab.world import Report, World, part, world_of
from expunge.metrics.closeness import histogram_overlap
from expunge.metrics.view import View

EDGES = np.logspace(-5, np.log10(20), 31)
"""Of the loss histograms, in nats; the first bin holds whatever is below, the last whatever is above."""
PARTS = ("forget", "unseen", "retain")


class Capacity(Lab):
    """Losses of members and of unseen examples as depth and width grow, for originals, unlearned and retrained nets.

    An original that fits its training set gives it lower losses than unseen data, and so gives it away. How much is measured by the
    overlap of the two histograms, by the Kolmogorov-Smirnov distance and by the area under the ROC curve of the loss, over seeds.
    """

    title: ClassVar[str] = "Does a bigger net remember more?"
    source: ClassVar[str] = "source 003 (README: loss histograms as the capacity of the model grows)"
    defaults: ClassVar[dict[str, Any]] = {
        "data": {"name": "blobs", "per_class": 100, "spread": 0.13},
        "model": "mlp",
        "train": {"name": "tiny", "epochs": 300, "batch_size": 250, "weight_decay": 0.0},
        "forget": {"name": "random", "fraction": 0.3},
        "method": {"name": "neggrad_plus", "alpha": 0.9, "lr": 0.02, "epochs": 20, "batch_size": 64},
    }

    widths: tuple[PositiveInt, ...] = hyper((2, 8, 32, 128), "units of a hidden layer", min_length=1)
    depths: tuple[PositiveInt, ...] = hyper((1, 3), "hidden layers", min_length=1)
    models: tuple[Any, ...] = hyper((), "models to compare instead of widths and depths, as in [resnet20,resnet56]")
    seeds: PositiveInt = hyper(5, "nets of each kind, each with a request of its own; intervals are over them", ge=2)

    def run(self, experiment: Experiment, report: Report) -> dict[str, Any]:
        """Return histograms and measures of every net; see `Lab.run`."""
        world = world_of(experiment)
        splits = [make_split(world.data, experiment.forget, experiment.seed + number) for number in range(self.seeds)]
        nets = self._nets(experiment)
        report({"event": "plan", "jobs": [name for name, _ in nets]})
        found = []
        for name, component in nets:
            with part(report, name) as told:
                found.append({"name": name, **self._measure(world, splits, component, told)})
        return {
            "data": world.data.name,
            "method": experiment.method.name,
            "seeds": self.seeds,
            "sizes": {part: len(splits[0].index(part)) for part in PARTS},
            "edges": EDGES.tolist(),
            "guess": float(np.log(world.data.num_classes)),
            "nets": sorted(found, key=lambda net: net["parameters"]),
        }

    def sheet(self, found: dict[str, Any]) -> Sheet:
        """Return the page; see `Lab.sheet`."""
        return capacity_page.sheet(found)

    def _nets(self, experiment: Experiment) -> list[tuple[str, Component]]:
        if self.models:
            built = [config.build("models", item, "lab.models") for item in self.models]
            return [(f"{component.name} {place}" if names_twice(built, component) else component.name, component)
                    for place, component in enumerate(built, 1)]  # fmt: skip
        if "hidden" not in type(experiment.model).model_fields:
            raise BadInput("model", f"{experiment.model.name} has no hidden layers that can grow.", "Write model=mlp, or lab.models=[...].")
        sizes = [(width, depth) for depth in self.depths for width in self.widths]
        return [(f"width {width}, depth {depth}", experiment.model.but(hidden=(width,) * depth)) for width, depth in sizes]

    def _measure(self, world: World, splits: list[Split], component: Component, report: Report) -> dict[str, Any]:
        seeds = [world.experiment.seed + number for number in range(self.seeds)]
        indices = [split.train for split in splits] + [split.retain for split in splits]
        trained = world.trained(indices, seeds * 2, report, component)
        originals, retrained = trained[: self.seeds], trained[self.seeds :]
        unlearned = [
            world.unlearned(
                model,
                split,
                seed,
                oracle=oracle,
                model=component,
            )
            for model, oracle, split, seed in zip(originals, retrained, splits, seeds, strict=True)
        ]
        models = {"original": originals, "unlearned": unlearned, "retrained": retrained}
        views = {
            name: [world.view(model, split, (*PARTS, "test")) for model, split in zip(group, splits, strict=True)]
            for name, group in models.items()
        }
        return {
            "parameters": sum(parameter.numel() for parameter in originals[0].parameters()),
            "histograms": {name: {part: _histogram(group, part) for part in PARTS} for name, group in views.items()},
            "measures": {name: [_measures(view) for view in group] for name, group in views.items()},
        }


def names_twice(built: list[Component], component: Component) -> bool:
    """Return whether another model of the list has the same name."""
    return sum(other.name == component.name for other in built) > 1


def _histogram(views: list[View], part: str) -> list[float]:
    """Return the share of examples in each bin, all seeds together."""
    losses = np.clip(np.concatenate([view.loss(part) for view in views]), EDGES[0], np.nextafter(EDGES[-1], 0))
    counts, _ = np.histogram(losses, EDGES)
    return (counts / len(losses)).round(5).tolist()


def _measures(view: View) -> dict[str, float]:
    from scipy import stats

    forget, unseen = view.loss("forget"), view.loss("unseen")
    return {
        "auc": roc.auc(-forget, -unseen),
        "ks": float(stats.ks_2samp(forget, unseen).statistic),
        "overlap": histogram_overlap(forget, unseen, 20),
        "forget": 100 * float(view.correct("forget").mean()),
        "retain": 100 * float(view.correct("retain").mean()),
        "test": 100 * float(view.correct("test").mean()),
    }
