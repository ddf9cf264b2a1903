"""Training of small data sets in seconds."""

from expunge.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, smoothed_cross_entropy
from expunge.engine.update import cosine, sgd, warm_up
from expunge.training.precision import Precision, resolve_precision
from expunge.training.recipe import Recipe, training_stream


class Tiny(Recipe):
    """SGD on one cosine cycle, for digits and the bundled pictures of clothes: seconds on one processor.

    It goes on until the training set is fitted, because a model that remembers nothing has nothing to forget.
    """

    epochs: PositiveInt = hyper(12, "passes over the training data")
    lr: PositiveFloat = hyper(0.1, "largest learning rate", low=0.005, high=0.5, log=True)
    momentum: Fraction = hyper(0.9, "Nesterov momentum", lt=1)
    weight_decay: NonNegativeFloat = hyper(5e-4, "coupled, as the papers use it")
    batch_size: PositiveInt = 64
    label_smoothing: Fraction = hyper(0.0, "share of the label that is spread over all classes", lt=1)
    rise: Fraction = hyper(0.2, "share of the steps in which the learning rate rises", lt=1)
    precision: Precision = hyper("float32", "of the forward pass; auto is bfloat16 where the device computes it fast")

    def steps(self, ctx: Context, stream: str = "train") -> Steps:
        """Yield one phase."""
        yield Phase(
            terms=[Term(training_stream(ctx, stream), smoothed_cross_entropy(self.label_smoothing))],
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=sgd(self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.momentum > 0),
            schedule=warm_up(self.rise, cosine()),
            precision=resolve_precision(self.precision, ctx.device),
            name="training",
        )
