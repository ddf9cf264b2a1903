"""Would an audit notice if part of the forget set had been left in? Any statistic on models retrained with known shares of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from expunge.attacks import dose
from expunge.audits.assess import enough, null_of
from expunge.audits.audit import Audit, Panel
from expunge.audits.relabelling import LEVEL, Null
from expunge.statistics import NotEnoughEvidence

DOSES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Shares of the forget set that are left in."""


def dose_response(
    audit: Audit,
    panels: Mapping[float, Panel],
    reference: Panel,
    labels: Mapping[str, np.ndarray],
    power: float = 0.8,
    seed: int = 0,
    tests: int = 1,
) -> dict[str, Any]:
    """Return how an audit's statistic follows the dose, and the smallest dose that it notices, as plain values.

    A dose has one value: the statistic of all its models. How far such a value scatters is taken from the divisions of dose 0 and the
    reference, which know nothing of a scatter that grows with the dose. The chance to be noticed is that of a normal value with this
    mean and scatter outside the null's band.

    Args:
        audit: one with a statistic; games have no doses.
        panels: dose -> models retrained on the retain set and that share of the forget set; 0 must be among them.
        reference: retrained models of other seeds.
        labels: part -> true classes.
        power: chance that is asked for.
        seed: of anything that is drawn.
        tests: how many tests a verdict counts together.

    Returns:
        ``{spearman, p_value, doses, values, power, detectable, reason, models, adjusted}``; ``detectable`` is None where no dose reaches
        the power. ``adjusted`` holds ``tests``, ``power`` and ``detectable`` at 5 % over all tests; see `expunge.bench.doses.responses`.

    Raises:
        NotEnoughEvidence: no dose 0 or no other, or too few models in any of them.
    """
    if 0.0 not in panels or len(panels) < 2:
        raise NotEnoughEvidence(f"a dose-response needs dose 0 and another, there are {sorted(panels)}")
    for panel in panels.values():
        enough(audit, panel, reference)
    shares = np.array(sorted(panels))
    null = null_of(audit, panels[0.0], reference, labels, seed)
    values = np.array([audit.statistic(panels[share], reference, labels, seed) for share in shares])
    smallest = audit.smallest_p_value(panels[0.0].models, reference.models) if null.counted else null.smallest_p_value
    chances, among = (np.array([level] + [_noticed(null, each, level) for each in values[1:]]) for level in (LEVEL, LEVEL / tests))
    among = among if smallest < LEVEL / tests else np.zeros(len(shares))
    found = dose.first_reached(shares, chances, power)
    correlation, p_value = dose.rank_correlation(shares, values, 2000, seed)
    return {
        "spearman": correlation,
        "p_value": p_value,
        "doses": [float(share) for share in shares],
        "values": [float(value) for value in values],
        "power": [float(chance) for chance in chances],
        "detectable": found,
        "reason": None if found is not None else f"power {chances.max():.2f} at best, at a dose of {shares[chances.argmax()]:g}",
        "models": [panels[share].models for share in shares],
        "adjusted": {
            "tests": tests,
            "power": [float(chance) for chance in among],
            "detectable": dose.first_reached(shares, among, power),
        },
    }


def _noticed(null: Null, value: float, level: float) -> float:
    """Return the chance that a value with this mean falls where retrained models do with a probability of no more than the level."""
    from scipy import stats

    low, high = null.edges(level)
    if null.deviation == 0:
        return float(not null.holds(value, level))
    above = 0.0 if high is None else float(stats.norm.sf(high, value, null.deviation))
    return above + (0.0 if low is None else float(stats.norm.cdf(low, value, null.deviation)))
