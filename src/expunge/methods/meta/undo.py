"""Unlearn, damage, distil."""

from typing import Self

from pydantic import model_validator
from torch import Tensor

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Snapshot, leaves
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Term
from expunge.engine.update import sgd
from expunge.methods.meta.parts import Part, check_parts, steps_of


class Undo(Method):
    """Unlearn by another method, move the weights part of the way to new random ones, and distil the unlearned model back into them.

    What the first method only hid behind its outputs goes with the weights; the more, the larger alpha and the longer the repair.

    Source: Lee et al., Distillation Robustifies Unlearning, 2025, arXiv 2506.06278 (UNDO):
    ``theta <- (1 - alpha) theta + alpha beta fresh``, then ``KL(unlearned || student)``. There alpha is 0.2 to 0.8 on language models;
    learning rate and length are ours.
    """

    aliases = ("UNDO",)
    source = "Lee et al., Distillation Robustifies Unlearning, arXiv 2506.06278"
    deviations = (
        "distilled on the retain set; the paper distils on the data of pre-training",
        "new weights are not scaled down, and running statistics are those of the unlearned model until the repair moves them",
    )
    needs = {"forget", "retain"}

    parts: tuple[Part, ...] = hyper(("salun",), "the method that unlearns; several run in order", min_length=1)
    alpha: Fraction = hyper(0.3, "how far the weights move to new random ones", low=0.1, high=0.8)
    temperature: PositiveFloat = hyper(1.0, "temperature of the unlearned model", low=1.0, high=4.0)
    lr: PositiveFloat = hyper(0.05, "learning rate of the distillation", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_parts(self.parts)
        return self

    def steps(self, ctx: Context) -> Steps:
        """Yield the steps of the first method, the damage, and the distillation."""
        for part in self.parts:
            yield from steps_of(part, ctx)
        unlearned = Snapshot(ctx.model)
        yield towards_fresh(self.alpha, self.name)
        yield Phase(
            [Term("retain", imitate(ctx, unlearned, self.temperature), name="divergence from the unlearned model")],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            name="distil the unlearned model",
        )


def towards_fresh(alpha: float, *purpose: object) -> Edit:
    """Return the edit ``theta <- (1 - alpha) theta + alpha fresh`` of all parameters that may move; buffers stay."""

    def apply(context: Context) -> None:
        fresh = context.fresh_state(*purpose)
        for name, parameter in leaves(context.model).items():
            if name not in context.fixed:
                parameter.lerp_(fresh[name].to(parameter.dtype), alpha)

    return Edit("move towards new weights", apply)


def imitate(ctx: Context, weights: Snapshot, temperature: float) -> Loss:
    """Return the divergence of the student from a frozen copy of the model with given weights."""
    teacher, kernel = ctx.frozen(weights), kl(temperature, scale=True)

    def divergence(context: Context, batch: Batch, student: Forward) -> Tensor:
        return kernel(teacher(batch.x).float(), student.logits)

    return divergence
