"""A call of the Python interface as trackers see it: a run whose folder lasts as long as the call."""

import contextlib
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from expunge import config, runs
from expunge.engine.gauges import Detail
from expunge.errors import Diverged
from expunge.models import checkpoint
from expunge.tracking.following import PATIENCE, Followed
from expunge.tracking.tracker import Tracker

Report = Callable[[dict[str, Any]], None]


@dataclass
class Call:
    """What a call tells: its events while it runs, and how it ended.

    Attributes:
        report: takes the events of the engine.
        detail: how closely phases are watched; None without trackers.
        record: what the run's record is to say of the end; `end` fills it in.
    """

    report: Report
    detail: Detail | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def end(self, model: nn.Module, cost: Mapping[str, Any]) -> None:
        """Note the weights and the cost of a call that came to its end."""
        if self.detail is not None:
            self.record |= {"status": "ok", "cost": dict(cost), "weights": checkpoint.weights_hash(model)}


@contextlib.contextmanager
def followed(
    trackers: Sequence[Tracker], stage: str, title: str, tree: Mapping[str, Any], report: Report | None, patience: float = PATIENCE
) -> Iterator[Call]:
    """Yield what an engine is to report to, so that trackers hear of a call; without trackers that is ``report`` itself.

    Each call is a run of its own. A tracker that fails ends no call: it is warned of when the call is over.

    Args:
        trackers: where the call is shown.
        stage: ``train`` or ``unlearn``.
        title: for people.
        tree: what was asked for, as plain values; ``seed`` and ``device`` among them.
        report: hears the events as well.
        patience: seconds to wait for the trackers at the end.

    Raises:
        BadInput: the package of a tracker is not installed.
    """
    tell = report or (lambda event: None)
    if not trackers:
        yield Call(tell)
        return
    complaints = _Complaints()
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place, Followed(complaints, trackers, patience) as all_of_them:
            folder = Path(place) / f"{stage}-{uuid.uuid4().hex[:12]}"
            yield from _in_folder(folder, all_of_them, title, tree, tell, Detail.of(trackers))
    finally:
        for message in complaints.heard:
            warnings.warn(message, stacklevel=4)


def _in_folder(
    folder: Path, trackers: Followed, title: str, tree: Mapping[str, Any], tell: Report, detail: Detail | None
) -> Iterator[Call]:
    log, about = folder / "events.jsonl", {"title": title, "folder": str(folder)}
    folder.mkdir()
    (folder / "config.yaml").write_text(config.to_yaml(dict(tree)), encoding="utf-8")
    runs.write_json(folder / "environment.json", runs.environment())
    runs.append_event(log, event="start", identity={"seed": tree["seed"], "device": tree["device"]})
    trackers.report({"event": "start", **about})

    def hear(event: dict[str, Any]) -> None:
        runs.append_event(log, **event)
        trackers.report({"event": event["event"], "title": title})
        tell(event)

    call = Call(hear, detail)
    try:
        yield call
    except Diverged as error:
        call.record |= {"status": "diverged", "failure": {"reason": str(error)}, "weights": ""}
        raise
    finally:
        if call.record:
            runs.write_json(folder / "record.json", {"title": title, **call.record})
            runs.append_event(log, event="end", **{key: call.record.get(key) for key in ("status", "cost", "weights")})
            trackers.report({"event": "end", **about})


@dataclass
class _Complaints:
    """A display that keeps what trackers could not do; they say it in threads of their own."""

    heard: list[str] = field(default_factory=list)

    def __enter__(self) -> "_Complaints":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def report(self, event: dict[str, Any]) -> None:
        """Keep a warning, without the advice to send a folder that is gone by then."""
        if event["event"] == "warning":
            told = event["message"].partition(" Nothing more is sent")[0].partition("; `expunge track")[0]
            self.heard.append(f"{event['title']}: {told} Not all of this call is there.")
