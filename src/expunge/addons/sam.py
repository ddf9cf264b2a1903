"""Sharpness-aware minimisation."""

from expunge.addons.applicability import changes_nothing, takes_no_gradient_step
from expunge.config import Flag, PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.update import sam
from expunge.errors import NotApplicable


class Sam(Addon):
    """Takes every gradient of a method at the worst point nearby: sharpness-aware minimisation.

    The gradient of the combined loss is taken at ``theta + rho g / ||g||`` and applied at ``theta``. The second forward pass leaves
    running statistics as they are. One-shot edits are not touched. Every step costs two.

    Source: Foret et al., SAM, ICLR 2021, arXiv 2010.01412; adaptive: Kwon et al., ASAM, ICML 2021, arXiv 2102.11600.
    """

    aliases = ("SAM", "asam")
    source = "arXiv 2010.01412; adaptive: arXiv 2102.11600"

    rho: PositiveFloat = hyper(0.05, "radius; adaptive steps want about ten times more", low=0.001, high=1, log=True)
    adaptive: Flag = hyper(False, "scale the ascent by the weights (ASAM)")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases perturbed.

        Raises:
            NotApplicable: a phase perturbs its weights already.
        """
        for step in steps:
            if not isinstance(step, Phase):
                yield step
                continue
            if step.perturb is not None:
                raise NotApplicable("addons=sam", f"the phase {step.name!r} takes its gradients at perturbed weights already.")
            yield step.but(perturb=sam(self.rho, self.adaptive))

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps."""
        return changes_nothing(method) or takes_no_gradient_step(method)
