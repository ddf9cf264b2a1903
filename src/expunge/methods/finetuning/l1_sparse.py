"""Fine-tuning that draws the weights towards zero."""

from typing import Literal, Self

from pydantic import model_validator

from expunge.config import NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Penalty, Progress, Term, cross_entropy, l1
from expunge.engine.update import sgd


class L1Sparse(Method):
    """Fine-tune on the retain set under an L1 penalty that fades, so that weights which only the forget set needs vanish.

    It buys forgetting with accuracy: the penalty is the knob. It is a sum over parameters, so a good strength falls with model size.

    Source: Jia et al., NeurIPS 2023, arXiv 2304.04934, section 5: ``CE(retain) + a_t ||theta||_1`` with ``a_t = a (1 - t / T)``, compared
    there with a constant and a growing penalty. The code (``FT_prune``, ``FT_l1``) fades per epoch and has last epochs without penalty.
    """

    aliases = ("FT_prune", "FT_l1", "l1-sparse")
    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934"
    deviations = (
        "the released argument parser's alpha=0.2, shared with other methods, destroys the model; the default is from the published range",
        "no_l1_epochs equal to epochs is refused; the code then means a constant penalty, which is penalty=constant here",
    )
    needs = {"retain"}

    alpha: PositiveFloat = hyper(1e-4, "strength of the penalty", low=1e-6, high=1e-3, log=True)
    penalty: Literal["fading", "constant", "growing"] = hyper("fading", "how the strength changes over the run")
    per: Literal["epoch", "step"] = hyper("epoch", "how often the strength changes")
    no_l1_epochs: NonNegativeInt = hyper(0, "last epochs without penalty")
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    @model_validator(mode="after")
    def _some_penalty(self) -> Self:
        if self.no_l1_epochs >= self.epochs:
            raise ValueError(f"no_l1_epochs must be below epochs, {self.epochs}, got {self.no_l1_epochs}")
        return self

    def strength(self, progress: Progress) -> float:
        """Return the factor of the penalty for the next step."""
        done = progress.epoch if self.per == "epoch" else progress.fraction * progress.epochs
        share = done / (self.epochs - self.no_l1_epochs)
        if share >= 1:
            return 0.0
        return self.alpha * {"fading": 1 - share, "constant": 1.0, "growing": share}[self.penalty]

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the retain set."""
        yield Phase(
            [Term("retain", cross_entropy), Penalty(l1, weight=self.strength, name="L1")],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            name="fine-tune towards zeros",
        )
