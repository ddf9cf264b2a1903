"""Ascent on labels with negative smoothing, for passes over the forget set."""

from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.methods.ascent.unsmoothing import Unsmoothed


class UGradSL(Unsmoothed):
    """Minimise ``p CE(retain) - (1 - p) CE(forget, (1 - a) onehot + a / C)`` with a < 0, over a few cheap passes of the forget set.

    Ascent on such labels raises every other class as it lowers the true one.

    Source: Di et al., Label Smoothing Improves Machine Unlearning, ICLR 2026, arXiv 2406.07698. Rate, weight, learning rate and epochs are
    ours, chosen on the small task of the tests; the paper tunes them for each data set.
    """

    aliases = ("UGradSL",)
    source = "Di et al., Label Smoothing Improves Machine Unlearning, ICLR 2026, arXiv 2406.07698"
    deviations = ("one smoothing rate for all examples; the paper also has one for each, from its neighbours among the retained data",)

    scenario_defaults = {"class": {"retain_share": 0.9}, "subclass": {"retain_share": 0.9}}

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield self.phase("forget")
