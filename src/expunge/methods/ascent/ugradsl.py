"""Ascent on labels with negative smoothing, for passes over the forget set."""

from expunge.config import PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.methods.ascent.unsmoothing import Unsmoothed


class UGradSL(Unsmoothed):
    """Minimise ``p CE(retain) - (1 - p) CE(forget, (1 - a) onehot + a / C)`` with a < 0, over a few cheap passes of the forget set.

    Ascent on such labels raises every other class as it lowers the true one.

    Source: Di et al., Label Smoothing Improves Machine Unlearning, ICLR 2026, arXiv 2406.07698, which tunes rate, weight, learning rate and
    epochs for each data set. Ours were chosen on small_cnn and 2,800 pictures of the bundled Fashion-MNIST, looking at forget, retain and
    validation data: accuracies of 100, 100 and 81 % become 85, 95 and 80 % for a random tenth; for two classes the forget accuracy
    becomes 0 %, the retain accuracy 84 and 92 %. Fewer passes with more weight on the forget set leave a random tenth no better known than
    the rest, at the price of both.
    """

    aliases = ("UGradSL",)
    source = "Di et al., Label Smoothing Improves Machine Unlearning, ICLR 2026, arXiv 2406.07698"
    deviations = ("one smoothing rate for all examples; the paper also has one for each, from its neighbours among the retained data",)

    scenario_defaults = {"class": {"retain_share": 0.99, "epochs": 20}, "subclass": {"retain_share": 0.99, "epochs": 10}}

    epochs: PositiveInt = hyper(30, "passes over the forget set")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield self.phase("forget")
