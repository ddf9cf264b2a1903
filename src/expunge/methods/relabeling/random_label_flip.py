"""Shuffle the labels of the forget set, then learn the rest again."""

import torch.nn.functional as F
from torch import Tensor

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Term, smoothed_cross_entropy
from expunge.engine.update import cosine, sgd


class RandomLabelFlip(Method):
    """Train on forget batches whose labels are permuted among themselves, and then on the retain set, with smoothed labels.

    A permutation keeps how frequent the classes are, and about one label in C stays true. It depends on seed, epoch, phase and the batch,
    and so on the batch size.

    Source: the second unlearning repository (source 003, RLF): the forget set first and then the retain set, label smoothing 0.1; SGD 0.9 /
    5e-4 along a cosine and 5 epochs are those of its fine-tuning.
    """

    aliases = ("RLF", "rlf")
    source = "source 003: unl_algorithms, RLF"
    needs = {"forget", "retain"}
    scenarios = {"random"}
    scenario_reason = "all examples of the forget set have one class, and permuting equal labels changes nothing; random_label fits."

    smoothing: PositiveFloat = hyper(0.1, "label smoothing on both sets", lt=1)
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(5, "passes over the forget set, each followed by one over the retain set")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on both sets."""
        yield Phase(
            [Term("forget", permuted_cross_entropy(self.smoothing)), Term("retain", smoothed_cross_entropy(self.smoothing))],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            schedule=cosine(),
            batch_size=self.batch_size,
            order="sequential",
            name="train on permuted labels",
        )


def permuted_labels(context: Context, batch: Batch) -> Tensor:
    """Return the batch's labels in a random order, ``[B]``: the same labels, each with another example."""
    keys = randomness.bits(context.seed, f"permuted labels/{context.phase}", batch.epoch, batch.index)
    return batch.y[keys.argsort()]


def permuted_cross_entropy(smoothing: float) -> Loss:
    """Return the smoothed cross entropy with permuted labels."""

    def permuted_label_loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        return F.cross_entropy(student.logits, permuted_labels(context, batch), reduction="none", label_smoothing=smoothing)

    return permuted_label_loss
