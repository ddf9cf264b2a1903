"""Imitate the retrained model."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import teacher
from expunge.engine.terms import Term, match
from expunge.engine.update import sgd


class OracleMatch(Method):
    """Distil a retrained model into the original, on all of its training data: a diagnostic, no unlearning.

    It says how near to the retrained model an optimiser can come from where the original is; what a method loses beyond that is not the
    optimiser's fault.

    Source: Georgiev et al., Attribute-to-Delete, arXiv 2410.23232 (oracle matching): ``KL(retrained || student)`` on the forget set and
    a part of the retain set; here on all of it.
    """

    source = "Georgiev et al., Attribute-to-Delete: Machine Unlearning via Datamodel Matching, arXiv 2410.23232 (oracle matching)"
    deviations = ("all retained data instead of a sample; learning rate and length are ours",)
    needs = {"forget", "retain", "oracle"}

    temperature: PositiveFloat = hyper(1.0, "temperature of the retrained model", low=1.0, high=4.0)
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(5, "passes over both sets")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on a shuffled mixture."""
        divergence = match(teacher("retrained"), kl(self.temperature, scale=True))
        yield Phase(
            [Term("forget", divergence), Term("retain", divergence)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            order="mixed",
            name="imitate the retrained model",
        )
