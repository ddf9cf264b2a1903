"""Likeness of every block to a retrained model's."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
from expunge.representation import cka


class LayerAlignment(Metric):
    """Mean over the blocks of the unbiased CKA of a block's outputs with the same block of the retrained model of the same seed.

    On demand, because every block's outputs must be looked at. `layers` gives all pairs of blocks. Shown, not judged: like alignment of
    the features it catches neither the original nor an edit of the head alone, except in the last block, which is the head.
    """

    label: ClassVar[str] = "CKA, all blocks"
    target: ClassVar[Target] = Target.REPORT
    limits: ClassVar[tuple[float, float] | None] = (-1, 1)
    tier: ClassVar[Tier] = "standard"
    band_models: ClassVar[int | None] = 12
    inspection: ClassVar[tuple[str, ...]] = ("block_names", "block_grams")
    source: ClassVar[str] = "Nguyen et al., ICLR 2021; Song et al., JMLR 2012 (unbiased HSIC)"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean of the diagonal."""
        return Estimate(float(np.mean(np.diagonal(layers(view, reference)[1]))), None, view.inspected("block_grams").shape[1])

    @classmethod
    def resolution(cls, n: int) -> float:
        """Return the smallest spread of retrained models to believe."""
        return 1e-3


def layers(view: View, reference: View) -> tuple[list[str], np.ndarray]:
    """Return the names of the blocks and the CKA of every pair of them, float64 ``[blocks, blocks]``; rows are the first model's."""
    names = [str(name) for name in view.inspected("block_names")]
    return names, cka.of_grams(view.inspected("block_grams"), reference.inspected("block_grams"))
