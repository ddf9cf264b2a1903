"""Add noise after every step."""

from typing import Literal

from expunge.addons.applicability import changes_nothing, takes_no_gradient_step
from expunge.config import PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.update import noise


class Noise(Addon):
    """Adds independent normal noise to every moving weight after each step.

    With ``relative`` the deviation is times the largest learning rate of the phase, as in gradient Langevin dynamics with a fixed step.
    Masked weights get none. One-shot edits are not touched. It brings no certificate by itself.

    Source: Chien et al., Langevin Unlearning, NeurIPS 2024, arXiv 2401.10371 (projected noisy gradient descent). The default is untuned.
    """

    source = "arXiv 2401.10371"

    deviation: PositiveFloat = hyper(1e-4, "standard deviation of the noise of one step", low=1e-6, high=1e-2, log=True)
    scale: Literal["absolute", "relative"] = hyper("absolute", "relative: times the learning rate of the phase")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases with noise after the rules that they have."""
        for step in steps:
            if isinstance(step, Phase):
                deviation = self.deviation * (step.optimizer.lr if self.scale == "relative" else 1.0)
                yield step.but(after_step=(*step.after_step, noise(deviation)))
            else:
                yield step

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps."""
        return changes_nothing(method) or takes_no_gradient_step(method)
