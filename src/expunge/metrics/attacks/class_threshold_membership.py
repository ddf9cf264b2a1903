"""Membership by the best threshold of each class."""

from typing import ClassVar

import numpy as np

from expunge.config import NonNegativeInt, hyper
from expunge.metrics import membership
from expunge.metrics.findings import CALLED_MEMBER, CALLED_UNSEEN
from expunge.metrics.metric import Estimate, Metric, Target, share
from expunge.metrics.view import View


class ClassThresholdMembership(Metric):
    """Share of the forget set that the best modified-entropy threshold of its class calls non-member, in percent.

    Classes differ in difficulty; one threshold for each takes that out, and nothing of what examples of a class differ in. A forget example
    of a class without retain or test examples, as in a class request, is judged by one threshold for all classes. Not comparable with
    the SVC's number.
    """

    label: ClassVar[str] = "MIA class threshold"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Song & Mittal, USENIX Security 2021 (class-dependent thresholds, modified entropy)"
    deviations: ClassVar[tuple[str, ...]] = ("fitted on the model's own retain and test examples; there is no shadow model",)
    above: ClassVar[str] = CALLED_UNSEEN
    below: ClassVar[str] = CALLED_MEMBER

    draw_seed: NonNegativeInt = hyper(0, "seed of the member sample; the same for all models that are compared")

    def measure(self, view: View) -> Estimate:
        """Return the percentage called non-member; the error is that of the forget sample, with the thresholds held fixed."""
        members, nonmembers, forget = ((-view.modified_entropy(part), view.labels[part]) for part in ("retain", "test", "forget"))
        return share(forget[0] < self._thresholds(members, nonmembers, view.logits["forget"].shape[1])[forget[1]])

    def _thresholds(self, members: tuple[np.ndarray, np.ndarray], nonmembers: tuple[np.ndarray, np.ndarray], classes: int) -> np.ndarray:
        found = np.full(classes, self._threshold(members[0], nonmembers[0]))
        for label in range(classes):
            inside, outside = (values[labels == label] for values, labels in (members, nonmembers))
            if len(inside) and len(outside):
                found[label] = self._threshold(inside, outside)
        return found

    def _threshold(self, inside: np.ndarray, outside: np.ndarray) -> float:
        size = min(len(inside), len(outside))
        drawn = (membership.draw(np.sort(values), size, self.draw_seed) for values in (inside, outside))
        return membership.best_threshold(*drawn)
