"""The table: every metric of every row, against the band of the retrained models, as plain values.

A row is judged on the mean over its seeds. The band is where the mean of as many new retrained models would lie (95 %). The
retrained row is a control: each retrained model is judged against a band of the others, so that its verdict is not circular.

What is repeated is the training. Models that were unlearned from one original share what its training left to chance, which their mean
does not even out: it is judged like one model, and has no interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge import registry, statistics
from expunge.attacks.completeness import completeness
from expunge.errors import BadInput
from expunge.metrics.metric import DAMAGE, UNLIKE, Estimate, Metric, Target, Tier, in_tier
from expunge.metrics.view import View
from expunge.statistics import Band, NotEnoughEvidence

LEVEL = 0.95
GAP_METRICS = ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "svc_membership")
"""What the published tables average into one gap: UA, RA, TA, MIA."""


@dataclass(frozen=True)
class Failure:
    """What stands in a row in place of a view when a run gave no model.

    Attributes:
        status: one word: diverged, failed, collapsed.
        reason: what happened, in words.
    """

    status: str
    reason: str


Outcome = View | Failure


def default_metrics(kind: str, backdoor: bool = False, tier: Tier = "fast", confusion: bool = False) -> list[Metric]:
    """Return every registered metric of a tier that means something for a request of this kind (random, class, subclass).

    Args:
        kind: of the request.
        backdoor: whether the request is to forget a backdoor, so that there are pictures with its trigger.
        tier: of the evaluation; a metric of a tier below belongs to it too.
        confusion: whether the request is to forget a confusion of two classes, so that there is something to count.
    """
    found = [registry.find("metrics", name) for name in registry.names("metrics")]
    known = [metric for metric in found if issubclass(metric, Metric) and kind in metric.scenarios and in_tier(metric, tier)]
    missing = {part for part, there in (("triggered", backdoor), ("swapped", confusion)) if not there}
    return [metric() for metric in known if not missing & set(metric.parts)]


def evaluate(
    original: Sequence[View],
    retrained: Sequence[View],
    unlearned: dict[str, Sequence[Outcome]],
    metrics: Sequence[Metric],
    kind: str,
) -> dict[str, Any]:
    """Return the table as plain values that JSON can hold.

    Args:
        original: views of the models before unlearning, one for each seed; or one, from which all unlearned models come.
        retrained: views of models that never saw the forget set; at least as many, entry k of the same seed as ``original[k]``.
        unlearned: row name -> one view or failure for each seed, in the order of ``original``.
        metrics: see `default_metrics`; those that do not apply to ``kind`` are listed under ``skipped``.
        kind: of the request: random, class or subclass.

    Returns:
        ``{kind, level, seeds, originals, retrained_models, skipped, metrics: {name: {label, unit, target, pair, tested, band,
        band_reason}}, rows: [{name, role, status, reason, seeds, failed_seeds, cells: {metric: cell}, unmeasured: {metric: reason},
        gaps, verdict}]}``.
        A cell holds value (mean over seeds), standard_error and interval (over seeds), example_standard_error, per_seed (None for a failed
        seed), band, p_value, in_band (None when there is no band), band_reason (why there is none), finding and note; that of a test
        in an unlearned row also completeness ``{value, low, high}``, 0 for retrained and 1 for the original, None where it would be noise.
        ``originals`` counts different models: with fewer than seeds there is neither an error over seeds nor a completeness index.
        What a row gives too little evidence for stands under unmeasured, and what no row does under skipped.

    Raises:
        BadInput: rows of different lengths, or a view lacks a part that a metric needs.
    """
    _check_rows(original, retrained, unlearned)
    seeds = max(map(len, [original, *unlearned.values()]))
    reasons = {metric.name: _why_skipped(metric, kind, original, retrained) for metric in metrics}
    chosen = [metric for metric in metrics if reasons[metric.name] is None]
    columns = [_column(metric, retrained) for metric in chosen]
    originals = different(original)
    shared = shared_start(originals, seeds)
    rows = [_row("original", "original", original, retrained, columns, shared)]
    rows += [_control(retrained, columns)] if retrained else []
    rows += [_row(name, "unlearned", outcomes, retrained, columns, shared) for name, outcomes in unlearned.items()]
    if retrained:
        _complete(rows, seeds, shared)
    reasons |= _unmeasured(rows, columns)
    columns = [column for column in columns if reasons[column.metric.name] is None]
    for row in rows:
        row["gaps"] = _gaps(row["cells"], rows[1]["cells"]) if retrained else None
        row["verdict"] = verdict(row)
    return {
        "kind": kind,
        "level": LEVEL,
        "seeds": seeds,
        "originals": originals,
        "retrained_models": len(retrained),
        "metrics": {column.metric.name: _head(column, 1 if shared else seeds) for column in columns},
        "skipped": {name: reason for name, reason in reasons.items() if reason is not None},
        "rows": rows,
    }


def different(models: Sequence[Outcome]) -> int:
    """Return how many of some models are different ones: two that say the same about the forget set, to the last bit, are one."""
    views = [model for model in models if isinstance(model, View)]
    said = {view.logits.get("forget", next(iter(view.logits.values()))).tobytes() for view in views}
    return len(said) + len(models) - len(views)


def shared_start(originals: int, seeds: int) -> str:
    """Return why the unlearned models of a row are no replicates; empty where each seed has an original of its own."""
    if originals >= seeds:
        return ""
    return "all rows start from one original" if originals == 1 else f"{seeds} seeds start from {originals} originals"


def _why_skipped(metric: Metric, kind: str, original: Sequence[View], retrained: Sequence[View]) -> str | None:
    """Return why a metric cannot be computed; None if it can."""
    if kind not in metric.scenarios:
        return f"does not apply to a {kind} request"
    if not retrained and metric.needs_retrained():
        return "compares with retrained models, and there are none"
    if metric.references and not original[0].references:
        return "needs a base pool, and there is none"
    missing = [name for name in metric.inspection if name not in original[0].inspection]
    return f"needs {', '.join(missing)} from inside the models, and nobody looked" if missing else None


def _check_rows(original: Sequence[View], retrained: Sequence[View], unlearned: dict[str, Sequence[Outcome]]) -> None:
    if not original:
        raise BadInput("evaluate", "there is no original model.", "Train it first.")
    seeds = max(map(len, [original, *unlearned.values()]))
    if retrained and len(retrained) < seeds:
        found = f"{seeds} seeds, but only {len(retrained)} retrained models."
        raise BadInput("evaluate.seeds", found, "Retrain one for each seed, or none.")
    if len(original) not in (1, seeds):
        raise BadInput(
            "evaluate.original", f"{len(original)} original models for {seeds} seeds.", "Give one for each seed, or one for all."
        )
    for name, outcomes in unlearned.items():
        if name in ("original", "retrained"):
            raise BadInput(f"evaluate.{name}", "this name belongs to a reference row.", "Name the row after its method.")
        if len(outcomes) != seeds:
            found = f"{len(outcomes)} outcomes for {seeds} seeds."
            raise BadInput(f"evaluate.{name}", found, "Give a view or a Failure for each seed.")


@dataclass(frozen=True)
class _Column:
    """A metric and its values on the retrained models: ``[n]``, or ``[n, n]`` for a pair metric (model j, reference k)."""

    metric: Metric
    values: np.ndarray
    estimates: list[Estimate]
    resolution: float
    missing: str = ""
    """Why the retrained models cannot be measured; empty if they can."""

    def band(self, of_mean: int, keep: np.ndarray | None = None, level: float = LEVEL) -> Band:
        """Return the band from all retrained models or from some of them; raises NotEnoughEvidence."""
        if self.missing:
            raise NotEnoughEvidence(self.missing)
        if self.metric.is_pair():
            values = self.values if keep is None else self.values[np.ix_(keep, keep)]
            return statistics.pair_band(values, of_mean, self.resolution, level)
        values = self.values if keep is None else self.values[keep]
        return statistics.prediction_band(values, of_mean, self.resolution, level)


def bands(metric: Metric, retrained: Sequence[View], of_mean: int) -> Callable[[float], Band]:
    """Return from a level the band by which a row's mean over ``of_mean`` models is judged; it raises NotEnoughEvidence without one."""
    column = _column(metric, retrained)
    return lambda level: column.band(of_mean, level=level)


def _column(metric: Metric, retrained: Sequence[View]) -> _Column:
    inspected = [view for view in retrained if all(name in view.inspection for name in metric.inspection)]
    try:
        return _measured_column(metric, inspected[: metric.band_models])
    except NotEnoughEvidence as missing:
        return _Column(metric, np.empty(0), [], 0.0, str(missing))


def _measured_column(metric: Metric, retrained: Sequence[View]) -> _Column:
    if not metric.is_pair():
        estimates = [metric.measure(view) for view in retrained]
        values = np.array([estimate.value for estimate in estimates])
        return _Column(metric, values, estimates, metric.resolution(estimates[0].n) if estimates else 0.0)
    n = len(retrained)
    values, estimates, size = np.full((n, n), np.nan), [], 0
    for j, view in enumerate(retrained):
        others = [metric.compare(view, retrained[k]) for k in range(n) if k != j]
        values[j, np.arange(n) != j] = [estimate.value for estimate in others]
        if others:
            size = others[0].n
            estimates.append(Estimate(float(np.mean([estimate.value for estimate in others])), None, size))
    return _Column(metric, values, estimates, metric.resolution(size) if size else 0.0)


def _head(column: _Column, seeds: int) -> dict[str, Any]:
    metric = column.metric
    band, reason = _try_band(column, seeds)
    return {
        "label": metric.label,
        "unit": metric.unit,
        "target": str(metric.target),
        "pair": metric.is_pair(),
        "tested": metric.tested,
        "band": _plain_band(metric, band),
        "band_reason": reason,
    }


def _try_band(column: _Column, of_mean: int, keep: np.ndarray | None = None) -> tuple[Band | None, str | None]:
    try:
        return column.band(of_mean, keep), None
    except NotEnoughEvidence as missing:
        return None, str(missing)


def _plain_band(metric: Metric, band: Band | None) -> dict[str, Any] | None:
    if band is None:
        return None
    low, high = metric.limits or (-np.inf, np.inf)
    return {"low": float(max(low, band.low)), "high": float(min(high, band.high)), "mean": band.mean, "n": band.n}


def _row(
    name: str, role: str, outcomes: Sequence[Outcome], retrained: Sequence[View], columns: list[_Column], shared: str
) -> dict[str, Any]:
    failures = {seed: outcome for seed, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}
    row: dict[str, Any] = {
        "name": name,
        "role": role,
        "status": "finished",
        "reason": None,
        "seeds": len(outcomes),
        "failed_seeds": len(failures),
    }
    if failures:
        position, first = next(iter(failures.items()))
        row |= {"status": first.status, "reason": f"{len(failures)} of {len(outcomes)} seeds; seed {position}: {first.reason}"}
    row |= {"cells": {}, "unmeasured": {}}
    for column in columns if len(failures) < len(outcomes) else ():
        try:
            row["cells"][column.metric.name] = _judged_cell(column, outcomes, retrained, shared)
        except NotEnoughEvidence as missing:
            row["unmeasured"][column.metric.name] = str(missing)
    return row


def _unmeasured(rows: list[dict[str, Any]], columns: list[_Column]) -> dict[str, str]:
    """Return why metrics that no row has a value for could not be measured."""
    names = [column.metric.name for column in columns if not any(column.metric.name in row["cells"] for row in rows)]
    return {name: rows[0]["unmeasured"].get(name, "no model could be measured") for name in names}


def _complete(rows: list[dict[str, Any]], seeds: int, shared: str) -> None:
    """Give every test of an unlearned row its completeness index, from the first ``seeds`` retrained models; none without replicates."""
    original, retrained = (row["cells"] for row in rows[:2])
    for row in rows[2:]:
        for name, cell in row["cells"].items():
            if cell["tested"]:
                there = name in original and name in retrained and not shared
                references = (original[name]["per_seed"], retrained[name]["per_seed"][:seeds]) if there else ([], [])
                cell["completeness"] = _completeness(cell["per_seed"], *references)


def _completeness(unlearned: list[float | None], original: list[float | None], retrained: list[float | None]) -> dict[str, float] | None:
    """Return the index over the seeds that gave a model."""
    found = [values for values in zip(unlearned, original, retrained, strict=False) if None not in values]
    if len(original) != len(unlearned) or len(retrained) != len(unlearned):
        return None
    try:
        value = completeness(*np.array(found, dtype=np.float64).reshape(-1, 3).T)
    except NotEnoughEvidence:
        return None
    return {"value": value.mean, "low": value.low, "high": value.high}


def _judged_cell(column: _Column, outcomes: Sequence[Outcome], retrained: Sequence[View], shared: str) -> dict[str, Any]:
    metric = column.metric
    estimates: list[Estimate | None] = []
    for seed, outcome in enumerate(outcomes):
        if isinstance(outcome, Failure):
            estimates.append(None)
        else:
            estimates.append(metric.compare(outcome, retrained[seed]) if metric.is_pair() else metric.measure(outcome))
    cell = _cell(metric, estimates, shared)
    band, reason = _try_band(column, 1 if shared else sum(estimate is not None for estimate in estimates))
    if band is None:
        return _without_band(cell, str(reason))
    return _judge(metric, cell, band, _p_value(metric.target, band, cell["value"]))


def _control(retrained: Sequence[View], columns: list[_Column]) -> dict[str, Any]:
    cells = {column.metric.name: _control_cell(column) for column in columns if column.estimates}
    n, missing = len(retrained), {column.metric.name: column.missing for column in columns if column.missing}
    return {
        "name": "retrained",
        "role": "retrained",
        "status": "finished",
        "reason": None,
        "seeds": n,
        "failed_seeds": 0,
        "cells": cells,
        "unmeasured": missing,
    }


def _control_cell(column: _Column) -> dict[str, Any]:
    metric, estimates = column.metric, column.estimates
    cell, everyone = _cell(metric, list(estimates)), np.arange(len(estimates))
    p_values = []
    for j in everyone:
        band, reason = _try_band(column, 1, everyone[everyone != j])
        if band is None:
            return _without_band(cell, f"each model against the others: {reason}")
        p_values.append(_p_value(metric.target, band, estimates[j].value))
    worst = int(np.argmin(p_values))
    value, others = estimates[worst].value, column.band(1, everyone[everyone != worst])
    judged = _judge(metric, cell, column.band(1), min(1.0, len(p_values) * min(p_values)))
    if judged["in_band"] is False:
        judged["finding"] = f"model {worst} is unlike the other {len(p_values) - 1}"
    farthest = {"value": value, "band": _plain_band(metric, others)}
    return judged | {
        "farthest": farthest,
        "note": f"each model against a band of the other {len(p_values) - 1}; model {worst} is the farthest",
    }


def _cell(metric: Metric, estimates: list[Estimate | None], shared: str = "") -> dict[str, Any]:
    held = [estimate for estimate in estimates if estimate is not None]
    values = np.array([estimate.value for estimate in held])
    errors = [estimate.standard_error for estimate in held if estimate.standard_error is not None]
    cell: dict[str, Any] = {
        "label": metric.label,
        "unit": metric.unit,
        "tested": metric.tested,
        "value": float(values.mean()),
        "standard_error": None,
        "interval": None,
        "example_standard_error": float(np.sqrt(np.mean(np.square(errors)))) if len(errors) == len(held) else None,
        "per_seed": [None if estimate is None else estimate.value for estimate in estimates],
        "n": held[0].n,
        "note": f"an interval needs several training seeds: {shared}" if shared else None,
    }
    if shared:
        return cell
    try:
        interval = statistics.mean_interval(values, LEVEL)
    except NotEnoughEvidence as missing:
        return cell | {"note": str(missing)}
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return cell | {"standard_error": error, "interval": {"low": interval.low, "high": interval.high}}


def _without_band(cell: dict[str, Any], reason: str) -> dict[str, Any]:
    return cell | {"band": None, "p_value": None, "in_band": None, "finding": None, "band_reason": reason}


def _judge(metric: Metric, cell: dict[str, Any], band: Band, p_value: float) -> dict[str, Any]:
    if metric.target is Target.REPORT:
        return _without_band(cell, "shown, not judged")
    in_band = p_value >= 1 - LEVEL
    finding = None if in_band else metric.above if cell["value"] > band.mean else metric.below
    return cell | {"band": _plain_band(metric, band), "p_value": p_value, "in_band": in_band, "finding": finding, "band_reason": None}


def _p_value(target: Target, band: Band, value: float) -> float:
    harmless = {Target.ZERO_UP_TO_BAND: value <= band.mean, Target.LOWER: value <= band.mean, Target.HIGHER: value >= band.mean}
    return 1.0 if harmless.get(target, False) else band.p_value(value)


def _gaps(cells: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any] | None:
    """Return signed gaps of the seed-averaged values to the retrained row, and the mean of their sizes, as published tables do."""
    if not all(name in cells and name in reference for name in GAP_METRICS):
        return None
    gaps = {cells[name]["label"]: cells[name]["value"] - reference[name]["value"] for name in GAP_METRICS}
    return {**gaps, "average": float(np.mean(np.abs(list(gaps.values()))))}


def verdict(row: dict[str, Any], more: Sequence[dict[str, Any]] = ()) -> str:
    """Return a row's result in words: "fails" or "no evidence of failure", never more.

    A row fails when a run gave no model, or when a test lies outside its band beyond what chance allows over all tests of the row
    (Holm, 5 %). A value outside its band that such chance can explain is named, and fails nothing. Closeness to retraining is never
    claimed: that takes an equivalence test with margins declared beforehand.

    Args:
        row: of the table.
        more: cells of tests that are not in the table, those of audits; they count like the others.
    """
    if row["status"] != "finished":
        return f"fails: {row['status']} ({row['reason']})"
    tests = [cell for cell in [*row["cells"].values(), *more] if cell["tested"] and cell["in_band"] is not None]
    if not tests:
        reasons = [cell["band_reason"] for cell in row["cells"].values() if cell["tested"]]
        return "no verdict: no test has a band" + (f" ({reasons[0]})" if reasons else "")
    adjusted = statistics.holm([cell["p_value"] for cell in tests])
    failed = [cell for cell, p_value in zip(tests, adjusted, strict=True) if p_value < 1 - LEVEL]
    if failed:
        return "fails: " + "; ".join(_findings(failed, row.get("role") == "original"))
    inside = sum(cell["in_band"] for cell in tests)
    power = f"at this power ({tests[0]['band']['n']} retrained models)"
    text = f"no evidence of failure: inside the retrained band on {inside} of {len(tests)} tests {power}"
    outside = [f"{cell['label']} {_compared(cell)}" for cell in tests if not cell["in_band"]]
    return text + (f"; outside, but not beyond chance over {len(tests)} tests: {', '.join(outside)}" if outside else "")


def _findings(failed: list[dict[str, Any]], is_original: bool) -> list[str]:
    """Return the strongest cell of each kind of failure, damage first; what came before unlearning cannot have been damaged by it."""
    strongest: dict[str, dict[str, Any]] = {}
    for cell in sorted(failed, key=lambda cell: ((cell["finding"] != DAMAGE) != is_original, cell["p_value"])):
        finding = UNLIKE if is_original and cell["finding"] == DAMAGE else cell["finding"]
        strongest.setdefault(finding, cell)
    words = [f"{finding} ({cell['label']} {_compared(cell)})" for finding, cell in strongest.items()]
    return words[:3] + ([f"and {len(words) - 3} more kinds of failure"] if len(words) > 3 else [])


def _compared(cell: dict[str, Any]) -> str:
    shown = cell["farthest"] if cell.get("farthest") and cell["in_band"] is False else cell
    if shown["band"] is None:
        return f"{shown['value']:.3f}{shown['unit']}"
    low, high = shown["band"]["low"], shown["band"]["high"]
    digits, unit = (1 if high - low > 0.5 else 2, " %") if cell["unit"] == "%" else (3, f" {cell['unit']}".rstrip())
    return f"{shown['value']:.{digits}f}{unit}, retrained {low:.{digits}f} to {high:.{digits}f}"
