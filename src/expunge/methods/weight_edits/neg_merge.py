"""Several task vectors, merged where they agree, and negated."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import assign
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector
from expunge.methods.weight_edits.task_arithmetic import agreed_mean, difference, fine_tune_on_forget, plus, weights


class NegMerge(Method):
    """Fine-tunes the original on the forget set several times, at different settings, and subtracts the mean change where all signs agree.

    Run k of N has the learning rate ``lr * spread^(2 k / (N - 1) - 1)`` and batches of its own order; from 5 to 15 % of the weights survive
    in the papers. All N changes are held in memory at once.

    Source: Kim et al., NegMerge, ICML 2025, arXiv 2410.05583: ``theta_0 - scale tau``, ``tau`` the mean over 10 to 30 runs of the changes
    where ``|sum of signs| = N``. Its grid for CLIP is two learning rates, three weight decays and one to five epochs; for classifiers no
    settings were available, and learning rate, spread and length are ours.
    """

    aliases = ("NegMerge",)
    source = "Kim et al., NegMerge: Sign-Consensual Weight Merging for Machine Unlearning, ICML 2025, arXiv 2410.05583"
    deviations = (
        "the runs differ in learning rate and order; in the paper also in weight decay, length and augmentation",
        "the scale is a field; the paper chooses it on validation data",
        "BatchNorm is frozen while fine-tuning, so that its statistics stay those of the original",
    )
    needs = {"forget"}

    runs: PositiveInt = hyper(10, "fine-tuned models that are merged", ge=2)
    scale: PositiveFloat = hyper(1.0, "how far to go against the merged change", low=0.05, high=5.0, log=True)
    lr: PositiveFloat = hyper(0.01, "middle learning rate of SGD 0.9 without weight decay", low=1e-4, high=1e-1, log=True)
    spread: PositiveFloat = hyper(4.0, "the largest learning rate divided by the middle one", ge=1)
    epochs: PositiveInt = hyper(10, "passes over the forget set in each run", low=1, high=30)
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield each run followed by the return to the original, and the negation."""
        start = weights(ctx)
        vectors: list[Vector] = []
        for number in range(self.runs):
            lr = self.lr * self.spread ** (2 * number / (self.runs - 1) - 1)
            yield fine_tune_on_forget(lr=lr, epochs=self.epochs, batch_size=self.batch_size, name=f"run {number + 1} of {self.runs}")
            vectors.append(difference(weights(ctx), start))
            yield assign(start)
        yield assign(plus(start, agreed_mean(vectors), -self.scale))
