"""Counts, means and spreads of every example's margins over the models of one state."""

from dataclasses import dataclass

import numpy as np

from expunge.attacks import margins as matrices
from expunge.errors import BadInput


@dataclass(frozen=True)
class Moments:
    """What an attack keeps of its models: ``[n]`` arrays, or ``[models, n]`` after `without`. float64.

    Attributes:
        count: models per example.
        mean: of their margins; NaN where there are none.
        squares: sum of squared deviations from the mean; 0 where there are none.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Per-example variance with n - 1 degrees of freedom; NaN below two models."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.count > 1, self.squares / (self.count - 1), np.nan)

    def pooled_variance(self) -> np.ndarray:
        """Return the within-example variance of all examples together, ``[1]`` or ``[models, 1]``; NaN without any degree of freedom."""
        degrees = np.maximum(self.count - 1, 0).sum(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.squares.sum(axis=-1, keepdims=True) / degrees

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both groups of models together.

        Source: Chan, Golub & LeVeque, 1983 (pairwise update).
        """
        count = self.count + other.count
        mine, theirs = np.where(self.count > 0, self.mean, 0.0), np.where(other.count > 0, other.mean, 0.0)
        mine, theirs = np.where(self.count > 0, mine, theirs), np.where(other.count > 0, theirs, mine)
        gap, share = theirs - mine, other.count / np.maximum(count, 1)
        mean = np.where(count > 0, mine + gap * share, np.nan)
        return Moments(count, mean, self.squares + other.squares + gap**2 * self.count * share)

    def without(self, values: np.ndarray, mask: np.ndarray) -> "Moments":
        """Return, for each of the models' own margins, the moments of the others: arrays ``[models, n]``.

        Args:
            values: margins of the models that the moments are of, ``[models, n]``.
            mask: which of them the moments hold, bool ``[models, n]``; elsewhere nothing is taken away.
        """
        count = self.count - mask
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(mask, self.mean + (self.mean - values) / count, self.mean)
            squares = np.where(mask, self.squares - (values - self.mean) * (values - mean), self.squares)
        empty = count < 1
        return Moments(count, np.where(empty, np.nan, mean), np.where(empty, 0.0, np.maximum(squares, 0.0)))

    def of(self, part: slice) -> "Moments":
        """Return the moments of some examples."""
        return Moments(self.count[..., part], self.mean[..., part], self.squares[..., part])


def moments(margins: np.ndarray, mask: np.ndarray | None = None) -> Moments:
    """Return every example's moments over the models that the mask names.

    Accumulated in float64 around each example's mean over all models, so that margins far from 0 lose no digits.

    Args:
        margins: ``[models, examples]``, float32 or float64.
        mask: bool ``[models]`` or ``[models, examples]``; None for all.

    Raises:
        BadInput: margins that are not finite, or a mask of another shape.
    """
    matrices.check(margins)
    if mask is None or mask.ndim == 1:
        return _of_rows(margins if mask is None else margins[_checked(mask, margins.shape[:1])])
    _checked(mask, margins.shape)
    parts = [_masked(margins[:, part].astype(np.float64), mask[:, part]) for part in matrices.chunks(margins.shape)]
    return Moments(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def extend(known: Moments, row: np.ndarray, mask: np.ndarray) -> Moments:
    """Return the moments with one more model, in time linear in the examples.

    Args:
        known: moments so far.
        row: the new model's margins, ``[n]``.
        mask: where it is in this state, bool ``[n]``.
    """
    values = row.astype(np.float64)
    return known.merge(Moments(mask.astype(np.float64), np.where(mask, values, np.nan), np.zeros(len(values))))


def _checked(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if mask.dtype != bool or mask.shape != shape:
        raise BadInput("mask", f"expected bool {list(shape)}, got {mask.dtype} {list(mask.shape)}.")
    return mask


def _of_rows(rows: np.ndarray) -> Moments:
    models, examples = rows.shape
    count, mean, squares = np.full(examples, float(models)), np.full(examples, np.nan), np.zeros(examples)
    for part in matrices.chunks(rows.shape) if models else ():
        block = rows[:, part].astype(np.float64)
        mean[part] = block.mean(axis=0)
        block -= mean[part]
        squares[part] = np.einsum("kn,kn->n", block, block)
    return Moments(count, mean, squares)


def _masked(block: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pilot = block.mean(axis=0)
    block -= pilot
    weights = mask.astype(np.float64)
    count = weights.sum(axis=0)
    weights *= block
    total, power = weights.sum(axis=0), np.einsum("kn,kn->n", weights, block)
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = total / count
    return count, shift + pilot, np.maximum(power - total * np.where(count > 0, shift, 0.0), 0.0)
