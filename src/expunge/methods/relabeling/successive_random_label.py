"""Random labels, paired with retain batches."""

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import random_label
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import adam


class SuccessiveRandomLabel(Method):
    """Each step fits a forget batch to new random wrong labels and, weighted more, a retain batch to its true labels.

    One step sees both gradients, so that add-ons which compare them apply.

    Source: arXiv 2511.02435 (SRL): ``b CE(retain) + (1 - b) CE(forget, random label)``, Adam 1e-4, b = 0.95, 30 passes over the forget set.
    """

    aliases = ("SRL",)
    source = "Improving Unlearning with Model Updates Probably Aligned with Gradients, arXiv 2511.02435"
    needs = {"forget", "retain"}

    beta: Fraction = hyper(0.95, "weight of the retain set; the forget set has the rest", low=0.5, high=0.99)
    lr: PositiveFloat = hyper(1e-4, "learning rate of Adam", low=1e-5, high=1e-2, log=True)
    epochs: PositiveInt = hyper(30, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield Phase(
            [
                Term("retain", cross_entropy, weight=self.beta),
                Term("forget", match(random_label("epoch")), weight=1 - self.beta),
            ],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            name="train on wrong labels in pairs",
        )
