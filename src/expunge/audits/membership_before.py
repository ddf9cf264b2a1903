"""The likelihood-ratio attack under originals: what there was to forget."""

from typing import ClassVar

from expunge.attacks import ulira
from expunge.audits import games
from expunge.audits.audit import Audit, Finding, Shadows
from expunge.metrics.metric import Target, Tier


class MembershipBefore(Audit):
    """Mean per-example AUC of an attack that tells trained from unseen examples under originals: what there was to forget."""

    label: ClassVar[str] = "membership AUC before"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.REPORT
    tier: ClassVar[Tier] = "rigorous"
    game: ClassVar[str] = "membership"
    scenarios: ClassVar[tuple[str, ...]] = ("random", "subclass")
    null_value: ClassVar[float | None] = 0.5
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    area: ClassVar[bool] = True
    source: ClassVar[str] = "Carlini et al., Membership Inference Attacks From First Principles, S&P 2022"

    def play(self, shadows: Shadows, seed: int = 0) -> Finding:
        """Return the mean AUC with its interval, rates at low false-positive rates, and bounds on epsilon."""
        attacked = games.attack(ulira.membership_game(shadows.original, shadows.states), seed)
        return games.finding(attacked, float(len(shadows.states) // games.BLOCK - 1), seed)
