"""Encoded pictures in tables of the Hugging Face library, mapped from disk and never loaded as a whole."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expunge.data.contents import DIGEST, digest, kept_arrays
from expunge.data.names import Names
from expunge.data.shards import states_of
from expunge.errors import BadInput

AT_ONCE = 256
"""Rows that are read at once while the content is looked at."""


class Rows:
    """Pictures in a column of one or several tables.

    Args:
        tables: of the library ``datasets``, whose picture column is not decoded.
        column: the picture column.
        names: keys of the rows.
        table: number of the table of each row, int32 ``[n]``.
        place: its place there, int64 ``[n]``.
        roots: folders in which pictures may lie that a table names by their path; a relative path starts at the first.
    """

    def __init__(self, tables: Sequence[Any], column: str, names: Names, table: np.ndarray, place: np.ndarray, roots: Sequence[Path] = ()):
        self.tables, self.column, self.names, self.table, self.place, self.roots = tables, column, names, table, place, roots

    def __len__(self) -> int:
        return len(self.names)

    def read(self, position: int) -> bytes:
        """Return the encoded picture."""
        row = self.tables[int(self.table[position])][int(self.place[position])]
        return encoded(row[self.column], self.names[position], self.roots)

    def take(self, positions: np.ndarray) -> "Rows":
        """Return some of the rows."""
        return Rows(self.tables, self.column, self.names.take(positions), self.table[positions], self.place[positions], self.roots)

    def stamp(self) -> str:
        """Return a hash of what the tables are made of, with sizes and times, and of which rows are chosen."""
        hashed = hashlib.sha256(repr([_state(table) for table in self.tables]).encode())
        for column in (self.table, self.place):
            hashed.update(np.ascontiguousarray(column).data)
        return hashed.hexdigest()

    def digests(self, cache: Path) -> np.ndarray:
        """Return a digest of each encoded picture; every row of the tables is read once, and what is found is kept."""
        found = [self._digests_of(table, cache) for table in self.tables]
        starts = np.cumsum([0, *map(len, found)])
        return np.concatenate(found)[starts[self.table] + self.place]

    def _digests_of(self, table: Any, cache: Path) -> np.ndarray:
        state, newest_ns = _state(table)
        name = hashlib.sha256(state.encode()).hexdigest()[:16]

        def make() -> dict[str, np.ndarray]:
            only = table.select_columns([self.column])
            digests = b"".join(digest(encoded(value, "a row", self.roots)) for rows in only.iter(AT_ONCE) for value in rows[self.column])
            return {"digests": np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16)}

        return kept_arrays(cache / f"table-{name}.npz", f"{state} {self.column}", newest_ns, make)["digests"].view(DIGEST).reshape(-1)


def _state(table: Any) -> tuple[str, int]:
    """Return what tells a table apart, its files with sizes and times and what was done to them since; and the latest time."""
    paths = [Path(file["filename"]) for file in table.cache_files]
    if not paths:
        return f"in memory {table._fingerprint} {len(table)}", 0
    found = states_of(paths)
    return repr(([str(path) for path in paths], found.sizes.tolist(), found.times.tolist(), table._fingerprint)), int(found.times.max())


def encoded(value: Any, name: str, roots: Sequence[Path] = ()) -> bytes:
    """Return an encoded picture from what a table holds: bytes, or the path of a file under one of the roots.

    Raises:
        BadInput: neither, or a path that leads elsewhere: tables are downloaded, and what they name is read.
    """
    if isinstance(value, dict) and value.get("bytes") is not None:
        return value["bytes"]
    if isinstance(value, dict) and value.get("path"):
        try:
            return _inside(value["path"], name, roots).read_bytes()
        except OSError as error:
            raise BadInput("data.root", f"the picture of {name} cannot be read: {error}.", "Restore it.") from None
    if isinstance(value, bytes):
        return value
    if hasattr(value, "save"):  # an array column that was cast to pictures
        held = io.BytesIO()
        value.save(held, "PNG")
        return held.getvalue()
    raise BadInput("data.image", f"{name} holds {type(value).__name__}, no picture.", "Set data.image to the picture column.")


def _inside(path: str, name: str, roots: Sequence[Path]) -> Path:
    """Return where a picture lies; links within a root are followed, ``..`` is not."""
    place = Path(os.path.normpath(Path(roots[0]).absolute() / path)) if roots else Path(path)
    if any(place.is_relative_to(os.path.normpath(Path(root).absolute())) for root in roots):
        return place
    remedy = "Write the pictures themselves into the table: `save_to_disk` and `to_parquet` of the library datasets do."
    raise BadInput("data.image", f"the picture of {name} lies outside the data set: {path!r}.", remedy)
