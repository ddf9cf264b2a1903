"""Who can tell forgotten examples from unseen ones, and from what."""

from typing import Any, ClassVar

import numpy as np
from torch import nn

from expunge import config
from expunge.config import Experiment, PositiveInt, Text, hyper
from expunge.data.split import Split, make_split
from expunge.engine.method import Method
from expunge.errors import BadInput, nearest
from expunge.lab import discriminator_page
from expunge.lab.attackers import ATTACKERS, judge
from expunge.lab.evidence import LOOKS, looks
from expunge.lab.lab import Lab, Sheet
from expunge.lab.world import Report, World, part, world_of


class Discriminator(Lab):
    """Attackers of several kinds try to tell the forget set from unseen data, by losses, by probabilities and by gradients.

    Every attacker is fitted on some examples and judged on others (cross-validation), on the original, on what each method has left, and on
    the retrained net, for which no attacker should do better than a coin. Intervals are over nets, each with a request of its own.
    """

    title: ClassVar[str] = "Who can tell forgotten from unseen?"
    source: ClassVar[str] = "source 003 (README: what other characteristics than the loss; attackers on loss, logits and gradients)"
    deviations: ClassVar[tuple[str, ...]] = (
        "all folds are judged, on all examples; the source returns the first fold of the first six batches",
        "other probabilities are sorted, so that an attacker cannot learn the classes' shares",
    )
    defaults: ClassVar[dict[str, Any]] = {
        "data": {"name": "fashion_mnist", "train_limit": 1500, "test_limit": 1500},
        "model": {"name": "mlp", "hidden": [64]},
        "train": {"name": "tiny", "epochs": 30, "lr": 0.05},
        "forget": {"name": "random", "fraction": 0.25},
    }
    takes: ClassVar[tuple[str, ...]] = ("data", "model", "train", "forget")

    methods: tuple[Any, ...] = hyper(
        (
            {"name": "finetune", "lr": 0.05, "epochs": 10, "batch_size": 64},
            {"name": "neggrad_plus", "alpha": 0.9, "lr": 0.01, "epochs": 8, "batch_size": 64},
            {"name": "random_label", "lr": 0.005, "epochs": 5, "batch_size": 64},
        ),
        "methods to try, names or names with fields",
    )
    looks: tuple[Text, ...] = hyper(LOOKS, "what attackers may look at")
    attackers: tuple[Text, ...] = hyper(
        ("threshold", "logistic_regression", "nearest_neighbors", "neural_net"), "who tries; also support_vectors, random_forest"
    )
    folds: PositiveInt = hyper(5, "of the cross-validation", ge=2)
    seeds: PositiveInt = hyper(4, "nets of each kind, each with a request of its own", ge=2)

    def run(self, experiment: Experiment, report: Report) -> dict[str, Any]:
        """Return the AUC of every attacker on every look at every model; see `Lab.run`."""
        for chosen, known, key in ((self.looks, LOOKS, "looks"), (self.attackers, ATTACKERS, "attackers")):
            for name in chosen:
                if name not in known:
                    raise BadInput(f"lab.{key}", f"got {name!r}.", nearest(name, known))
        from threadpoolctl import threadpool_limits

        world = world_of(experiment)
        splits = [make_split(world.data, experiment.forget, experiment.seed + number) for number in range(self.seeds)]
        methods = self._methods(splits[0])
        rows = ["original", *methods, "retrained"]
        report({"event": "plan", "jobs": ["nets", *methods, *(f"attacks on {name}" for name in rows)]})
        models = self._models(world, splits, methods, report)
        found = {}
        for name in rows:
            with part(report, f"attacks on {name}"), threadpool_limits(1):
                seeds = zip(models[name], splits, strict=True)
                found[name] = [self._attack(world, model, split, number) for number, (model, split) in enumerate(seeds)]
        return {
            "data": world.data.name,
            "rows": rows,
            "methods": {name: method.tree() for name, method in methods.items()},
            "looks": list(self.looks),
            "attackers": list(self.attackers),
            "folds": self.folds,
            "seeds": self.seeds,
            "sizes": {"forget": len(splits[0].forget), "unseen": len(splits[0].unseen), "retain": len(splits[0].retain)},
            "dimensions": found["original"][0]["dimensions"],
            "areas": {name: [one["areas"] for one in each] for name, each in found.items()},
            "accuracy": {name: [one["accuracy"] for one in each] for name, each in found.items()},
        }

    def sheet(self, found: dict[str, Any]) -> Sheet:
        """Return the page; see `Lab.sheet`."""
        return discriminator_page.sheet(found)

    def _methods(self, split: Split) -> dict[str, Method]:
        found: dict[str, Method] = {}
        for item in self.methods:
            method = config.build("methods", item, "lab.methods", config.scenario_defaults(item, split.kind))
            assert isinstance(method, Method)
            found[method.name if method.name not in found else f"{method.name} {len(found) + 1}"] = method
        return found

    def _models(self, world: World, splits: list[Split], methods: dict[str, Method], report: Report) -> dict[str, list[nn.Module]]:
        seeds = [world.experiment.seed + number for number in range(self.seeds)]
        with part(report, "nets") as told:
            trained = world.trained([split.train for split in splits] + [split.retain for split in splits], seeds * 2, told)
        models = {"original": trained[: self.seeds], "retrained": trained[self.seeds :]}
        for name, method in methods.items():
            with part(report, name):
                models[name] = [
                    world.unlearned(
                        original,
                        split,
                        seed,
                        method=method,
                        oracle=retrained,
                    )
                    for original, retrained, split, seed in zip(models["original"], models["retrained"], splits, seeds, strict=True)
                ]
        return models

    def _attack(self, world: World, model: nn.Module, split: Split, seed: int) -> dict[str, Any]:
        """Return the held-out AUC of every attacker on every look at one model, and its accuracies."""
        seen = {name: looks(model, world.stream(name, split.index(name)), world.data.num_classes) for name in ("forget", "unseen")}
        areas = {
            look: {
                attacker: judge(attacker, seen["forget"][look], seen["unseen"][look], self.folds, seed).auc for attacker in self.attackers
            }
            for look in self.looks
        }
        view = world.view(model, split, ("forget", "retain", "test"))
        accuracy = {name: float(np.mean(view.correct(name))) for name in ("forget", "retain", "test")}
        return {"areas": areas, "accuracy": accuracy, "dimensions": {look: seen["forget"][look].shape[1] for look in self.looks}}
