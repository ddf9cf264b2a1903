"""CT: turn the kernels over, repair on the retained data."""

from torch import nn

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import assign
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector, leaves, shared_names
from expunge.errors import NotApplicable
from expunge.methods.reset_and_repair.repair import cosine_by_epoch, repair


class Ct(Method):
    """Transposes the kernel of every convolution, swapping height and width, and fine-tunes on the retained data.

    The transposition alone removes nothing: a net of square kernels and a head that sees no positions then says of a picture what it
    said of the transposed picture. Kernels of 1 x 1 do not change, nor do the attention and the MLPs of a transformer, of which only the
    patch embedding turns over.

    Source: fifth team (toshi_k and marvelworld) of the NeurIPS 2023 unlearning challenge, as described in Cadet et al., Deep Unlearn,
    arXiv 2410.01276: 3 epochs, SGD, lr 0.001 along a cosine over epochs, batches of 64.
    """

    aliases = ("CT", "convolution_transpose", "toshi_k")
    source = "toshi_k and marvelworld, NeurIPS 2023 unlearning challenge; arXiv 2410.01276 (CT)"
    deviations = (
        "kernels that are not square stay as they are; the code swaps their sides, and with them the size of the output",
        "the challenge entry drew at random between this and fine-tuning on pseudo labels",
    )
    needs = {"retain"}

    lr: PositiveFloat = hyper(0.001, "largest learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(3, "passes over the retain set", low=1, high=10)
    batch_size: PositiveInt = hyper(64, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield the transposition and the repair.

        Raises:
            NotApplicable: no kernel would change.
        """
        values = transposed(ctx)
        if not values:
            raise NotApplicable(
                "method=ct", "the model has no convolution with a square kernel larger than 1 x 1, so nothing would turn over."
            )
        yield assign(values)
        yield repair(lr=self.lr, epochs=self.epochs, batch_size=self.batch_size, schedule=cosine_by_epoch(self.epochs))


def transposed(ctx: Context) -> Vector:
    """Return the kernels of the 2-d convolutions with height and width swapped, by base name; those that would not change left out."""
    parameters, shared, values = leaves(ctx.model), shared_names(ctx.model), {}
    for layer, module in ctx.architecture.convs.items():
        name = shared[f"{layer}.weight"]
        height, width = parameters[name].shape[-2:]
        if isinstance(module, nn.Conv2d) and height == width > 1 and name not in ctx.fixed:
            values[name] = parameters[name].detach().transpose(2, 3).clone()
    return values
