"""Agreement with a retrained model in the features, in one number."""

from typing import ClassVar

from expunge.metrics.outputs.agreements import Reconstructed, agreement_of
from expunge.metrics.view import View


class RepresentationAgreement(Reconstructed):
    """CKA with the retrained model's features times mean agreement of nearest-neighbour accuracy on downstream sets, from 0 to 1.

    OUR RECONSTRUCTION of source 004's AGR: the source names the score and its formula was not available. Do not put it beside published
    numbers. Needs downstream sets. On small nets the original itself reaches the band.
    """

    label: ClassVar[str] = "AGR (ours)"
    source: ClassVar[str] = "our reconstruction of Kim et al., arXiv 2503.06991 (AGR)"
    below: ClassVar[str] = "features agree less with a retrained model's than two retrained models' do"

    def score(self, view: View, reference: View) -> float:
        """Return the score."""
        return agreement_of(view, reference).representation
