"""The likelihood-ratio attack under unlearned models: was the example unlearned, or never seen?"""

from typing import ClassVar

import numpy as np

from expunge.attacks import ulira
from expunge.attacks.margins import FORGET, OUT
from expunge.audits import games
from expunge.audits.audit import Audit, Finding, Shadows
from expunge.metrics.metric import Target, Tier


class UliraPrivacy(Audit):
    """Mean per-example AUC of an attack that tells unlearned examples from ones never seen, under unlearned models; 0.5 where it cannot."""

    label: ClassVar[str] = "U-LiRA privacy AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.LOWER
    tier: ClassVar[Tier] = "rigorous"
    game: ClassVar[str] = "privacy"
    scenarios: ClassVar[tuple[str, ...]] = ("random", "subclass")
    null_value: ClassVar[float | None] = 0.5
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    area: ClassVar[bool] = True
    source: ClassVar[str] = "Hayes et al., Inexact Unlearning Needs More Careful Evaluations, 2024, arXiv 2403.01218"
    above: ClassVar[str] = "an attacker tells what was unlearned from what was never seen"

    def play(self, shadows: Shadows, seed: int = 0) -> Finding:
        """Return the mean AUC with its interval, rates at low false-positive rates, and bounds on epsilon."""
        attacked = games.attack(ulira.privacy_game(shadows.unlearned, shadows.states), seed)
        found = games.finding(attacked, float(len(shadows.states) // games.BLOCK - 1), seed)

        def exchanged(models: np.ndarray) -> float:
            other = np.where(shadows.states == FORGET, OUT, np.where(shadows.states == OUT, FORGET, shadows.states))
            states = np.where(models[:, None], other, shadows.states).astype(np.uint8)
            return games.attack(ulira.privacy_game(shadows.unlearned, states), seed).mean_auc().value

        return games.with_null(found, exchanged, shadows.states.shape, 0.5, seed)
