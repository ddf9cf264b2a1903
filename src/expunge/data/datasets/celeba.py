"""CelebA, with classes coded from attributes."""

from pathlib import Path

import numpy as np

from expunge.config import Flag, PositiveInt, Text, hyper
from expunge.data.names import Names
from expunge.data.picture_set import Listing, PictureDataset, Place, read_lines
from expunge.data.pictures import Files
from expunge.errors import BadInput, nearest

PARTS = {"train": 0, "validation": 1, "test": 2}
"""What the numbers of the official partition mean."""


class Celeba(PictureDataset):
    """202,599 faces of celebrities. A class is a combination of attributes: of k attributes there are 2^k classes.

    The number of a class has one binary digit for each attribute, the first attribute's the highest: with Male, Gray_Hair, Chubby, class 4
    is a man with neither of the other two. Training and test pictures are those of the official partition.
    """

    source = "Liu et al., Deep learning face attributes in the wild, ICCV 2015; classes as in an entry to the NeurIPS 2023 challenge"
    deviations = ("Pictures keep their proportions: the centre is cut out. The entry squeezed them into squares.",)
    layout = (
        Place(("img_align_celeba", "Img/img_align_celeba"), "202,599 aligned pictures, 000001.jpg and on"),
        Place(
            ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt", "list_attr_celeba.csv"), "attributes, 40 for each picture, each 1 or -1"
        ),
        Place(
            ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "list_eval_partition.csv"),
            "partition: 0 train, 1 validation, 2 test",
        ),
    )

    root: Path | None = hyper(None, "folder with img_align_celeba and the lists")
    size: PositiveInt = hyper(32, "pixels on a side")
    attributes: tuple[Text, ...] = hyper(("Male", "Gray_Hair", "Chubby"), "attributes that make the classes")
    with_validation: Flag = hyper(False, "train on the official validation pictures too, which are left out otherwise")

    def listing(self) -> Listing:
        """Return the pictures in the order of the list; see `expunge.data.picture_set.PictureDataset.listing`."""
        root, folder = self.folder(), self.require("202,599")
        folder = folder / folder.name if (folder / folder.name).is_dir() else folder  # as Kaggle packs it
        names, table = read_table(self.require("attributes"))
        files, codes = self._coded(names, table)
        part = read_partition(self.require("partition"), files)
        wanted = [PARTS["train"], PARTS["validation"]] if self.with_validation else [PARTS["train"]]
        train, test = np.flatnonzero(np.isin(part, wanted)), np.flatnonzero(part == PARTS["test"])
        prefix = folder.relative_to(root).as_posix()
        listed = Listing(Files(root, Names(f"{prefix}/{file}" for file in files)), codes, len(train), class_names(self.attributes))
        return listed.take(train, test)

    def _coded(self, names: list[str], table: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
        """Return the files, and the class of each."""
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise BadInput("data.attributes", f"expected one or more different ones, got {list(self.attributes)}.")
        for attribute in self.attributes:
            if attribute not in names:
                raise BadInput("data.attributes", f"there is no attribute {attribute!r}.", nearest(attribute, names))
        columns = [names.index(attribute) for attribute in self.attributes]
        values = np.stack(list(table.values()))[:, columns] > 0
        return list(table), values @ (2 ** np.arange(len(columns))[::-1])


def class_names(attributes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of all classes, for example ``Male+Chubby``; ``none`` where no attribute is there."""
    found = []
    for code in range(2 ** len(attributes)):
        there = [name for place, name in enumerate(reversed(attributes)) if code >> place & 1]
        found.append("+".join(reversed(there)) or "none")
    return tuple(found)


def read_table(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of the attributes, and the values of each picture, int8 ``[40]`` of 1 and -1.

    Raises:
        BadInput: no rows, or one with another number of values than there are names.
    """
    rows = _rows(path)
    if rows and len(rows[0]) == 1:  # the number of pictures
        rows = rows[1:]
    if not rows or any(name in ("1", "-1") for name in rows[0]):
        raise BadInput("data.root", f"{path} has no line with the names of the attributes.", "Get the official list again.")
    names = [name for name in rows[0] if name != "image_id"]
    table = {}
    for row in rows[1:]:
        if len(row) != len(names) + 1 or not set(row[1:]) <= {"1", "-1", "0"}:
            raise BadInput("data.root", f"{path}: the row of {row[0]!r} has {len(row) - 1} values, expected {len(names)} of 1 and -1.")
        table[row[0]] = np.array([int(value) for value in row[1:]], dtype=np.int8)
    if not table:
        raise BadInput("data.root", f"{path} names no pictures.", "Get the official list again.")
    return names, table


def read_partition(path: Path, files: list[str]) -> np.ndarray:
    """Return the part of each file, 0 to 2.

    Raises:
        BadInput: a file without a part.
    """
    parts = {row[0]: row[1] for row in _rows(path) if len(row) == 2 and row[1] in ("0", "1", "2")}
    missing = next((file for file in files if file not in parts), None)
    if missing is not None:
        raise BadInput("data.root", f"{path} says no part for {missing}.", "Get the official list again.")
    return np.array([int(parts[file]) for file in files])


def _rows(path: Path) -> list[list[str]]:
    return [line.replace(",", " ").split() for line in read_lines(path) if line.strip()]
