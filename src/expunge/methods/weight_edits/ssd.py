"""Selective synaptic dampening."""

from typing import Literal

import torch

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.derivatives import fisher_diagonal
from expunge.engine.edits import scale
from expunge.engine.method import Method, Steps
from expunge.methods.weight_edits.dampening import factors, over_all, over_batch_means, together


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
        forget, retain = ctx.stream("forget"), ctx.stream("retain")
        if self.fidelity == "reference":
            important = over_batch_means(ctx, forget, self.batch_size, torch.square)
            usual = over_batch_means(ctx, together(forget, retain), self.batch_size, torch.square)
        else:
            important, kept = fisher_diagonal(ctx, forget), fisher_diagonal(ctx, retain)
            usual = over_all(important, kept, len(forget), len(retain))
        yield scale(factors(important, usual, self.alpha, self.dampening))
