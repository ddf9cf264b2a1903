"""Downstream sets from a folder: pictures of several domains, sorted by class, as Office-Home and PACS have them."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from expunge.data.pictures import in_colour
from expunge.errors import BadInput, nearest
from expunge.representation.neighbors import Downstream, fixed_split, resized

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
ACROSS = 25
"""Pictures in a row of a sheet."""
AT_ONCE = 250
"""Pictures in a batch."""
HELD_BYTES = 1_000_000_000
"""Sets that are larger than this as float32 are decoded anew for each model: every process that looks at models would hold them."""


class Lazy:
    """Pictures as a model takes them, decoded anew in each pass: what `Downstream.x` is for a set that is too large to be held.

    Args:
        sources: files, or decoded pictures uint8 ``[H, W, 3]``.
        input_shape: (C, H, W) of the model's inputs.
    """

    def __init__(self, sources: Sequence[Path] | np.ndarray, input_shape: tuple[int, ...]):
        self.sources, self.shape = sources, input_shape

    def __len__(self) -> int:
        return len(self.sources)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield batches, float ``[B, C, H, W]``; only one is held.

        Raises:
            BadInput: a file is no picture.
        """
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self), size):
                yield torch.cat(list(pool.map(self._one, self.sources[start : start + size])))

    def _one(self, source: Path | np.ndarray) -> Tensor:
        pixels = source if isinstance(source, np.ndarray) else _picture(source)
        return _channels(resized(pixels[None], (self.shape[1], self.shape[2])), self.shape[0])


def read(folder: Path, input_shape: tuple[int, ...]) -> list[Downstream]:
    """Return one set for each domain, in alphabetical order, its pictures brought to a model's size and number of channels.

    Sets of up to `HELD_BYTES` together are decoded at once; the pictures of larger ones are `Lazy`.

    Args:
        folder: ``DOMAIN/CLASS/PICTURE``; or sheets: square pictures in rows of 25, up to 1,000 on each of ``*-00.jpg``, ``*-01.jpg``, ...,
            beside a ``labels.npz`` with ``label`` and, for more than one domain, ``domain`` and ``domain_names``.
        input_shape: (C, H, W) of the model's inputs, C of 1 or 3.

    Raises:
        BadInput: no such folder, neither layout, or a model that does not take pictures.
    """
    check_inputs(input_shape)
    found = _sets(folder, input_shape)
    if sum(map(len, (part.x for part in found))) * math.prod(input_shape) * 4 > HELD_BYTES:
        return found
    return [replace(part, x=torch.cat(list(part.x.split(AT_ONCE)))) for part in found]


def pictures(folder: Path, input_shape: tuple[int, ...], domain: str | None = None, size: int = AT_ONCE) -> Iterator[Tensor]:
    """Return the pictures of a folder as a model takes them, float ``[B, C, H, W]``, domain by domain; only one batch is held.

    Args:
        folder: as for `read`.
        input_shape: (C, H, W) of the model's inputs, C of 1 or 3.
        domain: the name of one domain; all if None.
        size: most pictures in a batch.

    Raises:
        BadInput: as `read`; or no such domain. Both before a picture is asked for.
    """
    check_inputs(input_shape)
    sets = {part.name: part.x for part in _sets(folder, input_shape)}
    if domain is not None and domain not in sets:
        raise BadInput("forget.domain", f"{folder} has no domain {domain!r}.", nearest(domain, sets))
    return (batch for name, x in sets.items() if domain in (None, name) for batch in x.split(size))


def check_inputs(input_shape: tuple[int, ...]) -> None:
    """Refuse a model that does not take pictures.

    Args:
        input_shape: of the model's inputs.

    Raises:
        BadInput: they are no pictures.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise BadInput("downstream", f"the model takes inputs of shape {list(input_shape)}, not pictures.", "Leave the downstream set out.")


def check(folder: Path, neighbours: int) -> None:
    """Refuse a set that is too small for transfer; no picture is decoded.

    Args:
        folder: as for `read`.
        neighbours: k of transfer.

    Raises:
        BadInput: as `read`; or a domain has fewer than k pictures to remember, or none to ask about.
    """
    for part in _sets(folder, (3, 1, 1)):
        known, asked = fixed_split(part.labels)
        if len(known) < neighbours or not len(asked):
            found = f"the domain {part.name} of {folder} has {len(known)} pictures to remember and {len(asked)} to ask about"
            remedy = "A fifth of each class is asked about: add pictures, or take the domain out."
            raise BadInput("evaluate.downstream", f"{found}; transfer takes the {neighbours} nearest of those.", remedy)


def _sets(folder: Path, input_shape: tuple[int, ...]) -> list[Downstream]:
    if not folder.is_dir():
        raise BadInput("evaluate.downstream", f"there is no folder {folder}.", "Give a folder of pictures, DOMAIN/CLASS/PICTURE.")
    parts = _sheets(folder) if (folder / "labels.npz").is_file() else _tree(folder)
    if not parts:
        raise BadInput("downstream", f"{folder} holds no pictures as DOMAIN/CLASS/PICTURE.", "Sort them so.")
    return [Downstream(name, Lazy(sources, input_shape), np.asarray(labels, dtype=np.int64)) for name, sources, labels in parts]


def fingerprint(folder: Path) -> str:
    """Return a hash of the names and the content of all files of a folder; computed again where a time or a size has changed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return _hashed(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files), folder)


@cache
def _hashed(files: tuple[tuple[Path, int, int], ...], folder: Path) -> str:
    hashed = hashlib.sha256()
    for path, size, _ in files:
        hashed.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode() + path.read_bytes())
    return hashed.hexdigest()[:12]


Part = tuple[str, list[Path] | np.ndarray, np.ndarray]


def _tree(folder: Path) -> list[Part]:
    found: list[Part] = []
    classes = sorted({path.name for path in folder.glob("*/*") if path.is_dir()})
    for domain in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = [path for path in sorted(domain.glob("*/*")) if path.suffix.lower() in SUFFIXES]
        if files:
            found.append((domain.name, files, np.array([classes.index(path.parent.name) for path in files])))
    return found


def _picture(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return np.array(in_colour(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput("evaluate.downstream", f"{path} is no picture: {error}.", "Mend it or take it away.") from None


def _sheets(folder: Path) -> list[Part]:
    try:
        with open(folder / "labels.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
            held = {key: arrays[key] for key in ("label", "domain", "domain_names") if key in arrays}
        labels = held["label"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BadInput(str(folder / "labels.npz"), f"cannot be read: {error}.", "It must hold an array label.") from None
    paths = sorted(path for path in folder.glob("*-[0-9][0-9]*") if path.suffix.lower() in SUFFIXES)
    pages = [_picture(path) for path in paths]
    side = pages[0].shape[1] // ACROSS if pages else 1
    tiles = [page.reshape(page.shape[0] // side, side, ACROSS, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3) for page in pages]
    if sum(map(len, tiles)) < len(labels):
        raise BadInput(
            str(folder), f"{len(paths)} sheets hold {sum(map(len, tiles))} pictures, and there are {len(labels)} labels.", "Copy it again."
        )
    pictures = np.concatenate(tiles)[: len(labels)]
    if "domain" not in held:
        return [(folder.name, pictures, labels)]
    names = held.get("domain_names", np.unique(held["domain"]).astype(str))
    return [(str(name), pictures[held["domain"] == number], labels[held["domain"] == number]) for number, name in enumerate(names)]


def _channels(x: Tensor, channels: int) -> Tensor:
    """Return colour pictures as they are, or as brightness ``[n, 1, H, W]``."""
    if channels == 3:
        return x
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)
