"""The score of the NeurIPS 2023 challenge, beside what a perfect method gets."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import forgetting_quality as challenge
from expunge.audits.audit import Audit, Finding, Panel
from expunge.config import PositiveInt, hyper
from expunge.metrics.metric import Target, Tier


class ForgettingQuality(Audit):
    """F of the NeurIPS 2023 challenge: mean over forget examples of 2^-bin of an estimated epsilon; retrained models get about 0.2, not 1.

    The challenge unlearns one original with many seeds; here each unlearned model has an original of its own, as each retrained model has
    its own seed.
    """

    label: ClassVar[str] = "forgetting quality"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.HIGHER
    tier: ClassVar[Tier] = "rigorous"
    minimum: ClassVar[int] = 16
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    relative: ClassVar[bool] = True
    source: ClassVar[str] = "Triantafillou et al., Are we making progress in unlearning?, 2024; google-deepmind/unlearning_evaluation"
    deviations: ClassVar[tuple[str, ...]] = ("every unlearned model has its own original",)
    below: ClassVar[str] = "some rule tells the forget examples' margins from those of retrained models better than chance allows"

    examples: PositiveInt = hyper(100, "forget examples, drawn at random, that the score and its null rest on")

    @property
    def null_draws(self) -> int:
        """How many divisions make a null; each costs seconds."""
        return 10

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return F of the drawn examples, of as many models on both sides."""
        return self._score(candidate, reference, seed).value

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return F; its error over examples alone stands in the details."""
        found, total = self._score(candidate, reference, seed), candidate.of("forget").shape[1]
        details = {
            "examples": len(found.epsilons),
            "error_over_examples": found.standard_error,
            "mean_epsilon": float(found.epsilons.mean()),
            "q95_epsilon": float(np.quantile(found.epsilons, 0.95)),
        }
        note = f"on {len(found.epsilons)} of {total} forget examples, drawn at random" if len(found.epsilons) < total else None
        return Finding(found.value, None, None, details, note)

    def _score(self, candidate: Panel, reference: Panel, seed: int) -> challenge.Quality:
        first, second = candidate.of("forget"), reference.of("forget")
        models, total = min(len(first), len(second)), first.shape[1]
        drawn = np.sort(np.random.default_rng(seed).permutation(total)[: self.examples])
        return challenge.forgetting_quality(first[:models, drawn], second[:models, drawn])
