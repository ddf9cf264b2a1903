"""FCS: flatten the answers on the forget set, then push them away from those on the retain set."""

import math
from typing import Literal

import torch
from torch import Tensor

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.targets import uniform
from expunge.engine.terms import Forward, Loss, Progress, Term, cross_entropy, match
from expunge.engine.update import Schedule, sgd


class Fcs(Method):
    """Draws the forget set towards uniform answers once, then alternates rounds of contrast with retained data and rounds of repair.

    The contrast asks that the logits of a forgotten example be equally alike to those of all retained examples in the step,
    ``-mean_j log softmax_j(z_f . z_j / t)``, where the retained examples' logits are constants. Every optimiser is SGD 0.9.

    Source: first on the public and second on the private board (fanchuan) of the NeurIPS 2023 unlearning challenge, as described in Cadet
    et al., Deep Unlearn, arXiv 2410.01276: one pass at 0.005; 8 rounds at 3e-4, falling along a cosine to 1e-6, and, for repair, at 0.001
    for every 64 examples in a step with weight decay 0.01; temperature 1.15, batches of 256.
    """

    aliases = ("FCS", "fanchuan")
    source = "fanchuan, NeurIPS 2023 unlearning challenge; arXiv 2410.01276 (FCS)"
    deviations = (
        "BatchNorm is frozen in the first pass, over forget data alone; the code updates its statistics: fidelity=reference",
        "the momentum of both optimisers starts anew in every round",
    )
    needs = {"forget", "retain"}

    flatten_lr: PositiveFloat = hyper(0.005, "learning rate of the first pass", low=1e-4, high=1e-1, log=True)
    forget_lr: PositiveFloat = hyper(3e-4, "largest learning rate of the contrast", low=1e-5, high=1e-2, log=True)
    lr: PositiveFloat = hyper(0.001, "learning rate of the repair for each 64 examples in a step", low=1e-4, high=1e-1, log=True)
    temperature: PositiveFloat = hyper(1.15, "temperature of the contrast", low=0.1, high=10.0, log=True)
    epochs: PositiveInt = hyper(8, "rounds: a pass over the forget set, then one over the retain set", low=1, high=16)
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")
    fidelity: Literal["paper", "reference"] = hyper("paper", "reference: BatchNorm in train mode in the first pass")

    def steps(self, ctx: Context) -> Steps:
        """Yield the first pass, then the rounds."""
        yield Phase(
            [Term("forget", match(uniform, kl()))],
            optimizer=sgd(self.flatten_lr, weight_decay=0.0),
            batch_size=self.batch_size,
            norm="frozen" if self.fidelity == "paper" else "train",
            name="flatten",
        )
        for number in range(self.epochs):
            yield Phase(
                [Term("forget", contrast(self.temperature), uses=("retain",))],
                optimizer=sgd(self.forget_lr, weight_decay=0.0),
                schedule=cosine_over_rounds(number, self.epochs, 1e-6 / self.forget_lr),
                batch_size=self.batch_size,
                epoch_of="forget",
                name=f"contrast, round {number + 1}",
            )
            yield Phase(
                [Term("retain", cross_entropy)],
                optimizer=sgd(self.lr * self.batch_size / 64, weight_decay=1e-2),
                batch_size=self.batch_size,
                name=f"repair, round {number + 1}",
            )


def contrast(temperature: float) -> Loss:
    """Return the loss that is least when an example's logits are equally alike to those of all retained examples in the step."""

    def contrast_with_retain(context: Context, batch: Batch, student: Forward) -> Tensor:
        logits = student.logits  # before the other set's, in whose order BatchNorm averages
        with torch.no_grad():
            retain = student.other("retain").logits.detach()
        return -torch.log_softmax(logits @ retain.T / temperature, dim=1).mean(dim=1)

    return contrast_with_retain


def cosine_over_rounds(number: int, rounds: int, final: float) -> Schedule:
    """Return the part of half a cosine from 1 to ``final`` that falls into one of several equal phases, counted from 0."""

    def factor(progress: Progress) -> float:
        done = (number + min(1.0, progress.fraction)) / rounds
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return factor
