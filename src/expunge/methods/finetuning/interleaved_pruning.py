"""Fine-tuning between rounds of pruning."""

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


class InterleavedPruning(Method):
    """Prune some of the remaining weights before every second epoch of fine-tuning on the retain set, and keep them zero to the end.

    Of E epochs the 1st, 3rd, 5th and so on begin with a pruning: ``(E - 1) // 2 + 1`` of them, each of the same share of what remains, so
    that the last one reaches the sparsity. Prunable is what the add-on `prune` prunes, ranked by magnitude over all layers.

    Source: code of Jia et al., arXiv 2304.04934 (``FT_prune_bi``): rate ``1 - (1 - s)^(1 / ((E - 1) // 2 + 1))``; s = 0.95 is the default
    of its argument parser.
    """

    aliases = ("FT_prune_bi",)
    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, released code"
    deviations = (
        "each pruning starts the momentum anew; in the code it goes on",
        "linear layers other than the head are pruned too, the code prunes convolutions alone",
    )
    needs = {"retain"}

    sparsity: Fraction = hyper(0.95, "share of the prunable weights that is zero in the end", low=0.2, high=0.98, lt=1)
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield a pruning and a phase of two epochs, in turn; the last phase has one epoch if their number is odd."""
        rounds = (self.epochs - 1) // 2 + 1
        mask: Mask | None = None
        for number in range(1, rounds + 1):
            share = 1 - (1 - self.sparsity) ** (number / rounds)
            mask = kept_after(importance(ctx, "magnitude", share), share, before=mask)
            yield zero_where(mask)
            report_sparsity(ctx, mask, number)
            yield Phase(
                [Term("retain", cross_entropy)],
                epochs=min(2, self.epochs - 2 * (number - 1)),
                optimizer=sgd(self.lr),
                batch_size=self.batch_size,
                mask=mask,
                name=f"fine-tune after pruning {number}",
            )
