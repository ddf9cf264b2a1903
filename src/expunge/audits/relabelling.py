"""What a statistic of two sets of models would be if nothing set them apart: the law over all ways to divide the same models.

Retrained models and the models of a perfect method have one law, so that every division of them into two sets is as likely as the one that
is there. Counting divisions is exact for any number of models and for any dependence between examples; it knows nothing of normal laws.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from expunge.metrics.metric import Target

COUNTED = 200
"""From so many divisions on, or when all of them are there, a p-value is their share; fewer only give a mean and a spread."""
LEVEL = 0.05


def divisions(first: int, second: int, draws: int, seed: int = 0) -> np.ndarray:
    """Return which models form the first set, bool ``[draws or fewer, first + second]``; row 0 is the first ``first`` models.

    Args:
        first: models in the first set.
        second: models in the second.
        draws: rows at most; where there are no more divisions than that, each is there exactly once.
        seed: of the draws.
    """
    total = first + second
    if math.comb(total, first) <= draws:
        members = np.array(list(combinations(range(total), first)))
        chosen = np.zeros((len(members), total), dtype=bool)
        np.put_along_axis(chosen, members, True, axis=1)
        return chosen
    chosen = np.zeros((draws, total), dtype=bool)
    chosen[:, :first] = True
    chosen[1:] = np.random.default_rng(seed).permuted(chosen[1:], axis=1)
    return chosen


@dataclass(frozen=True)
class Null:
    """The law of a statistic between retrained models.

    Attributes:
        values: of divisions, the first being that of control and reference as they are, float64 ``[draws]``.
        models: that were divided.
        counted: whether the values are many enough for a share of them to be a p-value.
        target: which sides fail.
    """

    values: np.ndarray
    models: int
    counted: bool
    target: Target

    @property
    def mean(self) -> float:
        """Mean over divisions."""
        return float(self.values.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over divisions; exactly 0 where they differ by rounding alone."""
        found = float(self.values.std(ddof=1))
        return found if found > 1e-12 * max(1.0, abs(self.mean)) else 0.0

    @property
    def smallest_p_value(self) -> float:
        """The smallest that `p_value` gives: without a spread no law has a tail, and so few equal divisions exclude little."""
        return 0.0 if self.deviation else (2 if self.target == Target.RETRAINED else 1) / (len(self.values) + 1)

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the deviation as an estimate for models of other seeds."""
        return 1 / (1 / (self.models - 1) + (0 if self.counted else 1 / (len(self.values) - 1)))

    @property
    def band(self) -> tuple[float | None, float | None]:
        """Return (low, high) outside which models of other seeds fall in 5 % of cases; None on a side that never fails.

        The divisions are all of the same few models, whose spread is an estimate; the quantiles are moved out by what Student's
        law asks for at that many models.
        """
        return self.edges(LEVEL)

    def edges(self, level: float) -> tuple[float | None, float | None]:
        """Return (low, high) outside which models of other seeds fall with this probability; see `band`.

        None on both sides where the divisions do not vary and are too few to exclude anything at this level.
        """
        if not self.counted and self.smallest_p_value > level:
            return None, None
        tail = level / 2 if self.target == Target.RETRAINED else level
        low = self._edge(tail, "lower") if fails_below(self.target) else None
        return low, self._edge(1 - tail, "higher") if fails_above(self.target) else None

    def _edge(self, quantile: float, method: str) -> float:
        from scipy import stats

        student = float(stats.t.ppf(quantile, self.degrees))
        if not self.counted:
            return self.mean + student * self.deviation * math.sqrt(1 + 1 / len(self.values))
        edge = float(np.quantile(self.values, quantile, method=method))  # type: ignore[call-overload]
        wider = self.mean + (edge - self.mean) * student / float(stats.norm.ppf(quantile))
        return min(edge, wider) if quantile < 0.5 else max(edge, wider)

    def holds(self, value: float, level: float = LEVEL) -> bool:
        """Return whether a value lies in the band of a level."""
        low, high = self.edges(level)
        slack = 1e-9 * max(1.0, abs(value))
        return (low is None or value >= low - slack) and (high is None or value <= high + slack)

    def p_value(self, value: float) -> float:
        """Return the p-value of a value by Student's law: for statistics of which few divisions could be computed.

        Where they do not vary, a value beside them is one among as many as there are divisions, and itself.
        """
        from scipy import stats

        if not self.deviation:
            one, slack = 1 / (len(self.values) + 1), 1e-9 * max(1.0, abs(value))
            above, below = (one if gap > slack else 1.0 for gap in (value - self.mean, self.mean - value))
            return _of_tails(above, below, self.target)
        z = (value - self.mean) / (self.deviation * math.sqrt(1 + 1 / len(self.values)))
        return _of_tails(float(stats.t.sf(z, self.degrees)), float(stats.t.cdf(z, self.degrees)), self.target)


def counted_p_value(values: np.ndarray, target: Target) -> float:
    """Return the share of divisions at least as extreme as the first, which is the one that is there; twice the smaller for two sides."""
    slack = 1e-9 * max(1.0, float(np.abs(values).max()))
    return _of_tails(float(np.mean(values >= values[0] - slack)), float(np.mean(values <= values[0] + slack)), target)


def is_counted(values: np.ndarray, first: int, second: int) -> bool:
    """Return whether a share of these divisions is a p-value."""
    return len(values) >= COUNTED or len(values) >= math.comb(first + second, first)


def smallest_p_value(draws: int, first: int, second: int, target: Target, symmetric: bool = False, drawn_from: int | None = None) -> float:
    """Return the smallest p-value that a count over divisions can be expected to give: that of a value which no other division reaches.

    Args:
        draws: divisions at most, the true one among them.
        first: models in the first set.
        second: models in the second.
        target: which sides fail.
        symmetric: whether exchanging the two sets leaves the value as it is, so that with equal sizes two divisions reach it.
        drawn_from: how many divisions there are that can be drawn, with repetition; None where each is there once if all of the models'
            are no more than ``draws``.
    """
    sides, alike = 2 if target == Target.RETRAINED else 1, 2 if symmetric and first == second else 1
    total = math.comb(first + second, first)
    if drawn_from is None and total <= draws:
        return sides * alike / total
    repeats = (draws - 1) * alike // (drawn_from or total)
    return sides * (1 + repeats) / draws


def fails_above(target: Target) -> bool:
    """Return whether too high a value is bad."""
    return target in (Target.RETRAINED, Target.ZERO_UP_TO_BAND, Target.LOWER)


def fails_below(target: Target) -> bool:
    """Return whether too low a value is bad."""
    return target in (Target.RETRAINED, Target.HIGHER)


def _of_tails(above: float, below: float, target: Target) -> float:
    if target == Target.RETRAINED:
        return min(1.0, 2 * min(above, below))
    return below if target == Target.HIGHER else above
