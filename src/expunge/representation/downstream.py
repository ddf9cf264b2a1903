"""Downstream sets from a folder: pictures of several domains, sorted by class, as Office-Home and PACS have them."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expunge.errors import BadInput
from expunge.representation.neighbors import Downstream

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
ACROSS = 25
"""Pictures in a row of a sheet."""


def read(folder: Path, input_shape: tuple[int, ...]) -> list[Downstream]:
    """Return one set for each domain, in alphabetical order, its pictures brought to a model's size and number of channels.

    Args:
        folder: ``DOMAIN/CLASS/PICTURE``; or sheets: square pictures in rows of 25, up to 1,000 on each of ``*-00.jpg``, ``*-01.jpg``, ...,
            beside a ``labels.npz`` with ``label`` and, for more than one domain, ``domain`` and ``domain_names``.
        input_shape: (C, H, W) of the model's inputs, C of 1 or 3.

    Raises:
        BadInput: no such folder, neither layout, or a model that does not take pictures.
    """
    if not folder.is_dir():
        raise BadInput("evaluate.downstream", f"there is no folder {folder}.", "Give a folder of pictures, DOMAIN/CLASS/PICTURE.")
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise BadInput("downstream", f"the model takes inputs of shape {list(input_shape)}, not pictures.", "Leave the downstream set out.")
    parts = _sheets(folder) if (folder / "labels.npz").is_file() else _tree(folder)
    found = [_resized(name, pictures, labels, input_shape) for name, pictures, labels in parts]
    if not found:
        raise BadInput("downstream", f"{folder} holds no pictures as DOMAIN/CLASS/PICTURE.", "Sort them so.")
    return found


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


Part = tuple[str, list[np.ndarray] | np.ndarray, np.ndarray]


def _tree(folder: Path) -> list[Part]:
    found: list[Part] = []
    classes = sorted({path.name for path in folder.glob("*/*") if path.is_dir()})
    for domain in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = [path for path in sorted(domain.glob("*/*")) if path.suffix.lower() in SUFFIXES]
        if files:
            pictures = [_picture(path) for path in files]
            found.append((domain.name, pictures, np.array([classes.index(path.parent.name) for path in files])))
    return found


def _picture(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        return np.array(Image.open(path).convert("RGB"))
    except (OSError, ValueError) as error:
        raise BadInput("evaluate.downstream", f"{path} is no picture: {error}.", "Mend it or take it away.") from None


def _sheets(folder: Path) -> list[Part]:
    from PIL import Image

    try:
        with np.load(folder / "labels.npz", allow_pickle=False) as arrays:
            held = {key: arrays[key] for key in ("label", "domain", "domain_names") if key in arrays}
        labels = held["label"].astype(np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(str(folder / "labels.npz"), f"cannot be read: {error}.", "It must hold an array label.") from None
    paths = sorted(path for path in folder.glob("*-[0-9][0-9]*") if path.suffix.lower() in SUFFIXES)
    pages = [np.array(Image.open(path).convert("RGB")) for path in paths]
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


def _resized(name: str, pictures: list[np.ndarray] | np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> Downstream:
    if isinstance(pictures, np.ndarray):
        x = Downstream.of_pictures(name, pictures, labels, (shape[1], shape[2])).x
    else:
        x = torch.cat([Downstream.of_pictures(name, picture[None], labels[:1], (shape[1], shape[2])).x for picture in pictures])
    return Downstream(name, _channels(x, shape[0]), np.asarray(labels, dtype=np.int64))


def _channels(x: Tensor, channels: int) -> Tensor:
    """Return colour pictures as they are, or as brightness ``[n, 1, H, W]``."""
    if channels == 3:
        return x
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)
