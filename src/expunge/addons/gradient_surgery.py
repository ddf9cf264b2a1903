"""Join the gradients of forgotten and retained data by a rule instead of adding them."""

from functools import partial
from typing import Literal

from expunge.addons.applicability import NO_PAIR, joins_by_its_own_rule, never_pairs, takes_no_gradient_step
from expunge.addons.pairs import Pair, added_up, rewritten
from expunge.config import hyper
from expunge.engine.combine import Chain, Combiner, minimum_norm, nash, pcgrad
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase

Rule = Literal["pcgrad", "project_forget", "minimum_norm", "nash"]


class GradientSurgery(Addon):
    """Joins the forget and the retain gradient of each step by a rule of multi-objective optimisation.

    ``pcgrad`` takes from each what conflicts with the other; ``project_forget`` only from the forget gradient, so that to first order the
    step never raises the retain loss on its own account; ``minimum_norm`` takes the shortest vector between the two; ``nash`` the
    bargaining direction, in which neither length counts. It acts in phases whose steps see forgotten and retained data at once and add
    up their gradients, and leaves others as they are.

    Source: Yu et al., PCGrad, NeurIPS 2020, arXiv 2001.06782; Desideri, MGDA, 2012, and Sener and Koltun, NeurIPS 2018, arXiv 1810.04650;
    Wu and Harandi, MUNBa, ICCV 2025, arXiv 2411.15537.
    """

    aliases = ("surgery",)
    source = "arXiv 2001.06782; arXiv 1810.04650; arXiv 2411.15537"

    rule: Rule = hyper("project_forget", "how the two gradients are joined")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, paired phases with the rule."""
        yield from rewritten(self.name, steps, partial(added_up, ctx), self.joined, NO_PAIR)

    def joined(self, found: Pair) -> Phase:
        """Return the phase with the rule in place of the sum."""
        rules: dict[str, Combiner] = {
            "pcgrad": pcgrad(),
            "project_forget": pcgrad(only=found.forget),
            "minimum_norm": minimum_norm,
            "nash": nash,
        }
        combine = found.phase.combine
        return found.phase.but(combine=Chain(combine.changes if isinstance(combine, Chain) else (), rules[self.rule]))

    def refuse(self, method: Method) -> str:
        """Refuse methods in which two gradients never meet, or have a rule already."""
        return takes_no_gradient_step(method) or never_pairs(method) or joins_by_its_own_rule(method)
