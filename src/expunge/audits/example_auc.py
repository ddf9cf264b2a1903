"""Per-example areas: does each forget example's margin tell unlearned from retrained models?"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import per_example
from expunge.audits import relabelling, uncertainty
from expunge.audits.audit import Audit, Finding, Panel
from expunge.metrics.metric import Target, Tier


class ExampleAuc(Audit):
    """Mean over forget examples of the AUC of unlearned against retrained models' margins; 0.5 where they agree on average.

    The mean keeps its sign: a mean of |AUC - 1/2| is above 0 without any leak. Opposite changes of different examples cancel in it; the
    quantiles of max(AUC, 1 - AUC) and the shares of rejected tests beside it do not.
    """

    label: ClassVar[str] = "per-example AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    tier: ClassVar[Tier] = "fast"
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    area: ClassVar[bool] = True
    source: ClassVar[str] = "Hayes et al., Inexact Unlearning Needs More Careful Evaluations, 2024, arXiv 2403.01218 (per-example attacks)"
    above: ClassVar[str] = "models are surer of the forget examples than retrained models are: too little is forgotten"
    below: ClassVar[str] = "models are less sure of the forget examples than retrained models are: too much is forgotten"

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the mean AUC."""
        return float(per_example.auc(candidate.of("forget"), reference.of("forget")).mean())

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the mean AUC of many divisions, from one ranking."""
        ranked = per_example.Relabelled(np.concatenate([candidate.of("forget"), reference.of("forget")]))
        return ranked.mean_areas(relabelling.divisions(candidate.models, reference.models, draws, seed))

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the mean AUC with its interval over models and examples, and how the examples differ."""
        first, second = candidate.of("forget"), reference.of("forget")
        areas = per_example.auc(first, second)
        error, degrees = _error(first, second, areas)
        tests = {
            "mann_whitney": per_example.mann_whitney(first, second),
            "kolmogorov_smirnov": per_example.kolmogorov_smirnov(first, second),
        }
        details = {
            "either_direction": uncertainty.quantiles(np.maximum(areas, 1 - areas)),
            "rejected": {name: float(test.rejected().mean()) for name, test in tests.items()},
            "examples": len(areas),
        }
        value = float(areas.mean())
        note = (
            None if error else "all forget examples are told apart by all models: the formula of the error gives 0, which is not its error"
        )
        return Finding(value, error, uncertainty.interval(value, error, degrees, self.limits), details, note)


def _error(first: np.ndarray, second: np.ndarray, areas: np.ndarray) -> tuple[float | None, float | None]:
    """Return the error over models and examples, and its degrees of freedom.

    A model's influence is its mean placement over all examples, so that what it does to all of them at once counts.
    """
    masks = np.ones(first.shape, bool), np.ones(second.shape, bool)
    placed = [side.mean(axis=1, dtype=np.float64) for side in per_example.placements(first, second, *masks)]
    parts = [side.var(ddof=1) / len(side) for side in placed]
    sizes = [len(side) - 1 for side in placed]
    if len(areas) > 1:
        parts.append(areas.var(ddof=1) / len(areas))
        sizes.append(len(areas) - 1)
    total = float(sum(parts))
    if total <= 1e-18:
        return None, None
    return float(np.sqrt(total)), total**2 / sum(part**2 / size for part, size in zip(parts, sizes, strict=True))
