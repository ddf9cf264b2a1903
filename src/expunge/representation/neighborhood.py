"""Knowledge that is left around forgotten examples: answers on small perturbations of their pictures."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from expunge.engine import randomness
from expunge.engine.parameters import modes_kept
from expunge.engine.stream import Stream, scoring_size
from expunge.representation import outputs

Ball = Literal["linf", "l2"]


class Residual(NamedTuple):
    """Answers in the neighbourhood of examples, of a model and of a retrained one.

    Attributes:
        rate: share of perturbed examples that the model classifies right.
        reference_rate: the retrained model's.
        gap: mean difference of the two, signed: above 0 under-unlearned, below 0 over-unlearned.
        ratio: rate over the retrained model's; None where that is 0.
        residual_fraction: share of examples that the model gets right in more of their perturbations than the retrained model does.
        over_fraction: share where it is the other way round.
    """

    rate: float
    reference_rate: float
    gap: float
    ratio: float | None
    residual_fraction: float
    over_fraction: float


def residual_knowledge(
    model: nn.Module, reference: nn.Module, forget: Stream, radius: float = 0.03, draws: int = 20, ball: Ball = "linf", seed: int = 0
) -> Residual:
    """Return whether a model knows the surroundings of forgotten examples better than a retrained model does.

    Both models see the same perturbations, which depend on seed, example and draw only.

    Args:
        model: the unlearned model.
        reference: a retrained model.
        forget: the forget set.
        radius: of the ball, in units of the [0, 1] pixel range; for ``l2`` the Euclidean norm over the whole picture.
        draws: perturbations of each example.
        ball: norm in which the perturbation is uniform.
        seed: of the perturbations.

    Source: Hsu et al., Residual Knowledge, arXiv 2601.22359 (the ratio of the two rates, uniform in a ball); the signed gap and the
        fractions are ours.
    """
    means = [right_shares(net, forget, radius, draws, ball, seed) for net in (model, reference)]
    rate, reference_rate = float(means[0].mean()), float(means[1].mean())
    return Residual(
        rate,
        reference_rate,
        rate - reference_rate,
        rate / reference_rate if reference_rate > 0 else None,
        float((means[0] > means[1]).mean()),
        float((means[0] < means[1]).mean()),
    )


def right_shares(model: nn.Module, forget: Stream, radius: float = 0.03, draws: int = 20, ball: Ball = "linf", seed: int = 0) -> np.ndarray:
    """Return the share of each example's perturbations that a model classifies right, float64 ``[n]``.

    Arguments as for `residual_knowledge`.
    """
    right = []
    for draw in range(draws):
        logits, labels = _answers(model, forget, radius, draw, ball, seed)
        right.append(logits.argmax(axis=1) == labels)
    return np.mean(right, axis=0)


def signed_gap(
    model: nn.Module, reference: nn.Module, forget: Stream, radius: float = 0.03, draw: int = 0, ball: Ball = "linf", seed: int = 0
) -> outputs.Signed:
    """Return the signed margins of `outputs.signed_gap` on one perturbation of each example."""
    pairs = [_answers(net, forget, radius, draw, ball, seed) for net in (model, reference)]
    return outputs.signed_gap(pairs[0][0], pairs[1][0], pairs[0][1])


def perturb(x: Tensor, index: Tensor, radius: float, draw: int = 0, ball: Ball = "linf", seed: int = 0) -> Tensor:
    """Return inputs with a perturbation that is uniform in a ball, clipped to [0, 1].

    Args:
        x: ``[B, ...]``.
        index: data set indices ``[B]``, which the perturbation is keyed by.
        radius: of the ball.
        draw: number of the perturbation.
        ball: its norm.
        seed: of the perturbations.
    """
    size = x[0].numel()
    places = index.cpu()[:, None] * size + torch.arange(size)
    if ball == "linf":
        step = 2 * randomness.uniform(seed, "neighbourhood", 0, places, draw) - 1
    else:
        direction = randomness.normal(seed, "neighbourhood", 0, places, draw)
        length = randomness.uniform(seed, "neighbourhood/length", 0, index.cpu(), draw) ** (1 / size)
        step = direction / direction.norm(dim=1, keepdim=True) * length[:, None]
    return (x + radius * step.to(x.device, x.dtype).reshape(x.shape)).clamp(0, 1)


@torch.no_grad()
def _answers(model: nn.Module, stream: Stream, radius: float, draw: int, ball: Ball, seed: int) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = [], []
    with modes_kept(model):
        model.eval()
        for batch in stream.batches(scoring_size(model)):
            logits.append(model(perturb(batch.x, batch.index, radius, draw, ball, seed)).float().cpu().numpy())
            labels.append(batch.y.cpu().numpy())
    return np.concatenate(logits), np.concatenate(labels)
