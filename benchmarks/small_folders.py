"""Small folders laid out like ImageNet, CelebA and Office-Home, of the pictures of clothes that come with the package.

    python benchmarks/small_folders.py FOLDER

Makes FOLDER/imagenet (10 classes, 60 training and 20 validation pictures each), FOLDER/celeba (1,200 pictures with three attributes that
can be seen: Shoe, Top, Dark) and FOLDER/home (four domains of shoes and bags, 24 pictures a class). Small twins in configs/ read them.

A tenth of what is said to be dark or not is wrong, as people disagree on who is chubby: a net that fits it all has remembered something.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from expunge.data.bundled import read_fashion_mnist
from expunge.data.datasets.fashion_mnist import CLASS_NAMES

PIXELS = 32
WRONG = 0.1
SHOES, TOPS = (5, 7, 9), (0, 2, 4, 6)


def picture(tile: np.ndarray) -> Image.Image:
    return Image.fromarray(tile).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).convert("RGB")


def put(made: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path)


def write_imagenet(root: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> None:
    wnids = [f"n{label:08}" for label in range(10)]
    for part, (tiles, labels), each in (("train", train, 60), ("val", test, 20)):
        for label, wnid in enumerate(wnids):
            for number, tile in enumerate(tiles[labels == label][:each]):
                put(picture(tile), root / part / wnid / f"{wnid}_{number}.png")
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in zip(wnids, CLASS_NAMES, strict=True)))


def write_celeba(root: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> None:
    tiles, labels = np.concatenate([train[0][-900:], test[0][-300:]]), np.concatenate([train[1][-900:], test[1][-300:]])
    dark = tiles.mean((1, 2)) < np.median(tiles.mean((1, 2)))
    dark ^= np.random.default_rng(0).random(len(dark)) < WRONG
    attributes = np.stack([np.isin(labels, SHOES), np.isin(labels, TOPS), dark], axis=1)
    rows, parts = [], []
    for number, tile in enumerate(tiles):
        name = f"{number + 1:06}.png"
        put(picture(tile), root / "img_align_celeba" / name)
        rows.append(f"{name} " + " ".join("1" if there else "-1" for there in attributes[number]))
        parts.append(f"{name} {0 if number < 900 else 2}")
    (root / "list_attr_celeba.txt").write_text(f"{len(rows)}\nShoe Top Dark\n" + "".join(f"{row}\n" for row in rows))
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


def write_home(root: Path, test: tuple[np.ndarray, np.ndarray]) -> None:
    views = {
        "Art": ImageOps.invert,
        "Clipart": lambda made: made.point(lambda value: 255 * (value > 100)),
        "Product": lambda made: made,
        "Real World": lambda made: made.rotate(8).filter(ImageFilter.GaussianBlur(0.6)),
    }
    for domain, view in views.items():
        for label in (*SHOES, 8):
            for number, tile in enumerate(test[0][test[1] == label][-24:]):
                put(view(picture(tile)), root / domain / CLASS_NAMES[label].replace(" ", "_") / f"{number:05}.png")


def main(folder: str) -> None:
    arrays = read_fashion_mnist()
    train, test = ((x[:, 0].numpy(), y.numpy()) for x, y in ((arrays.x_train, arrays.y_train), (arrays.x_test, arrays.y_test)))
    write_imagenet(Path(folder) / "imagenet", train, test)
    write_celeba(Path(folder) / "celeba", train, test)
    write_home(Path(folder) / "home", test)
    print(f"wrote {folder}/imagenet, {folder}/celeba and {folder}/home")


if __name__ == "__main__":
    main(*sys.argv[1:])
