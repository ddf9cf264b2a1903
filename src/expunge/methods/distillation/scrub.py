"""Leave the teacher on the forget set, stay with it on the retain set."""

from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.methods.distillation.alternation import MaxMin


class Scrub(MaxMin):
    """Alternate between passes that drive the student away from the original on the forget set and passes that hold it on the retain set.

    Source: Kurmanji et al., NeurIPS 2023, arXiv 2302.09880, algorithm 1: ``max KL(teacher || student)`` over the forget set in the first
    epochs, ``min a KL(teacher || student) + g CE`` over the retain set in all. The defaults are the released large-scale setting, made for
    a class of CIFAR-10; the small-scale one is ``alpha=0.5 gamma=1 temperature=2 max_epochs=3 epochs=10``.
    """

    aliases = ("SCRUB", "AdverserialTrainer")
    source = "Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023, arXiv 2302.09880"
    deviations = ("the optimiser's momentum starts anew where the ascending passes end",)

    def steps(self, ctx: Context) -> Steps:
        """Yield the alternation."""
        yield from self.phases(ctx)
