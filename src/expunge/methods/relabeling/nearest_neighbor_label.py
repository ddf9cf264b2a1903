"""Label the forget set by its neighbours among the retained data."""

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.config import NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Term, cross_entropy
from expunge.engine.update import cosine, sgd


class NearestNeighborLabel(Method):
    """Train forget examples on what a kernel regression over the retain batch says about them, then fine-tune on the retain set.

    The weights are ``softmax(-|z(x) - z(x_r)|)`` over the retain examples of the step, with the original's logits z and Euclidean
    distances; the soft label is the weighted mean of their labels. A forgotten class gets no weight: the retained data do not have it. A
    random subset keeps nearly its true labels, for its neighbours have them, and hardly changes.

    Source: the second unlearning repository (source 003, NN-unlearning): 20 passes over the forget set; fine-tuning with SGD 0.001, 0.9 /
    5e-4, 5 epochs along a cosine. The learning rate of the first part is ours.
    """

    aliases = ("nn_unlearning", "NN-unlearning", "NN", "nearest-neighbor-label")
    source = "source 003: unl_algorithms, NN-unlearning"
    deviations = (
        "forget and retain batches pass through the net one after the other, not as one batch, which BatchNorm tells apart",
        "an exhausted retain pass begins again; the code goes on with forget data by mistake",
    )
    needs = {"forget", "retain"}

    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(20, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step; more of them give nearer neighbours")
    repair_epochs: NonNegativeInt = hyper(5, "passes over the retain set afterwards")
    repair_lr: PositiveFloat = hyper(1e-3, "learning rate afterwards", low=1e-4, high=1e-1, log=True)

    def steps(self, ctx: Context) -> Steps:
        """Yield the relabelled training and the fine-tuning."""
        yield Phase(
            [Term("forget", neighbor_loss, uses=("retain",)), Term("retain", cross_entropy)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            norm="train",
            name="train on neighbours' labels",
        )
        if self.repair_epochs:
            yield Phase(
                [Term("retain", cross_entropy)],
                epochs=self.repair_epochs,
                optimizer=sgd(self.repair_lr),
                schedule=cosine(),
                batch_size=self.batch_size,
                name="fine-tune",
            )


def neighbor_labels(logits: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """Return the kernel regression's soft labels ``[B, C]``.

    Args:
        logits: of the examples to be labelled, ``[B, C]``.
        known: of the labelled examples, ``[R, C]``.
        labels: theirs, int64 ``[R]``.
    """
    weight = torch.softmax(-torch.cdist(logits, known), dim=1)
    return weight @ F.one_hot(labels, logits.shape[1]).to(weight.dtype)


def neighbor_loss(context: Context, batch: Batch, student: Forward) -> Tensor:
    """Return the cross entropy with the soft labels that the step's retain batch gives, ``[B]``."""
    retain = student.other("retain").batch
    wanted = neighbor_labels(context.logits_of("original", batch.x), context.logits_of("original", retain.x), retain.y)
    return F.cross_entropy(student.logits, wanted, reduction="none")
