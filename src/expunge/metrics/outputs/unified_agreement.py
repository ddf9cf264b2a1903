"""Agreement with a retrained model at the outputs and in the features, in one number."""

from typing import ClassVar

from expunge.metrics.outputs.agreements import Reconstructed, agreement_of
from expunge.metrics.view import View


class UnifiedAgreement(Reconstructed):
    """Harmonic mean of the agreements with the retrained model at the outputs and in the features, from 0 to 1.

    OUR RECONSTRUCTION of source 004's H-LR: the source names the score and its formula was not available. Do not put it beside published
    numbers. Needs downstream sets.
    """

    label: ClassVar[str] = "H-LR (ours)"
    source: ClassVar[str] = "our reconstruction of Kim et al., arXiv 2503.06991 (H-LR)"
    below: ClassVar[str] = "outputs and features agree less with a retrained model's than two retrained models' do"

    def score(self, view: View, reference: View) -> float:
        """Return the score."""
        return agreement_of(view, reference).harmonic
