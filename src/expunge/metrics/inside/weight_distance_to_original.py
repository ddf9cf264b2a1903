"""How far the weights have moved."""

from typing import ClassVar, Literal

import numpy as np

from expunge.config import hyper
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class WeightDistanceToOriginal(Metric):
    """Euclidean distance of all weights from the original of the same seed, relative to the original's length.

    With ``of=encoder`` without the head's, so that 0 is an encoder equal bit for bit, as under an edit of the head alone. Shown, not
    judged: weights can move far without forgetting, along symmetries of the network, and a small change can undo a class. `layers` gives
    every parameter's own distance.
    """

    label: ClassVar[str] = "weight distance"
    target: ClassVar[Target] = Target.REPORT
    limits: ClassVar[tuple[float, float] | None] = (0, np.inf)
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("weight_names", "weight_distances", "weight_distance", "encoder_distance")
    source: ClassVar[str] = "Golatkar et al., CVPR 2020; Siddiqui et al., arXiv 2505.22310 (it predicts resistance to relearning)"

    of: Literal["everything", "encoder"] = hyper("everything", "all weights, or all but the head's")

    def measure(self, view: View) -> Estimate:
        """Return the distance."""
        name = "weight_distance" if self.of == "everything" else "encoder_distance"
        return Estimate(float(view.inspected(name)), None, len(view.inspected("weight_names")))


def layers(view: View) -> dict[str, float]:
    """Return the relative distance of every parameter, in the order of the model; inf where the original's is all zero and it moved."""
    pairs = zip(view.inspected("weight_names"), view.inspected("weight_distances"), strict=True)
    return {str(name): float(distance) for name, distance in pairs}
