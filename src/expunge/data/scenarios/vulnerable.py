"""Forget what membership inference finds."""

from typing import ClassVar, Literal

import numpy as np

from expunge.config import PositiveInt, hyper
from expunge.data.ranking import Level, RankedScenario, check_models


class Vulnerable(RankedScenario):
    """Forget the training examples whose membership a likelihood-ratio attack tells best, or those on which it is at a loss.

    The score is the distance between the mean margins of models with and without the example, in standard deviations. Models on
    random halves of the training set are trained for it; half of them select, and what the other half says is in the record.
    """

    source = "RULI, arXiv 2506.13009: vulnerable and protected examples by LiRA (Carlini et al., S&P 2022)"
    deviations = (
        "Examples are ordered by the distance of the two means and not by a true positive rate, which few models cannot measure.",
        "The level low takes distances near 0, of either sign.",
    )

    ranks: ClassVar[Literal["", "base_pool", "original"]] = "base_pool"
    prefix_field = "level"

    level: Level = hyper("high", "how well the attack tells them")
    models: PositiveInt = hyper(16, "models on random halves, of which half select and half describe; 8, 12, 16, ...")

    def check(self, candidates: np.ndarray) -> None:
        """Refuse fields that do not fit; see `expunge.data.ranking.RankedScenario.check`."""
        super().check(candidates)
        check_models(self.models)

    def keys(self, scores: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return minus the distance for the level high, its size for low."""
        distance = scores["separability"]
        return (-distance if self.level == "high" else np.abs(distance),)
