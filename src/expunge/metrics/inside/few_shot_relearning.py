"""What a few forgotten examples bring back."""

from typing import ClassVar, Literal

import numpy as np

from expunge.config import hyper
from expunge.metrics.inside.readings import names, reading, taught
from expunge.metrics.metric import Estimate, Metric, Target, Tier, share
from expunge.metrics.view import View
from expunge.representation import relearn


class FewShotRelearning(Metric):
    """Forget accuracy after five examples of each forgotten class are shown again, in percent of the other forget examples.

    The head is replaced by class prototypes: an example gets the class whose mean feature is nearest by cosine, means of kept classes being
    those of retain examples. No training, so what it finds is in the encoder; an edit of the head alone is caught as the original is,
    whose encoder it has. With ``head=steps`` ten training steps on the few examples are taken instead, and the model's own head answers.

    What it raises in vain: under a whole class an untrained encoder, which no training has taught to mistake the class for others.

    What it does not catch: for a random request the prototypes of retain examples answer most forget examples of any good encoder, a
    retrained one's too, so that only large differences show.
    """

    label: ClassVar[str] = "few-shot"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = (*names("forget", "retain"), "taught", "few_shot")
    source: ClassVar[str] = "Ha et al., arXiv 2506.01318 (prototypical and few-shot relearning)"
    deviations: ClassVar[tuple[str, ...]] = ("the published head was not available; features are centred at the mean of the class means",)
    above: ClassVar[str] = "a few examples bring back more than in a retrained model"
    below: ClassVar[str] = "a few examples bring back less than in a retrained model (over-unlearned)"

    head: Literal["prototype", "steps"] = hyper("prototype", "a head of class means, or a few training steps with the model's own")

    def measure(self, view: View) -> Estimate:
        """Return the accuracy on the forget examples that were not shown."""
        few, others = taught(view)
        if self.head == "steps":
            fraction, n = float(view.inspected("few_shot")), len(others.labels)
            return Estimate(100 * fraction, 100 * float(np.sqrt(fraction * (1 - fraction) / n)), n)
        return share(relearn.prototype_predictions(reading(view, "retain"), few, others) == others.labels)
