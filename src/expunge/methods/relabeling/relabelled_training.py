"""Training on wrong labels for the forget set and true ones for the retain set, which several methods share."""

from typing import Literal

from expunge.engine.phase import Phase
from expunge.engine.select import Mask
from expunge.engine.targets import Target
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import AfterStep, sgd

Order = Literal["sequential", "mixed"]


def train_relabelled(
    target: Target,
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    order: Order,
    mask: Mask | None = None,
    after_step: tuple[AfterStep, ...] = (),
) -> Phase:
    """Return the phase that fits the forget set to a target and the retain set to its labels.

    Args:
        target: labels of the forget set.
        lr: learning rate of SGD 0.9 / 5e-4.
        epochs: passes over both sets.
        batch_size: examples in a step.
        order: ``sequential`` (the CIFAR-10 code): all forget batches, then all retain batches; ``mixed`` (CIFAR-100, TinyImageNet): one
            shuffled pass over both.
        mask: factors of the update.
        after_step: rules after each step.
    """
    return Phase(
        [Term("forget", match(target)), Term("retain", cross_entropy)],
        epochs=epochs,
        optimizer=sgd(lr),
        batch_size=batch_size,
        order=order,
        mask=mask,
        after_step=after_step,
        name="train on wrong labels",
    )
