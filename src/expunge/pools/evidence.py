"""What a model says about every example: one forward pass, kept on disk, read by every metric."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from expunge.data.dataset import Data
from expunge.data.split import PARTS, Split
from expunge.engine.parameters import modes_kept
from expunge.errors import BadInput
from expunge.metrics.view import View
from expunge.runs import atomic_write


@torch.no_grad()
def collect(model: nn.Module, data: Data, size: int = 250) -> np.ndarray:
    """Return the logits of all examples in canonical order, float32 ``[N + T, C]``: eval mode, no augmentation, each example once.

    Raises:
        BadInput: the model does not return one row of ``num_classes`` logits for each example.
    """
    rows = []
    with modes_kept(model):
        model.eval()
        for x, _ in data.source.batches(torch.arange(len(data.source)), size, augment=False, seed=0, epoch=0):
            rows.append(model(x).float().cpu())
    logits = torch.cat(rows).numpy()
    if logits.shape != (len(data.source), data.num_classes):
        raise BadInput("model", f"returned logits of shape {list(logits.shape)}, expected {[len(data.source), data.num_classes]}.")
    return logits


def save(path: Path, logits: np.ndarray) -> None:
    """Write logits, atomically."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, logits, allow_pickle=False)


def load(path: Path) -> np.ndarray:
    """Return logits, memory-mapped.

    Raises:
        BadInput: the file is missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(str(path), f"cannot be read: {error}.", "Delete its folder; it is made again.") from None


def view(logits: np.ndarray, data: Data, split: Split) -> View:
    """Return what a model says about each part of a split."""
    labels = data.labels.numpy()
    parts = {name: getattr(split, name) for name in PARTS if len(getattr(split, name))}
    return View(
        {name: np.ascontiguousarray(logits[index], dtype=np.float32) for name, index in parts.items()},
        {name: labels[index] for name, index in parts.items()},
    )
