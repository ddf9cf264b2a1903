"""Stopping once the forget set is answered as badly as wanted, which the methods on features share."""

from collections.abc import Callable

from expunge.engine.context import Context
from expunge.engine.measure import accuracy
from expunge.engine.terms import Progress
from expunge.methods.distillation.scrub_r import matched_error


def fallen_to(ctx: Context, target: float | None) -> Callable[[Context, Progress], bool]:
    """Return the rule that ends a phase after the epoch in which the accuracy on the whole forget set is at most the target.

    Args:
        ctx: the context, before the first step.
        target: 0 to 1; the model's accuracy on validation data of the forget set's classes if None.

    Raises:
        BadInput: the validation data lack a class of the forget set.
    """
    goal = 1 - matched_error(ctx) if target is None else target

    def reached(context: Context, progress: Progress) -> bool:
        return accuracy(context, "forget") <= goal

    return reached
