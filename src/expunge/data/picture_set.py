"""What the data sets of pictures have in common: which pictures there are comes from them, how they are read from here."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from expunge.config import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, hyper
from expunge.data.augmentation import Augmentation
from expunge.data.dataset import Arrays, Data, Dataset, from_source, from_tensors
from expunge.data.official import cache_folder, converted
from expunge.data.pictures import Pictures, Raw, content_fingerprint
from expunge.data.source import LoaderSource
from expunge.errors import BadInput

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DECODED = 2
"""Of how pictures are decoded: another number has them converted again."""
SMALLEST_CUT = 0.08
"""Smallest share of a picture's area that is cut out while training with crop=resized."""


@dataclass(frozen=True)
class Listing:
    """The pictures of a data set where they lie, training pictures first.

    Attributes:
        raw: encoded pictures, training and test.
        labels: int64 ``[N + T]``.
        train_size: N.
        class_names: one for each label.
    """

    raw: Raw
    labels: np.ndarray
    train_size: int
    class_names: tuple[str, ...]

    def take(self, train: np.ndarray, test: np.ndarray) -> "Listing":
        """Return some of the training and of the test pictures, by position in the whole."""
        positions = np.concatenate([train, test])
        return Listing(self.raw.take(positions), self.labels[positions], len(train), self.class_names)

    def counts(self, part: str) -> np.ndarray:
        """Return how many pictures each class has in ``train`` or ``test``, int64 ``[C]``."""
        labels = self.labels[: self.train_size] if part == "train" else self.labels[self.train_size :]
        return np.bincount(labels, minlength=len(self.class_names))


@dataclass(frozen=True)
class Place:
    """A file or folder of an official layout.

    Attributes:
        names: where it may lie under the root, the plainest first.
        about: what it holds.
        needed: whether nothing works without it.
    """

    names: tuple[str, ...]
    about: str
    needed: bool = True

    def found(self, root: Path) -> Path | None:
        """Return where it lies; None if it does not."""
        return next((root / name for name in self.names if (root / name).exists()), None)

    def require(self, root: Path, dataset: str) -> Path:
        """Return where it lies.

        Raises:
            BadInput: it is missing; `expunge data check` says what else is.
        """
        found = self.found(root)
        if found is None:
            raise BadInput(
                "data.root",
                f"{root / self.names[0]} is missing ({self.about}).",
                f"`expunge data check {dataset} data.root={root}` says what is there; docs/datasets.md, how to get the rest.",
            )
        return found


class PictureDataset(Dataset):
    """A data set of encoded pictures. Concrete ones list them.

    The shorter side of a picture is resized and the centre cut out, so that proportions are kept. What fits the memory limit is converted
    once and lies on the device; more than that is read batch by batch. A limit takes equally many pictures of each class, as far as there
    are.

    Class attributes: ``layout`` (the files of the official layout, for ``expunge data check``).
    """

    augmentation = Augmentation(pad=4, flip=True)
    augmented = True
    prefix_field = "root"
    layout: ClassVar[tuple[Place, ...]] = ()

    root: Path | None = hyper(None, "folder of the data set")
    size: PositiveInt = hyper(64, "pixels on a side")
    central: Fraction = hyper(1.0, "share of the shorter side that is kept; 0.875 is the usual resize to 256 and cut of 224", gt=0)
    crop: Literal["shift", "resized"] = hyper(
        "shift",
        "while training, shift moves a picture by some pixels, resized cuts out 8 to 100 % of it; pictures are then always streamed",
    )
    memory_limit_gb: NonNegativeFloat = hyper(4.0, "largest size of all pictures together that is kept on the device")
    workers: NonNegativeInt = hyper(2, "processes that read pictures when they are not kept on the device")
    cache: Path | None = hyper(None, "folder for converted pictures and for what is known of the files")

    @abstractmethod
    def listing(self) -> Listing:
        """Return which pictures there are.

        Raises:
            BadInput: the folder is not laid out as expected.
        """

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; see `expunge.data.dataset.Dataset.load`.

        Streamed pictures are not decoded for their fingerprint: it covers the content of their files, which is read once and then known by
        size and time. Their mean and standard deviation are ImageNet's.
        """
        listing = self.limited(self.listing())
        needed = len(listing.labels) * 3 * self.size**2
        resident = self.crop == "shift" and needed <= self.memory_limit_gb * 1e9
        data = (self._resident if resident else self._streamed)(listing, device)
        return replace(data, keys=listing.raw.names)

    def chosen_augmentation(self) -> Augmentation | None:
        """Return what is done to training pictures; None for nothing."""
        chosen = super().chosen_augmentation()
        return Augmentation(pad=0, flip=chosen.flip, cut=SMALLEST_CUT) if chosen is not None and self.crop == "resized" else chosen

    def folder(self) -> Path:
        """Return the root.

        Raises:
            BadInput: none is given, or it does not exist.
        """
        if self.root is None:
            raise BadInput("data.root", "no folder is given.", f"Write data.root=FOLDER. {self._expected()}")
        if not self.root.is_dir():
            raise BadInput("data.root", f"{self.root} does not exist.", self._expected())
        return self.root

    def place(self, about: str) -> Place:
        """Return the part of the layout that begins with these words."""
        return next(place for place in self.layout if place.about.startswith(about))

    def require(self, about: str) -> Path:
        """Return where a part of the layout lies.

        Raises:
            BadInput: it is missing.
        """
        return self.place(about).require(self.folder(), self.name)

    def limited(self, listing: Listing) -> Listing:
        """Return the first pictures of each class, up to the limits.

        Raises:
            BadInput: a part is empty, or a limit above the number of pictures.
        """
        labels, size = listing.labels, listing.train_size
        if not 0 < size < len(labels):
            raise BadInput("data.root", f"found {size} training and {len(labels) - size} test pictures; both are needed.")
        if self.train_limit is None and self.test_limit is None:
            return listing
        train = _first(labels[:size], self.train_limit, "train_limit")
        test = size + _first(labels[size:], self.test_limit, "test_limit")
        return listing.take(train, test)

    def known_folder(self) -> Path:
        """Return the folder for indices and digests."""
        return self.cache or cache_folder() / "known"

    def _expected(self) -> str:
        needed = ", ".join(place.names[0] for place in self.layout if place.needed)
        return f"It should hold {needed}." if needed else ""

    def _resident(self, listing: Listing, device: torch.device | str) -> Data:
        pictures, size = Pictures(listing.raw, self.size, self.central), listing.train_size

        def read() -> tuple[Arrays, tuple[str, ...]]:
            images, labels = _read_all(pictures), torch.from_numpy(listing.labels)
            return Arrays(images[:size], labels[:size], images[size:], labels[size:]), listing.class_names

        root = self.folder_of_converted()
        chosen = hashlib.sha256(
            f"{DECODED} {listing.raw.stamp()} {self.central} {listing.class_names}".encode() + listing.labels.tobytes()
        ).hexdigest()
        name = f"{root.name}-{len(listing.labels)}-{self.size}px"
        arrays, _ = converted(name, self.cache, root, [], read, chosen)
        return from_tensors(
            *arrays, name=self.title(), class_names=listing.class_names, device=device, augmentation=self.chosen_augmentation()
        )

    def _streamed(self, listing: Listing, device: torch.device | str) -> Data:
        known = listing.raw.digests(self.known_folder())
        pictures = Pictures(listing.raw, self.size, self.central, known)
        source = LoaderSource(pictures, torch.from_numpy(listing.labels), device, self.chosen_augmentation(), self.workers)
        return from_source(
            source,
            listing.train_size,
            name=self.title(),
            class_names=listing.class_names,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            fingerprint=content_fingerprint(known, listing.labels, listing.train_size, f"{self.size} {self.central}"),
        )

    def folder_of_converted(self) -> Path:
        """Return the folder that the converted pictures belong to."""
        return self.folder()

    def title(self) -> str:
        """Return what the data set is called in tables."""
        return self.name


def _first(labels: np.ndarray, limit: int | None, field: str) -> np.ndarray:
    """Return positions of equally many pictures of each class, ascending, as far as there are."""
    if limit is None:
        return np.arange(len(labels))
    if limit > len(labels):
        raise BadInput(
            f"data.{field}", f"there are {len(labels)} examples, got a limit of {limit}.", "Choose a smaller one, or leave it out."
        )
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rounds = np.empty(len(labels), dtype=np.int64)
    rounds[by_class] = np.arange(len(labels)) - starts
    return np.sort(np.lexsort((np.arange(len(labels)), labels, rounds))[:limit])


def _read_all(pictures: Pictures) -> torch.Tensor:
    images = torch.empty(len(pictures), 3, pictures.size, pictures.size, dtype=torch.uint8)

    def read(position: int) -> None:
        images[position] = pictures.decoded(position)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pictures), 4096):
            list(pool.map(read, range(start, min(start + 4096, len(pictures)))))
    return images


def picture_files(root: Path, folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the pictures under a folder by their names relative to the root, in alphabetical order whatever the file system."""
    found = []
    for place, inside, files in os.walk(folder, followlinks=True):
        here = Path(place).resolve()
        inside[:] = [name for name in inside if not here.is_relative_to(Path(place, name).resolve())]  # a link back would never end
        found += [os.path.relpath(os.path.join(place, file), root) for file in files if file.lower().endswith(suffixes)]
    return iter(sorted(name.replace(os.sep, "/") for name in found))


def read_lines(path: Path, where: str = "data.root") -> list[str]:
    """Return the lines of a text file.

    Raises:
        BadInput: it cannot be read, or holds something else than text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(where, f"{path} cannot be read: {error}.", "Give a text file.") from None


def held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return which examples are test examples, bool ``[n]``: a share of each class that the seed draws, where no split is official."""
    from expunge.engine import randomness

    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = randomness.shuffle(seed, "held out", 0, torch.from_numpy(np.flatnonzero(labels == label))).numpy()
        chosen[members[: min(len(members) - 1, max(1, round(fraction * len(members))))]] = True
    return chosen
