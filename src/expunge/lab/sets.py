"""A net that maps a training set to the weights of a small classifier."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from expunge.engine.parameters import Vector, leaves, unflat


class SetTransformer(nn.Module):
    """Labelled points ``[B, n, d + C]`` to one vector of weights each, ``[B, P]``; the order of the points does not matter.

    Attention among the points, without any code for their places, then attention of one learned question to all of them.

    Args:
        dimensions: d, numbers of a point.
        classes: C.
        outputs: P.
        width: of the inside.
        heads: of each attention.
        blocks: self-attention blocks.

    Source: Lee et al., Set Transformer, ICML 2019 (set attention blocks, pooling by attention).
    """

    def __init__(self, dimensions: int, classes: int, outputs: int, width: int = 64, heads: int = 4, blocks: int = 2):
        super().__init__()
        self.dimensions, self.classes = dimensions, classes
        self.embed = nn.Sequential(nn.Linear(dimensions + classes, width), nn.ReLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Attend(width, heads) for _ in range(blocks))
        self.question = nn.Parameter(torch.zeros(1, 1, width))
        self.pool = Attend(width, heads)
        last = nn.Linear(2 * width, outputs)
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), last)
        nn.init.normal_(self.question, std=width**-0.5)
        nn.init.zeros_(last.weight)  # every classifier then begins where `Hyper.start` is
        nn.init.zeros_(last.bias)

    def forward(self, points: Tensor) -> Tensor:
        """Return the weights."""
        held = self.embed(points)
        for block in self.blocks:
            held = block(held, held)
        return self.head(self.pool(self.question.expand(len(points), -1, -1), held).squeeze(1))


class Attend(nn.Module):
    """Attention of some vectors to others, then a small net on each, with what was there added and normalised."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.after = nn.LayerNorm(width)
        self.each = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.last = nn.LayerNorm(width)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Return ``[B, m, width]`` for ``m`` asking vectors."""
        held = self.after(asking + self.attention(asking, asked, asked, need_weights=False)[0])
        return self.last(held + self.each(held))


class Hyper(nn.Module):
    """Training sets to the answers of classifiers whose weights a set transformer has made, on the sets' own points.

    Args:
        transformer: labelled points to weights.
        classifier: whose architecture the weights are for; its own weights are where every classifier begins.
    """

    start: Tensor

    def __init__(self, transformer: SetTransformer, classifier: nn.Module):
        super().__init__()
        self.transformer, self.dimensions = transformer, transformer.dimensions
        self._classifier = [classifier.eval().requires_grad_(False)]  # in a list: its weights are not the net's own
        self.register_buffer("start", torch.cat([value.detach().flatten() for value in leaves(classifier).values()]))

    def weights(self, points: Tensor) -> Tensor:
        """Return the classifiers' weights ``[B, P]`` for labelled points ``[B, n, d + C]``."""
        return self.start + self.transformer(points)

    def answers(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return logits ``[B, m, C]`` of classifiers with weights ``[B, P]`` for inputs ``[B, m, d]``."""
        classifier = self._classifier[0]
        like = leaves(classifier)
        buffers = dict(classifier.named_buffers())

        def one(row: Tensor, asked: Tensor) -> Tensor:
            values: Vector = unflat(row, like)
            return functional_call(classifier, (values, buffers), (asked,))

        return vmap(one)(weights, x)

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits of every set's own points, ``[B, n, C]``."""
        return self.answers(self.weights(points), points[..., : self.dimensions])
