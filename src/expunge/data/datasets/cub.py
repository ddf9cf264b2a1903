"""CUB-200-2011: birds."""

from pathlib import Path

import numpy as np

from expunge.config import PositiveInt, hyper
from expunge.data.names import Names
from expunge.data.picture_set import Listing, PictureDataset, Place, read_lines
from expunge.data.pictures import Files
from expunge.errors import BadInput

INSIDE = ("", "CUB_200_2011/")


def _places(name: str) -> tuple[str, ...]:
    return tuple(folder + name for folder in INSIDE)


class Cub(PictureDataset):
    """11,788 pictures of 200 kinds of birds, with the official split into 5,994 and 5,794."""

    aliases = ("cub200", "cub_200_2011")
    source = "Wah et al., The Caltech-UCSD Birds-200-2011 dataset, 2011"
    layout = (
        Place(_places("images"), "pictures, images/001.Black_footed_Albatross/*.jpg"),
        Place(_places("images.txt"), "file names by number"),
        Place(_places("image_class_labels.txt"), "labels by number"),
        Place(_places("train_test_split.txt"), "split by number, 1 for training"),
        Place(_places("classes.txt"), "class names by number"),
    )

    root: Path | None = hyper(None, "the folder CUB_200_2011, or the one it lies in")
    size: PositiveInt = hyper(224, "pixels on a side")

    def listing(self) -> Listing:
        """Return the pictures in the order of images.txt; see `expunge.data.picture_set.PictureDataset.listing`."""
        root, images = self.folder(), self.require("pictures")
        files = read_numbered(self.require("file names"))
        columns = {about: read_numbered(self.require(about)) for about in ("labels", "split")}
        for about, column in columns.items():
            if column.keys() != files.keys():
                raise BadInput(
                    "data.root", f"the {about} are about {len(column)} pictures, images.txt about {len(files)}.", "Unpack again."
                )
        names = read_numbered(self.require("class names"))
        for picture in files:
            label, part = columns["labels"][picture], columns["split"][picture]
            if label not in names:
                raise BadInput(
                    "data.root",
                    f"image_class_labels.txt: {picture} has the class {label!r}, which classes.txt does not name.",
                    "Unpack again.",
                )
            if part not in ("0", "1"):
                raise BadInput("data.root", f"train_test_split.txt, picture {picture}: expected 0 or 1, got {part!r}.", "Unpack again.")
        numbers = {number: label for label, number in enumerate(sorted(names, key=int))}
        prefix = images.relative_to(root).as_posix()
        labels = np.array([numbers[columns["labels"][picture]] for picture in files], dtype=np.int64)
        train = np.array([columns["split"][picture] == "1" for picture in files])
        raw = Files(root, Names(f"{prefix}/{file}" for file in files.values()))
        class_names = tuple(names[number].partition(".")[2] or names[number] for number in numbers)
        return Listing(raw, labels, len(labels), class_names).take(np.flatnonzero(train), np.flatnonzero(~train))


def read_numbered(path: Path) -> dict[str, str]:
    """Return what follows the number in each line, by number.

    Raises:
        BadInput: a line without a number.
    """
    found = {}
    for number, line in enumerate(read_lines(path), 1):
        key, _, value = line.strip().partition(" ")
        if line.strip() and not (key.isdecimal() and value):
            raise BadInput("data.root", f"{path}, line {number}: expected a number and a value, got {line[:60]!r}.", "Unpack again.")
        if key:
            found[key] = value.strip()
    return found
