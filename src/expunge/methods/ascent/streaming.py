"""Forget requests one after the other, without any retained data."""

import math
from collections.abc import Iterator
from typing import Literal

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.derivatives import fisher_diagonal
from expunge.engine.kernels import kl
from expunge.engine.measure import mean_loss
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.targets import teacher, uniform
from expunge.engine.terms import Penalty, Progress, Term, cross_entropy, distance_to, match
from expunge.engine.update import sgd


class Streaming(Method):
    """Work through the forget set in portions, as requests arrive; an anchor to the original stands in for the retained data.

    Each portion is forgotten by the uniform distribution or by ascent until its mean loss reaches the original's on validation data (or the
    loss of guessing). The anchor is ``KL(original || student)`` on validation data, or the squared distance to the original weights, plain
    or weighted by the Fisher information (EWC). The Fisher information and the divergence need no labels; validation labels serve the stop
    rule alone. BatchNorm is frozen. Without retained data the retain accuracy falls wherever the two sets are alike, and so most for random
    subsets.

    Source: the ideas of the second unlearning repository (source 003: a stream of forget sets without a retain set), as specified with this
    package; EWC after Kirkpatrick et al., PNAS 2017, arXiv 1612.00796. The defaults are ours, chosen on small tasks.
    """

    aliases = ("streaming_forget", "stream")
    source = "source 003 (idea without code); EWC after arXiv 1612.00796"
    needs = {"forget", "validation"}
    scenario_defaults = {"class": {"until": "guessing"}, "subclass": {"until": "guessing"}}

    requests: PositiveInt = hyper(1, "portions into which the forget set is dealt at random")
    forget: Literal["uniform", "ascent"] = hyper("uniform", "fit the uniform distribution, or climb the cross entropy, without bound")
    anchor: Literal["kl", "ewc", "l2"] = hyper("kl", "what holds the rest: divergence on validation data, or distance of the weights")
    strength: PositiveFloat = hyper(10.0, "weight of the anchor", low=0.1, high=1e4, log=True)
    until: Literal["unseen", "guessing", "never"] = hyper(
        "unseen", "a portion ends when its mean loss reaches the original's on validation data, or log C; asked after every pass"
    )
    lr: PositiveFloat = hyper(2e-3, "learning rate", low=1e-5, high=1e-1, log=True)
    epochs: PositiveInt = hyper(20, "most passes over a portion")
    batch_size: PositiveInt = hyper(128, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase for each request."""
        anchor = self.anchor_of(ctx)
        level = math.log(ctx.num_classes) if self.until == "guessing" else mean_loss(ctx, "validation")
        for portion in portions(ctx, self.requests):

            def forgotten(context: Context, progress: Progress, portion: Stream = portion) -> bool:
                return mean_loss(context, portion) >= level

            ascent = Term(portion, cross_entropy, weight=-1.0)
            yield Phase(
                [ascent if self.forget == "ascent" else Term(portion, match(uniform, kl())), anchor],
                epochs=self.epochs,
                optimizer=sgd(self.lr, weight_decay=0.0),
                batch_size=self.batch_size,
                epoch_of=portion.name,
                norm="frozen",
                stop=None if self.until == "never" else forgotten,
                name=portion.name,
            )

    def anchor_of(self, ctx: Context) -> Term | Penalty:
        """Return the term that holds what is not forgotten; the Fisher information is that of the original, with its own labels."""
        if self.anchor == "kl":
            return Term("validation", match(teacher("original"), kl()), weight=self.strength)
        importance = fisher_diagonal(ctx, "validation", "sampled") if self.anchor == "ewc" else None
        return Penalty(distance_to(ctx.original, importance), weight=self.strength, name="distance to the original")


def portions(ctx: Context, count: int) -> Iterator[Stream]:
    """Yield the forget set in at most ``count`` random portions of nearly equal size."""
    forget = ctx.stream("forget")
    order = randomness.shuffle(ctx.seed, "requests", 0, forget.index)
    for number, chunk in enumerate(order.tensor_split(min(count, len(order))), start=1):
        yield forget.subset(chunk, name=f"request {number}")
