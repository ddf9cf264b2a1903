"""Runs in Weights & Biases, on this machine unless told otherwise."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

from expunge.config import Flag, Text, hyper
from expunge.runs import write_json
from expunge.tracking.tracker import Histogram, Opened, Outcome, Point, Subject, Tracker

_STEP, _EPOCH = "step", "epoch"


class Wandb(Tracker):
    """Weights & Biases: the same series, with tables for comparisons; kept in a folder until `wandb sync` sends them, or sent at once.

    Source: wandb.ai.
    """

    source = "wandb.ai"
    package: ClassVar[str] = "wandb"

    folder: Text = hyper("wandb", "where runs are kept: `wandb sync FOLDER/offline-run-...` sends one")
    project: Text = hyper("expunge", "name of the project")
    mode: Literal["offline", "online"] = hyper("offline", "whether anything leaves this machine")
    histograms: Flag = hyper(False, "how the values of every parameter are distributed, after each epoch")
    weights: Flag = hyper(False, "keep the weights file as well; their hash is always kept")

    def connect(self) -> "Project":
        """Return the folder, made if need be."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        folder = Path(self.folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return Project(self, folder)


@dataclass
class Project:
    """A folder with runs; ``NAME.complete.json`` marks those that are complete."""

    settings: Wandb
    folder: Path
    running: list[Any] = field(default_factory=list)

    def mark(self, key: str) -> Path:
        """Return the file that says that a run is complete."""
        return self.folder / f"{key}.complete.json"

    def has(self, key: str) -> bool:
        """Return whether a run is marked as complete."""
        return self.mark(key).is_file()

    def open(self, subject: Subject) -> Opened:
        """Begin the run; one that was kept here and is not complete begins anew, one that was sent goes on."""
        import wandb

        for old in self.folder.glob(f"offline-run-*-{subject.key}"):
            shutil.rmtree(old, ignore_errors=True)
        run = wandb.init(
            project=self.settings.project,
            id=subject.key,
            name=subject.title,
            job_type=subject.stage,
            config=dict(subject.parameters),
            dir=str(self.folder.parent),
            mode=self.settings.mode,
            resume="allow" if self.settings.mode == "online" else None,
            reinit="create_new",
            settings=self._settings(wandb),
        )
        run.define_metric("epoch_*", step_metric=_EPOCH)
        self.running.append(run)
        return Opened(OneRun(self, subject, run))

    def _settings(self, wandb: Any) -> Any:
        """Return what keeps wandb to what it is told: no terminal output, no machine statistics, no copy of code, no list of packages."""
        return wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True, x_disable_meta=True
        )

    def close(self) -> None:
        """End the runs that are not complete."""
        for run in self.running:
            run.finish(exit_code=1)
        self.running.clear()


@dataclass
class OneRun:
    """One run of Weights & Biases."""

    project: Project
    subject: Subject
    run: Any

    def write(self, points: Sequence[Point], histograms: Sequence[Histogram], reached: tuple[int, int] = (0, 0)) -> None:
        """Send values, those of one step or epoch together, which is their axis."""
        for (axis, step), together in groupby(points, key=_axis):
            self.run.log({axis: step, **{point.name: point.value for point in together}})
        for step, each in groupby(histograms, key=lambda one: one.step):
            self.run.log({_EPOCH: step, **{one.name: _histogram(one) for one in each}})

    def end(self, outcome: Outcome) -> None:
        """Send the outcome as the run's summary, a comparison as a table, keep its files, and end the run."""
        import wandb

        for name, value in {**{point.name: point.value for point in outcome.points}, **outcome.facts}.items():
            self.run.summary[name] = value
        if outcome.table:
            columns, *rows = outcome.table
            self.run.log({"comparison": wandb.Table(columns=list(columns), data=[list(row) for row in rows])})
        self._keep(outcome)
        self.run.finish(exit_code=0 if outcome.status == "ok" else 1)
        self.project.running.remove(self.run)
        write_json(self.project.mark(self.subject.key), {"run": self.subject.key, "status": outcome.status})

    def _keep(self, outcome: Outcome) -> None:
        weights = [outcome.weights] if self.project.settings.weights and outcome.weights is not None else []
        for file in [*outcome.files, *weights]:
            shutil.copy(file, Path(self.run.dir) / file.name)
        if outcome.members:
            said: Mapping[str, Any] = {key: {point.name: point.value for point in points} for key, points in outcome.members.items()}
            (Path(self.run.dir) / "runs.json").write_text(json.dumps(said, indent=1), encoding="utf-8")


def _axis(point: Point) -> tuple[str, int]:
    return (_EPOCH if point.name.startswith("epoch_") else _STEP), point.step


def _histogram(one: Histogram) -> Any:
    import numpy as np
    import wandb

    return wandb.Histogram(np_histogram=(np.array(one.counts), np.linspace(one.low, one.high, len(one.counts) + 1)))
