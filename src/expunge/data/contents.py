"""Digests of the content of files: each file is read once, and again only when its size or time has changed."""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from expunge.data.names import Names
from expunge.errors import BadInput
from expunge.runs import atomic_write

DIGEST = np.dtype("V16")
RACY_NS = 2_000_000_000
"""A file that was written less than this before it was read could have changed since without a change of its time."""


AT_ONCE = 4096
"""Files that are handed to the reading threads at once."""


class State(NamedTuple):
    """Sizes in bytes and times of the last change in nanoseconds, int64 ``[n]`` each."""

    sizes: np.ndarray
    times: np.ndarray


def digest(content: bytes) -> bytes:
    """Return 16 bytes that differ when the content does."""
    return hashlib.blake2b(content, digest_size=16).digest()


def states(root: Path, names: Names) -> State:
    """Return size and time of some files under a folder.

    Raises:
        BadInput: one is missing.
    """
    found = np.empty((len(names), 2), dtype=np.int64)
    for position, name in enumerate(names):
        try:
            state = os.stat(root / name)
        except OSError as error:
            raise BadInput(
                "data.root", f"{root / name} cannot be read: {error.strerror}.", "Restore it, or take it out of the lists."
            ) from None
        found[position] = state.st_size, state.st_mtime_ns
    return State(found[:, 0].copy(), found[:, 1].copy())


def stamp(root: Path, names: Names, state: State) -> str:
    """Return a hash of place, names, sizes and times: what decides whether a file made of them is still theirs."""
    hashed = hashlib.sha256(f"{root.resolve()}\0".encode())
    for array in (names.bytes, names.ends, *state):
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def digests(root: Path, names: Names, cache: Path) -> np.ndarray:
    """Return a digest of the content of each file, ``[n]`` of dtype V16.

    What is known is kept in the cache folder. A file is read again when its size or its time differs from what was seen then, or when it
    had been changed so shortly before that a later change may have left the same time.

    Args:
        root: the folder that the names are relative to.
        names: of the files.
        cache: folder for what is known.

    Raises:
        BadInput: a file is missing or cannot be read.
    """
    path = cache / f"contents-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.npz"
    state = states(root, names)
    found, known = _known(path, names, state)
    missing = np.flatnonzero(~known)
    if not len(missing):
        return found
    taken = time.time_ns()
    try:
        for start in range(0, len(missing), AT_ONCE):
            block = missing[start : start + AT_ONCE]
            found[block], known[block] = _read(root, names.take(block)), True
    finally:  # who interrupts the first pass over a large set does not lose it
        settled = np.flatnonzero(known & (state.times < taken - RACY_NS))
        _save(path, names.take(settled), State(*(part[settled] for part in state)), found[settled], others_than=names)
    return found


def _known(path: Path, names: Names, state: State) -> tuple[np.ndarray, np.ndarray]:
    """Return digests ``[n]`` and which of them are known."""
    found, known = np.zeros(len(names), dtype=DIGEST), np.zeros(len(names), dtype=bool)
    kept = _kept(path)
    if kept is None:
        return found, known
    kept_names = Names.of_arrays(kept["names"], kept["ends"])
    if kept_names == names:
        rows = np.arange(len(names))
    else:
        places = kept_names.places()
        rows = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    there = np.flatnonzero(rows >= 0)
    same = (kept["sizes"][rows[there]] == state.sizes[there]) & (kept["times"][rows[there]] == state.times[there])
    there = there[same]
    found[there], known[there] = kept["digests"][rows[there]].view(DIGEST).reshape(-1), True
    return found, known


def _read(root: Path, names: Names) -> np.ndarray:
    def one(name: str) -> bytes:
        try:
            return digest((root / name).read_bytes())
        except OSError as error:
            raise BadInput("data.root", f"{root / name} cannot be read: {error.strerror}.", "Restore it.") from None

    with ThreadPoolExecutor() as pool:
        return np.frombuffer(b"".join(pool.map(one, names)), dtype=DIGEST)


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    kept = load_arrays(path)
    return kept if kept is not None and set(kept) == {"names", "ends", "sizes", "times", "digests"} else None


def _save(path: Path, names: Names, state: State, found: np.ndarray, others_than: Names) -> None:
    """Write what is known, beside what was known of other files of the folder: a data set is not always read as a whole."""
    columns = {"sizes": state.sizes, "times": state.times, "digests": found.view(np.uint8).reshape(-1, 16)}
    kept = _kept(path)
    if kept is not None:
        asked, kept_names = set(others_than), Names.of_arrays(kept["names"], kept["ends"])
        others = np.array([place for place, name in enumerate(kept_names) if name not in asked], dtype=np.int64)
        names = Names([*names, *kept_names.take(others)])
        columns = {name: np.concatenate([column, kept[name][others]]) for name, column in columns.items()}
    save_arrays(path, {"names": names.bytes, "ends": names.ends, **columns})


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays, atomically.

    Raises:
        BadInput: the folder cannot be written.
    """
    try:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except BadInput:
        raise BadInput("data.cache", f"{path} cannot be written.", "Give data.cache=FOLDER, one with room.") from None


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of a file; None where there is none or it is damaged: it is then made again."""
    import zipfile
    import zlib

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def kept_arrays(path: Path, state: str, newest_ns: int, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of a file that was made of what ``state`` names, or make them.

    Args:
        path: of the file.
        state: names, sizes and times of what the arrays are made of.
        newest_ns: the latest of these times; what has just been written is not trusted to be told apart by it, and nothing is kept.
        make: makes the arrays.
    """
    kept = load_arrays(path)
    if kept is not None and str(kept.get("state")) == state:
        return kept
    taken = time.time_ns()
    made = {**make(), "state": np.array(state)}
    if newest_ns < taken - RACY_NS:
        save_arrays(path, made)
    return made
