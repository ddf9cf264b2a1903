"""Pictures as points of the plane: what a trained net makes of them, seen in two dimensions."""

import numpy as np
import torch
from torch import Tensor

from expunge import config
from expunge.config import Experiment
from expunge.data.dataset import Data, from_tensors
from expunge.engine.architecture import Architecture
from expunge.engine.randomness import shuffle
from expunge.engine.stream import scoring_size
from expunge.lab.world import Report, World, part
from expunge.training.train import train

EYE = {"name": "tiny", "epochs": 6}
"""How the net is trained that looks at the pictures."""


def surrogate(data: Data, experiment: Experiment, eye: str, each: int, classes: int, report: Report) -> Data:
    """Return points of the unit square: the first two principal components of a trained net's penultimate features.

    The axes are those of the training examples; both axes are scaled alike, so that distances keep their proportions.

    Args:
        data: pictures.
        experiment: for the seed.
        eye: name of the model that is trained on all training pictures of the chosen classes.
        each: training points of a class; three times as many are for testing.
        classes: the first so many classes.
        report: hears the training.
    """
    world = World(data, experiment, data.source.device)  # type: ignore[arg-type]
    labels = data.labels.numpy()
    train_index, test_index = (index[labels[index] < classes] for index in (data.train_index.numpy(), data.test_index.numpy()))
    net = world.new(experiment.seed, config.build("models", eye, "lab.eye"))
    with part(report, f"training {eye} on {data.name}") as told:
        recipe = config.build("recipes", dict(EYE), "train")
        train(
            net,
            world.stream("train", train_index),
            recipe,  # type: ignore[arg-type]
            seed=experiment.seed,
            num_classes=data.num_classes,
            report=told,
        )
    features = [_features(net, world, index) for index in (train_index, test_index)]
    points = _principal(features[0], features)
    chosen = [_first(labels[index], index, count, experiment.seed) for index, count in ((train_index, each), (test_index, 3 * each))]
    parts = [
        (points[k][place], labels[index][place]) for k, (index, place) in enumerate(zip((train_index, test_index), chosen, strict=True))
    ]
    names = data.class_names[:classes]
    return from_tensors(*parts[0], *parts[1], name=f"{data.name} seen by {eye}", class_names=names)


@torch.no_grad()
def _features(net: torch.nn.Module, world: World, index: np.ndarray) -> Tensor:
    found, batches = [], list(world.stream("seen", index).batches(scoring_size(net)))
    architecture = Architecture(net, batches[0].x)
    for batch in batches:
        found.append(architecture.forward_with_features(net.eval(), batch.x)[1].flatten(1).float().cpu())
    return torch.cat(found)


def _principal(training: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Return the parts in the first two principal axes of the training features, scaled into the unit square."""
    center = training.mean(0)
    axes = torch.linalg.svd(training - center, full_matrices=False).Vh[:2]
    axes = axes * torch.sign(axes[torch.arange(2), axes.abs().argmax(1)])[:, None]
    projected = [(part - center) @ axes.T for part in parts]
    low, high = (torch.quantile(projected[0], share, dim=0) for share in (0.005, 0.995))
    scale = 0.8 / float((high - low).max())
    return [(0.5 + scale * (points - (low + high) / 2)).clamp(0, 1) for points in projected]


def _first(labels: np.ndarray, index: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the places of ``count`` random examples of each class, or of all that there are."""
    order = shuffle(seed, "surrogate", 0, torch.from_numpy(index)).numpy()
    places = np.searchsorted(index, order)
    return np.sort(np.concatenate([places[labels[places] == label][:count] for label in np.unique(labels)]))
