"""Tiny-ImageNet: 200 classes of ImageNet in 64 pixels."""

from pathlib import Path

from expunge.config import hyper
from expunge.data.datasets.folder import class_folders, from_folders
from expunge.data.datasets.imagenet import read_synsets, unique
from expunge.data.picture_set import Listing, PictureDataset, Place, picture_files, read_lines
from expunge.data.pictures import SUFFIXES
from expunge.errors import BadInput

INSIDE = ("", "tiny-imagenet-200/")


def _places(name: str) -> tuple[str, ...]:
    return tuple(folder + name for folder in INSIDE)


class TinyImagenet(PictureDataset):
    """100,000 pictures of 200 classes, 64 x 64 pixels, and 10,000 validation pictures, which are the test pictures here.

    The official test pictures have no labels. Classes are in the order of their WordNet numbers.
    """

    source = "Stanford CS231n, Tiny ImageNet, 2015"
    deviations = ("All 50 validation pictures of a class are tested; papers that also validate on them take 25.",)
    layout = (
        Place(_places("train"), "training pictures, train/n01443537/images/*.JPEG"),
        Place(_places("val"), "validation pictures, val/images/*.JPEG with val/val_annotations.txt, or val/n01443537/"),
        Place(_places("wnids.txt"), "class numbers, one a line", needed=False),
        Place(_places("words.txt"), "synset names", needed=False),
    )

    root: Path | None = hyper(None, "the folder tiny-imagenet-200, or the one it lies in")

    def listing(self) -> Listing:
        """Return the pictures in alphabetical order; see `expunge.data.picture_set.PictureDataset.listing`."""
        root, names = self.folder(), self.place("synset names").found(self.folder())
        train = class_folders(root, self.require("training"))
        test = self._validation(root, self.require("validation"), list(train))
        words = read_synsets(names) if names is not None else {}
        return from_folders(root, train, test, unique([words.get(wnid, wnid) for wnid in train], list(train)))

    def _validation(self, root: Path, folder: Path, wnids: list[str]) -> dict[str, list[str]]:
        annotations = folder / "val_annotations.txt"
        if not annotations.is_file():
            return class_folders(root, folder)
        label = {}
        for number, line in enumerate(read_lines(annotations), 1):
            columns = line.split("\t")
            if line.strip() and (len(columns) < 2 or columns[1] not in wnids):
                raise BadInput("data.root", f"{annotations}, line {number}: expected a file and a class of train/, got {line[:60]!r}.")
            if line.strip():
                label[columns[0]] = columns[1]
        found: dict[str, list[str]] = {wnid: [] for wnid in wnids}
        for file in picture_files(root, folder, SUFFIXES):
            name = file.rpartition("/")[2]
            if name not in label:
                raise BadInput("data.root", f"{annotations} says nothing about {file}.", "Unpack the archive again.")
            found[label[name]].append(file)
        return found
