"""Official files of published data sets: where they are looked for, what is wrong with them, and their conversion to tensors."""

import gzip
import hashlib
import json
import os
import struct
import urllib.error
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.data.dataset import Arrays, Data, OfficialDataset, assemble
from expunge.errors import BadInput
from expunge.runs import atomic_write


def cache_folder() -> Path:
    """Return the folder for files that expunge fetches or converts: ``$XDG_CACHE_HOME/expunge``, or ``~/.cache/expunge``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expunge"


def locate(config: OfficialDataset, marks: Sequence[str], size: str, fetch: Callable[[Path], object]) -> Path:
    """Return the folder that directly holds the official files, after fetching them if that is asked for.

    Args:
        config: the data set, for ``root`` and ``download``.
        marks: paths under the root, one of which must exist, the plainest first.
        size: of the download, in words.
        fetch: downloads into a folder.

    Raises:
        BadInput: there is nothing of the kind, or the download failed.
    """
    root = config.root or cache_folder() / config.name
    found = _holding(root, marks)
    if found is not None:
        return found
    if not config.download:
        reason = f"{root} does not exist" if not root.exists() else f"{root} holds no {marks[0]}"
        raise BadInput(
            "data.root",
            f"{config.name} needs its official files, and {reason}.",
            f"Give data.root=FOLDER, the one with {marks[0]} in it, or data.download=true to fetch {size}.",
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        fetch(root)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise BadInput(
            "data.download",
            f"the files of {config.name} could not be fetched: {detail}.",
            "Fetch them elsewhere and give data.root=FOLDER.",
        ) from None
    found = _holding(root, marks)
    if found is not None:
        return found
    raise BadInput("data.download", f"what was fetched to {root} holds no {marks[0]}.", "Empty the folder and try again.")


def _holding(root: Path, marks: Sequence[str]) -> Path | None:
    """Return the folder that holds the first mark found; the root itself may be that folder (``.../cifar-10-batches-py``)."""
    for mark in map(Path, marks):
        if (root / mark).exists():
            return (root / mark).parent
        if root.name == mark.parent.name and (root / mark.name).exists():
            return root
    return None


def check_files(folder: Path, files: Sequence[tuple[str, str]]) -> None:
    """Compare files with their published MD5 sums, before anything in them is read.

    Raises:
        BadInput: the first file that is missing or differs.
    """
    for name, expected in files:
        path = folder / name
        if not path.is_file():
            raise BadInput(
                "data.root", f"{path} is missing.", "Unpack the official archive again, or use data.download=true with an empty folder."
            )
        with open(path, "rb") as opened:
            found = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != expected:
            raise BadInput(
                "data.root",
                f"{path} is damaged or not the official file: {path.stat().st_size} bytes with MD5 {found}, expected {expected}.",
                "Delete it and get the official archive again.",
            )


def converted(
    name: str,
    cache: Path | None,
    folder: Path,
    files: Sequence[str],
    read: Callable[[], tuple[Arrays, Sequence[str]]],
    more: str = "",
) -> tuple[Arrays, tuple[str, ...]]:
    """Return examples and class names as ``read`` returns them, from the converted file if there is one of these very files.

    Args:
        name: of the converted file.
        cache: its folder; beside the official files if None and they can be written to, otherwise the cache folder.
        folder: where the official files are.
        files: their names; path, size and time of each decide whether the converted file is still theirs.
        read: reads and checks the official files.
        more: whatever else decides what is read.

    Raises:
        BadInput: what ``read`` raises, or the cache folder cannot be written.
    """
    from safetensors.torch import save_file

    stamp = _stamp(folder, files) + more
    path = (cache or (folder if os.access(folder, os.W_OK) else cache_folder())) / f"{name}.expunge.safetensors"
    kept = _read_converted(path, stamp)
    if kept is not None:
        return kept
    arrays, class_names = read()
    arrays = Arrays(*(tensor.contiguous() for tensor in arrays))
    try:
        with atomic_write(path) as temporary:
            save_file(arrays._asdict(), temporary, metadata={"files": stamp, "class_names": json.dumps(list(class_names))})
    except BadInput:
        raise BadInput(
            "data.cache", f"the converted pictures cannot be written to {path}.", "Give data.cache=FOLDER, one with room."
        ) from None
    return arrays, tuple(class_names)


def _stamp(folder: Path, files: Sequence[str]) -> str:
    hashed = hashlib.sha256()
    for path in (folder.resolve() / name for name in files):
        if path.exists():
            state = path.stat()
            hashed.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return hashed.hexdigest()


def _read_converted(path: Path, stamp: str) -> tuple[Arrays, tuple[str, ...]] | None:
    """Return what is kept, or None when there is nothing, it is of other files, or the file is damaged: it is then made again."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("files") != stamp:
                return None
            return Arrays(*(opened.get_tensor(name) for name in Arrays._fields)), tuple(json.loads(metadata["class_names"]))
    except (SafetensorError, OSError):
        return None


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""The four files of MNIST and of the data sets made in its image."""


def idx_marks(torchvision_name: str) -> list[str]:
    """Return where the first of the four files may lie under a root, gzipped or not."""
    folders = ("", "raw/", f"{torchvision_name}/raw/")
    return [f"{folder}{IDX_FILES[0]}{ending}" for folder in folders for ending in ("", ".gz")]


def read_idx_folder(folder: Path) -> Arrays:
    """Return the contents of the four idx files, gzipped or not.

    Raises:
        BadInput: one is missing, damaged or of another kind, or pictures and labels differ in number.
    """
    parts = []
    for name in IDX_FILES:
        path = next((folder / f"{name}{ending}" for ending in ("", ".gz") if (folder / f"{name}{ending}").is_file()), None)
        if path is None:
            raise BadInput(
                "data.root", f"{folder / name} (or .gz) is missing.", "All four idx files are needed: " + ", ".join(IDX_FILES) + "."
            )
        parts.append((path, read_idx(path, 3 if "images" in name else 1)))
    for (_, x), (path, y) in ((parts[0], parts[1]), (parts[2], parts[3])):
        if len(x) != len(y):
            raise BadInput("data.root", f"{path} holds {len(y)} labels for {len(x)} pictures.", "Get the official files again.")
    x_train, y_train, x_test, y_test = (torch.from_numpy(array) for _, array in parts)
    return Arrays(x_train[:, None], y_train.long(), x_test[:, None], y_test.long())


def load_idx(
    config: OfficialDataset, reader: type[Any], size: str, class_names: tuple[str, ...], device: torch.device | str, mean: float, std: float
) -> Data:
    """Return the data of four idx files that torchvision's ``reader`` would fetch.

    Raises:
        BadInput: see `locate`, `read_idx_folder` and `converted`.
    """
    folder = locate(config, idx_marks(reader.__name__), size, lambda root: reader(root, download=True))
    names = [name + ending for name in IDX_FILES for ending in ("", ".gz")]
    arrays, class_names = converted(config.name, config.cache, folder, names, lambda: (read_idx_folder(folder), class_names))
    return assemble(config, arrays, class_names, device, (mean,), (std,))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the uint8 array of an idx file.

    Raises:
        BadInput: not an idx file of bytes with that many dimensions, or shorter or longer than its header says.
    """
    remedy = "Delete it and get the official file again."
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadInput("data.root", f"{path} is damaged: {error}.", remedy) from None
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise BadInput(
            "data.root",
            f"{path} is not an idx file of bytes with {dimensions} dimension(s): it begins with {raw[:4].hex() or 'nothing'}.",
            remedy,
        )
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    wanted = header + int(np.prod(shape, dtype=np.int64))
    if len(raw) != wanted:
        raise BadInput("data.root", f"{path} has {len(raw)} bytes, its header says {wanted}: it is cut short or damaged.", remedy)
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape).copy()
