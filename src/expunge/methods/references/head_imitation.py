"""Imitate the retrained model with the head alone."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import teacher
from expunge.engine.terms import Term, match
from expunge.engine.update import adam, cosine


class HeadImitation(Method):
    """Teach the head alone to answer as a retrained model does; the encoder stays bit for bit.

    A control: as near as any edit of the last layer comes. What it passes looks at outputs only; what looks inside must catch it.
    """

    source = "control; oracle matching (arXiv 2410.23232) with a frozen encoder"
    needs = {"forget", "retain", "oracle"}

    lr: PositiveFloat = hyper(0.01, "largest learning rate of Adam", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over both sets")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on a shuffled mixture in which only the head's weights move."""
        divergence = match(teacher("retrained"), kl())
        yield Phase(
            [Term("forget", divergence), Term("retain", divergence)],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            schedule=cosine(),
            batch_size=self.batch_size,
            order="mixed",
            trainable=frozenset(ctx.architecture.class_rows(0)),
            norm="frozen",
            name="imitate the retrained model with the head",
        )
