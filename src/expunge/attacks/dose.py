"""Does a metric rise when more of the forget set is left in, and how little of it would the metric notice?

Models trained on the retain set and a fraction q of the forget set stand for a method that forgets all but q. A metric that cannot tell
q = 1 from q = 0 says nothing about any method.
"""

from typing import Literal, NamedTuple

import numpy as np

from expunge import statistics
from expunge.errors import BadInput
from expunge.statistics import Band, NotEnoughEvidence

Sides = Literal["both", "above", "below"]


class DoseResponse(NamedTuple):
    """How a metric answers to doses.

    Attributes:
        spearman: rank correlation of dose and value over all models, -1 to 1.
        p_value: of "no monotone relation", two-sided, by permutation.
        doses: the distinct doses, ascending, float64 ``[d]``.
        power: chance that the mean over the asked number of models falls outside the band of dose 0, for each dose, float64 ``[d]``.
        detectable: smallest dose that was tried from which on the power is never below what was asked; None when the largest falls short.
        reason: why ``detectable`` is None; empty otherwise.
    """

    spearman: float
    p_value: float
    doses: np.ndarray
    power: np.ndarray
    detectable: float | None
    reason: str


def dose_response(
    doses: np.ndarray,
    values: np.ndarray,
    of_mean: int = 1,
    power: float = 0.8,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    sides: Sides = "both",
    band: Band | None = None,
) -> DoseResponse:
    """Return the rank correlation, the power at each dose and the minimal detectable fraction.

    Args:
        doses: fraction of the forget set that each model kept, 0 to 1, ``[models]``; at least two models of dose 0 (retrained ones).
        values: the metric of each model, ``[models]``.
        of_mean: over how many models the metric of a method is averaged when it is judged.
        power: chance of detection that is asked for.
        level: of the band; a dose is detected when the value falls outside.
        resamples: permutations for the p-value.
        seed: of the permutations.
        sides: of the band that count: a metric whose high values are harmless notices nothing above it.
        band: what a method is judged by, at this level; the prediction band of the values of dose 0 if None, which is too narrow for a
            metric of a pair of models.

    Raises:
        BadInput: doses outside 0 to 1, values that are not finite, or lengths that differ.
        NotEnoughEvidence: fewer than two models of dose 0, or no other dose.
    """
    dose, value = _checked(doses, values)
    levels, chances = powers(dose, value, of_mean, level, sides, band)
    detectable = first_reached(levels, chances, power)
    reason = "" if detectable is not None else f"power {chances.max():.2f} at best, at a dose of {levels[chances.argmax()]:g}"
    return DoseResponse(*rank_correlation(dose, value, resamples, seed), levels, chances, detectable, reason)


def powers(
    doses: np.ndarray, values: np.ndarray, of_mean: int = 1, level: float = 0.95, sides: Sides = "both", band: Band | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct doses, ascending, and the chance that each is noticed, float64 ``[d]`` each; see `dose_response`.

    Raises:
        BadInput: see `dose_response`.
        NotEnoughEvidence: see `dose_response`.
    """
    dose, value = _checked(doses, values)
    levels = np.unique(dose)
    zero = value[dose == 0]
    judged = statistics.prediction_band(zero, of_mean, level=level) if band is None else band
    chances = [1 - level] + [_power(value[dose == each], zero, of_mean, judged, sides) for each in levels[1:]]
    return levels, np.array(chances)


def _checked(doses: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dose, value = np.asarray(doses, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if dose.shape != value.shape or dose.ndim != 1 or not np.isfinite(value).all() or not ((dose >= 0) & (dose <= 1)).all():
        found = f"doses {list(dose.shape)} and values {list(value.shape)}"
        raise BadInput("dose", f"expected one dose from 0 to 1 and one finite value for each model, got {found}.")
    if (dose == 0).sum() < 2 or (dose > 0).sum() < 1:
        raise NotEnoughEvidence(f"needs two models of dose 0 and one of another, there are {(dose == 0).sum()} and {(dose > 0).sum()}")
    return dose, value


def rank_correlation(dose: np.ndarray, value: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Return Spearman's correlation and its two-sided p-value by permutation; 0 and 1 where either does not vary."""
    from scipy import stats

    x, y = (stats.rankdata(each) - (len(dose) + 1) / 2 for each in (dose, value))
    scale = np.sqrt((x @ x) * (y @ y))
    if scale == 0:
        return 0.0, 1.0
    generator = np.random.default_rng(seed)
    shuffled = np.array([generator.permutation(y) for _ in range(resamples)]) @ x
    observed = x @ y
    return float(observed / scale), float((1 + (np.abs(shuffled) >= abs(observed) - 1e-9 * scale).sum()) / (resamples + 1))


def _power(values: np.ndarray, zero: np.ndarray, of_mean: int, band: Band, sides: Sides) -> float:
    """Return the chance of a mean outside the band of dose 0, on the sides that count, values of the dose being normal.

    A single model of a dose lends its spread from dose 0.
    """
    from scipy import stats

    spread = (values.std(ddof=1) if len(values) > 1 else zero.std(ddof=1)) / np.sqrt(of_mean)
    if spread == 0:
        below, above = float(values.mean() < band.low), float(values.mean() > band.high)
    else:
        below = float(stats.norm.cdf(band.low, values.mean(), spread))
        above = float(stats.norm.sf(band.high, values.mean(), spread))
    return {"below": below, "above": above, "both": below + above}[sides]


def first_reached(doses: np.ndarray, power: np.ndarray, asked: float) -> float | None:
    """Return the smallest dose that was tried from which on the power is never below what is asked; None where the largest fails.

    Nothing is interpolated: between two doses that were tried nothing is known, and power that falls again was chance.
    """
    enough = np.logical_and.accumulate((power >= asked)[::-1])[::-1]
    return float(doses[int(enough.argmax())]) if enough.any() else None
