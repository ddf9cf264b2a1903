"""Forget examples by number."""

import csv
from pathlib import Path

import numpy as np

from expunge.config import NonNegativeInt, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Scenario
from expunge.errors import BadInput

HEADERS = ("id", "ids", "index", "indices")


class Ids(Scenario):
    """Forget the training examples with the given numbers, as a deletion request names them.

    Numbers count from 0 in the order of the training set. A file holds numbers between commas, spaces or line ends; with a header
    line, those of its column ``id`` or ``index``.
    """

    kind = "random"
    kind_from_content = True
    prefix_field = "file"

    ids: tuple[NonNegativeInt, ...] | None = hyper(None, "the numbers")
    file: Path | None = hyper(None, "a text or CSV file with the numbers, instead of a list")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices to forget; see `expunge.data.scenario.Scenario.choose`."""
        if (self.ids is None) == (self.file is None):
            found = "neither ids nor file is given" if self.ids is None else "got ids and file"
            raise BadInput("forget.ids", f"{found}; exactly one of them is needed.", "Write forget.ids=[3,17] or forget.file=FILE.")
        numbers = list(self.ids or ()) if self.file is None else read_ids(self.file)
        huge = next((number for number in numbers if abs(number) >= 2**63), None)
        if huge is not None:
            raise BadInput("forget", f"the index {huge} is out of range: training examples are 0 to {data.train_size - 1}.")
        return np.array(numbers, dtype=np.int64)


def read_ids(path: Path) -> list[int]:
    """Return the numbers of a file.

    Raises:
        BadInput: the file cannot be read, holds something else, or has a header without a column of numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("forget.file", f"{path} cannot be read: {error}.", "Give a text or CSV file.") from None
    rows = [(number, row) for number, row in enumerate(csv.reader(lines), 1) if any(cell.strip() for cell in row)]
    if not rows:
        raise BadInput("forget.file", f"{path} holds no numbers.")
    names = [cell.strip().lower() for cell in rows[0][1]]
    if any(name and not _is_number(part) for name in names for part in name.split()):
        column = _column(path, names)
        if len(rows) == 1:
            raise BadInput("forget.file", f"{path} holds a header ({', '.join(names)}) and no numbers.")
        return [_number(path, line, row[column] if column < len(row) else "") for line, row in rows[1:]]
    return [_number(path, line, part) for line, row in rows for cell in row for part in cell.split()]


def _column(path: Path, names: list[str]) -> int:
    if len(names) == 1 and names[0] not in HEADERS and not names[0].isidentifier():
        raise BadInput("forget.file", f"{path}, line 1: {names[0]!r} is not a number.")
    found = [position for position, name in enumerate(names) if name in HEADERS]
    if len(names) > 1 and len(found) != 1:
        raise BadInput("forget.file", f"{path} has the columns {', '.join(names)}.", "One of them must be called id or index.")
    return found[0] if found else 0


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _number(path: Path, line: int, text: str) -> int:
    if not _is_number(text.strip()):
        raise BadInput("forget.file", f"{path}, line {line}: {text!r} is not a whole number.")
    return int(text)
