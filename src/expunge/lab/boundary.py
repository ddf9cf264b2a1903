"""The decision boundary of small nets, point by point."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from expunge.config import Component, Experiment, NonNegativeInt, PositiveInt, Text, hyper
from expunge.data.split import make_split
from expunge.engine.stream import Stream
from expunge.errors import BadInput
from expunge.lab import boundary_page, influence, plane
from expunge.lab.lab import Lab, Sheet
from expunge.lab.surrogate import surrogate
from expunge.lab.world import Report, World, part, world_of
from expunge.statistics import NotEnoughEvidence


class Boundary(Lab):
    """Where nets of growing width and depth draw the line, what each training point does to it, and what forgetting does to it.

    Every net is trained once with all points and once without each of them, with the same initial weights and order; the influence
    of a point is how far that moves the weights, and which share of the plane changes class. Then some points are forgotten by a method
    and, for comparison, by retraining. Pictures are turned into points first: the two main directions of a net's penultimate features.
    """

    title: ClassVar[str] = "What one point does to the boundary"
    source: ClassVar[str] = "source 003 (README: thought experiment on two discs); exact leave-one-out retraining beside Koh & Liang, 2017"
    defaults: ClassVar[dict[str, Any]] = {
        "data": {"name": "moons", "per_class": 30},
        "model": "mlp",
        "train": {"name": "tiny", "epochs": 300, "batch_size": 1000, "weight_decay": 3e-3},
        "method": {"name": "neggrad_plus", "lr": 0.02, "epochs": 60},
    }

    widths: tuple[PositiveInt, ...] = hyper((4, 16), "units of a hidden layer", min_length=1)
    depths: tuple[NonNegativeInt, ...] = hyper((0, 1, 3), "hidden layers; 0 is a linear classifier", min_length=1)
    forget_points: PositiveInt = hyper(6, "points to forget where no request is given: those that move the boundary of the last net most")
    grid: PositiveInt = hyper(61, "cells of the plane each way", ge=11, le=201)
    frames: PositiveInt = hyper(24, "pictures of the animation, at most")
    other_seeds: PositiveInt = hyper(3, "retrained nets of other seeds, which show how much chance moves the boundary")
    eye: Text = hyper("small_cnn", "model whose penultimate features make points of pictures")
    classes: PositiveInt = hyper(4, "the first so many classes of pictures", ge=2)
    points: PositiveInt = hyper(20, "points of each class of pictures")

    def run(self, experiment: Experiment, report: Report) -> dict[str, Any]:
        """Return points, pictures and influences; see `Lab.run`."""
        world = self._world(experiment, report)
        index = world.data.train_index.numpy()
        points, labels = _points(world, index)
        view = plane.around(points, self.grid)
        nets = self._nets(experiment)
        report({"event": "plan", "jobs": [job for name, _ in nets for job in (name, f"forgetting in {name}")]})
        alone = []
        for name, component in nets:
            with part(report, name) as told:
                alone.append(self._influence(world, component, index, view, told))
        request = self._request(world, alone[-1]["moved"])
        results = []
        for (name, component), found in zip(nets, alone, strict=True):
            with part(report, f"forgetting in {name}") as told:
                results.append({"name": name, **self._forget(world, component, found, request, view, told)})
        return {
            "data": world.data.name,
            "class_names": list(world.data.class_names),
            "method": experiment.method.name,
            "points": np.round(points, 4).tolist(),
            "labels": labels.tolist(),
            "forgotten": request["places"],
            "low": list(view.low),
            "high": list(view.high),
            "nets": results,
        }

    def sheet(self, found: dict[str, Any]) -> Sheet:
        """Return the page; see `Lab.sheet`."""
        return boundary_page.sheet(found)

    def _world(self, experiment: Experiment, report: Report) -> World:
        world = world_of(experiment)
        if world.data.input_shape == (2,):
            return world
        if world.data.num_classes < self.classes:
            raise BadInput("lab.classes", f"{world.data.name} has {world.data.num_classes} classes, got {self.classes}.")
        report({"event": "plan", "jobs": ["points of pictures"]})
        data = surrogate(world.data, experiment, self.eye, self.points, self.classes, report)
        return World(data, experiment, torch.device("cpu"))

    def _nets(self, experiment: Experiment) -> list[tuple[str, Component]]:
        """Return the nets with their names, every width at every depth; there is one linear classifier."""
        if "hidden" not in type(experiment.model).model_fields:
            raise BadInput("model", f"{experiment.model.name} has no hidden layers that can grow.", "Write model=mlp.")
        found = {}
        for depth in self.depths:
            for width in self.widths:
                name = f"width {width}, depth {depth}" if depth else "linear"
                found[name] = experiment.model.but(hidden=(width,) * depth)
        return list(found.items())

    def _influence(self, world: World, component: Component, index: np.ndarray, view: plane.Plane, report: Report) -> dict[str, Any]:
        """Return the net of all points and what leaving out each one does, measured and estimated."""
        seed, recipe = world.experiment.seed, world.experiment.train
        models = world.trained(influence.without_each(index), [seed] * (len(index) + 1), report, component)
        decay = getattr(recipe, "weight_decay", 0.0)
        answers = view.answers(models)
        found: dict[str, Any] = {"model": models[0], "component": component, "distance": influence.distances(models)}
        found["moved"] = plane.moved(answers[1:], answers[0])
        found["own_loss"] = _own_losses(world, models[0], index)
        if decay > 0:
            changes = influence.estimated_changes(world, models[0], index, decay)
            found["estimated_distance"] = changes.norm(dim=1).numpy()
            changed = influence.answers_at(models[0], influence.weights_of(models[0]) + changes, view.points())
            found["estimated_moved"] = plane.moved(changed, answers[0])
        return found

    def _request(self, world: World, moved: np.ndarray) -> dict[str, Any]:
        """Return which points are forgotten, as places in the training set, and the kind of the request."""
        experiment, size = world.experiment, world.data.train_size
        if experiment.forget is None:
            if self.forget_points >= size:
                raise BadInput("lab.forget_points", f"there are {size} points, got {self.forget_points}.", "Choose a smaller number.")
            return {"places": sorted(np.argsort(-moved, kind="stable")[: self.forget_points].tolist()), "kind": "random", "classes": ()}
        split = make_split(world.data, experiment.forget, experiment.seed, validation_fraction=0.0)
        return {"places": split.forget.tolist(), "kind": split.kind, "classes": split.forget_classes}

    def _forget(
        self, world: World, component: Component, alone: dict[str, Any], request: dict[str, Any], view: plane.Plane, report: Report
    ) -> dict[str, Any]:
        """Return the plane before and after forgetting, by the method and by retraining, with the method's way there."""
        experiment, size, gone = world.experiment, world.data.train_size, np.array(request["places"])
        kept = np.setdiff1d(np.arange(size), gone)
        seeds = [experiment.seed + number for number in range(self.other_seeds + 1)]
        retrained = world.trained([kept] * len(seeds), seeds, report, component)
        original, frames = alone["model"], []
        streams = {"forget": world.stream("forget", gone), "retain": world.stream("retain", kept)}
        streams["validation"] = world.stream("validation", world.data.test_index)

        def watch(model: nn.Module, event: dict[str, Any]) -> None:
            if event["event"] in ("epoch", "edit"):
                frames.append(view.answers([model])[0])

        unlearned = world.unlearned(
            original,
            streams,
            experiment.seed,
            kind=request["kind"],
            forget_classes=request["classes"],
            oracle=retrained[0],
            watch=watch,
            model=component,
        )
        models = {"original": original, "unlearned": unlearned, "retrained": retrained[0]}
        answers = dict(zip(models, view.answers(list(models.values())), strict=True))
        return {
            "parameters": sum(parameter.numel() for parameter in original.parameters()),
            "pictures": {name: plane.packed(view.picture(logits)) for name, logits in answers.items()},
            "moved": {name: float(plane.moved(logits, answers["retrained"])) for name, logits in answers.items()},
            "chance": plane.moved(view.answers(retrained[1:]), answers["retrained"]).tolist(),
            "chance_losses": [_losses(world, model, streams)["forget"] for model in retrained[1:]],
            "losses": {name: _losses(world, model, streams) for name, model in models.items()},
            "film": self._film([answers["original"], *frames, answers["unlearned"]], answers, view),
            "influence": _plain_influence(alone),
        }

    def _film(self, frames: Sequence[np.ndarray], answers: dict[str, np.ndarray], view: plane.Plane) -> dict[str, Any]:
        """Return pictures along the way, thinned to the wanted number, and how far the plane then is from both references."""
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(self.frames, len(frames))).round().astype(int))
        return {
            "step": chosen.tolist(),
            "pictures": [plane.packed(view.picture(frames[place])) for place in chosen],
            "from_retrained": [float(plane.moved(frames[place], answers["retrained"])) for place in chosen],
            "from_original": [float(plane.moved(frames[place], answers["original"])) for place in chosen],
        }


def _points(world: World, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    batch = next(iter(world.stream("points", index).batches(len(index))))
    return batch.x.cpu().numpy().astype(np.float64), batch.y.cpu().numpy()


@torch.no_grad()
def _losses(world: World, model: nn.Module, streams: dict[str, Stream]) -> dict[str, float]:
    """Return mean losses in nats of forgotten, retained and unseen points, and the accuracy on unseen ones."""
    found: dict[str, float] = {}
    for name, stream in streams.items():
        batch = next(iter(stream.batches(len(stream))))
        logits = model.eval()(batch.x)
        found[name] = float(nn.functional.cross_entropy(logits, batch.y))
        if name == "validation":
            found["accuracy"] = float((logits.argmax(1) == batch.y).float().mean())
    return found


@torch.no_grad()
def _own_losses(world: World, model: nn.Module, index: np.ndarray) -> np.ndarray:
    """Return the loss of each training point in nats, ``[n]``."""
    batch = next(iter(world.stream("own", index).batches(len(index))))
    return nn.functional.cross_entropy(model.eval()(batch.x), batch.y, reduction="none").cpu().numpy()


def _plain_influence(alone: dict[str, Any]) -> dict[str, Any]:
    keys = ("distance", "moved", "own_loss", "estimated_distance", "estimated_moved")
    found: dict[str, Any] = {key: np.round(alone[key], 6).tolist() for key in keys if key in alone}
    for key in ("distance", "moved"):
        if f"estimated_{key}" in alone:
            found[f"{key}_rank"] = rank(alone[key], alone[f"estimated_{key}"])
    return found


def rank(first: np.ndarray, second: np.ndarray) -> dict[str, float] | None:
    """Return the rank correlation of two measures of the same points with its 95 % interval; None where there is none."""
    try:
        return dict(zip(("low", "high", "value"), influence.rank_correlation(first, second)[:3], strict=True))
    except NotEnoughEvidence:
        return None
