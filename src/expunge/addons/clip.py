"""Limit the length of the gradient."""

from expunge.addons.applicability import changes_nothing, takes_no_gradient_step
from expunge.config import PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase


class Clip(Addon):
    """Shortens the combined gradient of each step to a largest norm; a smaller limit of the method's own stays.

    The norm is that of what can move: entries that a mask freezes do not count. One-shot edits are not touched.

    Source: Pascanu et al., ICML 2013, arXiv 1211.5063; in unlearning 1 (MUNBa, HAMU) and 7 (SFRon). The default 1 is untuned.
    """

    aliases = ("gradient_clipping",)
    source = "arXiv 1211.5063"

    norm: PositiveFloat = hyper(1.0, "largest Euclidean norm of the gradient over all parameters", low=0.1, high=10, log=True)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases with the limit."""
        for step in steps:
            yield step.but(clip=min(self.norm, step.clip or self.norm)) if isinstance(step, Phase) else step

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps."""
        return changes_nothing(method) or takes_no_gradient_step(method)
