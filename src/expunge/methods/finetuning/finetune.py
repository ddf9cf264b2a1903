"""Go on training without the forget set."""

from typing import Literal

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import constant, cosine, sgd


class Finetune(Method):
    """Train on with the retain set and let the rest fade.

    It under-forgets random subsets. A large learning rate makes another, stronger method of it.

    Source: arXiv 2304.04934, section 3 and appendix (FT): cross entropy on the retain set, 10 epochs, SGD 0.9 / 5e-4, batches of 256.
    """

    aliases = ("FT", "finetuning")
    source = "Warnecke et al., NDSS 2023, arXiv 2108.11577; settings of Jia et al., NeurIPS 2023, arXiv 2304.04934"
    needs = {"retain"}

    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    schedule: Literal["constant", "cosine"] = hyper("constant", "of the learning rate; cosine falls to zero")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the retain set."""
        yield Phase(
            [Term("retain", cross_entropy)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            schedule=cosine() if self.schedule == "cosine" else constant,
            batch_size=self.batch_size,
            name="fine-tune",
        )
