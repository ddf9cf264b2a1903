"""Make the bundled part of Fashion-MNIST from the official files.

    python -m expunge.data.bundled.make_fashion_mnist FOLDER

FOLDER holds the four official idx files, gzipped or not. They are in the Debian package ``dataset-fashion-mnist``
(``apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb . && ls usr/share/datasets/fashion-mnist``).
The same folder always gives the same two files.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from expunge.data.bundled import COLUMNS, FOLDER, PIXELS
from expunge.data.official import read_idx_folder
from expunge.engine import randomness
from expunge.runs import atomic_write

TRAIN_PER_CLASS, TEST_PER_CLASS = 500, 200


def choose(labels: torch.Tensor, per_class: int, purpose: str) -> torch.Tensor:
    """Return the indices of ``per_class`` examples of each class, keyed by seed 0, in official order."""
    chosen = [randomness.shuffle(0, purpose, 0, (labels == label).nonzero().squeeze(1))[:per_class] for label in range(10)]
    return torch.cat(chosen).sort().values


def main(folder: Path) -> None:
    """Write the sprite and the list of labels and official indices."""
    from PIL import Image

    arrays = read_idx_folder(folder)
    train = choose(arrays.y_train, TRAIN_PER_CLASS, "fashion_mnist/train")
    test = choose(arrays.y_test, TEST_PER_CLASS, "fashion_mnist/test")
    tiles = torch.cat([arrays.x_train[train], arrays.x_test[test]]).squeeze(1).numpy()
    sprite = tiles.reshape(-1, COLUMNS, PIXELS, PIXELS).transpose(0, 2, 1, 3).reshape(-1, COLUMNS * PIXELS)
    with atomic_write(FOLDER / "fashion_mnist.png") as temporary:
        Image.fromarray(np.ascontiguousarray(sprite)).save(temporary, optimize=True)
    listed = {
        "about": "A part of Fashion-MNIST, see LICENSE-fashion-mnist.txt; training pictures first, then test pictures.",
        "train_labels": "".join(map(str, arrays.y_train[train].tolist())),
        "test_labels": "".join(map(str, arrays.y_test[test].tolist())),
        "official_train_index": train.tolist(),
        "official_test_index": test.tolist(),
    }
    with atomic_write(FOLDER / "fashion_mnist.json") as temporary:
        temporary.write_text(json.dumps(listed, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
