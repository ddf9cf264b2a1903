"""Runs in MLflow."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expunge.config import Flag, Text, hyper
from expunge.runs import atomic_write
from expunge.tracking.tracker import Histogram, Opened, Outcome, Point, Subject, Tracker

_BATCH = 1000
"""Metrics that MLflow takes in one call."""
_LONGEST = 6000
"""Signs that MLflow takes in a parameter's value."""
_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""What makes MLflow's pages show runs of training, and not conversations."""
_KEY, _SENT = "expunge.run", "expunge.sent"


class Mlflow(Tracker):
    """MLflow: parameters, metrics by step and by epoch, cost, configuration, record, report; runs under the comparison that uses them.

    Source: mlflow.org, version 3.
    """

    source = "mlflow.org"
    package: ClassVar[str] = "mlflow"

    address: Text = hyper("mlflow.db", "file of an sqlite database, or address of a server such as http://host:5000")
    experiment: Text = hyper("expunge", "name of MLflow's experiment, made if it is not there")
    weights: Flag = hyper(False, "keep the weights file as an artefact; their hash is always kept")

    @property
    def uri(self) -> str:
        """The address as MLflow writes it."""
        return self.address if "://" in self.address else f"sqlite:///{Path(self.address).absolute()}"

    def connect(self) -> "Server":
        """Return the connection; the database and the experiment are made if need be."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        with _quiet():
            if "://" not in self.address and not Path(self.address).exists():
                with atomic_write(Path(self.address)) as new:  # MLflow makes tables one by one, and cannot use a database that lacks some
                    MlflowClient(tracking_uri=f"sqlite:///{new.absolute()}")
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.experiment)
            number = found.experiment_id if found is not None else client.create_experiment(self.experiment, self._artefacts(), _TAGS)
            return Server(client, number, self.weights, dict(_known(client, number)))

    def _artefacts(self) -> str | None:
        """Return where artefacts lie: beside the database, and with a server where the server says."""
        if "://" in self.address:
            return None
        path = Path(self.address).absolute()
        return (path.parent / f"{path.stem}-artefacts" / self.experiment).as_uri()


@contextmanager
def _quiet() -> Iterator[None]:
    """Let a new database be made without the log of its migrations."""
    loggers = [logging.getLogger(name) for name in ("alembic", "alembic.runtime.migration", "mlflow.store.db.utils", "mlflow.tracking")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _known(client: Any, experiment: str) -> Iterator[tuple[str, Any]]:
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`{_KEY}` != ''", max_results=1000, page_token=token)
        yield from ((run.data.tags[_KEY], run) for run in page)
        token = page.token
        if not token:
            return


@dataclass
class Server:
    """An experiment of MLflow; ``known`` maps the key of each run of ours to what MLflow said of it when we connected, or its number."""

    client: Any
    experiment: str
    weights: bool
    known: dict[str, Any]
    complete: set[str] = field(default_factory=set)

    def has(self, key: str) -> bool:
        """Return whether MLflow holds the run as finished or failed."""
        return key in self.complete or (key in self.known and self.known[key].info.status != "RUNNING")

    def open(self, subject: Subject) -> Opened:
        """Begin the run, or go on with it."""
        if subject.key in self.known:
            run = self.known[subject.key]
            steps, _, epochs = run.data.tags.get(_SENT, "0 0").partition(" ")
            return Opened(OneRun(self, subject, run.info.run_id), int(steps), int(epochs))
        tags = {_KEY: subject.key, "expunge.stage": subject.stage, "expunge.folder": str(subject.folder), "mlflow.source.name": "expunge"}
        run = self.client.create_run(self.experiment, int(1000 * subject.began), tags, subject.title)
        self.known[subject.key] = run
        self._write_parameters(run.info.run_id, subject)
        return Opened(OneRun(self, subject, run.info.run_id))

    def _write_parameters(self, number: str, subject: Subject) -> None:
        from mlflow.entities import Param

        parameters = [Param(name[:250], str(value)[:_LONGEST]) for name, value in subject.parameters.items()]
        for start in range(0, len(parameters), 100):
            self.client.log_batch(number, params=parameters[start : start + 100])

    def put_under(self, parent: str, member: str, points: Sequence[Point]) -> str | None:
        """Make a run a child of a comparison, unless it is one already, and keep what the comparison says of it; return its number."""
        run = self.known.get(member)
        if run is None:
            return None
        number = run.info.run_id
        if "mlflow.parentRunId" not in run.data.tags:
            self.client.set_tag(number, "mlflow.parentRunId", parent)
            run.data.tags["mlflow.parentRunId"] = parent
        self.log(number, points)
        return number

    def log(self, number: str, points: Sequence[Point]) -> None:
        """Send values, a thousand at a time."""
        from mlflow.entities import Metric

        metrics = [Metric(point.name[:250], point.value, int(1000 * point.time), point.step) for point in points]
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(number, metrics=metrics[start : start + _BATCH])

    def close(self) -> None:
        """Do nothing: every call stands by itself."""


@dataclass
class OneRun:
    """One run of MLflow."""

    server: Server
    subject: Subject
    number: str

    def write(self, points: Sequence[Point], histograms: Sequence[Histogram], reached: tuple[int, int] = (0, 0)) -> None:
        """Send values, and note how far they go, so that a process that goes on sends none twice. MLflow has no histograms."""
        if points:
            self.server.log(self.number, points)
            self.server.client.set_tag(self.number, _SENT, f"{reached[0]} {reached[1]}")

    def end(self, outcome: Outcome) -> None:
        """Send cost, files and members, and close the run with the time at which it ended."""
        client = self.server.client
        self.server.log(self.number, outcome.points)
        for name, text in outcome.facts.items():
            client.set_tag(self.number, f"expunge.{name}", text[:_LONGEST])
        for file in outcome.files:
            client.log_artifact(self.number, str(file))
        if self.server.weights and outcome.weights is not None and outcome.weights.is_file():
            client.log_artifact(self.number, str(outcome.weights))
        numbers = {key: self.server.put_under(self.number, key, points) for key, points in outcome.members.items()}
        if numbers:
            client.log_dict(self.number, numbers, "runs.json")
        client.set_terminated(self.number, "FINISHED" if outcome.status == "ok" else "FAILED", int(1000 * outcome.ended))
        self.server.complete.add(self.subject.key)
