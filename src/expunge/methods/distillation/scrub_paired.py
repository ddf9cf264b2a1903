"""SCRUB with both gradients in one step."""

from expunge.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import teacher
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import adam


class ScrubPaired(Method):
    """Each step drives the student away from the original on a forget batch and holds it on a retain batch.

    One step sees both gradients, so that add-ons which compare them apply.

    Source: arXiv 2511.02435 (its SCRUB): ``b [CE(retain) + KL(teacher || student)] - (1 - b) KL(teacher || student)`` on pairs of batches,
    Adam 1e-4, b = 0.95, 30 passes over the forget set.
    """

    source = "Improving Unlearning with Model Updates Probably Aligned with Gradients, arXiv 2511.02435; after arXiv 2302.09880"
    deviations = ("the divergence gets logarithms of probabilities; the released code passes probabilities, with swapped arguments",)
    needs = {"forget", "retain"}

    beta: Fraction = hyper(0.95, "weight of the retain set; the forget set has the rest", low=0.5, high=0.99)
    alpha: NonNegativeFloat = hyper(1.0, "weight of the divergence on the retain set, beside the cross entropy")
    temperature: PositiveFloat = hyper(1.0, "temperature of the teacher", low=1.0, high=4.0)
    lr: PositiveFloat = hyper(1e-4, "learning rate of Adam", low=1e-5, high=1e-2, log=True)
    epochs: PositiveInt = hyper(30, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches; BatchNorm must be in train mode, see `alternation`."""
        divergence = match(teacher("original"), kl(self.temperature, scale=True))
        yield Phase(
            [
                Term("retain", cross_entropy, weight=self.beta, name="cross entropy on retain"),
                Term("retain", divergence, weight=self.beta * self.alpha, name="divergence on retain"),
                Term("forget", divergence, weight=self.beta - 1, name="divergence on forget"),
            ],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            norm="train",
            name="ascend and descend in pairs",
        )
