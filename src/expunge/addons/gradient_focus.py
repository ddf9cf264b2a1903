"""Weigh every step by how probably the gradients of forgotten and retained data agree."""

from functools import partial

from expunge.addons.applicability import NO_PAIR, never_pairs, takes_no_gradient_step
from expunge.addons.pairs import Pair, pair, rewritten
from expunge.config import Fraction, hyper
from expunge.engine.combine import Ema, masked_by, signs_agree, then
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase


class GradientFocus(Addon):
    """Multiplies both gradients by the probability that they have the same sign: a soft `gradient_mask`, without a threshold.

    Followed by `optimal_mask` it is FocusOPT of the source. It acts in phases whose steps see forgotten and retained data at once, and
    leaves others as they are.

    Source: arXiv 2511.02435, GradFocus.
    """

    aliases = ("GradFocus", "grad_focus")
    source = "arXiv 2511.02435, GradFocus"
    deviations = ("ema: the code swaps the weights of history and of the new square, which confines the probability to [0.25, 0.75]",)

    rho: Fraction = hyper(0.9, "share of the history in the second moments", low=0.8, high=0.99, gt=0, lt=1)
    ema: Ema = hyper("intended", "reference: the two weights of the second moment swapped, as released")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, paired phases weighted."""
        yield from rewritten(self.name, steps, partial(pair, ctx), self.weighted, NO_PAIR)

    def weighted(self, found: Pair) -> Phase:
        """Return the phase with the probability as a factor before its groups are joined."""
        look = signs_agree(*found.groups, rho=self.rho, ema=self.ema, scales=found.scales, key=found.key(self.name))
        return found.phase.but(combine=then(found.phase.combine, masked_by(look, lambda agreement: (1 + agreement) / 2, found.groups)))

    def refuse(self, method: Method) -> str:
        """Refuse methods in which two gradients never meet."""
        return takes_no_gradient_step(method) or never_pairs(method)
