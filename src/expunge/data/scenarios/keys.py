"""Forget examples by what they are called."""

import csv
import difflib
from pathlib import Path

import numpy as np

from expunge.config import Text, hyper
from expunge.data.dataset import Data
from expunge.data.names import Names
from expunge.data.scenario import Scenario
from expunge.errors import BadInput


class Keys(Scenario):
    """Forget the training examples with the given keys, as a deletion request names them.

    A key is a file name in a folder (``train/cat/7.jpg``; its end is enough where it is the only one, ``cat/7.jpg``), the ``__key__`` of a
    sample in a shard, or the value of the key column of a table. A file holds one key a line; a first line ``key`` is a header.
    A CSV file (``.csv``) with several columns has one called ``key`` or ``file``.
    """

    kind = "random"
    kind_from_content = True
    prefix_field = "file"

    keys: tuple[Text, ...] | None = hyper(None, "the keys")
    file: Path | None = hyper(None, "a text file with one key a line, or a CSV file, instead of a list")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices to forget; see `expunge.data.scenario.Scenario.choose`."""
        if (self.keys is None) == (self.file is None):
            found = "neither keys nor file is given" if self.keys is None else "got keys and file"
            raise BadInput("forget.keys", f"{found}; exactly one of them is needed.", "Write forget.keys=[...] or forget.file=FILE.")
        if data.keys is None:
            raise BadInput("forget", f"the examples of {data.name} have no keys.", "Use forget=ids: with their numbers.")
        wanted = list(self.keys or ()) if self.file is None else read_keys(self.file)
        return find(wanted, data.keys, data.train_size)


HEADERS = ("key", "keys", "__key__", "file", "name")


def read_keys(path: Path) -> list[str]:
    """Return the keys of a file.

    Raises:
        BadInput: it cannot be read, is empty, or is a CSV file of several columns of which none holds keys.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("forget.file", f"{path} cannot be read: {error}.", "Give a text file with one key a line.") from None
    keys = [line for line in lines if line]
    keys = _column(path, keys) if path.suffix.lower() == ".csv" else keys
    keys = keys[1:] if keys and keys[0].lower() in HEADERS else keys
    if not keys:
        raise BadInput("forget.file", f"{path} holds no keys.")
    return keys


def _column(path: Path, lines: list[str]) -> list[str]:
    """Return the cells of the column of keys, with its header; those of the only column, if there is one."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    names = [name.lower() for name in rows[0]]
    found = [place for place, name in enumerate(names) if name in HEADERS]
    if len(found) != 1:
        raise BadInput("forget.file", f"{path} has the columns {', '.join(names)}.", "Exactly one of them must be called key or file.")
    for line, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise BadInput("forget.file", f"{path}, line {line}: {len(row)} cells, the header has {len(names)}.", "Mend the line.")
    return [row[found[0]] for row in rows]


def find(wanted: list[str], keys: Names, train_size: int) -> np.ndarray:
    """Return the canonical indices of some keys, int64 ``[n]``.

    Raises:
        BadInput: a key that no training example has, or that several have.
    """
    places: dict[str, list[int]] = {}
    asked = set(wanted)
    ends = {key.rpartition("/")[2] for key in asked}
    endings: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        if key in asked:
            places.setdefault(key, []).append(position)
        elif key.rpartition("/")[2] in ends:
            for short in _endings(key):
                if short in asked:
                    endings.setdefault(short, []).append(position)
    return np.array([_one(key, places.get(key) or endings.get(key, []), keys, train_size) for key in wanted], dtype=np.int64)


def _endings(key: str) -> list[str]:
    parts = key.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def _one(key: str, found: list[int], keys: Names, train_size: int) -> int:
    training = [position for position in found if position < train_size]
    if found and not training:
        raise BadInput("forget.keys", f"{key!r} is in the test part, which no model is trained on.", "Leave it out.")
    if not training:
        near = difflib.get_close_matches(key, [keys[position] for position in range(min(train_size, 5000))], n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Keys look like {keys[0]!r}."
        raise BadInput("forget.keys", f"no training example has the key {key!r}.", remedy)
    if len(training) > 1:
        some = ", ".join(keys[position] for position in training[:3])
        raise BadInput("forget.keys", f"{len(training)} training examples have the key {key!r}: {some}.", "Name them in full.")
    return training[0]
