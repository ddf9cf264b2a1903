"""Data, models, training and unlearning as every study needs them: small nets, many at once, forgotten in by any method."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expunge.config import Component, Experiment
from expunge.data.dataset import Data
from expunge.data.split import Split
from expunge.engine import run as engine
from expunge.engine.context import Context
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.metrics.view import View
from expunge.models.model import create
from expunge.pools.stacked import refusal, train_together
from expunge.pools.stacked_net import outputs_together
from expunge.training.train import train

Report = Callable[[dict[str, Any]], None]
_STACKED_NUMBERS = 16_000_000
"""Weights that may be trained at once; optimiser and gradients take three times as much."""


@contextmanager
def part(report: Report, title: str) -> Iterator[Report]:
    """Tell that a part of a study begins and ends; what is reported inside carries its title."""
    report({"event": "start", "title": title})
    yield lambda event: report({"title": title, **event})
    report({"event": "end", "title": title})
    report({"event": "done", "title": title})


@dataclass(frozen=True)
class World:
    """A data set and how models are made, trained and made to forget.

    Attributes:
        data: the examples.
        experiment: model, recipe, method, add-ons, seed.
        device: where models live; that of the data.
    """

    data: Data
    experiment: Experiment
    device: torch.device

    def new(self, seed: int, model: Component | None = None) -> nn.Module:
        """Return a model with fresh weights that depend on the seed and the architecture alone."""
        return create(model or self.experiment.model, self.data, seed).to(self.device)  # type: ignore[arg-type]

    def stream(self, name: str, index: np.ndarray | Tensor) -> Stream:
        """Return examples by canonical index."""
        return Stream(name, self.data.source, torch.as_tensor(index))

    def trained(
        self, indices: Sequence[np.ndarray], seeds: Sequence[int], report: Report, model: Component | None = None
    ) -> list[nn.Module]:
        """Return one model for each index set and seed, many trained at once where model and recipe allow it.

        Two models of one seed have the same initial weights and meet the examples that they share in the same order.

        Args:
            indices: canonical indices of the examples of each.
            seeds: training seeds.
            report: hears the epochs.
            model: another architecture than the experiment's.
        """
        models = [self.new(seed, model) for seed in seeds]
        if not models:
            return []
        together = len(models) > 1 and self._can_stack(models[0], indices[0], seeds[0])
        size = max(1, _STACKED_NUMBERS // sum(parameter.numel() for parameter in models[0].parameters()))
        for group in _groups(indices, size if together else 1, self._steps(models[0], indices, seeds[0])):
            self._train([models[k] for k in group], [indices[k] for k in group], [seeds[k] for k in group], report)
        return models

    def _train(self, models: list[nn.Module], indices: list[np.ndarray], seeds: list[int], report: Report) -> None:
        streams, classes = [self.stream("train", index) for index in indices], self.data.num_classes
        if len(models) == 1:
            train(models[0], streams[0], self.experiment.train, seed=seeds[0], num_classes=classes, report=report)
            return

        def hear(number: int, event: dict[str, Any]) -> None:
            if number == 0:
                report(event)

        results = train_together(models, streams, self.experiment.train, seeds=seeds, num_classes=classes, report=hear)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _phases(self, model: nn.Module, index: np.ndarray, seed: int) -> list[Any]:
        stream = self.stream("train", index)
        context = Context(copy.deepcopy(model), {"train": stream}, needs={"train"}, seed=seed, num_classes=self.data.num_classes)
        return list(self.experiment.train.steps(context))

    def _can_stack(self, model: nn.Module, index: np.ndarray, seed: int) -> bool:
        if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
            return False
        steps = self._phases(model, index, seed)
        return all(refusal(step, model) is None for step in steps if isinstance(step, Phase))

    def _steps(self, model: nn.Module, indices: Sequence[np.ndarray], seed: int) -> list[int]:
        """Return how many batches an epoch of each index set has; only equals go in step."""
        sizes = [step.batch_size for step in self._phases(model, indices[0], seed) if isinstance(step, Phase)]
        size = min((size for size in sizes if isinstance(size, int)), default=1)
        return [-(-len(index) // size) for index in indices]

    def unlearned(
        self,
        original: nn.Module,
        request: Split | dict[str, Stream],
        seed: int,
        *,
        kind: str = "random",
        forget_classes: tuple[int, ...] = (),
        method: Method | None = None,
        oracle: nn.Module | None = None,
        watch: Callable[[nn.Module, dict[str, Any]], None] | None = None,
        model: Component | None = None,
    ) -> nn.Module:
        """Return a copy of the original that the method has made to forget.

        Args:
            original: is not changed.
            request: a split, or streams of what there is: forget, and as it is needed retain and validation.
            seed: of the unlearning.
            kind: of the request if it is not a split: random, class or subclass.
            forget_classes: that are forgotten as a whole, if it is not a split.
            method: the experiment's by default, with its add-ons.
            oracle: a retrained model, for methods that imitate one.
            watch: is shown the model with every event, such as the end of an epoch.
            model: another architecture than the experiment's.

        Raises:
            NotApplicable: the method does not fit the request.
            BadInput: data that it needs is missing.
            Diverged: losses or weights stopped being finite.
        """
        if isinstance(request, Split):
            streams, kind, forget_classes = self.streams(request), request.kind, request.forget_classes
        else:
            streams = request
        made, experiment = copy.deepcopy(original), self.experiment
        chosen, addons = (experiment.method, experiment.addons) if method is None else (method, ())
        artefacts = ["recipe"] + (["oracle"] if oracle is not None else [])
        engine.check(chosen, addons, kind=kind, streams=tuple(streams), artefacts=artefacts)
        context = Context(
            made,
            streams,
            needs=set(chosen.needs).union(*(addon.needs for addon in addons)),
            seed=seed,
            num_classes=self.data.num_classes,
            forget_classes=forget_classes,
            kind=kind,
            initialise=lambda number: self.new(number, model).state_dict(),
            recipe=experiment.train,
            oracle=oracle,
            report=(lambda event: watch(made, event)) if watch is not None else None,
        )
        engine.run(context, chosen, addons)
        return made.eval()

    def streams(self, split: Split) -> dict[str, Stream]:
        """Return what a method may have of a request: forget, retain and validation, those that are not empty."""
        found = {"forget": split.forget, "retain": split.kept, "validation": split.validation}
        return {name: self.stream(name, index) for name, index in found.items() if len(index)}

    def logits(self, models: Sequence[nn.Module], index: np.ndarray) -> np.ndarray:
        """Return what models of one architecture answer in evaluation mode, float32 ``[M, n, C]``."""
        return outputs_together(models, self.stream("asked", index), 2048).numpy()

    def view(self, model: nn.Module, split: Split, parts: Sequence[str]) -> View:
        """Return what a model says about parts of a split, those that are not empty; see `expunge.metrics.view.View`."""
        held = {name: split.index(name) for name in parts if len(split.index(name))}
        every = np.unique(np.concatenate(list(held.values())))
        logits, labels = self.logits([model], every)[0], self.data.labels.numpy()
        places = {name: np.searchsorted(every, index) for name, index in held.items()}
        return View({name: logits[place] for name, place in places.items()}, {name: labels[index] for name, index in held.items()})


def _groups(indices: Sequence[np.ndarray], size: int, steps: list[int]) -> Iterator[list[int]]:
    """Yield the places of index sets that can be trained at once: equally many steps an epoch, at most ``size``."""
    for count in sorted(set(steps)):
        places = [place for place in range(len(indices)) if steps[place] == count]
        yield from (places[start : start + size] for start in range(0, len(places), size))


def world_of(experiment: Experiment) -> World:
    """Return the world of an experiment with its own data.

    Raises:
        BadInput: no such device, or the data cannot be read.
    """
    from expunge.pools.workplace import choose_device, load_data

    device = choose_device(experiment.device)
    return World(load_data(experiment.data, device), experiment, device)
