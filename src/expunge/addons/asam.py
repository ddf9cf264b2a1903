"""Sharpness-aware minimisation that scales with the weights."""

from expunge.addons.applicability import changes_nothing, perturbs_already, takes_no_gradient_step
from expunge.addons.perturbing import perturbed
from expunge.config import NonNegativeFloat, PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.update import sam


class Asam(Addon):
    """Takes every gradient of a method at the worst point nearby, where large weights may go farther: adaptive SAM.

    With ``T = |theta| + eta`` the gradient is taken at ``theta + rho T^2 g / ||T g||`` and applied at ``theta``. What a mask freezes is not
    displaced. Running statistics and one-shot edits are as with `sam`. Every step costs two.

    Source: Kwon et al., ASAM, ICML 2021, arXiv 2102.11600, equation 9 and algorithm 1; rho 0.5 and eta 0.01 are its settings for CIFAR-10.
    """

    aliases = ("ASAM",)
    source = "arXiv 2102.11600"

    rho: PositiveFloat = hyper(0.5, "radius, in units of the weights", low=0.01, high=5, log=True)
    eta: NonNegativeFloat = hyper(0.01, "what is added to the size of every weight, so that small ones are not left out")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases perturbed."""
        yield from perturbed(self.name, steps, sam(self.rho, adaptive=True, eta=self.eta))

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps, and those that perturb their weights already."""
        return changes_nothing(method) or takes_no_gradient_step(method) or perturbs_already(method)
