"""SCRUB that goes back to the right epoch."""

from collections.abc import Sequence

import torch

from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.measure import accuracy, logits_of
from expunge.engine.method import Steps
from expunge.engine.parameters import Snapshot, below
from expunge.engine.terms import Progress
from expunge.engine.update import Step
from expunge.errors import BadInput
from expunge.methods.distillation.alternation import MaxMin

KEPT, ERROR = "epoch/", "error/"
"""Under which the memory of a phase holds the weights after an epoch, and the error on the forget set."""


class ScrubR(MaxMin):
    """SCRUB, then back to the epoch whose forget error is nearest to the final model's error on unseen data of the same classes.

    A forget set with too large an error betrays itself; rewinding avoids it. The weights of every epoch are kept until the end.

    Source: Kurmanji et al., NeurIPS 2023, arXiv 2302.09880, section 4.2 (SCRUB+R).
    """

    aliases = ("SCRUB+R",)
    source = "Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023, arXiv 2302.09880 (SCRUB+R)"
    deviations = (
        "the optimiser's momentum starts anew where the ascending passes end",
        "the validation error is weighted by the forget set's classes; the paper draws a validation set with these classes",
    )
    needs = {"forget", "retain", "validation"}
    scenarios = {"random", "subclass"}
    scenario_reason = "validation data hold nothing of a class that is forgotten as a whole, so no epoch can be chosen by them; scrub fits."

    def steps(self, ctx: Context) -> Steps:
        """Yield the alternation, then the return to the chosen epoch."""
        check_validation(ctx)
        errors: list[float] = []
        weights: list[Snapshot] = []

        def keep(context: Context, progress: Progress) -> bool:
            kept = Snapshot(context.model).plain()
            context.memory.update({f"{KEPT}{progress.epoch}/{name}": value for name, value in kept.items()})
            context.memory[f"{ERROR}{progress.epoch}"] = torch.tensor(1 - accuracy(context, "forget"), dtype=torch.float64)
            return False

        def collect(step: Step) -> None:
            found = below(ERROR, step.state)
            for epoch in sorted(found, key=int):
                errors.append(float(found[epoch]))
                weights.append(Snapshot.of(below(f"{KEPT}{epoch}/", step.state)))

        def rewind(context: Context) -> None:
            weights[nearest_epoch(errors, matched_error(context))].restore(context.model)

        for phase in self.phases(ctx, watch=keep):
            yield phase.but(at_end=(collect,))
        yield Edit("rewind", rewind)


def nearest_epoch(errors: Sequence[float], wanted: float) -> int:
    """Return the position of the error that is nearest to the wanted one; of equals the last, which has been repaired longest."""
    return min(reversed(range(len(errors))), key=lambda epoch: abs(errors[epoch] - wanted))


def check_validation(ctx: Context) -> None:
    """Refuse validation data that lack a class of the forget set.

    Raises:
        BadInput: they do.
    """
    missing = sorted(set(ctx.stream("forget").labels.tolist()) - set(ctx.stream("validation").labels.tolist()))
    if missing:
        raise BadInput("validation", f"no example of class {missing[0]}, which the forget set has.", "Give more validation data.")


def matched_error(ctx: Context) -> float:
    """Return the error on validation data whose classes are as frequent as in the forget set, 0 to 1."""
    logits, labels = logits_of(ctx, "validation")
    wrong = (logits.argmax(1) != labels).double()
    frequency = torch.bincount(ctx.stream("forget").labels, minlength=ctx.num_classes).double()
    present = torch.bincount(labels, minlength=ctx.num_classes).double()
    error = torch.bincount(labels, weights=wrong, minlength=ctx.num_classes) / present.clamp_min(1)
    return float((frequency * error).sum() / frequency.sum())
