"""The audits of one request: which models are compared with which, and what a verdict counts of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expunge import registry
from expunge.audits.audit import Audit, Panel
from expunge.bench.doses import unanswered
from expunge.bench.pools import Filled
from expunge.metrics import table as tables
from expunge.metrics.metric import Tier, in_tier
from expunge.metrics.view import View
from expunge.pools.workplace import Workplace
from expunge.report.publication import band_of
from expunge.statistics import NotEnoughEvidence

LEAST = 4
"""Models on each side below which no audit means anything."""
COSTLY = ("forgetting_quality", "ulira_efficacy")
"""Audits whose statistic takes too long to be computed for every dose."""

Seen = Mapping[str, Sequence[Any]]


def of(work: Workplace, seen: Seen, pools: Filled, **more: Any) -> dict[str, Any]:
    """Return what the pools of all rows show, against the half of the retrained models that shares no seed with them.

    Args:
        work: the experiment.
        seen: row -> views or failures, in the order of the seeds; ``original`` and ``retrained`` among the rows.
        pools: shadow models and swaps.
        more: ``tests`` and ``claims`` of `expunge.audits.assess.assess`.

    Returns:
        ``reason`` (why there are no audits, or None), what `expunge.audits.assess.assess` returns, and ``copies``: rows in which two models
        are one, which no audit can judge.
    """
    asked, split = work.experiment.evaluate, work.split
    if work.experiment.model.weights is not None:
        return {"reason": "all unlearned models come from the one original of model.weights, so that no law over training seeds is seen."}
    context = {"kind": split.kind, "seed": work.experiment.seed, "scenario": split.scenario.get("name", ""), **more}
    return judge(seen, asked.seeds, chosen(asked.tier), shadows=pools.shadows, swaps=pools.swaps, **context)


def judge(seen: Seen, seeds: int, audits: Sequence[Audit], **context: Any) -> dict[str, Any]:
    """Return what audits say about rows of views; see `of`.

    Args:
        seen: row -> views or failures, in the order of the seeds; ``original`` and ``retrained`` among the rows.
        seeds: how many retrained models are paired with a seed; the others are what all rows are compared with.
        audits: the components.
        context: further arguments of `expunge.audits.assess.assess`.
    """
    control, reference = halves(seen, seeds)
    sizes = [0 if half is None else half.models for half in (control, reference)]
    if control is None or reference is None or min(sizes) < LEAST:
        reason = f"audits compare two halves of retrained models, {LEAST} in each at least; here they have {sizes[0]} and {sizes[1]}."
        return {"reason": f"{reason} Give evaluate.retrained={max(8, 2 * seeds)}."}
    from expunge.audits.assess import assess

    rows = {label: held for label, outcomes in seen.items() if label != "retrained" and (held := panel(outcomes)) is not None}
    copies = [label for label, held in rows.items() if _repeats(held)]
    judged = {label: held for label, held in rows.items() if label not in copies}
    found = assess(judged, control, reference, labels_of(seen), audits, **context)
    return {"reason": None, **found, "copies": copies}


def responses(work: Workplace, seen: Seen, doses: Mapping[float, Sequence[View]], tests: int) -> dict[str, Any]:
    """Return how each audit answers to models that were retrained with a share of the forget set, as plain values.

    Args:
        work: the experiment.
        seen: what the models of each row say.
        doses: share of the forget set -> views of models that were retrained with that share.
        tests: how many tests a verdict counts together.
    """
    from expunge.audits.doses import dose_response

    control, reference = halves(seen, work.experiment.evaluate.seeds)
    original = panel(seen["original"])
    if control is None or reference is None or original is None or work.experiment.model.weights is not None:
        return {}
    given = {0.0: control, **{share: held for share, views in doses.items() if (held := panel(views)) is not None}, 1.0: original}
    labels, found = labels_of(seen), dict[str, Any]()
    for audit in chosen(work.experiment.evaluate.tier):
        if audit.is_game() or audit.name in COSTLY or work.split.kind not in audit.scenarios:
            continue
        try:
            found[audit.name] = dose_response(audit, given, reference, labels, seed=work.experiment.seed, tests=tests)
        except NotEnoughEvidence as missing:
            found[audit.name] = unanswered(missing)
    return found


def chosen(tier: Tier) -> list[Audit]:
    """Return the audits of a tier."""
    known = [registry.find("audits", name) for name in registry.names("audits")]
    return [audit() for audit in known if issubclass(audit, Audit) and in_tier(audit, tier)]


def halves(seen: Seen, seeds: int) -> tuple[Panel | None, Panel | None]:
    """Return the retrained models that are paired with seeds, and the others."""
    return panel(seen["retrained"][:seeds]), panel(seen["retrained"][seeds:])


def labels_of(seen: Seen) -> dict[str, np.ndarray]:
    """Return the true classes of each part."""
    return next(outcome.labels for outcome in seen["retrained"] if isinstance(outcome, View))


def panel(outcomes: Sequence[Any]) -> Panel | None:
    """Return what the models of a row say that gave one; None if none did."""
    views = [outcome for outcome in outcomes if isinstance(outcome, View)]
    if not views:
        return None
    parts = [part for part in ("forget", "retain", "unseen", "test") if views[0].size(part)]
    return Panel(
        {part: np.stack([view.margin(part).astype(np.float32) for view in views]) for part in parts},
        {part: np.stack([view.correct(part) for view in views]) for part in parts},
    )


def _repeats(models: Panel) -> bool:
    """Return whether two models of a row are one: a method without randomness gives the same model again from one weights file."""
    return len({row.tobytes() for row in models.of("forget")}) < models.models


def tests(audits: Mapping[str, Any], row: str) -> list[dict[str, Any]]:
    """Return what the audits of a record say about a row, as cells that a verdict counts."""
    found = []
    for head in audits.get("audits", {}).values():
        cell = head["rows"].get(row)
        if cell is None or cell["p_value"] is None:
            continue
        band = band_of(head, audits["models"]["reference"])
        inside = cell["p_value"] >= 1 - tables.LEVEL
        held = {"label": head["label"], "unit": head["unit"], "tested": True, "value": cell["value"], "band": band}
        found.append({**held, "p_value": cell["p_value"], "in_band": inside, "finding": None if inside else head[cell["side"]]})
    return found
