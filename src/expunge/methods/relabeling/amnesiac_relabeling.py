"""Random relabelling that many repositories call amnesiac."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import random_label
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import adam


class AmnesiacRelabeling(Method):
    """Give every forgotten example one wrong label for good, and train briefly on both sets shuffled together.

    Not the ledger of updates of the paper whose name it bears (Graves et al., AAAI 2021), which has to be kept while training.

    Source: the ``amnesiac`` of the code of Chundawat et al., arXiv 2205.08096, and its descendants: 3 epochs, Adam 1e-4.
    """

    aliases = ("amnesiac",)
    source = "code of arXiv 2205.08096; the name is from Graves et al., Amnesiac Machine Learning, AAAI 2021, arXiv 2010.10981"
    needs = {"forget", "retain"}

    lr: PositiveFloat = hyper(1e-4, "learning rate of Adam", low=1e-5, high=1e-2, log=True)
    epochs: PositiveInt = hyper(3, "passes over both sets")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on a shuffled mixture."""
        yield Phase(
            [Term("forget", match(random_label("once"))), Term("retain", cross_entropy)],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            batch_size=self.batch_size,
            order="mixed",
            name="train on wrong labels",
        )
