"""Bounds on epsilon from one model and canaries whose membership was drawn by coins."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import epsilon
from expunge.audits import relabelling
from expunge.audits.audit import Audit, Finding, Panel
from expunge.config import Fraction, hyper
from expunge.metrics.metric import Target, Tier
from expunge.statistics import NotEnoughEvidence

LEAST = 20


class OneRunAudit(Audit):
    """Median over models of the lower bound on epsilon from guesses which canaries were trained on and then forgotten.

    Each model's bound holds with 97.5 %, so that the median holds with 95 % however the models depend on each other; the p-value is
    twice the median of the models' own, by the coins alone.
    """

    label: ClassVar[str] = "one-run epsilon"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.LOWER
    tier: ClassVar[Tier] = "rigorous"
    game: ClassVar[str] = "privacy"
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    scenarios: ClassVar[tuple[str, ...]] = ("canaries",)
    source: ClassVar[str] = "Steinke, Nasr & Jagielski, Privacy Auditing with One (1) Training Run, NeurIPS 2023"
    above: ClassVar[str] = "margins tell which canaries the model was trained on before it forgot them"

    guesses: Fraction = hyper(0.5, "share of the canaries about which a guess is made; chosen before any score is seen")

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the median bound over the models."""
        return float(np.median(self._bounds(candidate)[0]))

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the median of many divisions, from one bound for each model."""
        values = np.concatenate([self._bounds(side)[0] for side in (candidate, reference)])
        chosen = relabelling.divisions(candidate.models, reference.models, draws, seed)
        return np.array([np.median(values[division]) for division in chosen])

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the median bound, its ceiling, and how many guesses were right."""
        values, right, ceiling = self._bounds(candidate)
        number = self._number(candidate)
        chances = [epsilon.one_run_p_value(0.0, round(share * number), number) for share in right]
        details = {
            "ceiling": ceiling,
            "largest": float(values.max()),
            "guesses": number,
            "right_median": float(np.median(right)),
            "canaries": [candidate.of(part).shape[1] for part in ("forget", "unseen")],
        }
        return Finding(float(np.median(values)), None, None, details, p_value=min(1.0, 2 * float(np.median(chances))))

    def _number(self, panel: Panel) -> int:
        canaries = panel.of("forget").shape[1] + panel.of("unseen").shape[1]
        if canaries < LEAST:
            raise NotEnoughEvidence(f"a one-run audit needs {LEAST} canaries, there are {canaries}")
        return 2 * max(1, int(self.guesses * canaries) // 2)

    def _bounds(self, panel: Panel) -> tuple[np.ndarray, np.ndarray, float]:
        """Return each model's bound, its share of right guesses, and the ceiling."""
        number = self._number(panel)
        included = np.repeat([True, False], [panel.of("forget").shape[1], panel.of("unseen").shape[1]])
        scores = np.concatenate([panel.of("forget"), panel.of("unseen")], axis=1)
        # Equal scores must not be ordered by what they are.
        order = np.random.default_rng(0).permutation(len(included))
        found = [epsilon.one_run_from_scores(row[order], included[order], number, tail=0.025) for row in scores]
        return (
            np.array([each.value for each in found]),
            np.array([_right(row[order], included[order], number) for row in scores]),
            found[0].ceiling,
        )


def _right(scores: np.ndarray, included: np.ndarray, guesses: int) -> float:
    order = np.argsort(scores, kind="stable")
    return float((included[order[-(guesses // 2) :]].sum() + (~included[order[: guesses // 2]]).sum()) / guesses)
