"""Scissorhands: draw the most sensitive weights anew, and repair without undoing it."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from expunge.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.combine import Combiner, Gradients, moving_names, total, under_mask
from expunge.engine.context import Context
from expunge.engine.derivatives import gradient
from expunge.engine.edits import reinitialise_where
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import dot
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd
from expunge.methods.reset_and_repair.sensitive_weights import most_sensitive


class Scissorhands(Method):
    """Draw the weights anew that the forget set depends on most; then minimise ``CE(retain) - weight CE(forget)`` by projected gradients.

    The weights are those of the greatest ``|w dL/dw|`` on the forget set. In the repair a step whose gradient ``g`` has a negative product
    with the ascent's gradient ``m = -dCE(forget)/dw`` at the beginning of the epoch is projected, ``g - (g.m / |m|^2) m``, so that to first
    order no step takes the forgetting back.

    Source: Wu and Harandi, Scissorhands, ECCV 2024, arXiv 2401.06187; the released settings for 10 % of CIFAR-10: 3 % of the weights,
    weight 0.05, SGD 0.9 / 5e-4, lr 5e-3, 10 epochs.
    """

    aliases = ("SHs", "Scissorhands")
    source = "Wu and Harandi, Scissorhands: Scrub Data Influence via Connection Sensitivity in Networks, ECCV 2024, arXiv 2401.06187"
    deviations = (
        "sensitivity and the ascent's gradient are taken over the whole forget set; the code takes one batch of it",
        "weights are drawn anew in all layers but norms, and the projection takes what is needed; the code resets and projects in the last "
        "stages only, and adds at least half of m where it projects (fidelity=reference, later half of the blocks)",
        "every step is projected; the code leaves out steps for which no forget batch is left (fidelity=reference)",
        "forget batches are spread over the pass over the retain set; in the code they come first",
    )
    needs = {"forget", "retain"}

    reset: Fraction = hyper(0.03, "share of the weights that is drawn anew", low=0.005, high=0.2)
    weight: NonNegativeFloat = hyper(0.05, "weight of the ascent in the repair", low=0.01, high=0.5)
    lr: PositiveFloat = hyper(5e-3, "learning rate of the repair", low=1e-3, high=5e-2, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set", low=2, high=20)
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")
    fidelity: Literal["paper", "reference"] = hyper("paper", "reference: reset and project as the released code does")

    def steps(self, ctx: Context) -> Steps:
        """Yield the reset and the repair."""
        reference = self.fidelity == "reference"
        yield reinitialise_where(most_sensitive(ctx, self.reset, "later_half" if reference else "everywhere"), "scissorhands")
        yield Phase(
            [
                Term("retain", cross_entropy),
                Term("forget", cross_entropy, weight=-self.weight, every="pass"),
            ],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="retain",
            norm="train",
            combine=keep_forgetting(ctx, ctx.stream("retain").steps(self.batch_size), 0.5 if reference else 0.0, always=not reference),
            name="repair without remembering",
        )


def keep_forgetting(context: Context, steps: int, margin: float = 0.0, always: bool = True) -> Combiner:
    """Return the combiner that adds the groups and projects the sum off what would lower the forget loss.

    Args:
        context: whose forget set; its mean gradient in eval mode is taken anew every ``steps`` steps.
        steps: in an epoch.
        margin: least factor with which the ascent's gradient is added where the sum is projected.
        always: whether steps without a forget batch are projected too.
    """

    def combine(gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
        joined = total(gradients)
        names = moving_names(context, joined, "scissorhands")
        done = state.get("steps", torch.zeros((), dtype=torch.int64))
        if int(done) % steps == 0:
            found = gradient(context, "forget", reduction="mean")
            state.update({f"ascent/{name}": -under_mask(context, name, found[name]) for name in names})
        state["steps"] = done + 1
        if "forget" not in gradients and not always:
            return joined
        ascent = [state[f"ascent/{name}"] for name in names]
        product, square = dot(joined, ascent), dot(ascent, ascent)
        if not bool(product < 0):
            return joined
        factor = (-product / square).clamp_min(margin)
        return [(own + factor * m).to(own.dtype) for own, m in zip(joined, ascent, strict=True)]

    return combine
