"""Selective synaptic dampening that finds its own threshold."""

import math

import numpy as np

from expunge.config import Fraction, PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.derivatives import fisher_diagonal
from expunge.engine.edits import scale
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector, flat
from expunge.methods.weight_edits.dampening import factors


class Assd(Method):
    """SSD whose threshold is a percentile that follows from the size of the request: about ``log(1 + 100 |F| / |D|)`` % of the weights.

    Importance is SSD's, over the forgotten and over the retained data. ``alpha`` is the percentile ``100 - log(1 + 100 |F| / |D|)`` of
    ``I_f / I_r`` over all weights; the weights above it are multiplied by ``min(lambda I_r / I_f, 1)``.

    Source: Schoepf et al., Parameter-tuning-free Data Entry Error Unlearning with Adaptive Selective Synaptic Dampening, arXiv
    2402.10098; lambda 0.1 is its code's. The floor of the factor is an option of the code that the paper does not use.
    """

    aliases = ("ASSD",)
    source = "Schoepf et al., Adaptive Selective Synaptic Dampening, arXiv 2402.10098"
    deviations = (
        "Importances square gradients of single examples; the code squares gradients of batch means.",
        "Retained data stand for all data in the importances, as in the code; which weights are chosen does not depend on it.",
    )
    needs = {"forget", "retain"}

    dampening: PositiveFloat = hyper(0.1, "lambda; smaller shrinks more", low=0.01, high=1, log=True)
    floor: Fraction = hyper(0.0, "smallest factor of a weight", low=0.0, high=0.5)

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit."""
        forget, retain = ctx.stream("forget"), ctx.stream("retain")
        important, kept = fisher_diagonal(ctx, forget), fisher_diagonal(ctx, retain)
        share = len(forget) / (len(forget) + len(retain))
        alpha = adaptive_threshold(important, kept, share)
        ctx.report({"event": "threshold", "alpha": alpha})
        yield scale(factors(important, kept, alpha, self.dampening, self.floor))


def adaptive_threshold(forget: Vector, retain: Vector, share: float) -> float:
    """Return the percentile ``100 - log(1 + 100 share)`` of the finite ratios of importances, infinite if there is none."""
    ratio = (flat(forget) / flat(retain)).double().cpu().numpy()
    ratio = ratio[np.isfinite(ratio)]
    return float(np.percentile(ratio, 100 - math.log1p(100 * share))) if len(ratio) else math.inf
