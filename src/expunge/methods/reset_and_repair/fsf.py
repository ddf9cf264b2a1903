"""FSF: cycles of layer resets and imitation of the original's logits."""

import torch

from expunge.config import NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.method import Method, Steps
from expunge.engine.terms import Term
from expunge.engine.update import cosine
from expunge.methods.distillation.noisy_inputs import match_original_on_noisy_inputs
from expunge.methods.reset_and_repair.repair import layer_parameters, repair

_SHORTCUTS = {"downsample", "shortcut", "skip"}


class Fsf(Method):
    """Repeats: draw a few random layers anew, then imitate the original's logits on noisy retained pictures.

    Layers are convolutions and linear layers with their biases; the head and the projections of shortcuts are left out. The authors found
    that whole layers work much better than single weights, that layers chosen by Fisher information work worse than random ones, that
    repetition helps, and that logits teach better than labels.

    Source: ninth place (Forget) of the NeurIPS 2023 unlearning challenge, from its write-up: cycles of 1, 2 and 2 epochs (or 2, 1, 1 and
    1), six layers, noise of 0.1, lr 0.001 along a cosine.
    """

    aliases = ("FSF", "forget_team")
    source = "Forget, ninth place of the NeurIPS 2023 unlearning challenge (write-up)"
    deviations = (
        "what the write-up leaves open is ours: the original sees the same noisy pictures, and the cosine falls to 0 within each cycle",
        "shortcut projections are found by downsample, shortcut or skip in their name",
    )
    needs = {"retain"}

    cycles: tuple[PositiveInt, ...] = hyper((1, 2, 2), "passes over the retain set in each cycle")
    layers: PositiveInt = hyper(6, "layers that are drawn anew in each cycle", low=1, high=12)
    noise: NonNegativeFloat = hyper(0.1, "standard deviation of the noise on the pictures, in units of the [0, 1] pixel range")
    lr: PositiveFloat = hyper(0.001, "largest learning rate", low=1e-4, high=1e-1, log=True)
    batch_size: PositiveInt = hyper(64, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield a reset and a repair for each cycle."""
        for number, epochs in enumerate(self.cycles):
            yield reinitialise(layer_parameters(ctx, *random_layers(ctx, self.layers, number)), "fsf", number)
            yield repair(
                lr=self.lr,
                epochs=epochs,
                batch_size=self.batch_size,
                terms=[Term("retain", match_original_on_noisy_inputs(self.noise))],
                schedule=cosine(),
                name=f"imitate the original, cycle {number + 1}",
            )


def random_layers(ctx: Context, count: int, number: int) -> list[str]:
    """Return the names of random convolutions and linear layers, or of all if there are fewer; head and shortcuts left out."""
    names = [*ctx.architecture.convs, *ctx.architecture.linears]
    pool = [name for name in names if name != ctx.architecture.head_name and not _SHORTCUTS & set(name.split("."))]
    order = torch.randperm(len(pool), generator=ctx.generator("fsf layers", number), device=ctx.device).tolist()
    return [pool[place] for place in order[:count]]
