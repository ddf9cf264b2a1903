"""Fine-tuning on the retain set after a reset, which the challenge's entries share."""

import math
from collections.abc import Sequence

from expunge.engine.context import Context
from expunge.engine.parameters import shared_names
from expunge.engine.phase import Phase
from expunge.engine.terms import Progress, Term, cross_entropy
from expunge.engine.update import Schedule, constant, sgd

_CROSS_ENTROPY = Term("retain", cross_entropy)


def repair(
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    terms: Sequence[Term] = (_CROSS_ENTROPY,),
    schedule: Schedule = constant,
    steps: int | None = None,
    trainable: frozenset[str] | None = None,
    name: str = "repair",
) -> Phase:
    """Return the phase that trains on the retain set with SGD 0.9 / 5e-4, as all entries of the challenge do.

    Args:
        lr: largest learning rate.
        epochs: passes over the retain set.
        batch_size: examples in a step.
        terms: what is minimised; the cross entropy by default.
        schedule: factor of the learning rate.
        steps: stop after so many steps, for a number of epochs that is not whole.
        trainable: names of the parameters that move; all by default.
        name: what the phase is called in logs.
    """
    return Phase(
        list(terms),
        epochs=epochs,
        optimizer=sgd(lr),
        schedule=schedule,
        batch_size=batch_size,
        steps=steps,
        trainable=trainable,
        name=name,
    )


def cosine_by_epoch(epochs: int, done: int = 0) -> Schedule:
    """Return half a cosine that falls when an epoch begins: 1 in the first epoch, above 0 in the last.

    Args:
        epochs: epochs of the whole schedule.
        done: epochs that earlier phases have taken of it.
    """

    def factor(progress: Progress) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done + progress.epoch) / epochs)))

    return factor


def layer_parameters(ctx: Context, *modules: str) -> list[str]:
    """Return the base names of all parameters that some layers hold, those that the model's author has frozen left out."""
    shared = shared_names(ctx.model)
    held = [shared[f"{module}.{name}"] for module in modules for name, _ in ctx.model.get_submodule(module).named_parameters(recurse=False)]
    return [name for name in dict.fromkeys(held) if name not in ctx.fixed]
