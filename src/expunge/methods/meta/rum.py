"""Another method for each degree of memorisation."""

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from expunge.config import hyper
from expunge.engine.context import Context
from expunge.engine.measure import logits_of
from expunge.engine.method import Method, Steps
from expunge.methods.meta.parts import Part, check_parts, steps_of


class Rum(Method):
    """Split the forget set into thirds by how much the original has memorised them, and run another method for each third.

    The proxy of memorisation is the original's loss on the example: what it answers with confidence it would mostly answer without having
    seen it. The least memorised third comes first; each part has the whole retain set.

    Source: Zhao et al., What Makes Unlearning Hard and What to Do About It, NeurIPS 2024, arXiv 2406.01257 (RUM): nothing for the low
    third, fine-tuning for the middle one, SalUn for the high one.
    """

    aliases = ("RUM",)
    source = "Zhao et al., What Makes Unlearning Hard and What to Do About It, NeurIPS 2024, arXiv 2406.01257"
    deviations = (
        "memorisation is the original's loss instead of an estimate from many models that were trained without the example",
        "thirds of the forget set at hand; the paper draws its forget sets from three strata of 1000",
    )
    needs = {"forget", "retain"}

    parts: tuple[Part, ...] = hyper(
        ("original", "finetune", "salun"),
        "the method of each part, from the least memorised to the most; as many parts as names",
        min_length=1,
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_parts(self.parts)
        return self

    def steps(self, ctx: Context) -> Steps:
        """Yield the steps of every method on its part; a part without examples is reported and left out."""
        forget = ctx.stream("forget")
        order = forget.index[memorisation(ctx).argsort(stable=True)]
        for method, index in zip(self.parts, torch.tensor_split(order, len(self.parts)), strict=True):
            if not len(index):
                ctx.report({"event": "warning", "message": f"the forget set is too small for {len(self.parts)} parts; one is empty."})
                continue
            with ctx.narrowed(forget=forget.subset(index)):
                yield from steps_of(method, ctx)


def memorisation(ctx: Context) -> Tensor:
    """Return the proxy for each example of the forget set, float64 ``[n]``: the loss of the present model in eval mode."""
    logits, labels = logits_of(ctx, "forget")
    return F.cross_entropy(logits.double(), labels, reduction="none")
