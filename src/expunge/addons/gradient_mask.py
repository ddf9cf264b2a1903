"""Move only where the gradients of forgotten and retained data probably agree."""

from functools import partial

from expunge.addons.applicability import NO_PAIR, never_pairs, takes_no_gradient_step
from expunge.addons.pairs import Pair, pair, rewritten
from expunge.config import Fraction, hyper
from expunge.engine.combine import Ema, masked_by, signs_agree, then
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase


class GradientMask(Addon):
    """Leaves out, in each step, the weights whose forget and retain gradients probably have different signs.

    The probability comes from both mini-batch gradients in units of their running second moments, see `signs_agree`: one half where either
    is pure noise, and at a threshold of one half exactly what has the same sign in this batch is kept. The second moments go on through
    all epochs of a phase. It acts in phases whose steps see forgotten and retained data at once, and leaves others as they are.

    Source: arXiv 2511.02435, GradMask (``VarGrad --quantile`` in its code: the word is a misnomer, the number is a threshold on the
    probability). Its grid is 0.3 and 0.5, its example 0.55.
    """

    aliases = ("VarGrad", "GradMask", "grad_mask")
    source = "arXiv 2511.02435, GradMask"
    deviations = ("ema: the code swaps the weights of history and of the new square, which confines the probability to [0.25, 0.75]",)

    threshold: Fraction = hyper(0.5, "smallest probability of one sign at which a weight moves", low=0.3, high=0.6)
    rho: Fraction = hyper(0.9, "share of the history in the second moments", low=0.8, high=0.99, gt=0, lt=1)
    ema: Ema = hyper("intended", "reference: the two weights of the second moment swapped, as released")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, paired phases under the mask."""
        yield from rewritten(self.name, steps, partial(pair, ctx), self.masked, NO_PAIR)

    def masked(self, found: Pair) -> Phase:
        """Return the phase with the mask before its groups are joined."""
        look = signs_agree(*found.groups, rho=self.rho, ema=self.ema, scales=found.scales, key=found.key(self.name))
        # On 2 a - 1, whose sign is exact, instead of a, which rounds next to one half.
        keep = masked_by(look, lambda agreement: agreement >= 2 * self.threshold - 1, found.groups)
        return found.phase.but(combine=then(found.phase.combine, keep))

    def refuse(self, method: Method) -> str:
        """Refuse methods in which two gradients never meet."""
        return takes_no_gradient_step(method) or never_pairs(method)
