"""SCRUB with three separate steps."""

from expunge.config import NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import teacher
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import sgd


class ScrubInterleaved(Method):
    """For every pair of batches three steps: fit the retain set, draw it to the original, drive the forget set away from it.

    After ``max_epochs`` the last of the three is left out. BatchNorm is in train mode, without which the ascent never leaves.

    Source: SCRUB as the constrained unlearning project (source 002) compares with it: SGD with momentum 0.9 and no weight decay, lr 0.1 for
    each of the steps, an epoch being as many pairs as the forget set has batches; after Kurmanji et al., arXiv 2302.09880. That was for
    random subsets; the defaults for a class rest on the small task of the tests, where 0.1 destroys the model.
    """

    aliases = ("interleaved_scrub",)
    source = "constrained unlearning project (source 002), its SCRUB; after arXiv 2302.09880"
    deviations = (
        "one optimiser takes the three steps, so that they share its momentum; the weights stand for the ratios of learning rates",
        "the two retain steps use different batches",
        "the optimiser's momentum starts anew where the ascending steps end",
    )
    needs = {"forget", "retain"}
    scenario_defaults = {"class": {"forget_weight": 0.3}, "subclass": {"forget_weight": 0.3}}

    lr: PositiveFloat = hyper(0.1, "learning rate of the step that fits the retain set", low=1e-3, high=1e-1, log=True)
    retain_weight: NonNegativeFloat = hyper(1.0, "the same for the divergence on the retain set, as a multiple", low=0.1, high=2)
    forget_weight: PositiveFloat = hyper(1.0, "the same for the divergence on the forget set, as a multiple", low=0.1, high=2)
    epochs: PositiveInt = hyper(10, "passes over the forget set", low=5, high=50)
    max_epochs: PositiveInt = hyper(5, "passes with ascending steps", low=1, high=10)
    batch_size: PositiveInt = hyper(128, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield the phase with ascending steps, and the one without."""
        divergence = match(teacher("original"), kl())
        again = ctx.stream("retain").subset(ctx.stream("retain").index, name="retain again")
        descent = [Term("retain", cross_entropy), Term(again, divergence, weight=self.retain_weight)]
        first = min(self.max_epochs, self.epochs)
        both = Phase(
            [*descent, Term("forget", divergence, weight=-self.forget_weight)],
            epochs=first,
            optimizer=sgd(self.lr, weight_decay=0.0),
            batch_size=self.batch_size,
            order="interleave",
            epoch_of="forget",
            norm="train",
            name="fit, stay and leave",
        )
        yield both
        if self.epochs > first:
            # Without the forget set an epoch is a pass over the retain set; steps keep as many pairs as before.
            pairs = (self.epochs - first) * ctx.stream("forget").steps(self.batch_size)
            passes = -(-pairs // ctx.stream("retain").steps(self.batch_size))
            yield both.but(terms=descent, epochs=passes, steps=2 * pairs, epoch_of=None, name="fit and stay")
