"""Move only what is salient for the forget batch of the step."""

from functools import partial

from expunge.addons.applicability import NO_FORGET_GRADIENT, no_forget_gradient, takes_no_gradient_step
from expunge.addons.pairs import Pair, forgetting, rewritten
from expunge.config import Fraction, hyper
from expunge.engine.combine import above_quantile, masked_by, then
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase


class BatchSaliency(Addon):
    """Moves, in each step and tensor, only the weights with the largest forget gradient of that step.

    A weight moves where its absolute forget gradient is at least the quantile over its tensor. `saliency_mask` is the other form: one
    mask over all weights, from the whole forget set. It acts in phases whose steps have a gradient of forgotten data of their own, and
    leaves others, and steps without forgotten examples, as they are.

    Source: arXiv 2511.02435, the SalUn add-on (NGSalUn, SalUn, SCRUBSalUn), after arXiv 2310.12508.
    """

    aliases = ("NGSalUn", "SCRUBSalUn")
    source = "arXiv 2511.02435, SalUn add-on"

    quantile: Fraction = hyper(0.5, "share of each tensor that stands still", low=0.1, high=0.9)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases on forgotten data under the mask."""
        yield from rewritten(self.name, steps, partial(forgetting, ctx), self.masked, NO_FORGET_GRADIENT)

    def masked(self, found: Pair) -> Phase:
        """Return the phase with the mask before its groups are joined."""
        keep = masked_by(above_quantile(found.forget, self.quantile), lambda kept: kept, (found.forget,))
        return found.phase.but(combine=then(found.phase.combine, keep))

    def refuse(self, method: Method) -> str:
        """Refuse methods without a forget gradient of its own."""
        return takes_no_gradient_step(method) or no_forget_gradient(method)
