"""Verbs that make or score one model."""

from typing import Any

import numpy as np

from expunge.config import Experiment
from expunge.engine import parallel
from expunge.errors import RunFailed
from expunge.pools import rankings, remote, stages
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace


def train(experiment: Experiment, progress: Any) -> list[str]:
    """Train the original and return what to print."""
    _rank(experiment, progress)
    stages.check_model(Workplace(experiment))
    remote.check_writable(Workplace(experiment).out)
    with progress as shown:
        work = Workplace(experiment, shown.report)
        run = stages.original(work, 0)
    return [*_accuracies(run, work), f"weights: {remote.shown(run.folder / 'weights.safetensors')}"]


def unlearn(experiment: Experiment, progress: Any) -> list[str]:
    """Unlearn one request, training the original first where no weights are given, and return what to print.

    Raises:
        RunFailed: the run stopped being finite; its folder holds the last good weights, and no result.
    """
    _rank(experiment, progress)
    stages.check_model(Workplace(experiment))
    stages.check_request(Workplace(experiment))
    remote.check_writable(Workplace(experiment).out)
    with progress as shown:
        work = Workplace(experiment, shown.report)
        start = None if experiment.model.weights is not None else stages.original(work, 0)
        trained = work.seed_of(0)
        seed = work.unlearning_seed_of(0, trained)
        run = stages.unlearn(work, start.folder if start else None, seed, experiment.method.name, training_seed=trained)
    if run.status != "ok":
        raise RunFailed(
            f"{experiment.method.name} {run.record['failure']['reason']} Last good weights: {run.folder / 'last_good.safetensors'}"
        )
    cost = run.record["cost"]
    return [
        *_accuracies(run, work),
        f"cost: {cost['seconds']:.1f} s, {cost['passes']} sample passes",
        f"weights: {remote.shown(run.folder / 'weights.safetensors')}",
    ]


def _rank(experiment: Experiment, progress: Any) -> None:
    """Make the ranking that the request rests on, if it does."""
    if experiment.forget is not None and experiment.forget.ranks:
        if not parallel.rank():
            with progress as shown, parallel.alone():  # its models are trained in processes of their own
                rankings.prepare([Workplace(experiment)], shown.report)
        parallel.wait()


def evaluate(experiment: Experiment, progress: Any) -> list[str]:
    """Score the configured weights, or an original trained for it, and return what to print."""
    return train(experiment, progress)


def _accuracies(run: Run, work: Workplace) -> list[str]:
    logits, labels = run.logits(), work.data.labels.numpy()
    right = np.argmax(logits, axis=1) == labels
    parts = _parts(work)
    lines = [f"{name} accuracy: {100 * right[index].mean():.2f} % of {len(index)}" for name, index in parts.items() if len(index)]
    triggered, attack = run.triggered(), work.triggered_test
    if triggered is None or attack is None:
        return lines
    hits = np.argmax(triggered, axis=1) == attack.labels.numpy()
    return [*lines, f"attack success rate: {100 * hits.mean():.2f} % of {len(hits)} test pictures with the trigger"]


def _parts(work: Workplace) -> dict[str, np.ndarray]:
    if work.experiment.forget is not None:
        return {name: getattr(work.split, name) for name in ("forget", "retain", "validation", "test", "test_forgotten")}
    if work.experiment.model.weights is not None:
        return {"train": work.data.train_index.numpy(), "test": work.data.test_index.numpy()}
    train, validation = stages.validation_split(work.plain_data, work.experiment.seed, work.validation_fraction)
    return {"train": train, "validation": validation, "test": work.data.test_index.numpy()}
