"""What the methods that join a forgetting and a retaining gradient share."""

from typing import Literal

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.combine import Combiner
from expunge.engine.kernels import kl
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.targets import random_label, uniform
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import sgd

Goal = Literal["random_label", "uniform", "ascent"]


def forget_term(goal: Goal) -> Term:
    """Return the term that forgets: fit random wrong labels, fit the uniform distribution, or climb the cross entropy."""
    if goal == "ascent":
        return Term("forget", cross_entropy, weight=-1.0)
    return Term("forget", match(random_label("epoch")) if goal == "random_label" else match(uniform, kl()))


class JoinedGradients(Method):
    """The hyper-parameters of training on pairs of batches towards two goals, and its phase."""

    needs = {"forget", "retain"}

    forget: Goal = hyper("random_label", "how the forget set is forgotten: random wrong labels, the uniform distribution, or ascent")
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")
    clip: PositiveFloat | None = hyper(1.0, "largest norm of the joined gradient; nothing: no limit")

    def phase(self, combine: Combiner, name: str) -> Phase:
        """Return the phase whose steps join both gradients."""
        return Phase(
            [Term("retain", cross_entropy), forget_term(self.forget)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="retain",
            combine=combine,
            clip=self.clip,
            name=name,
        )
