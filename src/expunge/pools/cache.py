"""The evidence cache: what many models say about every example, append-only, memory-mapped, checksummed.

One folder holds one pool on one data set. Rows are models, columns are examples in canonical order. Rows lie in blocks of fixed size,
so that a pool grows without touching what is there, and each row has one writer: processes fill different rows of one cache at once.
"""

import os
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge.config import fingerprint
from expunge.errors import BadInput
from expunge.metrics.scores import margin
from expunge.runs import read_json, unwritable, write_json

BLOCK_ROWS = 64
OUT, IN, FORGET = 0, 1, 2
"""States of an example in a model's life: never seen, trained on, trained on and then unlearned."""


@dataclass(frozen=True)
class _Field:
    """One array of a block."""

    dtype: str
    columns: tuple[int, ...]


class EvidenceCache:
    """Rows of evidence.

    Args:
        folder: where the cache is, or is made.
        manifest: plain values that say what the evidence is about: data, labels, split, pool, architecture, recipe, transform. Two
            caches with different manifests never meet.
        labels: true labels of all examples, int64 ``[n]``.
        classes: number of logits.
        keep_logits: whether float16 logits are kept beside the margins; entropy and divergence metrics need them.

    Raises:
        BadInput: the folder holds evidence about something else.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], labels: np.ndarray, classes: int, *, keep_logits: bool = True):
        self.folder, self.labels, self.classes = Path(folder), np.asarray(labels, dtype=np.int64), classes
        self.manifest = {
            **manifest,
            "format": 1,
            "examples": len(self.labels),
            "classes": classes,
            "labels": fingerprint(self.labels.tolist()),
            "logits": keep_logits,
        }
        self.keep_logits = keep_logits
        _meet(self.folder / "manifest.json", self.manifest)

    @property
    def _fields(self) -> dict[str, _Field]:
        n = len(self.labels)
        fields = {
            "margin": _Field("<f4", (n,)),
            "correct": _Field("|u1", (-(-n // 8),)),
            "state": _Field("|u1", (n,)),
            "done": _Field("|u1", ()),
            "crc": _Field("<u4", ()),
        }
        return {**fields, "logits": _Field("<f2", (n, self.classes))} if self.keep_logits else fields

    def write(self, row: int, logits: np.ndarray, state: np.ndarray) -> None:
        """Write what model ``row`` says. Done last, and found undone after a crash before that.

        Args:
            row: number of the model in its pool, from 0.
            logits: float32 ``[n, C]``, from a float32 forward; margins are computed before anything is rounded.
            state: uint8 ``[n]`` of OUT, IN, FORGET.

        Raises:
            BadInput: wrong shapes, other states, or logits that are not finite.
        """
        logits, state = self._checked(logits, state)
        block, place = self._block(row, create=True), row % BLOCK_ROWS
        margins = margin(logits, self.labels).astype(np.float32)
        if self.valid(row) and np.array_equal(block["margin"][place], margins) and np.array_equal(block["state"][place], state):
            return  # another process may be reading it
        block["done"][place] = 0
        block["done"].flush()
        block["margin"][place] = margins
        block["correct"][place] = np.packbits(logits.argmax(axis=1) == self.labels)
        block["state"][place] = state
        if self.keep_logits:
            block["logits"][place] = np.clip(logits, -6e4, 6e4).astype(np.float16)
        block["crc"][place] = self._crc(block, place)
        for name, array in block.items():
            if name != "done":
                array.flush()
        block["done"][place] = 1
        block["done"].flush()

    def _checked(self, logits: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        expected = (len(self.labels), self.classes)
        if logits.shape != expected or logits.dtype != np.float32:
            raise BadInput("evidence", f"expected float32 logits {expected}, got {logits.dtype} {logits.shape}.")
        if not np.isfinite(logits).all():
            raise BadInput("evidence", "the logits are not finite.", "The model diverged; leave it out.")
        state = np.asarray(state, dtype=np.uint8)
        if state.shape != (len(self.labels),) or (state > FORGET).any():
            raise BadInput("evidence", f"expected states 0, 1 or 2 for {len(self.labels)} examples, got {state.shape}.")
        return logits, state

    def valid(self, row: int) -> bool:
        """Return whether a row was written whole and still is what was written."""
        block = self._block(row)
        if block is None or not block["done"][row % BLOCK_ROWS]:
            return False
        return int(block["crc"][row % BLOCK_ROWS]) == self._crc(block, row % BLOCK_ROWS)

    def rows(self, upto: int | None = None) -> list[int]:
        """Return the numbers of all valid rows, below ``upto`` if given."""
        numbers = [int(path.name.removeprefix("block-")) for path in self.folder.glob("block-*") if path.is_dir()]
        candidates = (number * BLOCK_ROWS + place for number in sorted(numbers) for place in range(BLOCK_ROWS))
        return [row for row in candidates if (upto is None or row < upto) and self.valid(row)]

    def margins(self, rows: Iterable[int]) -> np.ndarray:
        """Return true-class margins ``z_y - logsumexp of the others``, float32 ``[rows, n]``."""
        return self._stack("margin", rows)

    def states(self, rows: Iterable[int]) -> np.ndarray:
        """Return states, uint8 ``[rows, n]``."""
        return self._stack("state", rows)

    def correct(self, rows: Iterable[int]) -> np.ndarray:
        """Return whether each prediction was right, bool ``[rows, n]``; exact, unlike the sign of the margin."""
        return np.unpackbits(self._stack("correct", rows), axis=1, count=len(self.labels)).astype(bool)

    def logits(self, row: int) -> np.ndarray:
        """Return the logits of one model, float32 ``[n, C]``, rounded to float16.

        Raises:
            BadInput: the cache keeps none.
        """
        if not self.keep_logits:
            raise BadInput(str(self.folder), "this cache keeps margins only.", "Make it with keep_logits=True.")
        return self._stack("logits", [row])[0].astype(np.float32)

    def _stack(self, name: str, rows: Iterable[int]) -> np.ndarray:
        found = []
        for row in rows:
            block = self._block(row)
            if block is None or not block["done"][row % BLOCK_ROWS]:
                raise BadInput(str(self.folder), f"row {row} is not there.", "Fill the pool first.")
            found.append(block[name][row % BLOCK_ROWS])
        field = self._fields[name]
        return np.stack(found) if found else np.empty((0, *field.columns), dtype=field.dtype)

    def _crc(self, block: Mapping[str, np.ndarray], place: int) -> int:
        value = 0
        for name in ("margin", "correct", "state", *(("logits",) if self.keep_logits else ())):
            value = zlib.crc32(np.ascontiguousarray(block[name][place]).data, value)
        return value

    def _block(self, row: int, create: bool = False) -> Any:
        folder = self.folder / f"block-{row // BLOCK_ROWS:05d}"
        if not create and not all((folder / f"{name}.npy").is_file() for name in self._fields):
            return None
        return {name: self._open(folder / f"{name}.npy", field, create) for name, field in self._fields.items()}

    def _open(self, path: Path, field: _Field, create: bool) -> np.memmap:
        shape = (BLOCK_ROWS, *field.columns)
        if create and not path.is_file():
            _make(path, field.dtype, shape)
        try:
            array = np.load(path, mmap_mode="r+" if create else "r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(str(path), f"cannot be read: {error}.", "Delete its folder; the rows are made again.") from None
        if array.shape != shape or array.dtype != np.dtype(field.dtype):
            raise BadInput(str(path), f"holds {array.dtype} {array.shape}, expected {field.dtype} {shape}.", "Delete its folder.")
        return array


def _make(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Make an array of zeros unless another process has made it first; only one of two makers wins, and both then use the same file.

    Raises:
        BadInput: the disk is full. The room is taken now, because a process that writes to memory for which there is none is killed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
        if hasattr(os, "posix_fallocate"):
            with open(temporary, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def _meet(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a new cache, or compare it with that of an old one."""
    if not path.is_file():
        write_json(path, dict(manifest))
        return
    found = read_json(path)
    different = sorted(key for key in {*found, *manifest} if found.get(key) != manifest.get(key))
    if different:
        key = different[0]
        raise BadInput(
            str(path.parent),
            f"holds evidence with {key}={found.get(key)!r}, asked for {key}={manifest.get(key)!r}.",
            "Evidence of different data, splits, models or transforms never meets; use another folder.",
        )
