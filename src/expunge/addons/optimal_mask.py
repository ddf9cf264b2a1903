"""Leave out the most conflicting entries until the step harms neither side."""

from functools import partial

from expunge.addons.applicability import NO_PAIR, joins_by_its_own_rule, never_pairs, takes_no_gradient_step
from expunge.addons.pairs import Pair, added_up, rewritten
from expunge.engine.combine import feasible, masked_by, then
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase


class OptimalMask(Addon):
    """Makes each step, tensor by tensor, one that to first order raises neither the forget loss nor the retain loss.

    Where the sum of the two gradients is such a step already it stays whole; elsewhere the fewest entries are left out, the most
    conflicting first, see `feasible`. The promise is for the gradient that is handed to the optimiser; momentum and Adam's scaling come
    after it. Put after `gradient_focus` it is FocusOPT of the source. It acts in phases whose steps see forgotten and retained data at
    once and add up their gradients, and leaves others as they are.

    Source: arXiv 2511.02435, OPT.
    """

    aliases = ("OPT", "opt_mask", "feasible_update")
    source = "arXiv 2511.02435, OPT"

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, paired phases under the mask."""
        yield from rewritten(self.name, steps, partial(added_up, ctx), self.masked, NO_PAIR)

    def masked(self, found: Pair) -> Phase:
        """Return the phase with the mask before its groups are added up."""
        keep = masked_by(feasible(*found.groups), lambda kept: kept, found.groups)
        return found.phase.but(combine=then(found.phase.combine, keep))

    def refuse(self, method: Method) -> str:
        """Refuse methods in which two gradients never meet, or are not added up."""
        return takes_no_gradient_step(method) or never_pairs(method) or joins_by_its_own_rule(method)
