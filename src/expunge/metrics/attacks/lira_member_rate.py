"""How much of the forget set looks trained on, each example against its own models."""

from typing import ClassVar

from expunge.metrics.attacks import ratios
from expunge.metrics.findings import CALLED_MEMBER, CALLED_UNSEEN
from expunge.metrics.metric import Estimate, Metric, Target, Tier, share
from expunge.metrics.view import View


class LiraMemberRate(Metric):
    """Share of the forget set whose margin is likelier under base models trained on the example than under those that were not, in percent.

    The online likelihood-ratio attack at its natural threshold, with each example's own means: it needs no unseen data. Its good value is
    the retrained model's, usually below 50; the original's shows how far the attack can see. It says how many examples lean to one side,
    not that any of them is proven a member. Not for whole classes: a model that never saw the class is far from both kinds of base
    models, and the side that a margin leans to there is that of the base models' noise.
    """

    label: ClassVar[str] = "LiRA members"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    scenarios: ClassVar[tuple[str, ...]] = ("random", "subclass")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    references: ClassVar[bool] = True
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Carlini et al., S&P 2022, algorithm 1 (online); threshold 1/2 of the posterior as in Hayes et al., 2403.01218"
    deviations: ClassVar[tuple[str, ...]] = ("both sides share one variance, pooled within examples below 32 models of a side",)
    above: ClassVar[str] = CALLED_MEMBER
    below: ClassVar[str] = CALLED_UNSEEN

    def measure(self, view: View) -> Estimate:
        """Return the percentage called member; the error is that of the forget sample, with the base pool held fixed."""
        return share(ratios.own_log_ratios(view) > 0)
