"""Two teachers: one that knows nothing and one that knows everything."""

from typing import Literal

from torch import Tensor

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.kernels import Kernel, kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.targets import teacher
from expunge.engine.terms import Term, match
from expunge.engine.update import adam


class BadTeacher(Method):
    """Imitate a random net on the forget set and the original on a part of the retain set.

    The forget set ends up less certain than any unseen data, which is easy to detect.

    Source: Chundawat et al., AAAI 2023, arXiv 2205.08096, equation 3: ``l KL(random || student) + (1 - l) KL(original || student)`` on one
    shuffled stream of the forget set and 30 % of the retain set; one epoch, Adam 1e-4.
    """

    aliases = ("BadT", "badteacher", "blindspot")
    source = "Chundawat et al., Can Bad Teaching Induce Forgetting?, AAAI 2023, arXiv 2205.08096"
    deviations = ("the divergence is summed over classes; the released code also divides it by their number: fidelity=reference",)
    needs = {"forget", "retain"}

    retain_share: Fraction = hyper(0.3, "share of the retain set that is used", low=0.1, high=1.0, gt=0)
    temperature: PositiveFloat = hyper(1.0, "temperature of both teachers", low=1.0, high=4.0)
    lr: PositiveFloat = hyper(1e-4, "learning rate of Adam", low=1e-5, high=1e-2, log=True)
    epochs: PositiveInt = hyper(1, "passes over both sets")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    fidelity: Literal["paper", "reference"] = hyper("paper", "reference: the divergence is a mean over classes")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on a shuffled mixture."""
        divergence = kl(self.temperature)
        if self.fidelity == "reference":
            divergence = mean_over_classes(divergence)
        retain = share_of(ctx, "retain", self.retain_share)
        yield Phase(
            [Term("forget", match(teacher("random"), divergence)), Term(retain, match(teacher("original"), divergence))],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            batch_size=self.batch_size,
            order="mixed",
            name="learn from two teachers",
        )


def share_of(ctx: Context, stream: str, share: float) -> Stream:
    """Return a random share of a stream, at least one example; the choice is keyed by seed and example."""
    whole = ctx.stream(stream)
    order = randomness.shuffle(ctx.seed, f"share of {stream}", 0, whole.index)
    return whole.subset(order[: max(1, int(share * len(whole)))])


def mean_over_classes(kernel: Kernel) -> Kernel:
    """Return the kernel divided by the number of classes, as torch's ``reduction="mean"`` does to a sum over classes."""

    def mean(target: Tensor, logits: Tensor) -> Tensor:
        return kernel(target, logits) / logits.shape[1]

    return mean
