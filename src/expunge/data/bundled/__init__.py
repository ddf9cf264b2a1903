"""Data that comes with the package, and its reader."""

import json
from pathlib import Path

import numpy as np
import torch

from expunge.data.dataset import Arrays

FOLDER = Path(__file__).parent
PIXELS, COLUMNS = 28, 100
"""Side of a tile and number of tiles in a row of the sprite."""


def read_fashion_mnist() -> Arrays:
    """Return 5,000 training and 2,000 test pictures of Fashion-MNIST, uint8 ``[n, 1, 28, 28]``, equally many of each class."""
    from PIL import Image

    with Image.open(FOLDER / "fashion_mnist.png") as opened:
        sprite = np.asarray(opened)
    rows = sprite.shape[0] // PIXELS
    tiles = sprite.reshape(rows, PIXELS, COLUMNS, PIXELS).transpose(0, 2, 1, 3).reshape(-1, 1, PIXELS, PIXELS)
    listed = json.loads((FOLDER / "fashion_mnist.json").read_text(encoding="utf-8"))
    train, test = (torch.tensor([int(digit) for digit in listed[part]]) for part in ("train_labels", "test_labels"))
    images = torch.from_numpy(tiles)
    return Arrays(images[: len(train)], train, images[len(train) : len(train) + len(test)], test)
