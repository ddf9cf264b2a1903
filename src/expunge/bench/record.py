"""The record of a comparison: everything that a table and a page need, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from expunge import config, runs
from expunge.audits import margins
from expunge.audits.claim import Claim, claim_of
from expunge.bench import audits, declarations
from expunge.bench.doses import responses
from expunge.bench.pools import Filled
from expunge.bench.request import Request, inspected, looked_for, originals, retrained, shared_key
from expunge.data.split import Split
from expunge.metrics import table as tables
from expunge.metrics.metric import Metric
from expunge.metrics.view import View
from expunge.pools import evidence, inspection, stages, store
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace
from expunge.report import histograms


@dataclass(frozen=True)
class Found:
    """What the runs of one request left.

    Attributes:
        number: position of the request, which is in the keys of its jobs.
        folders: key of each job -> run folder.
        pools: what the other pools say.
        failed: key of each job that gave no run -> why.
    """

    number: int
    folders: Mapping[str, str]
    pools: Filled
    failed: Mapping[str, str] = field(default_factory=dict)

    def runs(self, request: Request) -> dict[str, list[Run | tables.Failure]]:
        """Return what each row's jobs left, ``original`` and ``retrained`` first."""
        return {label: [self._run(key) for key in keys] for label, keys in self.keys(request).items()}

    def _run(self, key: str) -> Run | tables.Failure:
        return tables.Failure("failed", self.failed[key]) if key in self.failed else store.find(self.folders[key])

    def keys(self, request: Request) -> dict[str, list[str]]:
        """Return the keys of the jobs of each row."""
        work = request.workplace()
        seeds = range(work.experiment.evaluate.seeds)
        return {
            "original": [f"original/{shared_key(work)}/{seed}" for seed in range(originals(work))],
            "retrained": [f"retrained/{self.number}/{seed}" for seed in range(retrained(work))],
            **{row.label: [f"unlearned/{self.number}/{row.label}/{seed}" for seed in seeds] for row in request.rows},
        }

    def inside(self, request: Request, made: Mapping[str, Run | tables.Failure]) -> dict[str, dict[str, np.ndarray]]:
        """Return what was found inside each run that was looked into, by the key of its job; ``made`` holds the runs by theirs."""
        work = request.workplace()
        settings, folder = inspection.settings_of(work, looked_for(work)), work.experiment.evaluate.downstream
        found = {}
        for job, (key, original) in inspected(self.number, request).items():
            run, first = made[key], made[original]
            if isinstance(run, Run) and isinstance(first, Run):
                path = Path(self.folders.get(job) or "")
                found[key] = inspection.read(path) if path.is_file() else inspection.load(work, run, first, settings, folder)
        return found


def record_of(request: Request, found: Found, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return everything that a table and a page need, as plain values."""
    work, made = request.workplace(), found.runs(request)
    data, split, tier = work.data, work.split, work.experiment.evaluate.tier
    keys = found.keys(request)
    inside = found.inside(request, {key: run for label, held in made.items() for key, run in zip(keys[label], held, strict=True)})
    seen: dict[str, list[Any]] = {
        label: [_outcome(run, data, split, found.pools, inside.get(key)) for run, key in zip(held, keys[label], strict=True)]
        for label, held in made.items()
    }
    confusion = split.swapped_test(data) is not None
    metrics = tables.default_metrics(split.kind, backdoor=work.triggered_test is not None, tier=tier, confusion=confusion)
    tested = sum(metric.tested for metric in metrics)
    audited = audits.of(work, seen, found.pools, tests=tested, claims=_claims(request))
    rows: dict[str, Sequence[Any]] = {label: outcomes for label, outcomes in seen.items() if label not in ("original", "retrained")}
    record: dict[str, Any] = {
        "format": 2,
        "title": request.title,
        "request": _describe(request, work, split),
        "table": tables.evaluate(seen["original"], seen["retrained"], rows, metrics, split.kind),
        "audits": audited,
        "doses": _doses(work, seen, found.pools, metrics, tested + max((len(audits.tests(audited, label)) for label in seen), default=0)),
        "declared": {row.label: declarations.found(request.workplace(row)) for row in request.rows},
        "methods": {row.label: _method(request.workplace(row)) for row in request.rows},
        "cost": _costs(made),
        "histograms": {"loss": histograms.shares({label: losses for label, outcomes in seen.items() if (losses := _losses(outcomes))})},
        "provenance": {
            **provenance,
            "config": config.to_yaml(work.experiment.lasting()),
            "fingerprint": split.fingerprint,
            "environment": runs.environment(),
            "runs": {key: found.folders[key] for held in keys.values() for key in held if key not in found.failed},
        },
    }
    for row in record["table"]["rows"]:
        if row["name"] in found.pools.failed and row["status"] == "finished":
            row |= {"status": "failed", "reason": found.pools.failed[row["name"]]}
        row["verdict"] = tables.verdict(row, audits.tests(record["audits"], row["name"]))
    shown = {row["name"] for row in record["table"]["rows"] if row["cells"]}
    for work in (request.workplace(row) for row in request.rows if row.label in shown):
        declarations.mark(work)
    return record


def _claims(request: Request) -> dict[str, Claim]:
    """Return the certificates that methods declare."""
    found = {row.label: claim_of(request.workplace(row).experiment.method) for row in request.rows}
    return {label: claim for label, claim in found.items() if claim is not None}


def _doses(work: Workplace, seen: Mapping[str, list[Any]], pools: Filled, metrics: Sequence[Metric], tests: int) -> dict[str, Any]:
    """Return how each metric of the table answers to models that were retrained with a share of the forget set."""
    if not pools.doses:
        return {}
    views = {
        share: [evidence.view(one, work.data, work.split, None, pools.references) for one in held] for share, held in pools.doses.items()
    }
    here = [metric for metric in metrics if not metric.inspection and "triggered" not in metric.parts]
    models = {label: [view for view in seen[label] if isinstance(view, View)] for label in ("retrained", "original")}
    seeds = work.experiment.evaluate.seeds
    answers = responses(here, models["retrained"], views, models["original"], seeds, max(tests, 1))
    return answers | audits.responses(work, seen, views, max(tests, 1))


def _outcome(
    run: Run | tables.Failure, data: Any, split: Split, pools: Filled, inside: Mapping[str, np.ndarray] | None
) -> View | tables.Failure:
    if isinstance(run, tables.Failure):
        return run
    if run.status != "ok":
        return tables.Failure(run.status, run.record["failure"]["reason"])
    return evidence.view(run.logits(), data, split, run.triggered(), pools.references, inside)


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
        **{part: len(getattr(split, part)) for part in ("forget", "retain", "unknown", "validation", "test", "unseen")},
        "notes": split.notes,
        "forget_classes": [names[number] for number in split.forget_classes],
        "class_names": list(names),
        "duplicates": dict(split.duplicates),
        "seeds": work.experiment.evaluate.seeds,
        **{name: value for name in config.SEEDS if (value := getattr(work.experiment, name)) is not None},
        "retrained": retrained(work),
        "tier": work.experiment.evaluate.tier,
        "margins": margins.resolve(work.experiment.evaluate.margins),
    }


def _method(work: Workplace) -> dict[str, Any]:
    method = work.experiment.method
    return {
        "name": method.name,
        "summary": method.summary(),
        "source": method.source,
        "hyperparameters": {key: value for key, value in method.tree().items() if key != "name"},
        "addons": [addon.tree() for addon in work.experiment.addons],
        "needs": sorted(stages.needs_of(work)),
        "deviations": list(method.deviations),
        **({"tuned": {key: value for key, value in tuned.tree().items() if key != "name"}} if (tuned := work.experiment.tuned) else {}),
    }


def _costs(made: Mapping[str, list[Run | tables.Failure]]) -> dict[str, dict[str, Any]]:
    rows = {label: [run for run in found if isinstance(run, Run) and run.record["cost"]] for label, found in made.items()}
    base = _mean_cost(rows["retrained"])
    costs = {}
    for label, found in rows.items():
        cost = _mean_cost(found)
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
