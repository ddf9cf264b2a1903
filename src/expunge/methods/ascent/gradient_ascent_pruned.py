"""Climb the loss of the forget set and prune."""

from typing import Literal

from expunge.addons.importance import importance
from expunge.addons.prune import kept_after, report_sparsity
from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import zero_where
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.select import Mask
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd


class GradientAscentPruned(Method):
    """Raise the cross entropy on the forget set, and prune the smallest weights after every pass or at the end; nothing else is read.

    Each pruning takes the same share of what remains, so that the last one reaches the sparsity, and pruned weights stay zero. Nothing
    repairs the model: put the add-on `prune` on `gradient_ascent` to prune first, with a repair, and ascend then.

    Source: code of Jia et al., arXiv 2304.04934, and of Fan et al., arXiv 2310.12508 (``GA_prune_bi`` after every pass, ``GA_prune`` at the
    end of a cycle). Neither runs as released. The sparsity of 0.95 in its argument parser leaves no model; the default is ours and untuned.
    """

    presets = {"GA_prune_bi": {"prune": "epoch"}, "GA_prune": {"prune": "end"}}
    source = "code of arXiv 2304.04934 and arXiv 2310.12508"
    deviations = (
        "the sparsity is that of the end; the code prunes its rate in every epoch",
        "linear layers other than the head are pruned too, the code prunes convolutions alone",
        "GA_prune is one cycle, without rewinding: further cycles of the code start from the weights of an epoch of ascent",
        "BatchNorm is frozen, and the momentum starts anew behind each pruning",
    )
    needs = {"forget"}
    scenario_defaults = {"random": {"lr": 5e-4}}

    prune: Literal["epoch", "end"] = hyper("epoch", "prune after every pass, or after the last")
    sparsity: Fraction = hyper(0.2, "share of the prunable weights that is zero in the end", low=0.1, high=0.9, lt=1)
    lr: PositiveFloat = hyper(1e-4, "learning rate", low=1e-5, high=1e-1, log=True)
    epochs: PositiveInt = hyper(5, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield a phase and a pruning, in turn."""
        rounds = self.epochs if self.prune == "epoch" else 1
        mask: Mask | None = None
        for number in range(1, rounds + 1):
            yield Phase(
                [Term("forget", cross_entropy, weight=-1.0)],
                epochs=self.epochs // rounds,
                optimizer=sgd(self.lr),
                batch_size=self.batch_size,
                norm="frozen",
                mask=mask,
                name="ascend on the forget set",
            )
            share = 1 - (1 - self.sparsity) ** (number / rounds)
            mask = kept_after(importance(ctx, "magnitude", share), share, before=mask)
            yield zero_where(mask)
            report_sparsity(ctx, mask, number)
