"""COLA+: collapse and align with pseudo-labels on the forget set."""

import torch

from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.engine.stream import Stream, scoring_size
from expunge.methods.features.collapse_and_align import Collapsing
from expunge.methods.features.two_phases import pseudo_label
from expunge.methods.weight_edits.dampening import together


class ColaPlus(Collapsing):
    """Gather each class in the encoder, forgotten examples in their second-best class, then train the whole model on the retain set.

    Where single examples of a class are forgotten, the retained ones would hold them in place; as members of another class they are drawn
    out. The labels are the original's best wrong class for each forgotten example, or its best retained one where whole classes go.

    Source: Jeon et al., COLA+, AAAI 2026, arXiv 2405.17878, appendix. The published learning rates and lengths were not available; those
    here are those of `cola`.
    """

    aliases = ("COLA+",)
    source = "Jeon et al., An Information Theoretic Evaluation Metric for Strong Unlearning, AAAI 2026, arXiv 2405.17878"
    deviations = (
        "the contrast is between the features of one view of each picture, without a projection",
        "both sets are shuffled together in the collapse; pseudo-labels are those of whole pictures, and fixed",
        "temperature, learning rates and lengths are ours",
    )
    needs = {"forget", "retain"}

    def steps(self, ctx: Context) -> Steps:
        """Yield the collapse of the encoder and the alignment of the whole model."""
        yield from self.phases(ctx, with_pseudo_labels(ctx))


def with_pseudo_labels(ctx: Context) -> Stream:
    """Return forgotten and retained examples as one stream, the forgotten with the class that the original finds best after their own."""
    forget, retain = ctx.stream("forget"), ctx.stream("retain")
    second = torch.cat([pseudo_label(ctx, batch).cpu() for batch in forget.batches(scoring_size(ctx.device))])
    return together(forget, retain).relabelled(torch.cat([second, retain.labels]))
