"""RNI: reset the head, then add noise to random tensors and train them, epoch by epoch."""

import torch

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import add_noise, reinitialise
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import leaves
from expunge.methods.reset_and_repair.repair import layer_parameters, repair


class Rni(Method):
    """Draws the head anew, then trains in each epoch only a few random tensors and all norm layers, some of them after a little noise.

    A round picks tensors at random. From the second round on, most of the picked tensors get normal noise first, unless an earlier
    round has picked them. The last epochs train everything without noise, each at its own learning rate.

    Source: eighth place (Jiaxi Sun) of the NeurIPS 2023 unlearning challenge, as described in Cadet et al., Deep Unlearn, arXiv
    2410.01276: 9 epochs, 9 tensors, noise of 0.04 on 70 % of them, lr 2e-4, last epochs at 2e-4, 2e-4, 2e-4 and 0.001, batches of 64.
    """

    aliases = ("RNI", "jiaxi_sun")
    source = "Jiaxi Sun, NeurIPS 2023 unlearning challenge; arXiv 2410.01276 (RNI)"
    deviations = ("norm layers are found by type; the code goes by bn in their name, and misses those of shortcuts",)
    needs = {"retain"}

    tensors: PositiveInt = hyper(9, "tensors that are picked in an epoch", low=3, high=30)
    noisy: Fraction = hyper(0.7, "share of the picked tensors that gets noise", low=0.0, high=1.0)
    deviation: PositiveFloat = hyper(0.04, "standard deviation of the noise", low=1e-3, high=0.5, log=True)
    lr: PositiveFloat = hyper(2e-4, "learning rate while a few tensors move", low=1e-5, high=1e-2, log=True)
    final_lrs: tuple[PositiveFloat, ...] = hyper((2e-4, 2e-4, 2e-4, 1e-3), "learning rate of each of the last epochs, in which all moves")
    epochs: PositiveInt = hyper(9, "passes over the retain set, the last ones included", low=5, high=20)
    batch_size: PositiveInt = hyper(64, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield the reset of the head, the rounds, and the last epochs."""
        norms = frozenset(layer_parameters(ctx, *ctx.architecture.norms))
        pool = [name for name in leaves(ctx.model) if name not in norms and name not in ctx.fixed]
        picked_before: set[str] = set()
        yield reinitialise([name for name in ctx.architecture.class_rows(0) if name not in ctx.fixed], "rni")
        rounds = max(0, self.epochs - len(self.final_lrs))
        for number in range(rounds):
            picked = self.pick(ctx, pool, number)
            noisy = [name for name in picked[: int(self.noisy * len(picked))] if name not in picked_before]
            if number and noisy:
                yield add_noise({name: torch.full_like(leaves(ctx.model)[name], self.deviation).detach() for name in noisy}, "rni", number)
            picked_before |= set(picked)
            yield repair(lr=self.lr, epochs=1, batch_size=self.batch_size, trainable=norms | set(picked), name=f"round {number + 1}")
        for lr in self.final_lrs[-(self.epochs - rounds) :]:
            yield repair(lr=lr, epochs=1, batch_size=self.batch_size, name="train everything")

    def pick(self, ctx: Context, pool: list[str], number: int) -> list[str]:
        """Return random names from the pool, in random order, those that get noise first."""
        made = ctx.generator("rni pick", number)
        order = torch.randperm(len(pool), generator=made, device=ctx.device).tolist()
        return [pool[place] for place in order[: self.tensors]]
