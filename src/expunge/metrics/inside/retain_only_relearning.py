"""What an epoch without the forget set brings back."""

from typing import ClassVar

from expunge.metrics.inside.readings import returned
from expunge.metrics.metric import Estimate, Metric, Target
from expunge.metrics.view import View


class RetainOnlyRelearning(Metric):
    """Points of forget accuracy that one epoch of training on retain examples alone brings back.

    No forget example is trained on, so that what rises beyond a retrained model's was there and only hidden. A retrained model gains a
    little too, as from any further training. The fast tier trains on at most 2,000 retain examples, the others on all.

    What it raises in vain: a model that lost everything learns the task itself again, the forget set with it; retain and test accuracy
    tell.

    What it does not catch: a model whose forget accuracy never fell, the original among them, has nothing to regain (unlearning accuracy
    and loss AUC see that, and the area under this curve does); an edit of the head alone that imitates a retrained model on the retain
    set too, because retain examples agree with such a head; and often a wholly forgotten class, whose logit no retain example
    pulls up again.
    """

    label: ClassVar[str] = "retain-only regain"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    counts: ClassVar[bool] = True
    limits: ClassVar[tuple[float, float] | None] = (-100, 100)
    inspection: ClassVar[tuple[str, ...]] = ("retain_only", "retain_only_rows", "retain_only_finite")
    source: ClassVar[str] = "Siddiqui et al., arXiv 2505.22310 (retain-only fine-tuning restores forget accuracy)"
    deviations: ClassVar[tuple[str, ...]] = ("one epoch of SGD at 0.01 without augmentation; the gain over the start, not the level",)
    above: ClassVar[str] = "forgotten knowledge comes back faster than in a retrained model"
    below: ClassVar[str] = "forget accuracy falls where a retrained model's would not"

    def measure(self, view: View) -> Estimate:
        """Return accuracy after the first epoch minus accuracy before it, in points.

        Raises:
            NotEnoughEvidence: the training diverged.
        """
        curve, size = returned(view)
        return Estimate(100 * float(curve[1] - curve[0]), None, size)
