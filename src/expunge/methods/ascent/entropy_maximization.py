"""Answer the forget set by guessing."""

from expunge.config import NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import uniform
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import sgd


class EntropyMaximization(Method):
    """Each step draws the answers on a forget batch to the uniform distribution, ``KL(U || p)``, and fits a retain batch.

    A retrained model does not guess: it answers forgotten examples like unseen ones. This one ends up less certain than that, which is
    easy to detect; `entropy_matching` aims at unseen data instead.

    Source: the ideas of the second unlearning repository (source 003: forgetting by entropy), as specified with this package. The defaults
    are ours.
    """

    aliases = ("entropy", "max_entropy")
    source = "source 003 (idea without code)"
    needs = {"forget", "retain"}
    scenario_defaults = {"random": {"lr": 5e-3}}

    weight: PositiveFloat = hyper(0.3, "weight of the forget set", low=0.01, high=10, log=True)
    retain_weight: NonNegativeFloat = hyper(1.0, "weight of the cross entropy on the retain set")
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(5, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield Phase(
            [
                Term("retain", cross_entropy, weight=self.retain_weight),
                Term("forget", match(uniform, kl()), weight=self.weight),
            ],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="retain",
            name="maximise the entropy",
        )
