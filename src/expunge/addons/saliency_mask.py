"""Move only the weights that are salient for the forgotten data."""

from typing import Literal

from expunge.addons.applicability import changes_nothing, trains_anew
from expunge.addons.masking import reshapes, under
from expunge.config import Fraction, hyper
from expunge.engine.context import Context
from expunge.engine.derivatives import gradient
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.select import Mask, absolute, select
from expunge.engine.targets import random_label
from expunge.engine.terms import cross_entropy, match


class SaliencyMask(Addon):
    """Lets a method move only the weights with the largest gradients on the forgotten data.

    The score of a weight is the absolute value of its gradient, summed with signs over the forgotten data in eval mode; exactly
    ``floor(keep * count)`` of all parameter entries, ranked together, may move. The mask is made once, from the original, and holds
    in every phase and every edit. Running statistics are no parameters and are not covered.

    Source: Fan et al., SalUn, ICLR 2024, arXiv 2310.12508, equation 3.
    """

    aliases = ("salun_mask", "mask")
    source = "arXiv 2310.12508, equation 3"
    deviations = (
        "The sum runs over examples; the code adds batch means, so that its mask depends on a short last batch.",
        "The mask acts on the update, not on the gradient, through which weight decay and momentum leak.",
        "The mask also limits one-shot edits.",
    )
    needs = {"forget"}

    keep: Fraction = hyper(0.5, "share of the weights that may move", low=0.1, high=0.9, gt=0)
    gradients: Literal["ascent", "random_label"] = hyper("ascent", "loss whose gradient is scored: true labels, or random wrong ones")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps under the mask."""
        mask = self.mask(ctx)  # before the first step is made, so that no adapter is in place
        yield from under(mask, steps)

    def mask(self, ctx: Context) -> Mask:
        """Return ones where weights may move, by base name."""
        loss = cross_entropy if self.gradients == "ascent" else match(random_label())
        return select(absolute(gradient(ctx, "forget", loss)), top=self.keep)

    def refuse(self, method: Method) -> str:
        """Refuse what rewrites nothing, trains a new model, or reshapes it."""
        return reshapes(method) or changes_nothing(method) or trains_anew(method)
