"""What a tracker is: settings that can be chosen by name, a connection, and for each run a session that takes its points."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from expunge.config import Component, Flag, PositiveInt, hyper
from expunge.errors import BadInput


class Point(NamedTuple):
    """One value of a series.

    Attributes:
        name: such as ``loss/cross_entropy on retain`` by step, ``epoch_loss/cross_entropy on retain`` by epoch, ``cost/passes``.
        value: a finite number.
        step: optimiser steps, or for a series by epoch the epochs, since the run began, over all of its phases.
        time: seconds since 1970.
    """

    name: str
    value: float
    step: int
    time: float


class Histogram(NamedTuple):
    """How the values of one parameter are distributed after an epoch: counts in bins of equal width from low to high."""

    name: str
    low: float
    high: float
    counts: Sequence[int]
    step: int
    time: float


@dataclass(frozen=True)
class Subject:
    """A run, or a comparison of runs, as trackers know it.

    Attributes:
        key: name of its folder, which no other run has.
        title: for people.
        stage: ``train``, ``unlearn``, ``score``, ``compare`` or ``bench``.
        folder: where it lies.
        parameters: flat resolved configuration, for example ``method.lr``.
        began: seconds since 1970.
    """

    key: str
    title: str
    stage: str
    folder: Path
    parameters: Mapping[str, Any]
    began: float


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: ``ok`` or ``diverged``.
        ended: seconds since 1970.
        facts: texts worth keeping, such as the hash of the weights.
        points: cost and, of a comparison, every metric of every row.
        files: what can be kept as it is: configuration, record, table, report.
        weights: the weights file.
        table: columns and rows of a comparison; empty for a run.
        members: of a comparison: key of each run -> what the comparison says of it, as points.
    """

    status: str
    ended: float
    facts: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    files: Sequence[Path] = ()
    weights: Path | None = None
    table: Sequence[Sequence[Any]] = ()
    members: Mapping[str, Sequence[Point]] = field(default_factory=dict)


class Session(Protocol):
    """One run in one tracker."""

    def write(self, points: Sequence[Point], histograms: Sequence[Histogram], reached: tuple[int, int]) -> None:
        """Keep values, which reach to a step and an epoch; those that `Connection.open` said are there do not come again."""

    def end(self, outcome: Outcome) -> None:
        """Keep the outcome and mark the run as complete."""


class Opened(NamedTuple):
    """A session, and the last step and epoch that the tracker has; (0, 0) if it starts anew."""

    session: Session
    steps: int = 0
    epochs: int = 0


class Connection(Protocol):
    """A tracker that can be written to."""

    def has(self, key: str) -> bool:
        """Return whether a run is complete there."""

    def open(self, subject: Subject) -> Opened:
        """Begin a run that is not complete there, or go on with it."""

    def close(self) -> None:
        """Let go of everything."""


class Tracker(Component):
    """Where runs are shown. Nothing of it is part of what a run is: with and without, it has the same weights and the same folder."""

    package: ClassVar[str] = ""
    """What must be installed, with the extra of the same name."""

    every: PositiveInt = hyper(10, "steps between two values by step; each is the mean over the steps since the last")
    apart: Flag = hyper(
        False, "take gradients of forget and retain terms one by one, in one step of these, where the method adds them: a pass more"
    )

    def check(self) -> None:
        """Refuse a tracker whose package is not installed.

        Raises:
            BadInput: it is not.
        """
        if self.package and importlib.util.find_spec(self.package) is None:
            raise BadInput(f"track={self.name}", f"{self.package} is not installed.", f"pip install 'expunge[{self.package}]'.")

    def connect(self) -> Connection:
        """Return the connection; whatever this or the connection raises ends the tracker, and not the run."""
        raise NotImplementedError
