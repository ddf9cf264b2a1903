"""Deletion requests one after another, when nobody keeps the training data."""

from typing import Any, ClassVar

from torch import nn

from expunge import config
from expunge.config import Experiment, PositiveInt, hyper
from expunge.data.split import make_split
from expunge.engine.method import Method
from expunge.errors import BadInput, Diverged
from expunge.lab import stream_page
from expunge.lab.lab import Lab, Sheet
from expunge.lab.world import Report, World, part, world_of
from expunge.metrics.table import Failure, default_metrics, evaluate
from expunge.metrics.view import View
from expunge.requests import sequence

NEVER = {"retain", "recipe", "oracle"}
"""What there is not, once the training data is gone."""


class Stream(Lab):
    """A stream of deletion requests without a retain set, and how every metric drifts with each of them.

    A method gets the examples of one request, the model that it has left after the one before, and data that no model was trained on.
    It is compared after every request with nets retrained without all requests so far, over seeds, by the metrics of every evaluation.
    """

    title: ClassVar[str] = "Request after request, with the training data gone"
    source: ClassVar[str] = "source 003 (README: a streaming set of forget samples, without the retain set)"
    defaults: ClassVar[dict[str, Any]] = {
        "data": {"name": "digits"},
        "model": {"name": "mlp", "hidden": [64]},
        "train": {"name": "tiny", "epochs": 15},
        "forget": {"name": "random", "fraction": 0.2},
    }
    takes: ClassVar[tuple[str, ...]] = ("data", "model", "train", "forget")

    methods: tuple[Any, ...] = hyper(
        ({"name": "streaming", "lr": 2e-4}, {"name": "gradient_ascent", "lr": 0.03}, "delete", "neg_merge"),
        "methods without a retain set, names or names with fields",
        min_length=1,
    )
    requests: PositiveInt = hyper(6, "requests into which the forget set is divided")
    seeds: PositiveInt = hyper(4, "nets of each kind; intervals and the band of retrained nets are over them", ge=3)

    def run(self, experiment: Experiment, report: Report) -> dict[str, Any]:
        """Return every metric of every method after every request; see `Lab.run`."""
        world = world_of(experiment)
        split = make_split(world.data, experiment.forget, experiment.seed)
        labels = world.data.labels.numpy()
        steps = sequence.steps(split, labels, sequence.divide(split, self.requests, labels))
        methods = self._methods(steps)
        report({"event": "plan", "jobs": ["originals", *methods, *(f"after request {step.number + 1}" for step in steps)]})
        seeds = [experiment.seed + number for number in range(self.seeds)]
        with part(report, "originals") as told:
            originals = world.trained([split.train] * self.seeds, seeds, told)
        chains = {}
        for name, method in methods.items():
            with part(report, name):
                chains[name] = [self._serve(world, model, method, steps, seed) for model, seed in zip(originals, seeds, strict=True)]
        found = []
        for step in steps:
            with part(report, f"after request {step.number + 1}") as told:
                retrained = world.trained([step.so_far.retain] * self.seeds, seeds, told)
                found.append(self._measure(world, step, originals, retrained, chains))
        return {
            "data": world.data.name,
            "methods": {name: method.tree() for name, method in methods.items()},
            "requests": [len(step.new.forget) for step in steps],
            "seeds": self.seeds,
            "metrics": found[0]["metrics"],
            "steps": [step["rows"] for step in found],
        }

    def sheet(self, found: dict[str, Any]) -> Sheet:
        """Return the page; see `Lab.sheet`."""
        return stream_page.sheet(found)

    def _methods(self, steps: list[sequence.Step]) -> dict[str, Method]:
        """Return the methods by name.

        Raises:
            BadInput: a method needs data that is gone.
        """
        found: dict[str, Method] = {}
        for item in self.methods:
            defaults = config.scenario_defaults(item, steps[0].request.kind)
            method = config.build("methods", item, "lab.methods", defaults)
            assert isinstance(method, Method)
            if NEVER & set(method.needs):
                missing = ", ".join(sorted(NEVER & set(method.needs)))
                raise BadInput("lab.methods", f"{method.name} needs {missing}, and there is none in a stream.", "Leave it out.")
            found[method.name if method.name not in found else f"{method.name} {len(found) + 1}"] = method
        return found

    def _serve(self, world: World, model: nn.Module, method: Method, steps: list[sequence.Step], seed: int) -> list[nn.Module | Failure]:
        """Return the model after each request; after a failure every later one fails too."""
        found: list[nn.Module | Failure] = []
        for step in steps:
            last = found[-1] if found else model
            found.append(last if isinstance(last, Failure) else self._serve_one(world, last, method, step, seed))
        return found

    def _serve_one(self, world: World, model: nn.Module, method: Method, step: sequence.Step, seed: int) -> nn.Module | Failure:
        request = step.request
        streams = {"forget": world.stream("forget", request.forget), "validation": world.stream("validation", request.validation)}
        try:
            return world.unlearned(
                model, streams, seed + step.number, kind=request.kind, forget_classes=request.forget_classes, method=method
            )
        except Diverged as error:
            return Failure("diverged", f"at request {step.number + 1}: {error}")

    def _measure(
        self,
        world: World,
        step: sequence.Step,
        originals: list[nn.Module],
        retrained: list[nn.Module],
        chains: dict[str, list[list[nn.Module | Failure]]],
    ) -> dict[str, Any]:
        """Return every metric of every row after a request, as the table of an evaluation has it."""

        def look(model: nn.Module | Failure) -> View | Failure:
            if isinstance(model, Failure):
                return model
            return world.view(model, step.so_far, ("forget", "retain", "validation", "test", "unseen", "test_forgotten"))

        unlearned: Any = {name: [look(chain[step.number]) for chain in chain_of] for name, chain_of in chains.items()}
        references: Any = [[look(model) for model in models] for models in (originals, retrained)]
        table = evaluate(references[0], references[1], unlearned, default_metrics(step.so_far.kind), step.so_far.kind)
        return {"metrics": {name: _head(head) for name, head in table["metrics"].items()}, "rows": [_row(row) for row in table["rows"]]}


def _head(head: dict[str, Any]) -> dict[str, Any]:
    return {key: head[key] for key in ("label", "unit", "target", "pair")}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a row of the table: value, interval and band of every metric."""
    cells = {}
    for name, cell in row["cells"].items():
        spread, band = cell["interval"], cell["band"]
        cells[name] = {
            "value": round(cell["value"], 5),
            "interval": [round(spread["low"], 5), round(spread["high"], 5)] if spread else None,
            "band": [round(band["low"], 5), round(band["high"], 5)] if band else None,
            "inside": cell["in_band"],
        }
    return {"name": row["name"], "role": row["role"], "status": row["status"], "reason": row["reason"], "cells": cells}
