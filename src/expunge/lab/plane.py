"""The plane as a model sees it: a grid of points, the class of each cell, and what changes between two models."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from expunge.data.source import TensorSource
from expunge.engine.stream import Stream
from expunge.pools.stacked_net import outputs_together


@dataclass(frozen=True)
class Plane:
    """A square piece of the plane around some points, seen through a grid.

    Attributes:
        low: lower left corner.
        high: upper right corner.
        size: points of the grid each way.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    size: int

    def points(self) -> Tensor:
        """Return the grid, float32 ``[size * size, 2]``, rows from the bottom."""
        x, y = (torch.linspace(self.low[axis], self.high[axis], self.size) for axis in (0, 1))
        return torch.stack([x.repeat(self.size), y.repeat_interleave(self.size)], dim=1)

    def answers(self, models: Sequence[nn.Module]) -> np.ndarray:
        """Return the logits of models on the grid, float32 ``[M, size * size, C]``."""
        points = self.points()
        device = next(models[0].parameters()).device
        source = TensorSource(points, torch.zeros(len(points), dtype=torch.int64), device)
        return outputs_together(models, Stream("grid", source, torch.arange(len(points))), 4096).numpy()

    def picture(self, logits: np.ndarray) -> np.ndarray:
        """Return what `expunge.lab.figures.field` draws of one model's answers ``[size * size, C]``, int ``[size, size]``."""
        if logits.shape[1] > 2:
            return logits.argmax(1).reshape(self.size, self.size)
        share = 1 / (1 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -50, 50)))
        return np.rint(100 * share).astype(int).reshape(self.size, self.size)


def packed(picture: np.ndarray) -> str:
    """Return a picture of whole numbers from 0 to 255, ``[size, size]``, as a short text for a record."""
    return base64.b64encode(picture.astype(np.uint8).tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """Return the picture of a text that `packed` wrote, int ``[size, size]``."""
    flat = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    size = round(len(flat) ** 0.5)
    return flat.reshape(size, size).astype(int)


def around(points: np.ndarray, size: int, margin: float = 0.12) -> Plane:
    """Return a square piece of the plane that holds points ``[n, 2]`` with a margin, a share of its side, on every side."""
    low, high = points.min(0), points.max(0)
    center, half = (low + high) / 2, float((high - low).max()) * (0.5 + margin)
    return Plane(tuple(map(float, center - half)), tuple(map(float, center + half)), size)  # type: ignore[arg-type]


def moved(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the share of cells that change class between models, float64 ``[M]``.

    Args:
        logits: answers on the grid, ``[M, cells, C]``.
        reference: of the model that they are compared with, ``[cells, C]``, or of one for each, ``[M, cells, C]``.
    """
    return (logits.argmax(-1) != reference.argmax(-1)).mean(-1)
