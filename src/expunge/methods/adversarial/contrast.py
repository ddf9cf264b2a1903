"""What the methods that unlearn against a discriminator share."""

from collections.abc import Callable

from expunge.config import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.terms import Loss, Progress, Term, cross_entropy
from expunge.engine.update import adam

UNSEEN = "it takes the original's answers to unseen data of the same classes for those of a model that never saw the forget set."


class AgainstDiscriminator(Method):
    """The hyper-parameters of unlearning against a discriminator, and its phase."""

    needs = {"forget", "retain", "validation"}
    scenarios = {"random"}
    scenario_reason = UNSEEN

    lr: PositiveFloat = hyper(1e-3, "learning rate of Adam", low=1e-4, high=1e-2, log=True)
    epochs: PositiveInt = hyper(10, "most passes over the forget set", low=5, high=50)
    batch_size: PositiveInt = hyper(128, "examples of each set in a step")
    retain_weight: NonNegativeFloat = hyper(
        1.0, "weight of the cross entropy on the retain set; 0 is the reference", low=0.1, high=10, log=True
    )

    def phase(self, loss: Loss, name: str, stop: Callable[[Context, Progress], bool] | None = None) -> Phase:
        """Return the phase that minimises a loss on the forget set, beside the retain term."""
        terms = [Term("forget", loss)]
        if self.retain_weight:
            terms.append(Term("retain", cross_entropy, weight=self.retain_weight))
        return Phase(
            terms,
            epochs=self.epochs,
            optimizer=adam(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            norm="train",
            name=name,
            stop=stop,
        )


class Trained(AgainstDiscriminator):
    """The hyper-parameters of a discriminator that learns along, beside those of the unlearning."""

    opponent_lr: PositiveFloat = hyper(0.01, "learning rate of the discriminator's Adam", low=1e-4, high=1e-2, log=True)
    patience: NonNegativeInt = hyper(3, "passes before the end is considered: a discriminator that knows nothing is deceived")
    chance: Fraction = hyper(0.5, "end when the discriminator's balanced accuracy over whole splits is below this; 0: never")
