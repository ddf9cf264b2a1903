"""Prune first, then unlearn."""

from typing import Literal

import torch

from expunge.addons.masking import under
from expunge.addons.matrices import is_patch_embedding, weights
from expunge.config import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import zero_where
from expunge.engine.method import Addon, Steps
from expunge.engine.parameters import Vector, leaves
from expunge.engine.phase import Phase
from expunge.engine.select import Mask, density, invert, select
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import cosine, sgd


class Prune(Addon):
    """Sets the smallest weights to zero before a method starts, repairs the model on the retained data, and keeps them zero.

    Prunable are the weights of convolutions and linear layers, attention projections included; not the head, patch and table embeddings,
    biases or norm layers. Sparsity counts prunable weights only. Pruned weights stay zero in every later phase and edit; retraining
    under this add-on trains the same sparse model from new weights. Teachers and distances still refer to the dense original.

    Source: Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, prune first, then unlearn (one-shot
    magnitude pruning); channels: PruneLoRA, arXiv 2411.11907.
    """

    aliases = ("omp", "prune_first")
    source = "arXiv 2304.04934; channels: arXiv 2411.11907"
    deviations = (
        "The model is repaired on retained data; the papers rewind and train again on all data before the request is known.",
        "Linear layers are pruned too: convolutions alone are next to nothing of a transformer.",
        "Channel pruning stays in force; the code drops the masks before it fine-tunes, and the weights grow back.",
    )
    needs = {"retain"}

    sparsity: Fraction = hyper(0.95, "share of the prunable weights (or channels) that is set to zero", low=0.2, high=0.98, lt=1)
    structure: Literal["unstructured", "channels"] = hyper("unstructured", "single weights by size, or output channels by their L2 norm")
    scope: Literal["global", "tensor"] = hyper("global", "rank over all prunable weights, or within each layer; channels: each layer")
    repair_epochs: NonNegativeInt = hyper(10, "epochs on the retained data after pruning", low=0, high=30)
    lr: PositiveFloat = hyper(0.01, "learning rate of the repair, falling along a cosine", low=1e-3, high=1e-1, log=True)
    batch_size: PositiveInt = hyper(256, "examples a batch of the repair")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the pruning, the repair, and the method's steps under the mask."""
        mask = self.mask(ctx)
        yield zero_where(mask)
        ctx.report({"event": "pruned", "sparsity": 1 - density(mask), "layers": {name: 1 - density({name: mask[name]}) for name in mask}})
        if self.repair_epochs:
            yield Phase(
                [Term("retain", cross_entropy)],
                epochs=self.repair_epochs,
                optimizer=sgd(self.lr),
                schedule=cosine(),
                batch_size=self.batch_size,
                mask=mask,
                name="repair after pruning",
            )
        yield from under(mask, steps)

    def mask(self, ctx: Context) -> Mask:
        """Return zeros where weights are pruned, for the prunable weights only, by base name."""
        values = prunable(ctx)
        if self.structure == "unstructured":
            size = {name: value.abs() for name, value in values.items()}
            return invert(select(size, bottom=self.sparsity, per_tensor=self.scope == "tensor"))
        length = {name: value.flatten(1).norm(dim=1) for name, value in values.items()}
        kept = invert(select(length, bottom=self.sparsity, per_tensor=True))
        return {name: _per_channel(kept[name], value) for name, value in values.items()}


def prunable(ctx: Context) -> Vector:
    """Return the prunable weights by base name, detached."""
    parameters, head = leaves(ctx.model), ctx.architecture.head_name
    return {
        f"{name}.{attribute}": parameters[f"{name}.{attribute}"].detach()
        for name, module, attribute in weights(ctx.model)
        if name != head and not is_patch_embedding(module) and f"{name}.{attribute}" not in ctx.fixed
    }


def _per_channel(kept: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return kept.view(-1, *[1] * (like.dim() - 1)).expand_as(like).contiguous()
