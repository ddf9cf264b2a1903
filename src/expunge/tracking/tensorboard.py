"""Runs in TensorBoard."""

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expunge.config import Flag, Text, hyper
from expunge.tracking.tracker import Histogram, Opened, Outcome, Point, Subject, Tracker

_MARK = "complete"


class Tensorboard(Tracker):
    """TensorBoard: losses, accuracies, gradient norms, angles, multipliers, cost, and on demand histograms of all weights.

    Source: tensorboard.dev, its event files.
    """

    source = "github.com/tensorflow/tensorboard"
    package: ClassVar[str] = "tensorboard"

    folder: Text = hyper("tensorboard", "where the event files lie: `tensorboard --logdir FOLDER` shows them")
    histograms: Flag = hyper(False, "how the values of every parameter are distributed, after each epoch")

    def connect(self) -> "Folder":
        """Return the folder, made if need be."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        return Folder(Path(self.folder))


@dataclass
class Folder:
    """A folder with one folder for each run."""

    folder: Path
    writers: list[Any] = field(default_factory=list)

    def place(self, key: str, title: str = "") -> Path:
        """Return the folder of a run: the one that ends with its key, or a new one that begins with its title."""
        short = "".join(sign if sign.isalnum() or sign in "-_.+=" else "_" for sign in title)[:60]
        return next(self.folder.glob(f"*{key}"), self.folder / f"{short}-{key}".lstrip("-"))

    def has(self, key: str) -> bool:
        """Return whether a run is marked as complete."""
        return (self.place(key) / _MARK).is_file()

    def open(self, subject: Subject) -> Opened:
        """Begin the event file, anew if it is not complete."""
        place = self.place(subject.key, subject.title)
        shutil.rmtree(place, ignore_errors=True)
        writer = self.write_to(place)
        rows = "".join(f"| {name} | {value} |\n" for name, value in subject.parameters.items())
        writer.add_text("parameters", f"| key | value |\n| --- | --- |\n{rows}", 0, subject.began)
        return Opened(Events(self, subject, place, writer))

    def write_to(self, place: Path) -> Any:
        """Return a new writer, which lives no longer than the connection."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter(str(place), flush_secs=5)
        self.writers.append(writer)
        return writer

    def close(self) -> None:
        """Write what is left."""
        for writer in self.writers:
            writer.close()
        self.writers.clear()


@dataclass
class Events:
    """The event file of one run."""

    folder: Folder
    subject: Subject
    place: Path
    writer: Any
    last: dict[str, float] = field(default_factory=dict)

    def write(self, points: Sequence[Point], histograms: Sequence[Histogram], reached: tuple[int, int] = (0, 0)) -> None:
        """Append values, and histograms with their bins as they were counted."""
        for point in points:
            self.writer.add_scalar(point.name, point.value, point.step, point.time)
            self.last[point.name] = point.value
        for one in histograms:
            self._write_histogram(one)

    def _write_histogram(self, one: Histogram) -> None:
        bins = len(one.counts)
        width = (one.high - one.low) / bins
        edges = [one.low + width * (place + 1) for place in range(bins)]
        middles = [edge - width / 2 for edge in edges]
        total = sum(count * middle for count, middle in zip(one.counts, middles, strict=True))
        squares = sum(count * middle**2 for count, middle in zip(one.counts, middles, strict=True))
        self.writer.add_histogram_raw(
            one.name, one.low, one.high, sum(one.counts), total, squares, edges, list(one.counts), one.step, walltime=one.time
        )

    def end(self, outcome: Outcome) -> None:
        """Append the outcome, add to each member what a comparison says of it, and mark the folder as complete."""
        self.write(outcome.points, ())
        for name, text in outcome.facts.items():
            self.writer.add_text(name, text, 0, outcome.ended)
        if outcome.table:
            columns, *rows = (" | ".join(map(_cell, row)) for row in outcome.table)
            ruler = " | ".join("---" for _ in outcome.table[0])
            self.writer.add_text("comparison", "\n".join([columns, ruler, *rows]), 0, outcome.ended)
        if self.subject.stage in ("train", "unlearn"):
            self._write_hyperparameters()
        for key, points in outcome.members.items():
            self._write_member(key, points)
        self.writer.close()
        (self.place / _MARK).touch()

    def _write_hyperparameters(self) -> None:
        """Put the run into the table of TensorBoard's HParams page, with its cost and the last value of every epoch's series."""
        from torch.utils.tensorboard.summary import hparams

        shown = {name: value for name, value in self.last.items() if name.startswith(("epoch_", "cost/"))}
        for part in hparams(dict(self.subject.parameters), shown):
            self.writer.file_writer.add_summary(part)

    def _write_member(self, key: str, points: Sequence[Point]) -> None:
        place = self.folder.place(key)
        if place.is_dir():
            writer = self.folder.write_to(place)
            for point in points:
                writer.add_scalar(point.name, point.value, point.step, point.time)
            writer.close()


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value).replace("|", "/")
