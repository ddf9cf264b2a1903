"""The pools beside originals, retrained and unlearned models that a tier asks for, filled and read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from expunge.audits.audit import Shadows
from expunge.bench.request import Request, Row, plays_games
from expunge.errors import BadInput, RunFailed, is_about_results
from expunge.metrics.view import Reference
from expunge.pools import vectorized
from expunge.pools.cache import IN, EvidenceCache
from expunge.pools.pool import Kind, Pool
from expunge.pools.workplace import Workplace

Report = Callable[[dict[str, Any]], None]

PARTS = ("forget", "retain", "validation", "test", "unseen", "test_forgotten")


@dataclass(frozen=True)
class Filled:
    """What the pools of one request say.

    Attributes:
        references: part -> what the base pool says; empty without one.
        shadows: row -> its shadow models, ``original`` and ``retrained`` among the rows; empty without a shadow pool.
        swaps: row -> its pairs of models with exchanged requests; empty without a swap pool.
        doses: share of the forget set -> logits of each model that was retrained with that share, float32 ``[N + T, C]``.
        failed: row -> why a pool of its own could not be made; the others have all of theirs.
    """

    references: dict[str, Reference] = field(default_factory=dict)
    shadows: dict[str, Shadows] = field(default_factory=dict)
    swaps: dict[str, Shadows] = field(default_factory=dict)
    doses: dict[float, list[np.ndarray]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def fill(request: Request, report: Report, *, keep_going: bool = False) -> Filled:
    """Make what is missing of every pool that the tier asks for, and read what they say.

    Args:
        request: with its rows.
        report: hears every event of every job.
        keep_going: go on with the other rows where the unlearned models of one cannot be made, and say so in ``failed``.

    Raises:
        BadInput: the folder cannot be written, whether or not to keep going.
    """
    work = request.workplace()
    asked = work.experiment.evaluate
    references = _references(work, asked.base_models, report) if asked.base_models else {}
    games = plays_games(work) and work.split.kind != "class"
    rows = _Rows(request, report, keep_going)
    shadows = _shadows(rows, asked.shadow_models) if asked.shadow_models and games else {}
    swaps = _swaps(rows, asked.swap_models) if asked.swap_models and games else {}
    doses = {share: _dose(work, share, report) for share in asked.doses} if asked.retrained else {}
    return Filled(references, shadows, swaps, doses, rows.failed)


@dataclass
class _Rows:
    """The rows of a request while pools are made of each.

    Attributes:
        failed: row -> why a pool of it could not be made; nothing more is made of it.
    """

    request: Request
    report: Report
    keep_going: bool
    failed: dict[str, str] = field(default_factory=dict)

    def fill(self, kind: Kind, size: int) -> dict[str, EvidenceCache]:
        """Return the filled pool of each row that has not failed."""
        found = {row.label: self._filled(row, kind, size) for row in self.request.rows if row.label not in self.failed}
        return {label: cache for label, cache in found.items() if cache is not None}

    def _filled(self, row: Row, kind: Kind, size: int) -> EvidenceCache | None:
        try:
            cache = Pool(self.request.workplace(row), kind).fill(size, self.report)
            if not cache.rows(upto=size):
                raise RunFailed("no model of it gave evidence.")
            return cache
        except Exception as error:  # whatever a method raises in a pool ends its row, and not the others
            if not self.keep_going or is_about_results(error):
                raise
            told = str(error) if isinstance(error, BadInput | RunFailed) else f"{type(error).__name__}: {error}"
            self.failed[row.label] = f"its {kind.replace('_', ' ')} pool: {told}"
            self.report({"event": "warning", "title": row.label, "message": self.failed[row.label]})
            return None


def _references(work: Workplace, size: int, report: Report) -> dict[str, Reference]:
    cache = Pool(work, "base").fill(size, report)
    rows = cache.rows(upto=size)
    if len(rows) < size:
        report({"event": "warning", "title": "base pool", "message": f"{size - len(rows)} of {size} models gave no evidence"})
    margins, inside = cache.margins(rows), cache.states(rows) == IN
    parts = {part: getattr(work.split, part) for part in PARTS}
    return {part: Reference(margins[:, index], inside[:, index]) for part, index in parts.items() if len(index)}


def _shadows(rows: _Rows, size: int) -> dict[str, Shadows]:
    work = rows.request.workplace()
    pool, before = Pool(work, "shadow_unlearned"), Pool(work, "shadow_original").fill(size, rows.report)
    without = Pool(work, "shadow_retrained").fill(size, rows.report)
    found = {"original": before, "retrained": without, **rows.fill("shadow_unlearned", size)}
    plan = np.stack([pool.state(number)[pool.targets] for number in range(size)])
    return {label: _shadow(pool, plan, (before, cache, without)) for label, cache in found.items()}


def _swaps(rows: _Rows, size: int) -> dict[str, Shadows]:
    work = rows.request.workplace()
    pool, before = Pool(work, "swap_unlearned"), Pool(work, "swap_original").fill(size, rows.report)
    found = {"original": before, **rows.fill("swap_unlearned", size)}
    plan = np.stack([pool.state(number)[pool.targets] for number in range(size)])
    return {label: _shadow(pool, plan, (before, cache, None)) for label, cache in found.items()}


def _shadow(pool: Pool, plan: np.ndarray, caches: tuple[EvidenceCache, EvidenceCache, EvidenceCache | None]) -> Shadows:
    """Return the shadow models of a row; where one diverged, the others of its block are left out too, so that the plan stays balanced."""
    there = [set(cache.rows(upto=len(plan))) for cache in caches if cache is not None]
    blocks = [range(start, start + pool.multiple) for start in range(0, len(plan), pool.multiple)]
    rows = [row for block in blocks if all(number in held for number in block for held in there) for row in block]
    original, unlearned, retrained = (None if cache is None else cache.margins(rows)[:, pool.targets] for cache in caches)
    assert original is not None and unlearned is not None
    return Shadows(original, unlearned, retrained, plan[rows])


def _dose(work: Workplace, share: float, report: Report) -> list[np.ndarray]:
    pool = Pool(work, "dose", dose=share)
    size = work.experiment.evaluate.seeds
    pool.fill(size, report)
    together = bool(vectorized.promise(work))
    made = [pool.run(number, together) for number in range(size)]
    return [run.logits() for run in made if run.status == "ok"]
