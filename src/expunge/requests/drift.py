"""A stream of requests served by several methods, measured after every request against models retrained at every request."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from expunge import config, registry, runs, statistics
from expunge.bench import audits
from expunge.bench.compare import is_written
from expunge.bench.grid import expand
from expunge.bench.grid import read as read_grid
from expunge.bench.request import Request, Row, originals, prepare, request_of
from expunge.bench.request import retrained as retrained_models
from expunge.config import fingerprint
from expunge.data.split import Split
from expunge.errors import BadInput, RunFailed
from expunge.metrics import table as tables
from expunge.metrics.metric import Metric
from expunge.metrics.view import View
from expunge.pools import evidence, remote, store
from expunge.pools.executor import Failed, Job, chosen
from expunge.pools.executor import run as run_jobs
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace, code_fingerprint
from expunge.report import drift as page
from expunge.requests import sequence
from expunge.requests.sequence import Splits, Step
from expunge.statistics import NotEnoughEvidence

Report = Callable[[dict[str, Any]], None]
Plain = dict[str, Any]

SCOPED = ("unlearning_accuracy", "loss_auc", "jensen_shannon")
"""Metrics that are also computed on the newly forgotten and on the earlier forgotten examples alone."""
TRENDS = {
    "all": ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "loss_auc", "jensen_shannon", "average_gap"),
    "earlier": ("unlearning_accuracy", "loss_auc"),
}
"""Scope -> metrics whose change from request to request is tested."""


@dataclass(frozen=True)
class Asked:
    """A stream of requests and the methods that are to serve it.

    Attributes:
        request: data, model, forget set and methods; the forget set is all that will be forgotten.
        count: how many requests it comes in.
        splits: what a method is given as the forget set of each.
    """

    request: Request
    count: int
    splits: Splits = "fresh"

    def steps(self, row: Row | None = None) -> list[Step]:
        """Return the requests."""
        return sequence.of(self.request.workplace(row), self.count, self.splits)


def read(file: Path | None, words: list[str], count: int, splits: str) -> list[Asked]:
    """Return what a command line asks for: one stream, or those of a file with ``grid:``.

    Raises:
        BadInput: wrong input.
    """
    if splits not in ("fresh", "cumulative"):
        raise BadInput("--splits", f"got {splits!r}.", "Allowed: fresh, cumulative.")
    if count < 1:
        raise BadInput("--requests", f"expected a positive integer, got {count}.")
    if file is not None and file.is_file() and "grid" in (config.read_yaml(file) or {}):
        requests = expand(read_grid(file, words)).requests
    else:
        requests = [request_of(config.resolve(config.read(file, words)), "One stream of requests")]
    return [Asked(request, count, splits) for request in requests]  # type: ignore[arg-type]


def serve(asked: Sequence[Asked], report: Report, command: str) -> tuple[list[Plain], Path]:
    """Serve every stream; make each model that is not there yet, and write what they show.

    Args:
        asked: they share the output folder.
        report: hears every event of every job.
        command: what was typed, for the record.

    Returns:
        The record of each stream, and the folder with ``record.json``, ``table.csv`` and ``report.html``.

    Raises:
        BadInput: what cannot work, before any work.
        RunFailed: an original or a retrained model gave nothing, so that there is nothing to compare with.
    """
    _check_margins(asked)
    prepare([one.request for one in asked], report)
    for one in asked:
        for row in one.request.rows:
            sequence.check(one.request.workplace(row), one.steps(row))
    start, work = time.monotonic(), asked[0].request.workplace()
    jobs = [jobs_of(one) for one in asked]
    report({"event": "plan", "jobs": [job.key for held in jobs for job in held]})
    results = [run_jobs(held, chosen(work), report, keep_going=True) for held in jobs]
    folder = work.out / f"sequence-{fingerprint(_identity(asked, results))}"
    if is_written(folder):
        return runs.read_json(folder / "record.json"), folder
    provenance = {"command": command, "seconds": round(time.monotonic() - start, 1)}
    records = [record_of(one, held, provenance) for one, held in zip(asked, results, strict=True)]
    _write(records, folder)
    return records, folder


def _check_margins(asked: Sequence[Asked]) -> None:
    """Refuse declared margins, which nothing here would be held against: a stream is judged by bands of retrained models and by trends."""
    if any(one.request.workplace().experiment.evaluate.margins for one in asked):
        found = "a stream of requests is not judged by declared margins."
        raise BadInput(
            "evaluate.margins", found, "Write evaluate.margins={}; `expunge evaluate` and `expunge bench` judge one request by them."
        )


def _write(records: list[Plain], folder: Path) -> None:
    with runs.atomic_write(folder / "table.csv") as temporary:
        temporary.write_text("\n".join(page.csv(record) for record in records), encoding="utf-8")
    page.write(records, folder / "report.html")
    runs.write_json(folder / "record.json", records)
    remote.push(folder, anew=True)


def _identity(asked: Sequence[Asked], results: Sequence[Mapping[str, Any]]) -> list[Any]:
    code = code_fingerprint("metrics", "audits", "attacks", "report", "bench", "requests", "pools", "statistics.py")
    names = [
        sorted((key, result.reason if isinstance(result, Failed) else Path(result).name) for key, result in held.items())
        for held in results
    ]
    tiers = [[one.request.workplace().experiment.evaluate.tier, one.count, one.splits] for one in asked]
    return [names, tiers, code]


def jobs_of(asked: Asked) -> list[Job]:
    """Return all jobs of a stream: originals, retrained models of every step, and for each method and seed a chain of requests."""
    request, work = asked.request, asked.request.workplace()
    found = [
        Job(f"original/{seed}", "expunge.pools.stages:run_job", {"stage": "original", "tree": request.tree, "number": seed})
        for seed in range(originals(work))
    ]
    for step in range(asked.count):
        found += [_job(asked, request.tree, "retrained", f"retrained/{step}/{seed}", step, seed) for seed in range(retrained_models(work))]
    for row in request.rows:
        imitates = "oracle" in request.workplace(row).experiment.method.needs
        for seed in range(work.experiment.evaluate.seeds):
            for step in range(asked.count):
                before = f"unlearned/{row.label}/{step - 1}/{seed}" if step else f"original/{min(seed, originals(work) - 1)}"
                after = (before, f"retrained/{step}/{seed}") if imitates and seed < retrained_models(work) else (before,)
                key = f"unlearned/{row.label}/{step}/{seed}"
                found.append(_job(asked, request.tree_of(row), "unlearned", key, step, seed, after))
    return found


def _job(asked: Asked, tree: Plain, stage: str, key: str, step: int, seed: int, after: tuple[str, ...] = ()) -> Job:
    arguments = {"stage": stage, "tree": tree, "count": asked.count, "splits": asked.splits, "step": step, "number": seed}
    return Job(key, "expunge.requests.sequence:run_job", arguments, after)


@dataclass(frozen=True)
class _Served:
    """What the jobs of a stream left.

    Attributes:
        asked: the stream.
        results: key of each job -> run folder or failure.
        work: the experiment without a method.
        views: what each run says about each scope of each step; filled when asked for.
    """

    asked: Asked
    results: Mapping[str, Any]
    work: Workplace
    views: dict[tuple[str, int, str], View] = field(default_factory=dict)

    def run(self, key: str) -> Run | tables.Failure:
        """Return the run of a job."""
        result = self.results[key]
        if isinstance(result, Failed):
            return tables.Failure("failed", result.reason.rpartition("which failed: ")[2])
        return store.find(result)

    def keys(self, step: int) -> dict[str, list[str]]:
        """Return the keys of the jobs of each row after a request."""
        seeds = range(self.work.experiment.evaluate.seeds)
        return {
            "original": [f"original/{seed}" for seed in range(originals(self.work))],
            "retrained": [f"retrained/{step}/{seed}" for seed in range(retrained_models(self.work))],
            **{row.label: [f"unlearned/{row.label}/{step}/{seed}" for seed in seeds] for row in self.asked.request.rows},
        }

    def outcomes(self, step: Step, scope: str) -> dict[str, list[tables.Outcome]]:
        """Return what each row's models say about a scope of a step: ``all``, ``new`` or ``earlier``."""
        split = {"all": step.so_far, "new": step.new, "earlier": step.earlier}[scope]
        assert split is not None
        return {label: [self._outcome(key, split, scope, step.number) for key in keys] for label, keys in self.keys(step.number).items()}

    def _outcome(self, key: str, split: Split, scope: str, step: int) -> tables.Outcome:
        run = self.run(key)
        if isinstance(run, tables.Failure):
            return run
        if run.status != "ok":
            return tables.Failure(run.status, run.record["failure"]["reason"])
        if (key, step, scope) not in self.views:
            self.views[key, step, scope] = self._view(run, split, scope)
        return self.views[key, step, scope]

    def _view(self, run: Run, split: Split, scope: str) -> View:
        logits = run.logits()
        if scope == "all":
            return evidence.view(logits, self.work.data, split)
        labels = self.work.data.labels.numpy()
        parts = {"forget": split.forget, "unseen": split.unseen}
        return View(
            {part: np.ascontiguousarray(logits[index], dtype=np.float32) for part, index in parts.items()},
            {part: labels[index] for part, index in parts.items()},
        )


def record_of(asked: Asked, results: Mapping[str, Any], provenance: Plain) -> Plain:
    """Return everything that a table and a page need, as plain values.

    Raises:
        RunFailed: an original or a retrained model gave nothing.
    """
    work = asked.request.workplace()
    served, steps = _Served(asked, results, work), asked.steps()
    _check_references(served, steps)
    entries = [_entry(served, step) for step in steps]
    labels = [row.label for row in asked.request.rows]
    return {
        "format": 1,
        "kind": "sequence",
        "title": asked.request.title,
        "request": _describe(asked, work, steps),
        "steps": entries,
        "rows": {
            label: {
                "verdict": _verdict(label, entries),
                **_settings(asked, label),
                "trends": _trends(label, entries),
            }
            for label in labels
        },
        "provenance": {
            **provenance,
            "config": config.to_yaml(work.experiment.lasting()),
            "environment": runs.environment(),
            "runs": {key: str(folder) for key, folder in results.items() if not isinstance(folder, Failed)},
        },
    }


def _settings(asked: Asked, label: str) -> Plain:
    """Return the method and the add-ons of a row as plain values."""
    experiment = asked.request.workplace(_row(asked, label)).experiment
    return {"method": experiment.method.tree(), "addons": [addon.tree() for addon in experiment.addons]}


def _row(asked: Asked, label: str) -> Row:
    return next(row for row in asked.request.rows if row.label == label)


def _check_references(served: _Served, steps: Sequence[Step]) -> None:
    for step in steps:
        keys = served.keys(step.number)
        for key in (*keys["original"], *keys["retrained"]):
            run = served.run(key)
            if isinstance(run, tables.Failure) or run.status != "ok":
                reason = run.reason if isinstance(run, tables.Failure) else run.record["failure"]["reason"]
                raise RunFailed(f"{key}: {reason} There is nothing to compare with.")


def _describe(asked: Asked, work: Workplace, steps: Sequence[Step]) -> Plain:
    evaluate, split = work.experiment.evaluate, work.split
    return {
        "data": work.data.name,
        "model": work.experiment.model.name,
        "train": work.experiment.train.name,
        "scenario": split.scenario,
        "kind": split.kind,
        "examples": len(split.train),
        "forget": len(split.forget),
        "requests": [len(step.new.forget) for step in steps],
        "splits": asked.splits,
        "seeds": evaluate.seeds,
        "retrained": evaluate.retrained,
        "tier": evaluate.tier,
    }


def _entry(served: _Served, step: Step) -> Plain:
    """Return everything about the state after one request."""
    evaluate, labels = served.work.experiment.evaluate, [row.label for row in served.asked.request.rows]
    scopes = {"all": step.so_far, "new": step.new, "earlier": step.earlier}
    found: Plain = {}
    seen: dict[str, list[tables.Outcome]] = {}
    for scope, split in scopes.items():
        if split is None:
            continue
        outcomes = served.outcomes(step, scope)
        seen = outcomes if scope == "all" else seen
        metrics = tables.default_metrics(split.kind, tier=evaluate.tier) if scope == "all" else _scoped(split.kind)
        found[scope] = _table(outcomes, labels, metrics, split.kind)
    judged = _audits(served, seen, step)
    for row in found["all"]["rows"]:
        row["verdict"] = tables.verdict(row, audits.tests(judged, row["name"]))
    return {
        "number": step.number + 1,
        "new": len(step.new.forget),
        "so_far": len(step.so_far.forget),
        "kind": step.so_far.kind,
        "split": step.so_far.fingerprint,
        "tables": found,
        "audits": judged,
        "cost": {label: _cost(served, label, step.number) for label in labels},
    }


def _table(outcomes: Mapping[str, list[tables.Outcome]], labels: Sequence[str], metrics: Sequence[Metric], kind: str) -> Plain:
    references = [[one for one in outcomes[name] if isinstance(one, View)] for name in ("original", "retrained")]
    return tables.evaluate(references[0], references[1], {label: outcomes[label] for label in labels}, metrics, kind)


def _scoped(kind: str) -> list[Metric]:
    found = [registry.find("metrics", name) for name in SCOPED]
    return [metric() for metric in found if issubclass(metric, Metric) and kind in metric.scenarios]


def _audits(served: _Served, seen: Mapping[str, list[tables.Outcome]], step: Step) -> Plain:
    asked = served.work.experiment.evaluate
    if served.work.experiment.model.weights is not None:
        return {"reason": "all unlearned models come from the one original of model.weights, so that no law over training seeds is seen."}
    context = {"kind": step.so_far.kind, "seed": served.work.experiment.seed}
    return audits.judge(seen, asked.seeds, audits.chosen(asked.tier), **context)


def _cost(served: _Served, label: str, step: int) -> Plain | None:
    """Return what a method has cost up to a request, and what retraining at every request would have; means over seeds that got so far."""
    seeds = range(served.work.experiment.evaluate.seeds)
    ours, theirs = [], []
    for seed in seeds:
        chain = [served.run(f"unlearned/{label}/{number}/{seed}") for number in range(step + 1)]
        costs = [run.record["cost"] for run in chain if isinstance(run, Run) and run.record["cost"]]
        if len(costs) < len(chain):
            continue
        ours.append({key: sum(cost[key] for cost in costs) for key in ("seconds", "passes")})
    for seed in range(retrained_models(served.work)):
        chain = [served.run(f"retrained/{number}/{seed}") for number in range(step + 1)]
        theirs.append({key: sum(run.record["cost"][key] for run in chain if isinstance(run, Run)) for key in ("seconds", "passes")})
    if not ours:
        return None
    found = {key: float(np.mean([cost[key] for cost in ours])) for key in ("seconds", "passes")}
    for key in ("seconds", "passes"):
        base = float(np.mean([cost[key] for cost in theirs])) if theirs else 0.0
        found |= {f"retraining_{key}": base, f"{key}_ratio": found[key] / base} if base else {}
    return found


def _verdict(label: str, entries: Sequence[Plain]) -> str:
    """Return one verdict over all requests: a test fails only beyond what chance allows over all tests of all requests (Holm)."""
    rows = [_row_of(entry["tables"]["all"], label) for entry in entries]
    lost = next((number for number, row in enumerate(rows, 1) if row["status"] != "finished"), None)
    if lost is not None:
        row = rows[lost - 1]
        return f"fails: {row['status']} at request {lost} of {len(rows)} ({row['reason']})"
    cells = []
    for number, (entry, row) in enumerate(zip(entries, rows, strict=True), 1):
        held = [*row["cells"].values(), *audits.tests(entry["audits"], label)]
        cells += [{**cell, "label": f"{cell['label']} after request {number}"} for cell in held]
    return tables.verdict({"status": "finished", "role": "unlearned", "cells": {}}, cells)


def _row_of(table: Plain, label: str) -> Plain:
    return next(row for row in table["rows"] if row["name"] == label)


def _trends(label: str, entries: Sequence[Plain]) -> Plain:
    """Return how much the distance to retraining grows with each request: the slope of each seed, its mean and interval over seeds.

    ``p_holm`` is adjusted over all slopes of the row: of eight intervals of 95 % one leaves out 0 by chance in a third of cases.
    """
    found: Plain = {}
    for scope, names in TRENDS.items():
        held = [entry["tables"][scope] for entry in entries if scope in entry["tables"]]
        for name in names:
            slope = _slope(label, name, held)
            if slope is not None:
                found[f"{scope}/{name}"] = slope
    adjusted = statistics.holm([slope["p_value"] for slope in found.values()])
    return {key: {**slope, "p_holm": float(p_value)} for (key, slope), p_value in zip(found.items(), adjusted, strict=True)}


def _slope(label: str, name: str, held: Sequence[Plain]) -> Plain | None:
    gaps = [_gaps(label, name, table) for table in held]
    if len(gaps) < 2 or any(gap is None for gap in gaps):
        return None
    complete = np.array(gaps, dtype=np.float64).T
    complete = complete[np.isfinite(complete).all(axis=1)]
    slopes = [float(np.polyfit(np.arange(complete.shape[1]), line, 1)[0]) for line in complete]
    try:
        mean = statistics.mean_interval(slopes)
    except NotEnoughEvidence:
        return None
    return {"per_request": mean.mean, "low": mean.low, "high": mean.high, "seeds": mean.n, "p_value": _p_value(slopes)}


def _p_value(slopes: list[float]) -> float:
    """Return the two-sided p-value of slopes with mean 0, by Student's law; 1 where they do not vary, which shows no law."""
    from scipy import stats

    error = np.std(slopes, ddof=1) / np.sqrt(len(slopes))
    return float(2 * stats.t.sf(abs(np.mean(slopes)) / error, len(slopes) - 1)) if error > 1e-12 * np.abs(slopes).max() else 1.0


def _gaps(label: str, name: str, table: Plain) -> list[float] | None:
    """Return the distance of each seed to its retrained model (nan for a lost seed); a pair metric is one already."""
    row = _row_of(table, label)
    if name not in row["cells"] or name not in table["metrics"]:
        return None
    ours = [np.nan if value is None else value for value in row["cells"][name]["per_seed"]]
    if table["metrics"][name]["pair"]:
        return ours
    reference = next((row for row in table["rows"] if row["role"] == "retrained"), None)
    if reference is None or name not in reference["cells"]:
        return None
    theirs = reference["cells"][name]["per_seed"][: len(ours)]
    return [a - b for a, b in zip(ours, theirs, strict=True)]
