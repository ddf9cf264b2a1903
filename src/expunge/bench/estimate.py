"""How long a training takes here: from runs that are there already, or from a short trial."""

import time
from pathlib import Path

import numpy as np
import torch

from expunge import runs
from expunge.engine.stream import Stream
from expunge.errors import BadInput
from expunge.pools.executor import places
from expunge.pools.workplace import Workplace
from expunge.training.train import train

TRIAL_EXAMPLES = 256
SLOW = 5.0
"""Seconds after which a trial is not repeated."""


def training_seconds(work: Workplace) -> float:
    """Return the seconds that one original takes in one process: measured on finished ones if there are any, else on a short trial."""
    finished = _finished(work)
    return float(np.median(finished)) if finished else _trial(work)


def _finished(work: Workplace) -> list[float]:
    found = []
    for path in sorted(work.out.glob("train-*/record.json"))[:200]:
        try:
            record = runs.read_json(path)
        except BadInput:
            continue
        identity, experiment = record.get("identity", {}), work.experiment
        same = identity.get("train") == experiment.train.tree() and identity.get("model", {}).get("name") == experiment.model.name
        if same and record.get("examples") and identity.get("device") == work.device.type:
            found.append(record["cost"]["seconds"] * len(work.data.train_index) / record["examples"])
    return found


def _trial(work: Workplace) -> float:
    if work.device.type == "cpu":
        torch.set_num_threads(work.experiment.evaluate.threads)
    seconds = _one_epoch(work)
    if seconds < SLOW:  # most of a first short run is starting up
        seconds = min(_one_epoch(work) for _ in range(3))
    return seconds * getattr(work.experiment.train, "epochs", 1) * len(work.data.train_index) / TRIAL_EXAMPLES


def _one_epoch(work: Workplace) -> float:
    recipe, index = work.experiment.train, work.data.train_index[:TRIAL_EXAMPLES]
    model, stream = work.new_model(0, weights=False), Stream("train", work.data.source, index)
    short = recipe.but(epochs=1) if "epochs" in type(recipe).model_fields else recipe
    start = time.monotonic()
    train(model, stream, short, seed=0, num_classes=work.data.num_classes)
    return time.monotonic() - start


def in_words(work: Workplace, trainings: int) -> str:
    """Return how long some trainings take with the workers that are asked for, in words."""
    return duration(training_seconds(work) * trainings / min(places(work), max(trainings, 1)))


def duration(seconds: float) -> str:
    """Return a time in words, rounded as an estimate is."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


Finished = dict[tuple[str, str, str], list[float]]
"""Method, model and kind of device -> seconds of finished unlearnings."""


def unlearning_seconds(work: Workplace, training: float, finished: Finished) -> float:
    """Return the seconds that one unlearning takes: measured on finished ones of the same method, else by epochs from a training.

    Where nothing was measured, a method is taken to pass over the training set once for each of its epochs, and one without epochs once;
    for many that is too much, and for those that add a mask or keep a second model too little.

    Args:
        work: the experiment with a method.
        training: seconds of a training.
        finished: see `finished_unlearnings`.
    """
    measured = finished.get((work.experiment.method.name, work.experiment.model.name, work.device.type))
    if measured:
        return float(np.median(measured))
    epochs = getattr(work.experiment.method, "epochs", 1)
    return training * (epochs if isinstance(epochs, int) else 1) / max(1, getattr(work.experiment.train, "epochs", 1))


def finished_unlearnings(out: Path) -> Finished:
    """Return what the unlearnings in a folder took, two thousand of them at most."""
    found: Finished = {}
    for path in sorted(out.glob("unlearn-*/record.json"))[:2000]:
        try:
            record = runs.read_json(path)
            identity = record["identity"]
            key = (identity["method"]["name"], identity["model"]["name"], identity["device"])
            found.setdefault(key, []).append(record["cost"]["seconds"])
        except (BadInput, KeyError):
            continue
    return found
