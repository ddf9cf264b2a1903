"""What each training point does to a small net: measured by training without it, and estimated from the trained net alone."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from expunge.engine.context import Context
from expunge.engine.derivatives import per_example_gradients
from expunge.engine.parameters import Vector, flat, leaves, unflat
from expunge.engine.stream import Stream
from expunge.lab.world import World
from expunge.statistics import Interval, NotEnoughEvidence


def without_each(index: np.ndarray) -> list[np.ndarray]:
    """Return the index sets of leave-one-out training: all points first, then all but each."""
    return [index, *(np.delete(index, place) for place in range(len(index)))]


def weights_of(model: nn.Module) -> Tensor:
    """Return all parameters as one vector, float64 ``[P]``."""
    return flat({name: value.detach().double() for name, value in leaves(model).items()})


def distances(models: Sequence[nn.Module]) -> np.ndarray:
    """Return how far the weights of each model are from those of the first, float64 ``[M - 1]``."""
    first = weights_of(models[0])
    return np.array([float((weights_of(model) - first).norm()) for model in models[1:]])


def estimated_changes(world: World, model: nn.Module, index: np.ndarray, decay: float) -> Tensor:
    """Return how leaving out each point would change the weights, to first order, float64 ``[n, P]``.

    ``(G + decay I)^-1 (g_i + decay w) / (n - 1)`` with the gradient ``g_i`` of the point's loss, the weights ``w`` and the Gauss-Newton
    matrix ``G`` of the mean loss, which for a linear classifier is the Hessian. The second term is there because a mean over one point less
    leaves the decay as it is. It is solved in the space of the ``n C`` logits, so that it takes nets of any size.

    Args:
        world: of the data.
        model: trained on ``index``, near a minimum of the mean loss plus ``decay / 2`` times the squared weights.
        index: canonical indices of its training points.
        decay: of the weights; above 0.

    Source: Koh & Liang, ICML 2017; Gauss-Newton in place of the Hessian as in Martens, JMLR 2020.
    """
    rows, gradients = _linearised(world, model, world.stream("train", index))
    pulls = gradients + decay * weights_of(model).cpu()
    inner = rows @ rows.T + decay * torch.eye(len(rows), dtype=torch.float64)
    solved = pulls - torch.linalg.solve(inner, rows @ pulls.T).T @ rows
    return solved / decay / (len(index) - 1)


def _linearised(world: World, model: nn.Module, stream: Stream) -> tuple[Tensor, Tensor]:
    """Return ``B`` with ``B^T B = G``, ``[n C, P]``, and the gradients of the losses, ``[n, P]``, float64."""
    context = Context(copy.deepcopy(model), {"train": stream}, needs={"train"}, seed=0, num_classes=world.data.num_classes)
    batch = next(iter(stream.batches(len(stream))))
    with torch.no_grad():
        p = torch.softmax(model.eval()(batch.x).double(), dim=1)
    found = [per_example_gradients(context, batch, _logit(label)) for label in range(p.shape[1])]
    jacobian = torch.stack([_rows(vector) for vector in found], dim=1).double()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    values, vectors = torch.linalg.eigh(curvature)
    root = vectors * values.clamp_min(0).sqrt()[:, None, :]
    rows = torch.einsum("nck,ncp->nkp", root, jacobian).flatten(0, 1) / len(stream) ** 0.5
    residual = p - torch.nn.functional.one_hot(batch.y, p.shape[1])
    return rows, torch.einsum("nc,ncp->np", residual, jacobian)


def _logit(label: int):
    return lambda logits, y: logits[0, label]


def _rows(vector: Vector) -> Tensor:
    return torch.cat([value.flatten(1) for value in vector.values()], dim=1)


@torch.no_grad()
def answers_at(model: nn.Module, weights: Tensor, x: Tensor, chunk: int = 64) -> np.ndarray:
    """Return the logits of nets with other weights in evaluation mode, float32 ``[M, n, C]``.

    Args:
        model: whose architecture and buffers they have.
        weights: one net a row, ``[M, P]``.
        x: inputs ``[n, ...]``.
        chunk: nets that are asked at once.
    """
    own = {name: value.detach() for name, value in leaves(model).items()}
    template = copy.deepcopy(model).eval()
    buffers = dict(template.named_buffers())

    def one(row: Tensor) -> Tensor:
        return functional_call(template, (unflat(row, own), buffers), (x,))

    parts = [vmap(one)(part.to(next(iter(own.values())))) for part in weights.split(chunk)]
    return torch.cat(parts).float().cpu().numpy()


def rank_correlation(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> Interval:
    """Return Spearman's rank correlation of two measures of the same points, ``[n]`` each, with its interval.

    Raises:
        NotEnoughEvidence: fewer than 4 points, or a measure that is the same for all.

    Source: Bonett & Wright, Psychometrika 2000 (standard error of the transformed correlation).
    """
    from scipy import stats

    n = len(first)
    if n < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        raise NotEnoughEvidence("a rank correlation needs 4 points and measures that vary")
    value = float(stats.spearmanr(first, second).statistic)
    center, error = np.arctanh(np.clip(value, -0.999999, 0.999999)), np.sqrt((1 + value**2 / 2) / (n - 3))
    half = stats.norm.ppf((1 + level) / 2) * error
    return Interval(float(np.tanh(center - half)), float(np.tanh(center + half)), value, n, level)
