"""How each metric answers when a part of the forget set is left in: does it rise with the dose, and how small a leak would it notice?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expunge.attacks.dose import DoseResponse, Sides, dose_response, first_reached, powers
from expunge.metrics import table as tables
from expunge.metrics.metric import Metric, Target
from expunge.metrics.view import View
from expunge.statistics import NotEnoughEvidence

LEVEL, POWER = 0.05, 0.8
SIDES: dict[Target, Sides] = {
    Target.RETRAINED: "both",
    Target.ZERO_UP_TO_BAND: "above",
    Target.LOWER: "above",
    Target.HIGHER: "below",
}
"""Target -> the sides of the band on which a value fails."""


def responses(
    metrics: Sequence[Metric],
    retrained: Sequence[View],
    doses: Mapping[float, Sequence[View]],
    original: Sequence[View],
    seeds: int,
    tests: int,
) -> dict[str, dict[str, Any]]:
    """Return each judged metric's answer to the dose, as plain values.

    Args:
        metrics: of the table.
        retrained: views of retrained models: dose 0.
        doses: share of the forget set -> views of models that were retrained with that share.
        original: views of originals: dose 1.
        seeds: over how many models a row's value is averaged; with one original for all of them it is judged like one model.
        tests: how many tests a verdict counts together.

    Returns:
        ``{metric: {spearman, p_value, doses, power, detectable, reason, adjusted}}``; ``detectable`` is the smallest share that is noticed
        with a chance of 80 % by this metric alone, at 5 %, None when no dose is. ``adjusted`` holds ``tests``, ``power`` and ``detectable``
        at 5 % over all tests, which is what a verdict takes: Holm's procedure asks the smallest of m p-values to be below 5 % / m.
        The band is the table's.
    """
    of_mean = 1 if tables.different(original) == 1 else seeds
    groups = [(0.0, list(retrained)), *doses.items(), (1.0, list(original))]
    models = [(share, number, view) for share, views in groups for number, view in enumerate(views)]
    judged = [metric for metric in metrics if metric.target is not Target.REPORT and metric.tested]
    return {metric.name: _response(metric, models, retrained, of_mean, tests) for metric in judged}


def _response(
    metric: Metric, models: Sequence[tuple[float, int, View]], retrained: Sequence[View], of_mean: int, tests: int
) -> dict[str, Any]:
    try:
        values = np.array([_value(metric, view, number, retrained) for _, number, view in models])
        shares, sides = np.array([share for share, *_ in models]), SIDES[metric.target]
        band, level = tables.bands(metric, retrained, of_mean), 1 - LEVEL / tests
        alone = dose_response(shares, values, of_mean, sides=sides, band=band(1 - LEVEL))
        among = powers(shares, values, of_mean, level, sides, band(level))
        return {**plain(alone), "adjusted": {"tests": tests, "power": among[1].tolist(), "detectable": first_reached(*among, POWER)}}
    except NotEnoughEvidence as missing:
        return unanswered(missing)


def _value(metric: Metric, view: View, number: int, retrained: Sequence[View]) -> float:
    """Return a metric of model ``number`` of its group; a pair metric has one retrained reference, as in the table, and never itself."""
    if not metric.is_pair():
        return metric.measure(view).value
    reference = retrained[number % len(retrained)]
    return metric.compare(view, retrained[(number + 1) % len(retrained)] if reference is view else reference).value


def unanswered(missing: NotEnoughEvidence) -> dict[str, Any]:
    """Return what stands in place of an answer that the evidence is too thin for."""
    return {"spearman": None, "p_value": None, "doses": [], "power": [], "detectable": None, "reason": str(missing)}


def plain(found: DoseResponse) -> dict[str, Any]:
    """Return a dose response as values that JSON can hold."""
    return {**found._asdict(), "doses": found.doses.tolist(), "power": found.power.tolist()}
