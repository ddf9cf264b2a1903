"""What a stop rule, a selection rule or a target may ask: means over whole splits, never over the current batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.parameters import modes_kept
from expunge.engine.stream import Stream, scoring_size


@torch.no_grad()
def logits_of(context: Context, stream: str | Stream, size: int = 0) -> tuple[Tensor, Tensor]:
    """Return the model's logits ``[n, C]`` and the labels ``[n]`` over a whole stream, in eval mode, on the CPU."""
    logits, labels = [], []
    with modes_kept(context.model):
        context.model.eval()
        for batch in context.stream(stream).batches(scoring_size(context.device, size)):
            logits.append(context.model(batch.x).float().cpu())
            labels.append(batch.y.cpu())
    return torch.cat(logits), torch.cat(labels)


def mean_loss(context: Context, stream: str | Stream) -> float:
    """Return the mean cross entropy over a whole stream, in eval mode, natural logarithm."""
    logits, labels = logits_of(context, stream)
    return float(F.cross_entropy(logits.double(), labels))


def accuracy(context: Context, stream: str | Stream) -> float:
    """Return the share of correct predictions over a whole stream, in eval mode, 0 to 1."""
    logits, labels = logits_of(context, stream)
    return float((logits.argmax(1) == labels).double().mean())
