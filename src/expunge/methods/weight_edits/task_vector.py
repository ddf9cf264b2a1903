"""Fine-tune on what is to be forgotten, and go the other way."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import assign
from expunge.engine.method import Method, Steps
from expunge.methods.weight_edits.task_arithmetic import difference, fine_tune_on_forget, plus, weights


class TaskVector(Method):
    """Fine-tunes on the forget set and subtracts the change from the original, ``theta_0 - scale (theta_tuned - theta_0)``.

    It reads nothing but the forget set. Where the original fits its data the change is small, and how far to go has to be searched.

    Source: Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, arXiv 2212.04089, section 3 (negation), made for CLIP with AdamW
    at 1e-5. For classifiers trained from scratch no settings were available: the optimiser, its learning rate and length are ours.
    """

    aliases = ("TV", "task_vector_negation", "task_arithmetic")
    source = "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, arXiv 2212.04089"
    deviations = (
        "BatchNorm is frozen while fine-tuning, so that its statistics stay those of the original",
        "the scale is a field; the paper chooses it on validation data",
    )
    needs = {"forget"}

    scale: PositiveFloat = hyper(1.0, "how far to go against the change", low=0.05, high=5.0, log=True)
    lr: PositiveFloat = hyper(0.01, "learning rate of SGD 0.9 without weight decay", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the forget set", low=1, high=30)
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield the fine-tuning and the negation."""
        start = weights(ctx)
        yield fine_tune_on_forget(lr=self.lr, epochs=self.epochs, batch_size=self.batch_size)
        yield assign(plus(start, difference(weights(ctx), start), -self.scale))
