"""Alternate between leaving the teacher on the forget set and staying with it on the retain set: what SCRUB and SCRUB+R share."""

from collections.abc import Callable, Iterator

from expunge.config import NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.targets import teacher
from expunge.engine.terms import Progress, Term, cross_entropy, match
from expunge.engine.update import milestones, sgd
from expunge.methods.distillation.short_passes import Shortened

Watch = Callable[[Context, Progress], bool]


class MaxMin(Method):
    """The hyper-parameters of the alternation, and its phases."""

    needs = {"forget", "retain"}

    lr: PositiveFloat = hyper(5e-4, "learning rate", low=1e-4, high=5e-2, log=True)
    epochs: PositiveInt = hyper(3, "passes over the retain set", low=3, high=10)
    max_epochs: PositiveInt = hyper(2, "the first epochs begin with an ascending pass over the forget set", low=1, high=5)
    alpha: NonNegativeFloat = hyper(0.001, "weight of the divergence from the original on the retain set", low=1e-3, high=1.0, log=True)
    gamma: NonNegativeFloat = hyper(0.99, "weight of the cross entropy on the retain set")
    temperature: PositiveFloat = hyper(4.0, "temperature of the teacher", low=1.0, high=4.0)
    decay_epochs: tuple[PositiveInt, ...] = hyper((3, 5, 9), "after so many epochs the learning rate is divided by ten")
    batch_size: PositiveInt = hyper(128, "retain examples in a step")
    forget_batch_size: PositiveInt = hyper(512, "forget examples in a step", low=32, high=512, log=True)
    max_steps: PositiveInt | None = hyper(None, "most steps on each set in an epoch (200 in arXiv 2503.06991); nothing: whole passes")

    def phases(self, ctx: Context, watch: Watch | None = None) -> Iterator[Phase]:
        """Yield the epochs with an ascending pass, then those without.

        Statistics of BatchNorm move in both passes: with frozen ones student and teacher agree exactly at the start, where the divergence
        has gradient zero, and the ascent never leaves.

        Args:
            ctx: the context.
            watch: called after every epoch; True ends the phase.
        """
        divergence = match(teacher("original"), kl(self.temperature, scale=True))
        forget: str | Stream = "forget"
        retain: str | Stream = "retain"
        if self.max_steps is not None:
            forget, retain = (Shortened(ctx.stream(name), self.max_steps) for name in ("forget", "retain"))
        descent = [
            Term(retain, cross_entropy, weight=self.gamma, name="cross entropy on retain"),
            Term(retain, divergence, weight=self.alpha, name="divergence on retain"),
        ]
        ascent = Term(forget, divergence, weight=-1.0, name="divergence on forget")
        first = min(self.max_epochs, self.epochs)
        both = Phase(
            [ascent, *descent],
            epochs=first,
            optimizer=sgd(self.lr),
            schedule=milestones(self.decay_epochs),
            batch_size={"forget": self.forget_batch_size, "retain": self.batch_size},
            order="sequential",
            norm="train",
            stop=watch,
            name="ascend, then descend",
        )
        yield both
        if self.epochs > first:
            later = milestones(tuple(epoch - first for epoch in self.decay_epochs))
            yield both.but(terms=descent, epochs=self.epochs - first, schedule=later, name="descend")
