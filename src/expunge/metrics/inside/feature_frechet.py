"""How far features have moved."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
from expunge.statistics import NotEnoughEvidence


class FeatureFrechet(Metric):
    """Frechet distance of the features of the forget set from those of the original of the same seed, in squared units of the features.

    Features of different seeds are not aligned, so it compares a model with its own original only. The retrained model of the same seed
    starts from the same weights and ends far away, which is a scale, not a target: shown, not judged. The identity and an edit of
    the head alone have 0. The estimate is biased up by about 1 / n; all models have the same n.
    """

    label: ClassVar[str] = "feature Frechet"
    target: ClassVar[Target] = Target.REPORT
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, np.inf)
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("frechet_to_original", "rows_forget")
    source: ClassVar[str] = "Heusel et al., NeurIPS 2017 (Frechet distance of features)"
    deviations: ClassVar[tuple[str, ...]] = ("the models' own penultimate features, not Inception's",)

    def measure(self, view: View) -> Estimate:
        """Return the distance."""
        value = float(view.inspected("frechet_to_original"))
        if value != value:
            raise NotEnoughEvidence("a Frechet distance needs 2 forgotten examples")
        return Estimate(value, None, len(view.inspected("rows_forget")))
