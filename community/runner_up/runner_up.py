"""Give each forgotten example the class that the original found second best."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import second_best
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import sgd


class RunnerUp(Method):
    """Teach the forget set to be the class that the original found second best, and hold the rest.

    Source: an example.
    """

    source = "an example"
    needs = {"forget", "retain"}

    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(2, "passes over the longer set")
    batch_size: PositiveInt = hyper(64, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield Phase(
            [Term("forget", match(second_best)), Term("retain", cross_entropy)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            name="runner-up",
        )
