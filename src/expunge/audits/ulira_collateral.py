"""What unlearning does to the examples that stay."""

from typing import ClassVar

import numpy as np

from expunge.attacks import ulira
from expunge.audits import games, uncertainty
from expunge.audits.audit import Audit, Finding, Shadows
from expunge.metrics.metric import Target, Tier


class UliraCollateral(Audit):
    """Membership AUC of retained examples after unlearning less the same before it; 0 where unlearning others did not expose them."""

    label: ClassVar[str] = "exposure of retained"
    unit: ClassVar[str] = "AUC"
    target: ClassVar[Target] = Target.LOWER
    tier: ClassVar[Tier] = "rigorous"
    game: ClassVar[str] = "collateral"
    scenarios: ClassVar[tuple[str, ...]] = ("random", "subclass")
    null_value: ClassVar[float | None] = 0.0
    limits: ClassVar[tuple[float, float] | None] = (-1, 1)
    source: ClassVar[str] = (
        "Hayes et al., 2024, arXiv 2403.01218 (risk of retained examples); Carlini et al., The Privacy Onion Effect, NeurIPS 2022"
    )
    above: ClassVar[str] = "examples that stay are easier to recognise as training data than before unlearning"

    def play(self, shadows: Shadows, seed: int = 0) -> Finding:
        """Return the difference. Its error takes both games as independent; they share their models, so that it is rather too large."""
        pair = ulira.collateral_games(shadows.unlearned, shadows.original, shadows.states)
        after, before = (games.attack(game, seed) for game in pair)
        one, zero = after.mean_auc(), before.mean_auc()
        value, error = one.value - zero.value, float(np.hypot(one.standard_error, zero.standard_error))
        details = {"after": one.value, "before": zero.value, **games.details(after, seed)}
        interval = uncertainty.interval(value, error, float(len(shadows.states) // games.BLOCK - 1), self.limits)

        def exchanged(models: np.ndarray) -> float:
            chosen = models[:, None]
            after = np.where(chosen, shadows.original, shadows.unlearned)
            before = np.where(chosen, shadows.unlearned, shadows.original)
            one, zero = (games.attack(game, seed).mean_auc() for game in ulira.collateral_games(after, before, shadows.states))
            return one.value - zero.value

        return games.with_null(Finding(value, error, interval, details), exchanged, shadows.states.shape, 0.0, seed)
