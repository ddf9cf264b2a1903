"""Downstream sets from a folder: pictures of several domains, sorted by class, as Office-Home and PACS have them."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expunge.errors import BadInput, nearest
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


def pictures(folder: Path, input_shape: tuple[int, ...], domain: str | None = None, size: int = 250) -> Iterator[Tensor]:
    """Yield the pictures of a folder as a model takes them, float ``[B, C, H, W]``, domain by domain; only one batch is held.

    Args:
        folder: as for `read`.
        input_shape: (C, H, W) of the model's inputs, C of 1 or 3.
        domain: the name of one domain; all if None.
        size: pictures in a batch.

    Raises:
        BadInput: as `read`; or no such domain.
    """
    if (folder / "labels.npz").is_file():
        sets = {part.name: part for part in read(folder, input_shape)}
        _check_domain(folder, domain, sets)
        for name, part in sets.items():
            yield from part.x.split(size) if domain in (None, name) else ()
        return
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    _check_domain(folder, domain, names)
    files = [path for name in names if domain in (None, name) for path in sorted((folder / name).glob("*/*"))]
    files = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not files:
        raise BadInput("downstream", f"{folder} holds no pictures as DOMAIN/CLASS/PICTURE.", "Sort them so.")
    for start in range(0, len(files), size):
        chunk = [_resized("", [_picture(path)], np.zeros(1, dtype=np.int64), input_shape).x for path in files[start : start + size]]
        yield torch.cat(chunk)


def _check_domain(folder: Path, domain: str | None, names: Iterable[str]) -> None:
    if domain is not None and domain not in names:
        raise BadInput("forget.domain", f"{folder} has no domain {domain!r}.", nearest(domain, names))


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
