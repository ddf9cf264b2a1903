"""Membership by loss, relative to a retrained model's."""

from typing import ClassVar

from expunge.metrics.attacks.paired import influence, ratio_error
from expunge.metrics.findings import MEMBER, OVER
from expunge.metrics.metric import Estimate, Metric, Target, check_aligned
from expunge.metrics.view import View
from expunge.statistics import NotEnoughEvidence


class PrivacyLeak(Metric):
    """Loss AUC (forget set against unseen data) relative to that of the retrained model of the same seed, (u - r) / r, in percent.

    Above 0: under-unlearned, the forget set looks more like training data than for the retrained model; below 0: over-unlearned. The
    MUSE benchmark's sign is the other way round, for its score speaks for non-members. Two retrained models differ too: their band is
    the good value, which MUSE sets at 5 % either way. A small value is no proof: it says that the two models' mean ranks agree.
    """

    label: ClassVar[str] = "PrivLeak"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    aliases: ClassVar[tuple[str, ...]] = ("privleak",)
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Shi et al., MUSE, arXiv 2407.06460 (PrivLeak)"
    deviations: ClassVar[tuple[str, ...]] = ("the loss in place of the Min-K % score of tokens, and the opposite sign",)
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = OVER

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the relative difference with its standard error over examples, which both models share.

        Raises:
            NotEnoughEvidence: the retrained model's AUC is 0.
        """
        for part in self.parts:
            check_aligned(view, reference, part)
        model, base = (influence(-seen.loss("forget"), -seen.loss("unseen")) for seen in (view, reference))
        if base.value == 0:
            raise NotEnoughEvidence("the retrained model's loss AUC is 0: nothing is relative to it")
        error = ratio_error(model, base)
        n = min(view.size("forget"), view.size("unseen"))
        return Estimate(100 * (model.value / base.value - 1), None if error is None else 100 * error, n)
