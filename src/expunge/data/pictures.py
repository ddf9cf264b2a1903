"""Pictures as they lie on disk, read and decoded one by one: what is streamed to a model when it does not fit into memory."""

import hashlib
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
import torch

from expunge.data import contents
from expunge.data.names import Names
from expunge.engine import randomness
from expunge.errors import BadInput

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of files that are taken for pictures, in lower case; those of torchvision."""
SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose integer pixels Pillow may hold in 32 bits, with 65535 for white."""


class Raw(Protocol):
    """Encoded pictures by position, in files, shards or tables."""

    names: Names
    """What each is called: the key by which it can be asked to be forgotten."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> bytes:
        """Return the encoded picture; cheap at any position, in any process."""
        ...

    def take(self, positions: np.ndarray) -> Self:
        """Return the pictures at some positions, int64 ``[n]``."""
        ...

    def stamp(self) -> str:
        """Return a hash that changes when files are changed in the usual way, that is with their size or time."""
        ...

    def digests(self, cache: Path) -> np.ndarray:
        """Return a digest of the content of each encoded picture, ``[n]`` of dtype V16; all are read once and then kept in ``cache``."""
        ...


class Files:
    """Pictures in files of their own.

    Args:
        root: the folder that names are relative to.
        names: of the files.

    Raises:
        BadInput: a name leads out of the folder: lists come with a data set, and what they name is read.
    """

    def __init__(self, root: Path, names: Names):
        _check_inside(names)
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def read(self, position: int) -> bytes:
        """Return the content of a file.

        Raises:
            BadInput: it is not there any more.
        """
        path = self.root / self.names[position]
        try:
            return path.read_bytes()
        except OSError as error:
            raise BadInput("data.root", f"{path} cannot be read: {error.strerror}.", "Restore it, or make the experiment anew.") from None

    def take(self, positions: np.ndarray) -> "Files":
        """Return some of the files."""
        return Files(self.root, self.names.take(positions))

    def stamp(self) -> str:
        """Return a hash of names, sizes and times."""
        return contents.stamp(self.root, self.names, contents.states(self.root, self.names))

    def digests(self, cache: Path) -> np.ndarray:
        """Return a digest of each file's content; see `expunge.data.contents.digests`."""
        return contents.digests(self.root, self.names, cache)


def _check_inside(names: Names) -> None:
    starts = np.append(np.zeros(1, dtype=np.int64), names.ends)  # and the end, behind which there is nothing
    absolute = (names.bytes[starts[starts < len(names.bytes)]] == ord("/")).any()
    if not absolute and b".." not in names.bytes.tobytes():  # without a text for each of a million names
        return
    odd = next((name for name in names if name.startswith("/") or ".." in name.split("/")), None)
    if odd is not None:
        raise BadInput(
            "data.root", f"{odd[:80]!r} leads out of the folder of the data set.", "Mend the list that names it, or get it again."
        )


class Box(NamedTuple):
    """A part of a picture, in pixels of the whole."""

    left: float
    top: float
    right: float
    bottom: float


class Pictures:
    """A map-style dataset of decoded pictures: uint8 ``[3, size, size]`` and the label 0, which `LoaderSource` does not use.

    The shorter side of a picture is resized and the centre cut out.

    Args:
        raw: the encoded pictures.
        size: pixels on a side.
        central: share of the shorter side that is kept; 0.875 is the usual resize to 256 and cut of 224.
        known: digests of the encoded pictures, ``[n]`` of dtype V16; None if nobody needs them.
    """

    def __init__(self, raw: Raw, size: int, central: float = 1.0, known: np.ndarray | None = None):
        self.raw, self.size, self.central, self.known = raw, size, central, known

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self.decoded(position), 0

    def decoded(self, position: int, cut: "Cut | None" = None) -> torch.Tensor:
        """Return a picture, whole or a random part of it.

        Raises:
            BadInput: it cannot be read or decoded.
        """
        pixels = decode(self.raw.read(position), self.size, self.central, cut and cut.at(position), where=lambda: self.raw.names[position])
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def cut(self, seed: int, epoch: int, smallest: float) -> "CutPictures":
        """Return the dataset whose pictures are random parts, which depend on seed, epoch and position."""
        return CutPictures(self, seed, epoch, smallest)

    def digests(self) -> np.ndarray:
        """Return a digest of each encoded picture; equal files give equal ones."""
        if self.known is None:
            raise BadInput("data", "the content of these pictures has not been looked at.")
        return self.known


class CutPictures:
    """What `Pictures.cut` returns."""

    def __init__(self, pictures: Pictures, seed: int, epoch: int, smallest: float):
        self.pictures, self.made = pictures, Cut(seed, epoch, smallest)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self.pictures.decoded(position, self.made), 0


class Cut(NamedTuple):
    """Random parts of pictures: 8 to 100 % of the area, sides in a proportion of 3/4 to 4/3, as in most trainings on ImageNet.

    Source: Szegedy et al., Going deeper with convolutions, 2015, section 6; ten tries, then the largest central part.
    """

    seed: int
    epoch: int
    smallest: float
    position: int = 0

    def at(self, position: int) -> "Cut":
        """Return the draws of one picture."""
        return self._replace(position=position)

    def box(self, width: int, height: int) -> Box:
        """Return the part of a picture of this size, in whole pixels."""
        low, high = math.log(3 / 4), math.log(4 / 3)
        for attempt in range(10):
            area = width * height * (self.smallest + (1 - self.smallest) * self._uniform("area", attempt))
            ratio = math.exp(low + (high - low) * self._uniform("ratio", attempt))
            across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < across <= width and 0 < down <= height:
                left = int(self._uniform("left", attempt) * (width - across + 1))
                top = int(self._uniform("top", attempt) * (height - down + 1))
                return Box(left, top, left + across, top + down)
        across, down = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - across) // 2, (height - down) // 2
        return Box(left, top, left + across, top + down)

    def _uniform(self, what: str, attempt: int) -> float:
        return float(randomness.uniform(self.seed, f"augment/{what}", self.epoch, torch.tensor([self.position]), draw=attempt))


def decode(
    content: bytes, size: int, central: float = 1.0, cut: Cut | None = None, where: str | Callable[[], str] = "the picture"
) -> np.ndarray:
    """Return a picture as uint8 ``[size, size, 3]``; one of 16 bits a pixel is divided by 257, so that white stays white.

    Args:
        content: an encoded picture.
        size: pixels on a side.
        central: share of the shorter side that is kept, without ``cut``.
        cut: takes a random part instead of the centre.
        where: what the picture is called in errors; or a function that returns it.

    Raises:
        BadInput: not a picture, or damaged, or pixels of which nothing says which value is white.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as opened:
            width, height = opened.size
            box = cut.box(width, height) if cut is not None else _central(width, height, central)
            # JPEG can be decoded at a half, a quarter or an eighth: not below twice the wanted size, so that the result stays smooth.
            needed = 2 * size
            opened.draft("RGB", (math.ceil(width * needed / (box.right - box.left)), math.ceil(height * needed / (box.bottom - box.top))))
            across, down = opened.size[0] / width, opened.size[1] / height
            part = (box.left * across, box.top * down, box.right * across, box.bottom * down)
            return np.array(in_colour(opened).resize((size, size), Image.Resampling.BILINEAR, box=part))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        named = where() if callable(where) else where
        found = "it is none, or damaged" if isinstance(error, UnidentifiedImageError) else error
        raise BadInput("data.root", f"{named} cannot be read as a picture: {found}.", "Delete or replace it.") from None


def in_colour(opened: "Image.Image") -> "Image.Image":
    """Return an opened picture in colour, eight bits a channel; Pillow's own conversion cuts 16-bit greys off at 255.

    Raises:
        ValueError: pixels of 32 bits or floating point.
        OSError: it is damaged.
    """
    from PIL import Image

    if opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in SIXTEEN_BITS):
        grey = np.asarray(opened).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if opened.mode in ("I", "F"):
        kind = "floating point" if opened.mode == "F" else "of 32 bits"
        raise ValueError(f"its pixels are {kind}, and nothing says which value is white; write it with 8 or 16 bits")
    return opened.convert("RGB")


def _central(width: int, height: int, central: float) -> Box:
    side = min(width, height) * central
    left, top = (width - side) / 2, (height - side) / 2
    return Box(left, top, left + side, top + side)


def content_fingerprint(known: np.ndarray, labels: np.ndarray, train_size: int, settings: str) -> str:
    """Return the SHA-256 of what is read and how: digests of all pictures in order, labels, and the settings of decoding."""
    hashed = hashlib.sha256(f"pictures {settings} {train_size}".encode())
    hashed.update(np.ascontiguousarray(known).view(np.uint8).data)
    hashed.update(np.ascontiguousarray(labels, dtype=np.int64).data)
    return hashed.hexdigest()
