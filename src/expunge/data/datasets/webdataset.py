"""Pictures in WebDataset shards."""

from pathlib import Path

import numpy as np

from expunge.config import Text, hyper
from expunge.data.dataset import numbered
from expunge.data.names import Names
from expunge.data.picture_set import Listing, PictureDataset, read_lines
from expunge.data.shards import index, join
from expunge.errors import BadInput

DIGITS = 18
"""Of the number of a class that are looked at, without leading zeros: no more fit 64 bits, and fewer are too many already."""


class Webdataset(PictureDataset):
    """Pictures in tar files as WebDataset has them: ``KEY.jpg`` (or another picture) and ``KEY.cls`` for each sample.

    Shards are indexed once, so that examples can be read in any order; nothing is unpacked. A key that several shards share is told apart
    by the shard's name in front of it.
    """

    source = "https://github.com/webdataset/webdataset"

    root: Path | None = hyper(None, "folder with the shards")
    train: Text = hyper("*train*.tar", "which files hold training samples, as a pattern under the root")
    test: Text | None = hyper(None, "which hold test samples; *test*.tar, or *val*.tar where there are none, if not given")
    label: Text = hyper("cls", "ending of the file with the label, or json:FIELD for a field of KEY.json")
    class_names: Path | None = hyper(None, "a text file with a class name a line; numbers, or the labels themselves, if not given")

    def listing(self) -> Listing:
        """Return the pictures in the order of the shards; see `expunge.data.picture_set.PictureDataset.listing`."""
        train = self._shards("data.train", self.train)
        test = self._shards("data.test", *([self.test] if self.test else ["*test*.tar", "*val*.tar"]))
        twice = set(train) & set(test)
        if twice:
            raise BadInput("data.test", f"{sorted(twice)[0]} holds both training and test samples.", "Set data.train and data.test.")
        paths = [*train, *test]
        parts = [index(path, self.known_folder(), self.label) for path in paths]
        shards = join(paths, parts)
        shards.names = _told_apart(shards.names, [path.stem for path in paths], shards.shard)
        labels, class_names = number_labels(Names(label for part in parts for label in part.labels), self.class_names)
        return Listing(shards, labels, sum(len(part.names) for part in parts[: len(train)]), class_names)

    def _shards(self, where: str, *patterns: str) -> list[Path]:
        """Return the files of the first pattern that any fit."""
        root = self.folder()
        for pattern in patterns:
            try:
                found = sorted(root.glob(pattern))
            except (ValueError, NotImplementedError) as error:
                remedy = f"Give one under {root}, for example 'train-*.tar'."
                raise BadInput(where, f"{pattern!r} is no pattern of files under the root: {error}.", remedy) from None
            if found:
                return found
        raise BadInput("data.root", f"{root} holds no {' or '.join(patterns)}.", "Set data.train and data.test, for example 'val-*.tar'.")

    def title(self) -> str:
        """Return the folder's name."""
        return self.folder().name


def _told_apart(names: Names, stems: list[str], shard: np.ndarray) -> Names:
    if len(names.places()) == len(names):
        return names
    return Names(f"{stems[number]}/{name}" for number, name in zip(shard.tolist(), names, strict=True))


def number_labels(labels: Names, file: Path | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels as numbers, int64 ``[n]``, and the class names.

    Args:
        labels: as they are written: numbers from 0, or names.
        file: a text file with a class name a line.

    Raises:
        BadInput: a label that the file does not have, a negative one, or one that is too large for the number of a class.
    """
    given = [line.strip() for line in read_lines(file, "data.class_names") if line.strip()] if file else []
    distinct = sorted(set(labels))
    negative = next((label for label in distinct if label.startswith("-") and label[1:].isdecimal()), None)
    if negative is not None:
        raise BadInput("data.label", f"numbers of classes count from 0, and there is the label {negative!r}.", "Leave such samples out.")
    if all(label.isdecimal() for label in distinct):
        numbers = {label: int(label.lstrip("0")[:DIGITS] or "0") for label in distinct}
        class_names = given or list(numbered(max(numbers.values()), len(labels), "data.label"))
    else:
        class_names = given or distinct
        numbers = {name: number for number, name in enumerate(class_names)}
    odd = next((label for label in distinct if numbers.get(label, len(class_names)) >= len(class_names)), None)
    if odd is not None:
        raise BadInput("data.class_names", f"there are {len(class_names)} class names, and a label {odd!r}.", "Give one name for each.")
    return np.array([numbers[label] for label in labels], dtype=np.int64), tuple(class_names)
