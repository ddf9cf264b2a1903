"""The normal law of a pool's weights, and what it says about margins."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from expunge.errors import NotApplicable

Move = Callable[[np.ndarray], np.ndarray]
"""Weights ``[M, d, C]`` -> weights of the same shape."""


class Margins(NamedTuple):
    """Normal laws of margins: means and variances, float64 ``[m, n]``; m = 1 when all models of a pool have one law."""

    mean: np.ndarray
    variance: np.ndarray

    def of(self, part: np.ndarray | slice) -> "Margins":
        """Return the laws of some examples."""
        return Margins(self.mean[:, part], self.variance[:, part])


class Joint(NamedTuple):
    """The law of one model's margins of many examples together: mean ``[n]`` and covariance ``[n, n]``."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True, eq=False)
class Law:
    """Weights are normal, their columns independent and equally spread.

    Attributes:
        mean: float64 ``[m, d, C]``; m = 1 when all models of the pool have one law, else one entry a model.
        covariance: of each column, float64 ``[m, d, d]``.
    """

    mean: np.ndarray
    covariance: np.ndarray

    def through(self, move: Move, deviation: float = 0.0) -> "Law":
        """Return the law after an affine map that treats all columns alike, and independent normal noise on each weight.

        The map is read off its values at 0 and at the unit vectors.
        """
        d = self.mean.shape[1]
        start = move(np.zeros_like(self.mean))
        matrix = np.empty((len(start), d, d))
        for axis in range(d):
            unit = np.zeros_like(self.mean)
            unit[:, axis, 0] = 1
            matrix[:, :, axis] = (move(unit) - start)[:, :, 0]
        spread = matrix @ self.covariance @ matrix.transpose(0, 2, 1) + deviation**2 * np.eye(d)
        return Law(matrix @ self.mean + start, spread)

    def margins(self, x: np.ndarray, labels: np.ndarray) -> Margins:
        """Return each example's law of ``z_y - mean of the other logits``: with two classes, of the log odds.

        Args:
            x: ``[n, d]``.
            labels: int64 ``[n]``.
        """
        contrast = contrasts(labels, self.mean.shape[2])
        variance = np.einsum("mnd,nd->mn", x @ self.covariance, x) * (contrast**2).sum(axis=1)
        return Margins(((x @ self.mean) * contrast).sum(axis=-1), np.broadcast_to(variance, (len(self.mean), len(x))))

    def joint(self, x: np.ndarray, labels: np.ndarray) -> Joint:
        """Return the law of one model's margins of these examples together.

        Raises:
            NotApplicable: the models of the pool have laws of their own.
        """
        if len(self.mean) > 1:
            raise NotApplicable("law", f"{len(self.mean)} models have laws of their own; together they are a mixture, which is not normal.")
        contrast = contrasts(labels, self.mean.shape[2])
        return Joint(self.margins(x, labels).mean[0], x @ self.covariance[0] @ x.T * (contrast @ contrast.T))


def contrasts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return what turns logits into a linear margin: 1 for the label and -1 / (C - 1) for each other class, ``[n, C]``."""
    own = np.eye(classes)[labels]
    return own - (1 - own) / (classes - 1)
