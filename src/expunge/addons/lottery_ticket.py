"""Train a sparse original first, then unlearn from it."""

from collections.abc import Iterator

import torch

from expunge.addons.importance import importance
from expunge.addons.masking import under
from expunge.addons.prune import kept_after, report_sparsity
from expunge.config import Fraction, NonNegativeInt, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import Edit, reinitialise, zero_where
from expunge.engine.method import Addon, Steps
from expunge.engine.parameters import Snapshot, below
from expunge.engine.phase import Phase
from expunge.engine.select import Mask
from expunge.engine.stream import Stream
from expunge.engine.terms import Progress
from expunge.engine.update import Step
from expunge.errors import BadInput

KEPT = "rewind/"
"""Under which the memory of the first phase holds the weights to go back to."""


class LotteryTicket(Addon):
    """Replaces the original by a sparse one found by iterative magnitude pruning with rewinding, and keeps it sparse while unlearning.

    From new initial weights the recipe trains on all training data, forgotten data included, since this is the model from which a method
    is then to unlearn. In each cycle the same share of the remaining weights is pruned, the others go back to where they were after
    ``rewind_epochs`` epochs (0: the initial weights, ``lt`` of the source; 8: its ``rewind_lt``), and the recipe goes on from there.
    Teachers and distances refer to the sparse original. It costs a full training for each cycle and one more; `prune` works on the
    trained model.

    Source: Frankle and Carbin, ICLR 2019, arXiv 1803.03635; in unlearning: Jia et al., NeurIPS 2023, arXiv 2304.04934 (IMP; 20 % a cycle).
    """

    aliases = ("lt", "rewind_lt")
    source = "arXiv 1803.03635; arXiv 2304.04934"
    deviations = (
        "Initial weights are drawn anew: those of the given original are not known.",
        "The weights of the last epoch are taken, not those with the best validation accuracy.",
        "Linear layers are pruned too: convolutions alone are next to nothing of a transformer.",
    )
    needs = {"forget", "retain", "recipe"}

    sparsity: Fraction = hyper(0.95, "share of the prunable weights that is set to zero in the end", low=0.2, high=0.98, lt=1)
    cycles: PositiveInt = hyper(1, "how many times part of the remaining weights is pruned; 14 to 0.956 are 20 % a time")
    rewind_epochs: NonNegativeInt = hyper(0, "epochs of the first training after which weights are kept for rewinding", low=0, high=10)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the trainings, and the method's steps under the mask."""
        yield reinitialise(None, "lottery ticket")
        kept: list[Snapshot] = [] if self.rewind_epochs else [Snapshot(ctx.model)]
        yield from _noting(self.training(ctx), self.rewind_epochs, kept)
        if not kept:
            problem = f"the first phase of the recipe has no more than {self.rewind_epochs} epochs."
            raise BadInput(f"addons.{self.name}.rewind_epochs", problem, "Choose fewer.")
        mask: Mask | None = None
        for cycle in range(1, self.cycles + 1):
            share = 1 - (1 - self.sparsity) ** (cycle / self.cycles)
            mask = kept_after(importance(ctx, "magnitude", share), share, before=mask)
            yield Edit("rewind", lambda context: kept[0].restore(context.model))
            yield zero_where(mask)
            report_sparsity(ctx, mask, cycle)
            yield from under(mask, _from_epoch(self.training(ctx), self.rewind_epochs))
        assert mask is not None
        ctx.adopt()
        yield from under(mask, steps)

    def training(self, ctx: Context) -> Steps:
        """Return the recipe's steps on forgotten and retained data together."""
        forget, retain = ctx.stream("forget"), ctx.stream("retain")
        return ctx.recipe.steps(ctx, stream=Stream("train", retain.source, torch.cat([forget.index, retain.index]).sort().values))


def _noting(steps: Steps, epochs: int, kept: list[Snapshot]) -> Steps:
    """Yield the steps; keep the weights after so many epochs of the first phase."""
    phases = 0
    for step in steps:
        if isinstance(step, Phase):
            phases += 1
            yield _watched(step, epochs, kept) if phases == 1 and step.epochs > epochs > 0 else step
        else:
            yield step


def _watched(phase: Phase, epochs: int, kept: list[Snapshot]) -> Phase:
    def stop(context: Context, progress: Progress) -> bool:
        if progress.epoch == epochs:
            context.memory.update({KEPT + name: value for name, value in Snapshot(context.model).plain().items()})
        return phase.stop is not None and phase.stop(context, progress)

    def collect(step: Step) -> None:
        if found := below(KEPT, step.state):
            kept.append(Snapshot.of(found))

    return phase.but(stop=stop, at_end=(*phase.at_end, collect))


def _from_epoch(steps: Steps, epochs: int) -> Iterator[Phase | Edit]:
    """Yield the steps, the first phase from an epoch on, with its schedule where it would be."""
    phases = 0
    for step in steps:
        if isinstance(step, Phase):
            phases += 1
            yield _late(step, epochs) if phases == 1 and epochs else step
        else:
            yield step


def _late(phase: Phase, epochs: int) -> Phase:
    def schedule(progress: Progress) -> float:
        skipped = progress.total_steps * epochs // progress.epochs
        where = Progress(progress.step + skipped, progress.total_steps + skipped, progress.epoch + epochs, phase.epochs)
        return phase.schedule(where)

    return phase.but(epochs=phase.epochs - epochs, schedule=schedule)
