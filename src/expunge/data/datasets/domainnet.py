"""DomainNet: objects in six domains."""

from pathlib import Path
from typing import Literal

import numpy as np

from expunge.config import PositiveInt, hyper
from expunge.data.names import Names
from expunge.data.picture_set import Listing, PictureDataset, Place, read_lines
from expunge.data.pictures import Files
from expunge.errors import BadInput, nearest

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


def _lists(part: str) -> tuple[Place, ...]:
    return tuple(
        Place(
            tuple(f"{folder}{domain}_{part}.txt" for folder in ("", "splits/", "txt/", f"{domain}/")),
            f"{domain} {part} list, lines such as {domain}/airplane/{domain}_002_000001.jpg 2",
            needed=False,
        )
        for domain in DOMAINS
    )


class Domainnet(PictureDataset):
    """586,575 pictures of 345 objects in six domains, with the official training and test list of each domain.

    For DomainNet-126, the part that is used in semi-supervised adaptation, give ``data.classes`` a file with its class names. For transfer,
    give the folder as ``evaluate.downstream``.
    """

    source = "Peng et al., Moment matching for multi-source domain adaptation, ICCV 2019; the cleaned version"
    layout = (*(Place((domain,), f"{domain} pictures", needed=False) for domain in DOMAINS), *_lists("train"), *_lists("test"))

    root: Path | None = hyper(None, "folder with the domains and their lists")
    size: PositiveInt = hyper(224, "pixels on a side")
    domain: Literal["clipart", "infograph", "painting", "quickdraw", "real", "sketch"] = hyper("real", "whose pictures")
    classes: Path | None = hyper(None, "a text file with the names of the classes to keep, one a line; all if not given")

    def listing(self) -> Listing:
        """Return the pictures in the order of the lists; see `expunge.data.picture_set.PictureDataset.listing`."""
        root = self.folder()
        self._require(f"{self.domain} pictures")
        train, test = (read_list(self._require(f"{self.domain} {part} list")) for part in ("train", "test"))
        kept = self._kept({_class_of(file) for file, _ in (*train, *test)})
        samples = [row for row in (*train, *test) if _class_of(row[0]) in kept]
        numbers = sorted({(label, _class_of(file)) for file, label in samples})
        if any(len(set(column)) < len(numbers) for column in zip(*numbers, strict=True)):
            raise BadInput("data.root", "the lists give two classes one number, or one class two.", "Get the lists of one version.")
        place = {label: position for position, (label, _) in enumerate(numbers)}
        labels = np.array([place[label] for _, label in samples], dtype=np.int64)
        train_size = sum(_class_of(file) in kept for file, _ in train)
        return Listing(Files(root, Names(file for file, _ in samples)), labels, train_size, tuple(name for _, name in numbers))

    def _kept(self, names: set[str]) -> set[str]:
        """Return the classes to keep, of those that there are."""
        if self.classes is None:
            return names
        asked = {line.strip() for line in read_lines(self.classes, "data.classes") if line.strip()}
        unknown = sorted(asked - names)
        if unknown:
            raise BadInput("data.classes", f"{self.domain} has no class {unknown[0]!r}.", nearest(unknown[0], names))
        return asked

    def _require(self, about: str) -> Path:
        return self.place(about).require(self.folder(), self.name)

    def title(self) -> str:
        """Return the name with the domain."""
        return f"{self.name} {self.domain}"


def _class_of(file: str) -> str:
    return file.split("/")[-2]


def read_list(path: Path) -> list[tuple[str, int]]:
    """Return files and labels of a list.

    Raises:
        BadInput: a line of another form.
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        file, _, label = line.strip().rpartition(" ")
        if line.strip() and (file.count("/") < 2 or not (label.isdecimal() and len(label) < 10)):
            raise BadInput("data.root", f"{path}, line {number}: expected DOMAIN/CLASS/FILE NUMBER, got {line[:60]!r}.", "Get it again.")
        if file:
            found.append((file, int(label)))
    return found
