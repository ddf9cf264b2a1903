"""Flatten the logits of the forget set under a bound on the retain loss."""

from torch import Tensor

from expunge.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.measure import mean_loss
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Term
from expunge.engine.update import sgd
from expunge.methods.constrained.duality import Constraint, condition_on


class Pdu(Method):
    """Minimise the squared distance of the largest logit from their mean on the forget set, subject to ``CE(retain) <= e``.

    ``e`` is the original's retain loss plus ``tolerance``; the multiplier follows ``l <- max(0, l + rate (CE(retain) - e))`` after each
    step. Flat logits are guesses, so that the forget set becomes less certain than unseen data.

    Source: Entesari et al., Primal-dual unlearning, NeurIPS 2025, arXiv 2506.05314, made for language models (step 1 to 5 for the
    multiplier, warm-up of 3 to 5 epochs). The other defaults are ours.
    """

    aliases = ("PDU",)
    source = "Entesari et al., NeurIPS 2025, arXiv 2506.05314"
    deviations = ("one logit vector per example instead of one per token; the bound is relative to the original's loss",)
    needs = {"forget", "retain"}

    tolerance: NonNegativeFloat = hyper(0.01, "how far the retain loss may rise above the original's", low=1e-3, high=0.3, log=True)
    multiplier: NonNegativeFloat = hyper(1.0, "the multiplier at the start", low=0.1, high=50, log=True)
    rate: PositiveFloat = hyper(1.0, "step of the multiplier", low=0.1, high=5, log=True)
    warm_up: NonNegativeInt = hyper(1, "first epochs, in which the multiplier stays as it is")
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")
    clip: PositiveFloat | None = hyper(1.0, "largest norm of the joined gradient; nothing: no limit")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        bound = mean_loss(ctx, "retain") + self.tolerance
        constraint = Constraint(bound, "lagrangian", multiplier=self.multiplier, rate=self.rate, warm_up=self.warm_up)
        yield Phase(
            [Term("forget", flat_logits, group="objective"), condition_on("retain", constraint)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            norm="train",
            combine=constraint.combine,
            clip=self.clip,
            follow=(constraint.update,),
            name="flatten the logits",
        )


def flat_logits(context: Context, batch: Batch, student: Forward) -> Tensor:
    """Return the squared distance of the largest logit from the mean logit, ``[B]``."""
    return (student.logits.amax(1) - student.logits.mean(1)).square()
