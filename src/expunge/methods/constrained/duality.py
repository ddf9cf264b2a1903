"""Minimise one loss subject to a bound on another: the multiplier, the penalty, and what they make of two gradients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.config import Flag, Fraction, NonNegativeFloat, Number, PositiveFloat, PositiveInt, hyper
from expunge.engine.combine import Gradients
from expunge.engine.context import Context
from expunge.engine.measure import logits_of, mean_loss
from expunge.engine.method import Method
from expunge.engine.parameters import modes_kept, norm, running_statistics_kept
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch, scoring_size
from expunge.engine.terms import Forward, Loss, Progress, Term, cross_entropy
from expunge.engine.update import Step, sgd
from expunge.errors import BadInput

Solver = Literal["penalty", "lagrangian", "augmented_lagrangian"]
Stop = Literal["unlearning", "refining", "forget_forever", "confusion", "none"]


@dataclass
class Constraint:
    """A bound on the mean of a loss, ``h = mean - bound <= 0`` or ``= 0``, and the solver that enforces it.

    With ``g_o`` and ``g_c`` the gradients of the objective and of the mean, every solver steps along ``g_o + factor g_c``:
    ``penalty`` (adds ``a max(0, h)^2``, or ``a h^2``) has the factor ``2 a max(0, h)``; ``lagrangian`` (adds ``l h``) has ``l``, and
    after each step ``l <- l + rate h`` with h measured anew on the same batch; ``augmented_lagrangian`` has ``l + 2 a h``. A multiplier of
    an inequality, and the factor of its augmented Lagrangian, are cut off at zero. ``l`` and ``a`` are tensors among the rules' state, so
    that a checkpoint keeps them.

    Attributes:
        bound: what the mean must not exceed, or must equal.
        solver: the rule.
        equality: whether the mean must equal the bound.
        multiplier: ``l`` at the start.
        penalty: ``a`` at the start.
        calm: gradient norm; an epoch whose mean norm of the step's direction is below it lets ``penalty`` grow by 5 %.
        rate: step of the multiplier; the learning rate if None.
        warm_up: epochs in which the multiplier stays as it is.
        normalize: scale both gradients to length one before they are joined.
    """

    bound: float
    solver: Solver = "lagrangian"
    equality: bool = False
    multiplier: float = 1.0
    penalty: float = 10.0
    calm: float = 5.0
    rate: float | None = None
    warm_up: int = 0
    normalize: bool = False
    _latest: tuple[Loss, Batch, Tensor] | None = field(default=None, repr=False)

    def watch(self, loss: Loss) -> Loss:
        """Return the same loss, whose latest batch and mean the constraint remembers."""

        def constrained_loss(context: Context, batch: Batch, student: Forward) -> Tensor:
            each = loss(context, batch, student)
            self._latest = (loss, batch, each.detach().mean())
            return each

        constrained_loss.__name__ = f"constrained {getattr(loss, '__name__', 'loss')}"
        return constrained_loss

    def combine(self, gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
        """Return ``objective + factor * condition``: the combiner of a phase with these two groups."""
        state.setdefault("multiplier", torch.tensor(self.multiplier, dtype=torch.float64))
        state.setdefault("penalty", torch.tensor(self.penalty, dtype=torch.float64))
        objective, condition = gradients["objective"], gradients["condition"]
        factor = self.factor(state)
        if self.normalize:
            objective, condition = (_unit(parts) for parts in (objective, condition))
        joined = [(o + factor * c).to(o.dtype) for o, c in zip(objective, condition, strict=True)]
        state["length of steps"] = state.get("length of steps", 0) + norm(joined)
        state["steps"] = state.get("steps", torch.zeros((), dtype=torch.int64)) + 1
        return joined

    def factor(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the factor of the condition's gradient for the latest batch, a scalar tensor."""
        if self.solver == "lagrangian":
            return state["multiplier"].to(self._mean.device)
        violation = self._mean.double() - self.bound
        factor = 2 * state["penalty"].to(violation.device) * violation
        if self.solver == "augmented_lagrangian":
            factor = factor + state["multiplier"].to(violation.device)
        return factor if self.equality else factor.clamp_min(0)

    @property
    def _mean(self) -> Tensor:
        assert self._latest is not None
        return self._latest[2]

    def update(self, step: Step) -> None:
        """Move the multiplier after a step, and the penalty after the last step of an epoch: a rule that follows."""
        if self.solver != "penalty" and step.progress.epoch >= self.warm_up:
            rate = step.lr if self.rate is None else self.rate
            moved = step.state["multiplier"] + rate * (self._remeasured(step.context).cpu() - self.bound)
            step.state["multiplier"] = moved if self.equality else moved.clamp_min(0)
        if (step.progress.step + 1) % max(1, step.progress.total_steps // step.progress.epochs) == 0:
            self._end_epoch(step)

    def _remeasured(self, context: Context) -> Tensor:
        """Return the mean on the latest batch after the step, without gradients and without touching running statistics."""
        assert self._latest is not None
        loss, batch, _ = self._latest
        with running_statistics_kept(context.model):
            return loss(context, batch, Forward(context, batch)).mean().double()

    def _end_epoch(self, step: Step) -> None:
        length = float(step.state.pop("length of steps") / step.state.pop("steps"))
        if self.solver == "penalty" and length < self.calm:
            step.state["penalty"] = step.state["penalty"] * 1.05
        if self.solver == "augmented_lagrangian":
            step.state["penalty"] = step.state["penalty"] * 1.01
        values = {name: float(step.state[name]) for name in ("multiplier", "penalty")}
        step.context.report({"event": "constraint", "bound": self.bound, "gradient_norm": length, **values})


def _unit(gradients: Gradients) -> Gradients:
    length = norm(gradients).clamp_min(1e-30)
    return [(part / length).to(part.dtype) for part in gradients]


class ConstrainedTraining(Method):
    """The hyper-parameters of training under a constraint, its phase, and its stop rules."""

    needs = {"forget", "retain", "validation"}

    solver: Solver = hyper("lagrangian", "how the constraint is enforced")
    multiplier: NonNegativeFloat = hyper(1.0, "the multiplier at the start, for both Lagrangians", low=0.1, high=10, log=True)
    penalty: PositiveFloat = hyper(10.0, "weight of the squared violation at the start, for penalty and augmented_lagrangian")
    lr: PositiveFloat = hyper(0.01, "learning rate, also of the multiplier", low=1e-3, high=2.5e-2, log=True)
    epochs: PositiveInt = hyper(20, "most passes over the forget set", low=10, high=50)
    batch_size: PositiveInt = hyper(128, "examples of each set in a step")
    stop: Stop = hyper("none", "when the run ends early; every rule reads whole splits after an epoch")
    top: PositiveInt = hyper(5, "stop=forget_forever: the true class must be among so many")
    retain_floor: Fraction = hyper(0.9, "stop=forget_forever: the top accuracy on the retain set at which forgetting ends")
    normalize: Flag = hyper(False, "scale both gradients to length one before they are joined; an extension")
    clip: PositiveFloat | None = hyper(None, "largest norm of the joined gradient; nothing: no limit")

    def phase(self, objective: Term, condition: Term, constraint: Constraint) -> Phase:
        """Return the phase that minimises the objective under the constraint, on pairs of batches.

        Args:
            objective: what is minimised.
            condition: whose mean is bounded.
            constraint: the bound.
        """
        return Phase(
            [objective, condition],
            epochs=self.epochs,
            optimizer=sgd(self.lr, weight_decay=0.0),
            batch_size=self.batch_size,
            epoch_of="forget",
            norm="train",
            combine=constraint.combine,
            clip=self.clip,
            follow=(constraint.update,),
            stop=self.stop_rule(condition.stream_name, constraint),
            name=f"{self.name} by {self.solver}",
        )

    def constraint(self, bound: float, equality: bool) -> Constraint:
        """Return the constraint with the solver that is chosen."""
        return Constraint(bound, self.solver, equality=equality, multiplier=self.multiplier, penalty=self.penalty, normalize=self.normalize)

    def stop_rule(self, condition: str, constraint: Constraint) -> Callable[[Context, Progress], bool] | None:
        """Return when to stop.

        Args:
            condition: the stream on which the constraint is measured.
            constraint: whose bound ``refining`` needs.
        """

        def refined(ctx: Context, progress: Progress) -> bool:
            seen = ctx.memory.get("validation losses", torch.zeros(0, dtype=torch.float64))
            seen = torch.cat([seen, torch.tensor([mean_loss(ctx, "validation")], dtype=torch.float64)])
            ctx.memory["validation losses"] = seen
            stalled = len(seen) > 2 and bool(seen[-1] >= seen[-2]) and bool(seen[-2] >= seen[-3])
            return stalled and mean_loss(ctx, condition) <= constraint.bound

        rules: dict[str, Callable[[Context, Progress], bool]] = {
            "unlearning": lambda ctx, progress: mean_loss(ctx, "forget") >= mean_loss(ctx, "validation"),
            "refining": refined,
            "forget_forever": lambda ctx, progress: top_accuracy(ctx, "retain", self.top) <= self.retain_floor,
            "confusion": lambda ctx, progress: mean_loss(ctx, "forget") >= blank_loss(ctx),
        }
        return rules.get(self.stop)


class EqualityTraining(ConstrainedTraining):
    """Constrained training whose bound is to be met exactly; the multiplier is free and may become negative.

    The defaults differ from those of an inequality: a multiplier of 1 first fits what is to be answered badly, and a penalty of 10 tears
    the model apart when the bound is far away (both on the small task of the tests).
    """

    solver: Solver = hyper("augmented_lagrangian", "how the constraint is enforced")
    multiplier: Number = hyper(0.0, "the multiplier at the start, for both Lagrangians", low=-1, high=1)
    penalty: PositiveFloat = hyper(1.0, "weight of the squared deviation at the start, for penalty and augmented_lagrangian")


def blank_loss(ctx: Context) -> float:
    """Return the mean cross entropy of a newly initialised net on the forget set, in eval mode; about ``log C``."""
    teacher, total = ctx.teacher("random"), 0.0
    with torch.no_grad(), modes_kept(teacher):
        for batch in ctx.stream("forget").batches(scoring_size(ctx.device)):
            total += float(torch.nn.functional.cross_entropy(teacher(batch.x).double(), batch.y, reduction="sum"))
    return total / len(ctx.stream("forget"))


def top_accuracy(ctx: Context, stream: str, top: int) -> float:
    """Return the share of a whole stream whose true class is among the ``top`` most likely ones, in eval mode.

    Raises:
        BadInput: there are not more classes than that, so that the share is always one.
    """
    if top >= ctx.num_classes:
        raise BadInput("method.top", f"expected less than the number of classes, {ctx.num_classes}, got {top}.", "Choose a smaller one.")
    logits, labels = logits_of(ctx, stream)
    return float((logits.topk(top, dim=1).indices == labels[:, None]).any(1).double().mean())


def condition_on(stream: str, constraint: Constraint) -> Term:
    """Return the term whose mean the constraint bounds: the cross entropy on a stream."""
    return Term(stream, constraint.watch(cross_entropy), group="condition", name=f"cross entropy on {stream}, bounded")
