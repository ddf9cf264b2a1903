"""One deletion request, many models: originals, retrained models and unlearned ones of the same seeds, and the record of what they show."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from expunge import config, runs
from expunge.config import fingerprint
from expunge.data.split import Split
from expunge.errors import BadInput
from expunge.metrics import table as tables
from expunge.metrics.view import View
from expunge.pools import evidence, stages
from expunge.pools.executor import Job
from expunge.pools.executor import run as run_jobs
from expunge.pools.stages import Run, Workplace
from expunge.report import histograms, html
from expunge.report.terminal import csv

Report = Callable[[dict[str, Any]], None]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: a method with its add-ons."""

    label: str
    method: Tree
    addons: list[Tree] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """A deletion request and the methods that are to serve it.

    Attributes:
        title: for people.
        tree: the experiment without method: data, model, train, forget, evaluate, seed, device, out.
        rows: the methods.
    """

    title: str
    tree: Tree
    rows: Sequence[Row]

    def tree_of(self, row: Row) -> Tree:
        """Return the experiment of one row."""
        return {**self.tree, "method": row.method, "addons": row.addons}

    def workplace(self, row: Row | None = None) -> Workplace:
        """Return the resolved experiment, of one row or of none."""
        return Workplace(config.resolve(self.tree if row is None else self.tree_of(row)))


def check(requests: Sequence[Request]) -> None:
    """Refuse whatever cannot work in any row of any request, before any work, and see that the folder can be written.

    Raises:
        BadInput: see `stages.check_request`; or the output folder is read-only or the disk is full.
    """
    for request in requests:
        work = request.workplace()
        if 0 < _retrained(work) < work.experiment.evaluate.seeds:
            found = f"{work.experiment.evaluate.seeds} seeds, but only {_retrained(work)} retrained models."
            raise BadInput(
                "evaluate.retrained", found, "Each seed is paired with one: give at least as many, or 0 to do without gaps and bands."
            )
        stages.check_model(work)
        for row in request.rows:
            stages.check_request(request.workplace(row))
    if requests:
        runs.check_writable(requests[0].workplace().out)


def jobs_of(requests: Sequence[Request]) -> list[Job]:
    """Return all jobs, originals and retrained models first, each model once however many requests need it."""
    first: dict[str, Job] = {}
    second: dict[str, Job] = {}
    for number, request in enumerate(requests):
        work = request.workplace()
        shared = "weights" if work.experiment.model.weights else stages.original_key(work)
        for seed in range(_originals(work)):
            key = f"original/{shared}/{seed}"
            first.setdefault(key, _job(key, "original", request.tree, seed))
        for seed in range(_retrained(work)):
            key = f"retrained/{number}/{seed}"
            first[key] = _job(key, "retrained", request.tree, seed)
        for row in request.rows:
            imitates = "oracle" in request.workplace(row).experiment.method.needs
            for seed in range(work.experiment.evaluate.seeds):
                key = f"unlearned/{number}/{row.label}/{seed}"
                after = [f"original/{shared}/{min(seed, _originals(work) - 1)}"]
                after += [f"retrained/{number}/{seed}"] if imitates and seed < _retrained(work) else []
                second[key] = _job(key, "unlearned", request.tree_of(row), seed, after=tuple(after))
    return [*first.values(), *second.values()]


def _job(key: str, stage: str, tree: Tree, number: int, after: tuple[str, ...] = ()) -> Job:
    return Job(key, "expunge.pools.stages:run_job", {"stage": stage, "tree": tree, "number": number}, after)


def _originals(work: Workplace) -> int:
    return 1 if work.experiment.model.weights else work.experiment.evaluate.seeds


def _retrained(work: Workplace) -> int:
    chosen = work.experiment.evaluate.retrained
    return work.experiment.evaluate.seeds if chosen is None else chosen


def compare(requests: Sequence[Request], report: Report, command: str) -> tuple[list[dict[str, Any]], Path]:
    """Run everything that is not there yet, and write table and report.

    Args:
        requests: what to compare; they share the output folder.
        report: hears every event of every job.
        command: what was typed, for the record.

    Returns:
        The record of each request, and the folder with ``record.json``, ``table.csv`` and ``report.html``.
    """
    check(requests)
    start = time.monotonic()
    work = requests[0].workplace()
    jobs = jobs_of(requests)
    report({"event": "plan", "jobs": [job.key for job in jobs]})
    folders = run_jobs(jobs, work.experiment.evaluate.workers, report)
    folder = work.out / f"compare-{fingerprint(_identity(folders, work))}"
    if (folder / "record.json").is_file() and (folder / "report.html").is_file():
        return runs.read_json(folder / "record.json"), folder
    records = [
        record_of(request, number, folders, {"command": command, "seconds": round(time.monotonic() - start, 1)})
        for number, request in enumerate(requests)
    ]
    with runs.atomic_write(folder / "table.csv") as temporary:
        temporary.write_text("\n".join(csv(record) for record in records), encoding="utf-8")
    html.write(records, folder / "report.html")
    runs.write_json(folder / "record.json", records)
    return records, folder


def _identity(folders: Mapping[str, str], work: Workplace) -> list[Any]:
    code = stages.code_fingerprint("metrics", "report", "bench", "pools")
    return [sorted((key, Path(folder).name) for key, folder in folders.items()), work.experiment.evaluate.seeds, code]


def record_of(request: Request, number: int, folders: Mapping[str, str], provenance: dict[str, Any]) -> dict[str, Any]:
    """Return everything that a table and a page need, as plain values."""
    work = request.workplace()
    data, split = work.data, work.split
    seeds = range(work.experiment.evaluate.seeds)
    shared = "weights" if work.experiment.model.weights else stages.original_key(work)
    original = [stages.find(folders[f"original/{shared}/{seed}"]) for seed in range(_originals(work))]
    retrained = [stages.find(folders[f"retrained/{number}/{seed}"]) for seed in range(_retrained(work))]
    unlearned = {row.label: [stages.find(folders[f"unlearned/{number}/{row.label}/{seed}"]) for seed in seeds] for row in request.rows}

    def views(found: list[Run]) -> list[Any]:
        return [_outcome(run, data, split) for run in found]

    seen: dict[str, list[Any]] = {
        "original": views(original),
        "retrained": views(retrained),
        **{label: views(found) for label, found in unlearned.items()},
    }
    metrics = tables.default_metrics(split.kind, backdoor=work.triggered_test is not None)
    rows: dict[str, Sequence[Any]] = {label: outcomes for label, outcomes in seen.items() if label not in ("original", "retrained")}
    return {
        "format": 1,
        "title": request.title,
        "request": _describe(request, work, split),
        "table": tables.evaluate(seen["original"], seen["retrained"], rows, metrics, split.kind),
        "methods": {row.label: _method(request.workplace(row)) for row in request.rows},
        "cost": _costs(retrained, {"original": original, "retrained": retrained, **unlearned}),
        "histograms": {"loss": histograms.shares({label: losses for label, outcomes in seen.items() if (losses := _losses(outcomes))})},
        "provenance": {
            **provenance,
            "config": config.to_yaml(work.experiment.tree()),
            "fingerprint": split.fingerprint,
            "environment": runs.environment(),
            "runs": {key: folder for key, folder in folders.items() if f"/{number}/" in key or key.startswith(f"original/{shared}")},
        },
    }


def _outcome(run: Run, data: Any, split: Split) -> View | tables.Failure:
    if run.status != "ok":
        return tables.Failure(run.status, run.record["failure"]["reason"])
    return evidence.view(run.logits(), data, split, run.triggered())


def _losses(outcomes: list[Any]) -> dict[str, np.ndarray]:
    views = [outcome for outcome in outcomes if isinstance(outcome, View)]
    if not views:
        return {}
    return {part: np.concatenate([view.loss(part) for view in views]) for part in ("forget", "retain", "unseen") if views[0].size(part)}


def _describe(request: Request, work: Workplace, split: Split) -> dict[str, Any]:
    names = work.data.class_names
    return {
        "scenario": split.scenario,
        "kind": split.kind,
        "data": work.data.name,
        "model": work.experiment.model.name,
        "train": work.experiment.train.name,
        **{part: len(getattr(split, part)) for part in ("forget", "retain", "validation", "test", "unseen")},
        "forget_classes": [names[number] for number in split.forget_classes],
        "class_names": list(names),
        "duplicates": dict(split.duplicates),
        "seeds": work.experiment.evaluate.seeds,
        "retrained": _retrained(work),
    }


def _method(work: Workplace) -> dict[str, Any]:
    method = work.experiment.method
    return {
        "name": method.name,
        "summary": method.summary(),
        "source": method.source,
        "hyperparameters": {key: value for key, value in method.tree().items() if key != "name"},
        "addons": [addon.tree() for addon in work.experiment.addons],
        "deviations": list(method.deviations),
    }


def _costs(retrained: list[Run], rows: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    base = _mean_cost(retrained) if retrained else None
    costs = {}
    for label, found in rows.items():
        cost = _mean_cost([run for run in found if run.record["cost"]])
        if cost is None:
            continue
        if base is not None:
            cost["seconds_ratio"] = cost["seconds"] / base["seconds"]
            cost["passes_ratio"] = cost["passes"] / base["passes"]
        costs[label] = cost
    return costs


def _mean_cost(found: list[Run]) -> dict[str, Any] | None:
    if not found:
        return None
    return {key: float(np.mean([run.record["cost"][key] for run in found])) for key in ("seconds", "passes", "peak_memory_bytes")}


def request_of(experiment: config.Experiment, title: str) -> Request:
    """Return the request of an experiment with one method.

    Raises:
        BadInput: forget or method is missing.
    """
    tree = experiment.tree()
    for key, example in (("forget", "forget=random forget.fraction=0.1"), ("method", "method=salun")):
        if tree.get(key) is None:
            raise BadInput(key, "is missing.", f"For example {example}.")
    label = "+".join([tree["method"]["name"], *(addon["name"] for addon in tree["addons"])])
    base = {key: value for key, value in tree.items() if key not in ("method", "addons")}
    return Request(title, base, [Row(label, tree["method"], tree["addons"])])
