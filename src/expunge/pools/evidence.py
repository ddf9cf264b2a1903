"""What a model says about every example: one forward pass, kept on disk, read by every metric."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from expunge.data.dataset import Data
from expunge.data.split import PARTS, Split
from expunge.engine.parameters import modes_kept
from expunge.engine.stream import Stream, scoring_size
from expunge.errors import BadInput
from expunge.metrics.view import Reference, View
from expunge.runs import atomic_write


def collect(model: nn.Module, data: Data, size: int = 0) -> np.ndarray:
    """Return the logits of all examples in canonical order, float32 ``[N + T, C]``: eval mode, no augmentation, each example once.

    Raises:
        BadInput: the model does not return one row of ``num_classes`` logits for each example.
    """
    logits = outputs(model, Stream("all", data.source, torch.arange(len(data.source))), size)
    if logits.shape != (len(data.source), data.num_classes):
        raise BadInput("model", f"returned logits of shape {list(logits.shape)}, expected {[len(data.source), data.num_classes]}.")
    return logits


@torch.no_grad()
def outputs(model: nn.Module, stream: Stream, size: int = 0) -> np.ndarray:
    """Return the logits of a stream's examples in its order, float32 ``[n, C]``: eval mode, no augmentation, each example once."""
    found, row = np.empty((len(stream), 0), dtype=np.float32), 0
    with modes_kept(model):
        model.eval()
        for batch in stream.batches(scoring_size(model, size)):
            logits = model(batch.x).float().cpu().numpy()
            if row == 0:  # a list of all batches, joined at the end, would be held twice: 10 GB for ImageNet
                found = np.empty((len(stream), *logits.shape[1:]), dtype=np.float32)
            found[row : row + len(logits)] = logits
            row += len(logits)
    return found


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
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(str(path), f"cannot be read: {error}.", "Delete its folder; it is made again.") from None


def view(
    logits: np.ndarray,
    data: Data,
    split: Split,
    triggered: np.ndarray | None = None,
    references: Mapping[str, Reference] | None = None,
    inspection: Mapping[str, np.ndarray] | None = None,
) -> View:
    """Return what a model says about each part of a split.

    Args:
        logits: of all examples in canonical order, float32 ``[N + T, C]``.
        data: the data set.
        split: which examples are what.
        triggered: logits of ``split.triggered_test``, float32 ``[n, C]``, where a backdoor is forgotten.
        references: part -> what the base pool says about it, where there is one.
        inspection: what was found inside the model, where somebody looked.

    Raises:
        BadInput: ``triggered`` does not fit the split.
    """
    labels = data.labels.numpy()
    parts = {name: getattr(split, name) for name in PARTS if len(getattr(split, name))}
    seen = {name: np.ascontiguousarray(logits[index], dtype=np.float32) for name, index in parts.items()}
    truth = {name: labels[index] for name, index in parts.items()}
    if triggered is not None:
        attack = split.triggered_test(data)
        if attack is None or len(attack) != len(triggered):
            raise BadInput("evidence", f"{len(triggered)} outputs for pictures with a trigger do not fit the split.", "Make the run again.")
        seen["triggered"], truth["triggered"] = np.array(triggered, dtype=np.float32), attack.labels.numpy()
    swapped = split.swapped_test(data)
    if swapped is not None and len(swapped):
        assert split.alteration is not None and split.alteration.swapped is not None
        seen["swapped"] = np.ascontiguousarray(logits[swapped], dtype=np.float32)
        truth["swapped"] = sum(split.alteration.swapped) - labels[swapped]
    return View(seen, truth, dict(references or {}), dict(inspection or {}))
