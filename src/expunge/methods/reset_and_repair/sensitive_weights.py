"""The weights that the forgotten data depend on most, which two methods draw anew."""

from typing import Literal

from expunge.engine.context import Context
from expunge.engine.derivatives import gradient
from expunge.engine.parameters import leaves
from expunge.engine.select import Mask, select
from expunge.methods.reset_and_repair.repair import layer_parameters

Where = Literal["everywhere", "later_half"]


def most_sensitive(ctx: Context, share: float, where: Where = "everywhere") -> Mask:
    """Return ones at the weights of the greatest connection sensitivity ``|w dL/dw|`` for the forget set, norm layers left out.

    Args:
        ctx: whose model and forget set; L is the summed cross entropy.
        share: of all weights that is marked before those are left out that ``where`` excludes.
        where: in all blocks of the model, or in the later half of them only.

    Source: Lee et al., SNIP, ICLR 2019, arXiv 1810.02340, equation 4.
    """
    weights = leaves(ctx.model)
    mask = select({name: (value * weights[name].detach()).abs() for name, value in gradient(ctx, "forget").items()}, top=share)
    blocks = ctx.architecture.blocks
    late = {name for block in blocks[len(blocks) // 2 :] for name in ctx.architecture.parameters_of(block)}
    apart = set(layer_parameters(ctx, *ctx.architecture.norms)) | (mask.keys() - late if where == "later_half" else set())
    return {name: value.new_zeros(value.shape) if name in apart else value for name, value in mask.items()}
