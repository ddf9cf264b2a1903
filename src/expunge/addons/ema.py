"""Average the weights of a phase."""

from expunge.addons.applicability import changes_nothing, keeps_one_epoch, takes_no_gradient_step
from expunge.config import Fraction, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.update import running_average
from expunge.errors import NotApplicable


class Ema(Addon):
    """Ends every phase with the running average of its weights and statistics instead of the latest ones.

    The first ``1 / (1 - decay)`` steps count the same, after that the average is exponential. The optimisation itself is not changed, and
    neither are one-shot edits.

    Source: Polyak and Juditsky, 1992; the slow weights of SFRon, NeurIPS 2024, arXiv 2409.19732, whose released configuration switches
    them off. The default is untuned.
    """

    aliases = ("averaging",)
    source = "Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992"

    decay: Fraction = hyper(0.99, "share of the history after each step", low=0.9, high=0.9999, lt=1)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases averaged.

        Raises:
            NotApplicable: a phase keeps its best epoch.
        """
        for step in steps:
            if not isinstance(step, Phase):
                yield step
                continue
            if step.select is not None:
                raise NotApplicable(f"addons={self.name}", f"the phase {step.name!r} keeps its best epoch, which an average would replace.")
            follow, take = running_average(self.decay)
            yield step.but(follow=(*step.follow, follow), at_end=(*step.at_end, take))

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps, and those that keep the weights of one epoch."""
        return changes_nothing(method) or takes_no_gradient_step(method) or keeps_one_epoch(method)
