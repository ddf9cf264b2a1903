"""How each metric answers when a part of the forget set is left in: does it rise with the dose, and how small a leak would it notice?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expunge.attacks.dose import DoseResponse, Sides, dose_response
from expunge.metrics.metric import Metric, Target
from expunge.metrics.view import View
from expunge.statistics import NotEnoughEvidence

SIDES: dict[Target, Sides] = {
    Target.RETRAINED: "both",
    Target.ZERO_UP_TO_BAND: "above",
    Target.LOWER: "above",
    Target.HIGHER: "below",
}
"""Target -> the sides of the band on which a value fails."""
REFERENCES = 8
"""Retrained models that a model is compared with."""


def responses(
    metrics: Sequence[Metric], retrained: Sequence[View], doses: Mapping[float, Sequence[View]], original: Sequence[View], seeds: int
) -> dict[str, dict[str, Any]]:
    """Return each judged metric's answer to the dose, as plain values.

    Args:
        metrics: of the table.
        retrained: views of retrained models: dose 0.
        doses: share of the forget set -> views of models that were retrained with that share.
        original: views of originals: dose 1.
        seeds: over how many models a row's value is averaged.

    Returns:
        ``{metric: {spearman, p_value, doses, power, detectable, reason}}``; ``detectable`` is the smallest share that is noticed with a
        chance of 80 %, None when no dose is.
    """
    models = [(0.0, view) for view in retrained] + [(share, view) for share, views in doses.items() for view in views]
    models += [(1.0, view) for view in original]
    judged = [metric for metric in metrics if metric.target is not Target.REPORT and metric.tested]
    return {metric.name: _response(metric, models, retrained, seeds) for metric in judged}


def _response(metric: Metric, models: Sequence[tuple[float, View]], retrained: Sequence[View], seeds: int) -> dict[str, Any]:
    try:
        values = [_value(metric, view, retrained) for _, view in models]
        return plain(dose_response(np.array([share for share, _ in models]), np.array(values), of_mean=seeds, sides=SIDES[metric.target]))
    except NotEnoughEvidence as missing:
        return {"spearman": None, "p_value": None, "doses": [], "power": [], "detectable": None, "reason": str(missing)}


def _value(metric: Metric, view: View, retrained: Sequence[View]) -> float:
    """Return a metric of one model; against retrained models it is the mean over some that are not the model itself."""
    if not metric.is_pair():
        return metric.measure(view).value
    others = [other for other in retrained if other is not view][:REFERENCES]
    return float(np.mean([metric.compare(view, other).value for other in others]))


def plain(found: DoseResponse) -> dict[str, Any]:
    """Return a dose response as values that JSON can hold."""
    return {**found._asdict(), "doses": found.doses.tolist(), "power": found.power.tolist()}
