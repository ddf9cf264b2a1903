"""A net that makes classifiers out of training sets: to forget a point is to leave it out of the question."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.config import Experiment, PositiveFloat, PositiveInt, hyper
from expunge.data.dataset import Data, from_tensors
from expunge.data.source import TensorSource
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward, Loss, Term
from expunge.engine.update import adam, cosine
from expunge.errors import BadInput
from expunge.lab import hypernetwork_page, influence, plane
from expunge.lab.boundary import rank
from expunge.lab.lab import Lab, Sheet
from expunge.lab.sets import Hyper, SetTransformer
from expunge.lab.world import Report, World, part, world_of

_SHOWN = 4
"""Tasks of which pictures are kept."""


@dataclass(frozen=True)
class Tasks:
    """Small training sets, each with points to ask about.

    Attributes:
        points: ``[T, n, 2]``.
        labels: int64 ``[T, n]``.
        asked: further points of the same tasks, ``[T, m, 2]``.
        asked_labels: int64 ``[T, m]``.
    """

    points: Tensor
    labels: Tensor
    asked: Tensor
    asked_labels: Tensor


class Hypernetwork(Lab):
    """A set transformer that maps a training set to the weights of a small classifier, beside training that classifier.

    It learns on many random tasks to reach what training reaches, and is then asked about tasks that it has not met. Leaving a point out
    of its input is unlearning that is exact by construction: nothing else has seen the point. How near its classifiers are to trained
    ones, and whether they move as trained ones move when a point is left out, is measured against retraining.
    """

    title: ClassVar[str] = "Forgetting by leaving out of the question"
    source: ClassVar[str] = "source 003 (hypernetworks, demo scale); set transformer after Lee et al., ICML 2019"
    defaults: ClassVar[dict[str, Any]] = {
        "data": {"name": "moons", "per_class": 300, "noise": 0.05},
        "model": {"name": "mlp", "hidden": [8]},
        "train": {"name": "tiny", "epochs": 200, "batch_size": 1000, "weight_decay": 0.01},
        "method": {"name": "neggrad_plus", "lr": 0.02, "epochs": 20},
    }
    takes: ClassVar[tuple[str, ...]] = ("data", "model", "train", "method", "addons")

    points: PositiveInt = hyper(16, "points of a training set", ge=4, le=64)
    tasks: PositiveInt = hyper(1500, "training sets that the hypernetwork learns from")
    epochs: PositiveInt = hyper(30, "passes over them")
    lr: PositiveFloat = hyper(2e-3, "largest learning rate of the hypernetwork")
    width: PositiveInt = hyper(48, "of the hypernetwork's inside; a multiple of 4", multiple_of=4)
    new_tasks: PositiveInt = hyper(20, "training sets that it has not met, on which it is compared with retraining")
    grid: PositiveInt = hyper(45, "cells of the plane each way", ge=11, le=201)

    def run(self, experiment: Experiment, report: Report) -> dict[str, Any]:
        """Return agreements with retraining on new tasks; see `Lab.run`."""
        base = world_of(experiment)
        if base.data.input_shape != (2,):
            raise BadInput("data", f"{base.data.name} holds no points of the plane.", "Write data=moons, discs, blobs or spirals.")
        decay = getattr(experiment.train, "weight_decay", 0.0)
        report({"event": "plan", "jobs": ["hypernetwork", "retraining", "comparison"]})
        learned = self._tasks(base.data, base.data.train_index, self.tasks, experiment.seed)
        new = self._tasks(base.data, base.data.test_index, self.new_tasks, experiment.seed + 1)
        world = World(_as_data(new, base.data), experiment, base.device)
        with part(report, "hypernetwork") as told:
            net = self._net(world)
            losses = self._learn(net, learned, decay, experiment.seed, told)
        with part(report, "retraining") as told:
            trained, again = self._retrained(world, told)
        with part(report, "comparison"):
            found = self._compare(world, net, new, trained, again, decay)
        return {
            "data": base.data.name,
            "class_names": list(base.data.class_names),
            "method": experiment.method.name,
            "points": self.points,
            "tasks": self.tasks,
            "new_tasks": self.new_tasks,
            "classifier": len(net.start),
            "weights": sum(parameter.numel() for parameter in net.parameters()),
            "learning": losses,
            **found,
        }

    def sheet(self, found: dict[str, Any]) -> Sheet:
        """Return the page; see `Lab.sheet`."""
        return hypernetwork_page.sheet(found)

    def _tasks(self, data: Data, index: Tensor, count: int, seed: int) -> Tasks:
        """Return random tasks: some points of the data set, turned and scaled, equally many of each class."""
        draws = np.random.default_rng(seed)
        batch = next(iter(Stream("all", data.source, index).batches(len(index))))
        x, y = batch.x.cpu().numpy(), batch.y.cpu().numpy()
        classes, each, more = data.num_classes, self.points // data.num_classes, 24
        if each < 2:
            raise BadInput("lab.points", f"{self.points} points are too few for {classes} classes.", f"Take at least {2 * classes}.")
        sets = []
        for _ in range(count):
            angle, scale = draws.uniform(0, 2 * np.pi), draws.uniform(0.7, 1.1)
            turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            chosen = [draws.choice(np.flatnonzero(y == label), each + more, replace=False) for label in range(classes)]
            places = [np.concatenate([part[s] for part in chosen]) for s in (slice(each), slice(each, None))]
            sets.append([0.5 + (x[place] - 0.5) @ turn.T for place in places])
        held = [torch.tensor(np.stack([task[side] for task in sets]), dtype=torch.float32) for side in (0, 1)]
        labels = [torch.arange(classes).repeat_interleave(number).expand(count, -1) for number in (each, more)]
        return Tasks(held[0], labels[0], held[1], labels[1])

    def _net(self, world: World) -> Hyper:
        classifier = world.new(world.experiment.seed)
        count = sum(parameter.numel() for parameter in classifier.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(world.experiment.seed)
            transformer = SetTransformer(2, world.data.num_classes, count, self.width)
        return Hyper(transformer, classifier).to(world.device)

    def _learn(self, net: Hyper, tasks: Tasks, decay: float, seed: int, report: Report) -> list[float]:
        """Train the hypernetwork on whole sets and on sets without one point, and return its mean loss of every epoch."""
        sets = packed(tasks.points, tasks.labels, net)
        method = Amortized(epochs=self.epochs, lr=self.lr, decay=decay)
        device = next(net.parameters()).device
        stream = Stream("train", TensorSource(sets, torch.zeros(len(sets), dtype=torch.int64), device), torch.arange(len(sets)))
        context = Context(net, {"train": stream}, needs={"train"}, seed=seed, num_classes=2, report=report)
        outcome = run(context, method)
        return [float(np.mean(list(losses.values()))) for phase in outcome.phases for losses in phase["losses"]]

    def _retrained(self, world: World, report: Report) -> tuple[list[list[nn.Module]], list[list[nn.Module]]]:
        """Return for each task the classifiers trained on all points and without each, and the same from other initial weights."""
        rows = [np.arange(self.size(world)) + task * self.size(world) for task in range(self.new_tasks)]
        indices = [index for row in rows for index in influence.without_each(row)]
        found = []
        for seed in (world.experiment.seed, world.experiment.seed + 1):
            models = world.trained(indices, [seed] * len(indices), report)
            size = self.size(world) + 1
            found.append([models[task * size : (task + 1) * size] for task in range(self.new_tasks)])
        return found[0], found[1]

    def size(self, world: World) -> int:
        """Return how many points a task has, the same number of each class."""
        return self.points // world.data.num_classes * world.data.num_classes

    def _compare(
        self, world: World, net: Hyper, tasks: Tasks, trained: list[list[nn.Module]], again: list[list[nn.Module]], decay: float
    ) -> dict[str, Any]:
        view = plane.around(tasks.points.flatten(0, 1).numpy(), self.grid)
        rows, pictures = [], []
        for task in range(len(tasks.points)):
            logits = view.answers(trained[task])
            others = view.answers(again[task])
            made = _made(net, tasks, task)
            own = net.answers(made, view.points().expand(len(made), -1, -1)).detach().numpy()
            worst = int(np.argmax(plane.moved(logits[1:], logits[0]))) + 1
            forgotten = self._forgotten(world, trained[task], task, worst)
            gone = view.answers([forgotten])[0]
            rows.append(_row(net, tasks, task, (logits, others, own, gone), (trained[task], made, forgotten), worst, decay))
            if task < _SHOWN:
                kinds = {"trained on all": logits[0], "trained without": logits[worst], "made of all": own[0], "made without": own[worst]}
                pictures.append(
                    {
                        "points": np.round(tasks.points[task].numpy(), 4).tolist(),
                        "labels": tasks.labels[task].tolist(),
                        "without": worst - 1,
                        "pictures": {name: plane.packed(view.picture(held)) for name, held in kinds.items()},
                    }
                )
        moved = {key: np.concatenate([row["moved"][key] for row in rows]) for key in ("trained", "made")}
        for row in rows:
            row["moved"] = {key: np.round(values, 5).tolist() for key, values in row["moved"].items()}
        return {
            "rows": rows,
            "shown": pictures,
            "low": list(view.low),
            "high": list(view.high),
            "rank": rank(moved["trained"], moved["made"]),
            "order": _order_matters(net, tasks),
        }

    def _forgotten(self, world: World, models: list[nn.Module], task: int, without: int) -> nn.Module:
        """Return the classifier of all points that the method has made to forget one of them."""
        row = np.arange(self.size(world)) + task * self.size(world)
        streams = {
            "forget": world.stream("forget", row[without - 1 : without]),
            "retain": world.stream("retain", np.delete(row, without - 1)),
        }
        streams["validation"] = world.stream("validation", world.data.test_index)
        return world.unlearned(models[0], streams, world.experiment.seed, oracle=models[without])


class Amortized(Method):
    """Learn to make classifiers whose mean loss on their own training set, plus the decay, is least: what training them would reach."""

    needs = {"train"}

    epochs: PositiveInt = 30
    lr: PositiveFloat = 1e-3
    decay: float = 0.0
    batch_size: PositiveInt = 64

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase, on whole sets and on sets from which a random point is missing."""
        yield Phase(
            [Term("train", made_loss(self.decay, False)), Term("train", made_loss(self.decay, True))],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            schedule=cosine(0.02),
            batch_size=self.batch_size,
            clip=1.0,
            name="learning to train",
        )


def made_loss(decay: float, shorter: bool) -> Loss:
    """Return the loss of a made classifier on its own points, plus ``decay / 2`` times its squared weights; one for each set.

    Args:
        decay: of the classifiers' weights.
        shorter: leave one random point out of every set of the batch.
    """

    def loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        net: Any = context.model
        points = batch.x
        if shorter:
            out = int(torch.randint(points.shape[1], ()))
            points = torch.cat([points[:, :out], points[:, out + 1 :]], dim=1)
        weights = net.weights(points)
        logits = net.answers(weights, points[..., : net.dimensions])
        labels = points[..., net.dimensions :].argmax(-1)
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
        return each + decay / 2 * weights.square().sum(1)

    return loss


def packed(points: Tensor, labels: Tensor, net: Hyper) -> Tensor:
    """Return labelled points as the hypernetwork reads them, ``[..., n, 2 + C]``: coordinates and the class as zeros and a one."""
    return torch.cat([points, F.one_hot(labels, net.transformer.classes).float()], dim=-1)


def _as_data(tasks: Tasks, like: Data) -> Data:
    """Return all points of all tasks as one data set, so that nets of different tasks are made and trained alike."""
    parts = [part.flatten(0, 1) for part in (tasks.points, tasks.labels, tasks.asked, tasks.asked_labels)]
    return from_tensors(*parts, name=like.name, class_names=like.class_names, device=like.source.device)


@torch.no_grad()
def _made(net: Hyper, tasks: Tasks, task: int) -> Tensor:
    """Return the weights that the hypernetwork makes of all points of a task, and without each of them, ``[n + 1, P]``."""
    whole = packed(tasks.points[task], tasks.labels[task], net.eval())
    without = torch.stack([torch.cat([whole[:out], whole[out + 1 :]]) for out in range(len(whole))])
    return torch.cat([net.weights(whole[None]), net.weights(without)])


@torch.no_grad()
def _order_matters(net: Hyper, tasks: Tasks) -> float:
    """Return by how much a made weight differs at most when the points are named in another order."""
    sets = packed(tasks.points, tasks.labels, net.eval())
    shuffled = sets[:, torch.from_numpy(np.random.default_rng(0).permutation(sets.shape[1]))]
    return float((net.weights(sets) - net.weights(shuffled)).abs().max())


@torch.no_grad()
def _row(net: Hyper, tasks: Tasks, task: int, answers: tuple, models: tuple, worst: int, decay: float) -> dict[str, Any]:
    """Return what was measured on one task.

    Args:
        net: the hypernetwork.
        tasks: all of them.
        task: number of this one.
        answers: on the plane: of classifiers trained on all and without each point, of those from other initial weights, of those made,
            and of the one that the method has left.
        models: classifiers trained, weights made, and the classifier that the method has left.
        worst: whose leaving out moves the trained boundary most, counted from 1.
        decay: of the objective.
    """
    (trained, again, own, gone), (nets, made, _) = answers, models
    weights = torch.stack([influence.weights_of(model).float() for model in nets])
    points, labels = tasks.points[task], tasks.labels[task]
    asked, truth = tasks.asked[task], tasks.asked_labels[task]
    objective = {}
    accuracy = {}
    for name, held in (("trained", weights[:1]), ("made", made[:1])):
        logits = net.answers(held, points[None])[0]
        objective[name] = float(F.cross_entropy(logits, labels) + decay / 2 * held.square().sum())
        accuracy[name] = float((net.answers(held, asked[None])[0].argmax(1) == truth).float().mean())
    return {
        "objective": objective,
        "accuracy": accuracy,
        "moved": {"trained": plane.moved(trained[1:], trained[0]), "made": plane.moved(own[1:], own[0])},
        "unlike": {
            "nothing done": float(plane.moved(trained[0], trained[worst])),
            "method": float(plane.moved(gone, trained[worst])),
            "hypernetwork": float(plane.moved(own[worst], trained[worst])),
            "another seed": float(plane.moved(again[worst], trained[worst])),
        },
    }
