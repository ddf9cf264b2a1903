"""Phase: what is optimised, how long, and under which rules. `expunge.engine.loop` runs it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from expunge.engine.combine import Combiner
from expunge.engine.context import Context
from expunge.engine.order import Order
from expunge.engine.select import Mask
from expunge.engine.terms import Penalty, Progress, Term
from expunge.engine.update import AfterStep, Optimizer, Perturb, Schedule, constant, sgd

NormPolicy = Literal["train", "frozen", "recalibrate"]
Precision = Literal["float32", "bfloat16"]


def _words(allowed: Any) -> tuple[str | None, ...]:
    """Return the values of a Literal, or of a union of one with None."""
    return tuple(word for part in get_args(allowed) for word in (get_args(part) or ([None] if part is type(None) else [part])))


@dataclass(frozen=True)
class Phase:
    """Optimise these terms, so long, under this mask.

    Attributes:
        terms: what is minimised.
        epochs: epochs; an epoch is one pass over ``epoch_of``.
        optimizer: the optimiser.
        schedule: factor of the learning rate for each step.
        batch_size: examples a batch, for all streams or by stream name.
        order: ``zip``: one step uses a batch of every stream, the shorter ones start again; ``sequential``: a pass over each stream
            in turn; ``interleave``: one step on each stream in turn; ``mixed``: one shuffled pass over all, forwarded together.
            Combiners need ``zip`` or ``mixed``, terms with ``uses`` need ``zip``.
        epoch_of: the stream that defines an epoch of ``zip`` and ``interleave``; the longest by default.
        steps: stop after so many steps, even within an epoch; it only shortens ``epochs``.
        mask: factors of the update by parameter name, enforced on the realised update.
        trainable: parameter names that move; all by default.
        norm: what BatchNorm statistics do; by default frozen for phases over forget data alone, else train. Norm layers in which nothing
            can move are always frozen. ``recalibrate`` trains, and at the end estimates the statistics anew, on all streams but forget.
        combine: joins the groups' gradients; None is the sum, with a single backward.
        perturb: computes the gradient elsewhere (SAM).
        clip: largest norm of the combined gradient.
        after_step: rules that change the weights after each step, before the mask.
        stop: ends the phase; asked after every epoch, or every ``stop_every`` steps instead, and reads whole splits only.
        select: score of the current model, lower is better, NaN is worst; asked after each epoch, and the best epoch's weights are kept.
        augment: whether pictures are augmented.
        precision: of the forward pass; losses and weights stay float32.
        name: what the phase is called in logs.
        follow: rules that look at the weights after each step, as the mask leaves them, and change nothing.
        at_end: rules that change the weights once, when the phase is over and before the best epoch is taken; where the mask is zero,
            nothing moves.
        needs: what its terms and rules may read; `run` sets it to what its maker declares.
    """

    terms: Sequence[Term | Penalty]
    epochs: int = 1
    optimizer: Optimizer = field(default_factory=lambda: sgd(0.01))
    schedule: Schedule = constant
    batch_size: int | Mapping[str, int] = 256
    order: Order = "zip"
    epoch_of: str | None = None
    steps: int | None = None
    mask: Mask | None = None
    trainable: frozenset[str] | None = None
    norm: NormPolicy | None = None
    combine: Combiner | None = None
    perturb: Perturb | None = None
    clip: float | None = None
    after_step: tuple[AfterStep, ...] = ()
    stop: Callable[[Context, Progress], bool] | None = None
    stop_every: int | None = None
    select: Callable[[Context], float] | None = None
    augment: bool = True
    precision: Precision = "float32"
    name: str = ""
    follow: tuple[AfterStep, ...] = ()
    at_end: tuple[AfterStep, ...] = ()
    needs: frozenset[str] | None = None

    def __post_init__(self):
        """Refuse combinations that would quietly do something else.

        Raises:
            ValueError: an unknown word, or an order that cannot serve a combiner or a term with ``uses``.
        """
        for key, allowed in (("order", Order), ("norm", NormPolicy | None), ("precision", Precision)):
            if getattr(self, key) not in _words(allowed):
                raise ValueError(f"{key} must be one of {_words(allowed)}, got {getattr(self, key)!r}")
        if self.combine is not None and self.order in ("sequential", "interleave"):
            raise ValueError(f"a combiner needs the gradients of all groups in one step, which order={self.order!r} never has")
        if self.order != "zip" and any(term.uses for term in self.terms if isinstance(term, Term)):
            raise ValueError(f"a term with uses=... needs another stream's batch in the same step, and so order='zip', not {self.order!r}")

    def but(self, **changes: Any) -> "Phase":
        """Return a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)
