"""Likeness of features to a retrained model's."""

from typing import ClassVar

import numpy as np

from expunge.metrics.inside.readings import both, names
from expunge.metrics.metric import Estimate, Metric, Target, Tier, check_aligned
from expunge.metrics.view import View
from expunge.representation import cka


class Alignment(Metric):
    """Unbiased CKA of the features of forget and retain examples with those of the retrained model of the same seed; 1 for equal geometry.

    Features that do not vary at all, as those of a dead network, have alignment 0.

    What it does not catch: an edit of the head alone, and the original itself. Nets of different seeds are as far from each other as
    from the original, so that a value within the band says that the encoder is an intact one, not that it has forgotten. It is dominated
    by directions of large variance and by outliers.
    """

    label: ClassVar[str] = "CKA"
    target: ClassVar[Target] = Target.HIGHER
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain")
    limits: ClassVar[tuple[float, float] | None] = (-1, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    band_models: ClassVar[int | None] = 12
    inspection: ClassVar[tuple[str, ...]] = names("forget", "retain")
    source: ClassVar[str] = "Kornblith et al., ICML 2019; Song et al., JMLR 2012 (unbiased HSIC); Kim et al., arXiv 2503.06991"
    deviations: ClassVar[tuple[str, ...]] = ("unbiased over all examples at once; the published code averages biased values of batches",)
    below: ClassVar[str] = "features are less like a retrained model's than two retrained models' are"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return CKA."""
        from threadpoolctl import threadpool_limits

        for part in self.parts:
            check_aligned(view, reference, part)
        ours, theirs = both(view), both(reference)
        with threadpool_limits(1, user_api="blas"):
            spreads = view.once(_spread, lambda: _spread(ours)) * reference.once(_spread, lambda: _spread(theirs))
            return Estimate(cka.hsic(ours, theirs) / float(np.sqrt(spreads)) if spreads else 0.0, None, len(ours))

    @classmethod
    def resolution(cls, n: int) -> float:
        """Return the smallest spread of retrained models to believe."""
        return 1e-3


def _spread(x: np.ndarray) -> float:
    """Return HSIC of features with themselves; 0 if they do not vary."""
    return max(0.0, cka.hsic(x, x)) if np.ptp(x, axis=0).any() else 0.0
