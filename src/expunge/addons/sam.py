"""Sharpness-aware minimisation."""

from expunge.addons.applicability import changes_nothing, perturbs_already, takes_no_gradient_step
from expunge.addons.perturbing import perturbed
from expunge.config import PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.update import sam


class Sam(Addon):
    """Takes every gradient of a method at the worst point nearby: sharpness-aware minimisation.

    The gradient of the combined loss is taken at ``theta + rho g / ||g||`` and applied at ``theta``. What a mask freezes is not displaced.
    The second forward pass leaves running statistics as they are. One-shot edits are not touched. Every step costs two.

    Source: Foret et al., SAM, ICLR 2021, arXiv 2010.01412.
    """

    aliases = ("SAM",)
    source = "arXiv 2010.01412"

    rho: PositiveFloat = hyper(0.05, "radius", low=0.001, high=1, log=True)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases perturbed."""
        yield from perturbed(self.name, steps, sam(self.rho))

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps, and those that perturb their weights already."""
        return changes_nothing(method) or takes_no_gradient_step(method) or perturbs_already(method)
