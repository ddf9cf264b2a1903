"""Selective synaptic dampening."""

from typing import Literal

import torch

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.derivatives import fisher_diagonal
from expunge.engine.edits import scale
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector
from expunge.engine.stream import Stream
from expunge.methods.weight_edits.dampening import factors, forgotten_and_all, over_batch_means


class Ssd(Method):
    """Shrinks the weights that matter much more to the forgotten data than to all data.

    Importance is the diagonal of the empirical Fisher information, ``I = E (d loss / d theta)^2`` with true labels in eval mode, over the
    forgotten data and over forgotten and retained data together (D). Where ``I_f > alpha I_D``, the weight is multiplied by
    ``min(lambda I_D / I_f, 1)``.

    Source: Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, AAAI 2024, arXiv 2308.07707,
    equations 6 and 7.
    """

    aliases = ("SSD", "selective_synaptic_dampening")
    source = "arXiv 2308.07707, equations 6 and 7"
    deviations = ("Importances square gradients of single examples; the code squares gradients of batch means (fidelity=reference).",)
    needs = {"forget", "retain"}

    alpha: PositiveFloat = hyper(10.0, "how many times more important to the forgotten data a weight must be", low=0.1, high=100, log=True)
    dampening: PositiveFloat = hyper(1.0, "lambda; smaller shrinks more", low=0.1, high=5, log=True)
    fidelity: Literal["paper", "reference"] = hyper("paper", "importance per example, or of batch means as in the code")
    batch_size: PositiveInt = hyper(64, "examples a batch for fidelity=reference, where it changes the result")

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit."""

        def importance(stream: Stream) -> Vector:
            if self.fidelity == "reference":
                return over_batch_means(ctx, stream, self.batch_size, torch.square)
            return fisher_diagonal(ctx, stream)

        important, usual = forgotten_and_all(ctx, importance, additive=self.fidelity == "paper")
        yield scale(factors(important, usual, self.alpha, self.dampening))
