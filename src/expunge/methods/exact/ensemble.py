"""Many classifiers that answer as one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MeanOfProbabilities(nn.Module):
    """Averages the probabilities of its constituents; the logarithm of the average is returned as logits ``[B, C]``.

    Args:
        constituents: classifiers from x to logits ``[B, C]``, at least one.
    """

    def __init__(self, constituents: Sequence[nn.Module]):
        super().__init__()
        if not constituents:
            raise ValueError("an ensemble needs at least one constituent")
        self.constituents = nn.ModuleList(constituents)

    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities, natural logarithm."""
        log_p = torch.stack([torch.log_softmax(part(x).float(), dim=1) for part in self.constituents])
        return log_p.logsumexp(0) - math.log(len(self.constituents))
