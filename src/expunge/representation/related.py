"""Which classes of a model the pictures of another data set remind it of."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from expunge.engine.parameters import modes_kept


@torch.no_grad()
def class_weights(
    model: nn.Module, batches: Iterable[Tensor], num_classes: int, device: torch.device | str = "cpu"
) -> tuple[dict[str, np.ndarray], int]:
    """Return how often each class is predicted and its mean probability, float64 ``[C]`` each, and the number of pictures.

    Args:
        model: pictures in [0, 1] to logits; asked in evaluation mode.
        batches: pictures ``[B, ...]``.
        num_classes: C.
        device: where the model is.
    """
    predicted, probability, pictures = np.zeros(num_classes), np.zeros(num_classes), 0
    with modes_kept(model):
        model.eval()
        for x in batches:
            logits = model(x.to(device)).double().cpu()
            predicted += np.bincount(logits.argmax(1).numpy(), minlength=num_classes)
            probability += logits.softmax(1).sum(0).numpy()
            pictures += len(x)
    return {"predictions": predicted, "probability": probability / max(pictures, 1)}, pictures


def order(weights: dict[str, np.ndarray], by: Literal["predictions", "probability"] = "predictions") -> np.ndarray:
    """Return the classes, the weightiest first; equal numbers of predictions in the order of mean probability, then of the labels."""
    keys = {"predictions": (weights["probability"], weights["predictions"]), "probability": (weights["probability"],)}[by]
    return np.lexsort((np.arange(len(weights[by])), *(-key for key in keys)))
