"""Sharpness-aware minimisation with the derivative of its ascent."""

from expunge.addons.applicability import changes_nothing, perturbs_already, takes_no_gradient_step
from expunge.addons.perturbing import perturbed
from expunge.config import PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.update import second_order_sam


class SecondOrderSam(Addon):
    """Follows the full gradient of the loss at the worst point nearby, which SAM only approximates.

    SAM leaves out that the displacement depends on the weights. Here the derivative through it is added, a product with the Hessian by a
    difference of gradients, see `second_order_sam`. Every step costs three. With dropout all passes of a step draw the same units.

    Source: the optional SO_SAM of source 002; the derivative is that of Foret et al., SAM, ICLR 2021, arXiv 2010.01412, section 2.
    """

    aliases = ("SO_SAM", "SOSAM")
    source = "source 002, SO_SAM; arXiv 2010.01412"
    deviations = (
        "The projection off the gradient comes before the product with the Hessian, as the chain rule says; in the code after.",
        "The difference step has a fixed length instead of 1e-4 times the gradient, which in float32 is lost in rounding.",
    )

    rho: PositiveFloat = hyper(0.05, "radius", low=0.001, high=1, log=True)
    difference: PositiveFloat = hyper(0.01, "length of the step by which the Hessian is felt")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases perturbed."""
        yield from perturbed(self.name, steps, second_order_sam(self.rho, self.difference))

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps, and those that perturb their weights already."""
        return changes_nothing(method) or takes_no_gradient_step(method) or perturbs_already(method)
