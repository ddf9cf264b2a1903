"""Prune first, then unlearn."""

from typing import Literal

import torch
from torch import Tensor

from expunge.addons.importance import Score, importance
from expunge.addons.masking import under
from expunge.config import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import Edit, zero_where
from expunge.engine.method import Addon, Steps
from expunge.engine.parameters import Vector
from expunge.engine.phase import Phase
from expunge.engine.select import Mask, density, invert, select
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import cosine, sgd


class Prune(Addon):
    """Sets the least important weights to zero before a method starts, repairs the model on the retained data, and keeps them zero.

    Prunable are the weights of convolutions and linear layers, attention projections included; not the head, patch and table embeddings,
    biases or norm layers. Sparsity counts prunable weights only. Pruned weights stay zero in every later phase and edit; retraining
    under this add-on trains the same sparse model from new weights. Teachers and distances still refer to the dense original.

    With several cycles the same share of what remains is pruned each time, so that after cycle i of k the sparsity is
    ``1 - (1 - sparsity)^(i / k)``, and every cycle is repaired: 14 cycles to 0.956 are the 20 % a time of iterative magnitude pruning.
    ``rewind=original`` puts the remaining weights back to the original's before each repair (``pt`` of the source). Rewinding to initial
    or early weights (``lt``, ``rewind_lt``) trains another original: that is the add-on `lottery_ticket`.

    Source: Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, prune first, then unlearn (one-shot
    magnitude pruning, OMP, and iterative, IMP); scores: Lee et al., SNIP, ICLR 2019, arXiv 1810.02340; Wang et al., GraSP, ICLR 2020, arXiv
    2002.07376; Tanaka et al., SynFlow, NeurIPS 2020, arXiv 2006.05467; channels: PruneLoRA, arXiv 2411.11907.
    """

    aliases = ("omp", "imp", "prune_first")
    source = "arXiv 2304.04934; arXiv 1810.02340; arXiv 2002.07376; arXiv 2006.05467; channels: arXiv 2411.11907"
    deviations = (
        "The model is repaired on retained data; the papers rewind and train again on all data before the request is known.",
        "SNIP, GraSP and SynFlow score the trained weights; their papers score initial ones.",
        "SNIP takes the gradient over all retained data, times the weight; the papers take one batch, the code leaves the weight out.",
        "SynFlow counts running statistics as 0 and 1, as at initialisation; the code takes their absolute values.",
        "Linear layers are pruned too: convolutions alone are next to nothing of a transformer.",
        "Channel pruning stays in force; the code drops the masks before it fine-tunes, and the weights grow back.",
    )
    needs = {"retain"}

    sparsity: Fraction = hyper(0.95, "share of the prunable weights (or channels) that is set to zero", low=0.2, high=0.98, lt=1)
    score: Score = hyper("magnitude", "what the least of is pruned; random is the control")
    structure: Literal["unstructured", "channels"] = hyper(
        "unstructured", "single weights, or output channels by the L2 norm of their scores"
    )
    scope: Literal["global", "tensor"] = hyper("global", "rank over all prunable weights, or within each layer; channels: each layer")
    cycles: PositiveInt = hyper(1, "how many times part of the remaining weights is pruned and the model repaired")
    rewind: Literal["none", "original"] = hyper("none", "original: remaining weights return to the original's before each repair")
    repair_epochs: NonNegativeInt = hyper(10, "epochs on the retained data after each pruning", low=0, high=30)
    lr: PositiveFloat = hyper(0.01, "learning rate of the repair, falling along a cosine", low=1e-3, high=1e-1, log=True)
    batch_size: PositiveInt = hyper(256, "examples a batch of the repair")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield pruning and repair, as many times as there are cycles, and the method's steps under the mask."""
        mask: Mask | None = None
        for cycle in range(1, self.cycles + 1):
            mask = self.mask(ctx, 1 - (1 - self.sparsity) ** (cycle / self.cycles), mask)
            if self.rewind == "original" and cycle > 1:
                yield Edit("rewind to the original", lambda context: context.original.restore(context.model))
            yield zero_where(mask)
            report_sparsity(ctx, mask, cycle)
            if self.repair_epochs:
                yield self.repair(mask)
        assert mask is not None
        yield from under(mask, steps)

    def mask(self, ctx: Context, sparsity: float | None = None, before: Mask | None = None) -> Mask:
        """Return zeros where weights are pruned, for the prunable weights only, by base name.

        Args:
            ctx: whose model is scored as it is now.
            sparsity: share of the prunable weights (or channels) that is zero; the field's if None.
            before: what was pruned earlier and stays so.
        """
        share = self.sparsity if sparsity is None else sparsity
        score = importance(ctx, self.score, share, before)
        if self.structure == "channels":
            kept = kept_after({name: channel_score(value) for name, value in score.items()}, share, per_tensor=True, before=before)
            return {name: _per_channel(kept[name], value) for name, value in score.items()}
        return kept_after(score, share, per_tensor=self.scope == "tensor", before=before)

    def repair(self, mask: Mask) -> Phase:
        """Return fine-tuning on the retained data under the mask."""
        return Phase(
            [Term("retain", cross_entropy)],
            epochs=self.repair_epochs,
            optimizer=sgd(self.lr),
            schedule=cosine(),
            batch_size=self.batch_size,
            mask=mask,
            name="repair after pruning",
        )


def report_sparsity(ctx: Context, mask: Mask, cycle: int) -> None:
    """Report the share of zeros over all prunable weights, and in each layer."""
    layers = {name: 1 - density({name: mask[name]}) for name in mask}
    ctx.report({"event": "pruned", "cycle": cycle, "sparsity": 1 - density(mask), "layers": layers})


def kept_after(score: Vector, share: float, *, per_tensor: bool = False, before: Mask | None = None) -> Mask:
    """Return zeros for the lowest scores; what was pruned before, wholly in a channel, counts as lowest of all."""
    if before is not None:
        gone = {name: (value if score[name].dim() > 1 else value.flatten(1).amax(1)) == 0 for name, value in before.items()}
        score = {name: value.masked_fill(gone[name], float("-inf")) for name, value in score.items()}
    return {name: value.float() for name, value in invert(select(score, bottom=share, per_tensor=per_tensor)).items()}


def channel_score(score: Tensor) -> Tensor:
    """Return the L2 norm of each output channel's scores, ``[out]``; of signed scores the sum."""
    rows = score.clamp_min(0).flatten(1) if bool(torch.isneginf(score).any()) else score.flatten(1)
    return rows.sum(dim=1) if bool((rows < 0).any()) else rows.norm(dim=1)


def _per_channel(kept: Tensor, like: Tensor) -> Tensor:
    return kept.view(-1, *[1] * (like.dim() - 1)).expand_as(like).contiguous()
