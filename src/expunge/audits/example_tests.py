"""How many forget examples are told apart, with the false-discovery rate held."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import per_example
from expunge.audits import relabelling
from expunge.audits.audit import Audit, Finding, Panel
from expunge.config import Fraction, hyper
from expunge.metrics.metric import Target, Tier


class ExampleTests(Audit):
    """Share of forget examples whose margins differ from retrained models', by Mann-Whitney tests at a false-discovery rate of 5 %.

    Models are shared by all examples: when the retrained models themselves differ, many examples are rejected at once. The band says how
    many; the rate itself is no p-value.
    """

    label: ClassVar[str] = "examples told apart"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    tier: ClassVar[Tier] = "standard"
    minimum: ClassVar[int] = 8
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    source: ClassVar[str] = "Benjamini & Hochberg, JRSS-B 1995"
    above: ClassVar[str] = "the margins of some forget examples are not those of retrained models"

    q: Fraction = hyper(0.05, "false-discovery rate")

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the share in per cent."""
        return 100 * float(per_example.mann_whitney(candidate.of("forget"), reference.of("forget")).rejected(self.q).mean())

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the share for many divisions, from one ranking."""
        ranked = per_example.Relabelled(np.concatenate([candidate.of("forget"), reference.of("forget")]))
        chosen = relabelling.divisions(candidate.models, reference.models, draws, seed)
        blocks = np.array_split(chosen, max(1, len(chosen) * ranked.examples >> 20))
        return np.concatenate([100 * _share_rejected(ranked.p_values(block), self.q) for block in blocks])

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the share, and that of tests which see a change of spread as well."""
        pair = candidate.of("forget"), reference.of("forget")
        other = 100 * float(per_example.kolmogorov_smirnov(*pair).rejected(self.q).mean())
        details = {"kolmogorov_smirnov": other, "examples": pair[0].shape[1]}
        return Finding(self.statistic(candidate, reference, labels), None, None, details)


def _share_rejected(p_values: np.ndarray, q: float) -> np.ndarray:
    """Return the share of each row's tests that Benjamini and Hochberg reject, float64 ``[rows]``."""
    examples = p_values.shape[1]
    below = np.sort(p_values, axis=1) * examples / np.arange(1, examples + 1) < q
    last = examples - np.argmax(below[:, ::-1], axis=1)
    return np.where(below.any(axis=1), last, 0) / examples
