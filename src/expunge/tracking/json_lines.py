"""One file of JSON lines a run: what MLflow and TensorBoard are told, one value a line, for pandas, DuckDB or jq."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.config import Text, hyper
from expunge.tracking.tracker import Histogram, Opened, Outcome, Point, Subject, Tracker


class JsonLines(Tracker):
    """A file of JSON lines for each run: parameters first, then one value a line, then the outcome. It needs no other package.

    Source: jsonlines.org.
    """

    aliases = ("jsonl", "jsonlines")
    source = "jsonlines.org"

    folder: Text = hyper("tracking", "where the files lie")

    def connect(self) -> "Files":
        """Return the folder, made if need be."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        return Files(folder)


@dataclass
class Files:
    """A folder with a file for each run."""

    folder: Path

    def has(self, key: str) -> bool:
        """Return whether the file ends with an outcome."""
        path = self._path(key)
        return path.is_file() and path.read_bytes().rstrip().rpartition(b"\n")[2].startswith(b'{"kind": "end"')

    def open(self, subject: Subject) -> Opened:
        """Begin the file, anew if it is not complete."""
        first = {"kind": "run", "run": subject.key, "title": subject.title, "stage": subject.stage, "time": subject.began}
        self._path(subject.key).write_text(json.dumps({**first, "parameters": dict(subject.parameters)}) + "\n", encoding="utf-8")
        return Opened(File(self._path(subject.key), subject.key))

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.jsonl"


@dataclass
class File:
    """The file of one run."""

    path: Path
    key: str

    def write(self, points: Sequence[Point], histograms: Sequence[Histogram], reached: tuple[int, int] = (0, 0)) -> None:
        """Append a line for each value."""
        rows: list[Mapping[str, Any]] = [{"kind": "value", "run": self.key, **point._asdict()} for point in points]
        self._append([*rows, *({"kind": "histogram", "run": self.key, **one._asdict()} for one in histograms)])

    def end(self, outcome: Outcome) -> None:
        """Append the outcome, whose first key says that the file is complete."""
        self.write(outcome.points, ())
        members = {key: {point.name: point.value for point in points} for key, points in outcome.members.items()}
        facts = {"status": outcome.status, "time": outcome.ended, **outcome.facts, **({"members": members} if members else {})}
        self._append([{"kind": "end", "run": self.key, **facts}])

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
