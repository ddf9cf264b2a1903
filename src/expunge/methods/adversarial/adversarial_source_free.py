"""Hide the forget set from a membership attacker, without retained data."""

from expunge.config import PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Steps
from expunge.engine.targets import teacher
from expunge.engine.terms import Term, match
from expunge.methods.adversarial.betrayal import Hiding


class AdversarialSourceFree(Hiding):
    """As `adversarial`, with the original's answers to validation data in place of the retain set.

    Source: the ideas of the second unlearning repository (source 003: a proxy on held-out data where the retain set is gone), as specified
    with this package. The defaults are ours.
    """

    aliases = ("adversarial-source-free",)
    source = "source 003 (idea without code); after Nasr et al., CCS 2018, arXiv 1807.05852"
    needs = {"forget", "validation"}

    anchor: PositiveFloat = hyper(1.0, "weight of KL(original || student) on validation data", low=0.1, high=10, log=True)

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        held = Term("validation", match(teacher("original"), kl()), weight=self.anchor)
        yield self.phase(ctx, held, "hide from the attacker")
