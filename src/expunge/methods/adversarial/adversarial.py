"""Hide the forget set from a membership attacker that learns along."""

from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.engine.terms import Term, cross_entropy
from expunge.methods.adversarial.betrayal import Hiding


class Adversarial(Hiding):
    """An attacker learns to tell the student's answers to forget and validation data apart; the student hides the former and fits the rest.

    In each step the attacker takes one Adam step on detached answers (forget is one, validation zero), and then the student minimises
    ``CE(retain) + weight BCE(attacker(forget), validation)``. The attacker's weights depend on the seed alone and are thrown away.

    Source: the ideas of the second unlearning repository (source 003: a discriminator on losses and logits, which has no code there),
    as specified with this package; after adversarial regularisation, Nasr et al., CCS 2018, arXiv 1807.05852. The defaults are ours.
    """

    aliases = ("gan", "adversarial_unlearning")
    source = "source 003 (idea without code); after Nasr et al., CCS 2018, arXiv 1807.05852"
    needs = {"forget", "retain", "validation"}

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on three batches a step."""
        yield self.phase(ctx, Term("retain", cross_entropy), "hide from the attacker")
