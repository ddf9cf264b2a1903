"""Would an audit notice if part of the forget set had been left in? Any statistic on models retrained with known shares of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from expunge.attacks import dose
from expunge.audits.audit import Audit, Panel
from expunge.statistics import NotEnoughEvidence

DOSES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Shares of the forget set that are left in."""


def dose_response(
    audit: Audit, panels: Mapping[float, Panel], reference: Panel, labels: Mapping[str, np.ndarray], power: float = 0.8, seed: int = 0
) -> dict[str, Any]:
    """Return how an audit's statistic follows the dose, and the smallest dose that it detects, as plain values.

    Each dose's models are taken in groups of as few as the audit allows; a group gives one value. A method is judged on as many models
    as a dose has, so that the power is that of the mean over a dose's groups. All groups share the reference, whose noise stands in for
    the band's: dose 0 has as many models as it.

    Args:
        audit: one with a statistic; games have no doses.
        panels: dose -> models retrained on the retain set and that share of the forget set; 0 must be among them.
        reference: retrained models of other seeds.
        labels: part -> true classes.
        power: chance of detection that is asked for.
        seed: of anything that is drawn.

    Raises:
        NotEnoughEvidence: no dose 0 or no other, or too few models for two groups at dose 0 and one at each other dose.
    """
    if 0.0 not in panels or len(panels) < 2:
        raise NotEnoughEvidence(f"a dose-response needs dose 0 and another, there are {sorted(panels)}")
    values = {share: _values(audit, panel, reference, labels, seed) for share, panel in sorted(panels.items())}
    found = dose.dose_response(
        np.concatenate([np.full(len(each), share) for share, each in values.items()]),
        np.concatenate(list(values.values())),
        of_mean=len(values[0.0]),
        power=power,
        seed=seed,
    )
    return {
        "spearman": found.spearman,
        "p_value": found.p_value,
        "doses": [float(share) for share in found.doses],
        "values": [float(each.mean()) for each in values.values()],
        "power": [float(chance) for chance in found.power],
        "detectable": found.detectable,
        "reason": found.reason or None,
        "models": [panel.models for _, panel in sorted(panels.items())],
        "groups": [len(each) for each in values.values()],
    }


def _values(audit: Audit, panel: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int) -> np.ndarray:
    """Return the statistic of each group of models against the whole reference; every model is in one group."""
    groups = panel.models // audit.minimum
    if groups < 1 or min(panel.models, reference.models) < audit.minimum:
        found = f"{panel.models} of a dose and {reference.models} of the reference"
        raise NotEnoughEvidence(f"{audit.label} needs {audit.minimum} models on each side, there are {found}")
    members = np.array_split(np.arange(panel.models), groups)
    return np.array([audit.statistic(panel.take(rows), reference, labels, seed) for rows in members])
