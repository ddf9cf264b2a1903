"""Pictures in folders, one folder a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expunge.data.names import Names
from expunge.data.picture_set import Listing, PictureDataset, Place, picture_files
from expunge.data.pictures import SUFFIXES, Files
from expunge.errors import BadInput


class Folder(PictureDataset):
    """Pictures in ``ROOT/train/CLASS/`` and ``ROOT/test/CLASS/`` (or ``val``), each brought to one size in colour."""

    layout = (
        Place(("train",), "training pictures, ROOT/train/CLASS/*.jpg"),
        Place(("test", "val"), "test pictures, ROOT/test/CLASS/*.jpg"),
    )

    def listing(self) -> Listing:
        """Return the pictures in alphabetical order; see `expunge.data.picture_set.PictureDataset.listing`."""
        root = self.folder()
        train, test = (class_folders(root, self.require(about)) for about in ("training", "test"))
        if train.keys() != test.keys():
            odd = sorted(train.keys() ^ test.keys())
            raise BadInput("data.root", f"train and test differ in their classes, for example {odd[0]!r}.", "Both need the same folders.")
        return from_folders(root, train, test, tuple(train))

    def title(self) -> str:
        """Return the folder's name."""
        return self.folder().name


def class_folders(root: Path, folder: Path) -> dict[str, list[str]]:
    """Return class -> its pictures by their names relative to the root, both in alphabetical order.

    Raises:
        BadInput: there are no classes, or one has no pictures.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {path.name: list(picture_files(root, path, SUFFIXES)) for path in classes}
    empty = [name for name, files in found.items() if not files]
    if empty or not found:
        what = f"the class {empty[0]!r} has no pictures" if empty else "there are no class folders"
        raise BadInput("data.root", f"{folder}: {what} ({', '.join(SUFFIXES)}).", "Each class is a folder with pictures in it.")
    return found


def from_folders(root: Path, train: dict[str, list[str]], test: dict[str, list[str]], class_names: Sequence[str]) -> Listing:
    """Return the listing of two parts by class; the classes' order is that of ``train``.

    Raises:
        BadInput: a class of ``test`` that ``train`` does not have.
    """
    unknown = sorted(test.keys() - train.keys())
    if unknown:
        raise BadInput("data.root", f"test has the class {unknown[0]!r}, which train has not.", "Unpack the same classes in both.")
    number = {name: label for label, name in enumerate(train)}
    samples = [(file, number[name]) for part in (train, test) for name, files in part.items() for file in files]
    labels = np.array([label for _, label in samples], dtype=np.int64)
    return Listing(Files(root, Names(file for file, _ in samples)), labels, sum(map(len, train.values())), tuple(class_names))
