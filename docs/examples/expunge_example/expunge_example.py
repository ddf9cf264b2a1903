"""A method of another package: its class, and a line in pyproject.toml, are all that expunge needs to find it."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import uniform
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import sgd


class UniformAnswers(Method):
    """Teach the model to answer forgotten examples with every class alike, and retained ones as before.

    Source: an example; the forget set ends up less certain than unseen data, which tests of membership notice.
    """

    source = "an example of a method in another package"
    needs = {"forget", "retain"}

    weight: PositiveFloat = hyper(1.0, "weight of the forget set", low=0.1, high=10.0, log=True)
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(5, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield Phase(
            [Term("forget", match(uniform, kl()), weight=self.weight), Term("retain", cross_entropy)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            name="answer uniformly",
        )
