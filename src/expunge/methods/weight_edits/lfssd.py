"""Selective synaptic dampening without labels."""

from typing import Literal

import torch
from torch import Tensor

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.derivatives import per_example_gradients
from expunge.engine.edits import scale
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward
from expunge.methods.weight_edits.dampening import factors, forgotten_and_all, over_batch_means


class Lfssd(Method):
    """Shrinks the weights to which the outputs are much more sensitive on the forgotten data than on all data; labels are not used.

    Importance is ``I = E |d ||z||^2 / d theta|`` with logits ``z`` in eval mode, over the forgotten data and over forgotten and retained
    data together (D). Where ``I_f > alpha I_D``, the weight is multiplied by ``min(lambda I_D / I_f, 1)``.

    Source: Foster et al., Loss-Free Machine Unlearning, ICLR 2024 tiny papers, arXiv 2402.19308, with SSD's alpha and lambda. On small nets
    that alpha selects nothing; 3 for classes is ours, chosen on small_cnn and 2,800 pictures of the bundled Fashion-MNIST by forget, retain
    and validation data: the forget accuracy of two classes becomes 0 and 18 %, and nothing else changes; 4 and 5 already do nothing for one
    of them. No alpha from 1.2 up changes anything for a random tenth, whose importances are those of all data.
    """

    aliases = ("LFSSD", "LF-SSD")
    source = "Foster et al., Loss-Free Machine Unlearning, ICLR 2024 tiny papers, arXiv 2402.19308"
    deviations = ("Importances are of single examples; the code takes gradients of batch means (fidelity=reference).",)
    needs = {"forget", "retain"}
    scenario_defaults = {"class": {"alpha": 3.0}}

    alpha: PositiveFloat = hyper(10.0, "how many times more important to the forgotten data a weight must be", low=0.1, high=100, log=True)
    dampening: PositiveFloat = hyper(1.0, "lambda; smaller shrinks more", low=0.1, high=5, log=True)
    fidelity: Literal["paper", "reference"] = hyper("paper", "importance per example, or of batch means as in the code")
    batch_size: PositiveInt = hyper(64, "examples a batch for fidelity=reference, where it changes the result")

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit."""

        def importance(stream: Stream) -> Vector:
            if self.fidelity == "reference":
                return over_batch_means(ctx, stream, self.batch_size, torch.abs, squared_length)
            return sensitivity(ctx, stream)

        important, usual = forgotten_and_all(ctx, importance, additive=self.fidelity == "paper")
        yield scale(factors(important, usual, self.alpha, self.dampening))


def squared_length(context: Context, batch: Batch, student: Forward) -> Tensor:
    """Return the squared length of the logits, ``[B]``."""
    return student.logits.square().sum(dim=1)


def sensitivity(ctx: Context, stream: Stream, size: int = 32) -> Vector:
    """Return ``E |d ||z||^2 / d theta|`` over a stream in eval mode, by base name; absolute values are taken per example."""
    total: Vector = {}
    for batch in stream.batches(size):
        for name, value in per_example_gradients(ctx, batch, lambda logits, y: logits.square().sum()).items():
            total[name] = total.get(name, 0) + value.abs().sum(0)
    return {name: value / len(stream) for name, value in total.items()}
