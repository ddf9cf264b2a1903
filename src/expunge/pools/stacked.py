"""Many models of one architecture trained at once on one device: their weights stacked along a first axis, one vmapped forward.

Model k has the initial weights, the order, the augmentation and the recipe that it has when it is trained alone. What differs is the
order in which a device adds numbers: weights agree to 1e-5 in float32 (1e-10 in float64), not bit by bit.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.loop import PhaseResult
from expunge.engine.order import reading
from expunge.engine.parameters import modes_kept
from expunge.engine.phase import Phase
from expunge.engine.run import Outcome
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward, Progress, Term, cross_entropy, smoothed_cross_entropy
from expunge.engine.update import Optimizer, Step, take_step
from expunge.errors import Diverged
from expunge.pools.feed import Feed, Together
from expunge.pools.stacked_net import StackedNet, norm_refusal
from expunge.training.recipe import Recipe

ELEMENTWISE_RULES = {"lookahead", "hold_whitening_bias"}
"""Makers of after-step rules that treat every weight alone, and so do the same to a stack as to each of its models."""

Report = Callable[[int, dict[str, Any]], None]
"""Hears (number of the model, event)."""


def refusal(phase: Phase, model: nn.Module) -> str | None:
    """Return why a phase cannot train many models at once; None if it can."""
    term = phase.terms[0]
    if len(phase.terms) != 1 or not isinstance(term, Term):
        return "it minimises more than one loss on one stream"
    if term.uses or term.every != 1 or term.features or term.weight != 1 or not _is_cross_entropy(term.loss):
        return f"its loss, {term.label}, is not the plain cross entropy"
    if phase.precision != "float32":
        return f"a {phase.precision} forward pass rounds too coarsely for models trained together to equal models trained alone"
    for key in ("mask", "trainable", "norm", "combine", "perturb", "stop", "select", "epoch_of"):
        if getattr(phase, key) is not None:
            return f"it uses {key}, which looks at one model at a time"
    if phase.at_end or phase.follow or not all(_maker(rule) in ELEMENTWISE_RULES for rule in phase.after_step):
        return "one of its rules after a step looks at one model at a time"
    return norm_refusal(model)


def _is_cross_entropy(loss: Any) -> bool:
    made = getattr(loss, "__qualname__", "").partition(".")[0]
    return loss is cross_entropy or (made == smoothed_cross_entropy.__name__ and loss.__module__ == smoothed_cross_entropy.__module__)


def _maker(rule: Any) -> str:
    own = getattr(rule, "__module__", "").startswith(("expunge.engine.", "expunge.training."))
    return getattr(rule, "__qualname__", "").partition(".")[0] if own else ""


def train_together(
    models: Sequence[nn.Module],
    streams: Sequence[Stream],
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    num_classes: int,
    report: Report | None = None,
    adjust: Callable[[Phase], Phase] = lambda phase: phase,
) -> list[Outcome | Diverged]:
    """Train models in place, from their current weights, as `expunge.training.train.train` does one by one.

    Args:
        models: of one architecture, on the device of the streams; left in evaluation mode.
        streams: what each learns. All must give the same number of steps an epoch; their batches may differ in size.
        recipe: how.
        seeds: of each: order of its examples and their augmentation.
        num_classes: number of logits.
        report: hears the events of each model.
        adjust: changes each phase, to try a recipe on a few steps.

    Returns:
        For each model what it did, or where it stopped being finite. ``seconds`` is its share of the time of all, and
        ``peak_memory_bytes`` what all of them held.

    Raises:
        ValueError: `refusal` has a reason, or the numbers of steps differ.
    """
    tell = report or (lambda number, event: None)
    contexts = [
        Context(model, {"train": stream}, needs={"train"}, seed=seed, num_classes=num_classes, report=_to(tell, number))
        for number, (model, stream, seed) in enumerate(zip(models, streams, seeds, strict=True))
    ]
    outcomes: list[Outcome | Diverged] = [Outcome() for _ in models]
    with ExitStack() as kept:
        for model in models:
            kept.enter_context(modes_kept(model))
        kept.enter_context(contexts[0].cost.running(contexts[0].device))
        for steps in zip(*(recipe.steps(context) for context in contexts), strict=True):
            _take(contexts, steps, outcomes, adjust)
    share, peak = contexts[0].cost.seconds / len(models), contexts[0].cost.peak_memory_bytes
    for model, context, outcome in zip(models, contexts, outcomes, strict=True):
        model.eval()
        context.cost.seconds, context.cost.peak_memory_bytes = share, peak
        if isinstance(outcome, Outcome):
            outcome.cost = context.cost.tree()
    return outcomes


def _to(tell: Report, number: int) -> Callable[[dict[str, Any]], None]:
    return lambda event: tell(number, event)


def _take(contexts: Sequence[Context], steps: Sequence[Any], outcomes: list[Outcome | Diverged], adjust: Callable[[Phase], Phase]) -> None:
    if isinstance(steps[0], Edit):
        for context, step in zip(contexts, steps, strict=True):
            with torch.no_grad():
                step.apply(context)
            context.report({"event": "edit", "name": step.name})
        return
    results = StackedPhase(contexts, [adjust(step) for step in steps], outcomes).run()
    for context, step, result, outcome in zip(contexts, steps, results, outcomes, strict=True):
        context.phase += 1
        if isinstance(outcome, Outcome):
            outcome.phases.append({"name": step.name, **dataclasses.asdict(result)})


class StackedPhase:
    """A phase of many models at once.

    Args:
        contexts: one for each model; their models are changed in place at the end.
        phases: what the recipe yields for each; they differ in their streams only.
        outcomes: an entry is replaced when its model stops being finite; such a model goes on without touching the others.

    Raises:
        ValueError: see `train_together`.
    """

    def __init__(self, contexts: Sequence[Context], phases: Sequence[Phase], outcomes: list[Outcome | Diverged]):
        self.contexts, self.phase, self.outcomes = contexts, phases[0], outcomes
        self.models = [context.model for context in contexts]
        reason = refusal(self.phase, self.models[0])
        if reason:
            raise ValueError(f"these models cannot be trained at once: {reason}")
        self.term = _term(self.phase)
        self.feed = Feed([_reading(context, phase) for context, phase in zip(contexts, phases, strict=True)])
        steps = self.phase.epochs * self.feed.steps
        self.total_steps = steps if self.phase.steps is None else min(steps, self.phase.steps)
        self.net = StackedNet(self.models)
        self.optimizer = _optimizer(self.phase.optimizer, self.models[0], self.net.moving)
        self.rule_state: dict[str, Tensor] = {}
        self.results = [PhaseResult() for _ in self.models]
        self.step = 0

    def run(self) -> list[PhaseResult]:
        """Run all epochs, write the weights back into the models, and return what each has done."""
        self._tell_plan()
        for epoch in range(self.phase.epochs):
            if self.step >= self.total_steps:
                break
            self._epoch(epoch)
        self.net.write_back(self.models)
        return self.results

    def _tell_plan(self) -> None:
        plan = {"name": self.phase.name, "epochs": self.phase.epochs, "total_steps": int(self.total_steps), "terms": [self.term.label]}
        moving = sum(value[0].numel() for value in self.net.moving.values())
        shares = {"parameters": moving, "mask_density": 1.0, "lr": self.phase.optimizer.lr}
        for context in self.contexts:
            context.report({"event": "phase", "phase": context.phase, **plan, **shares})

    def _epoch(self, epoch: int) -> None:
        means, counts = [], []
        first = self.step
        for batch in self.feed.epoch(epoch):
            means.append(self._step(batch, epoch))
            counts.append(batch.counts)
            if self.step >= self.total_steps:
                break
        finite = self.net.finite().tolist()
        for number, column in enumerate(torch.stack(means).T.tolist()):
            examples = [count[number] for count in counts]
            self._finish_epoch(number, epoch, first, column, examples, finite[number])

    def _finish_epoch(self, number: int, epoch: int, first: int, means: list[float], examples: list[int], finite: bool) -> None:
        """Add up what one model did in an epoch, and tell it."""
        if isinstance(self.outcomes[number], Diverged):
            return
        context, result = self.contexts[number], self.results[number]
        bad = next((place for place, mean in enumerate(means) if not math.isfinite(mean)), None)
        if bad is not None or not finite:
            step, what = (self.step, "weights") if bad is None else (first + bad + 1, self.term.label)
            self.outcomes[number] = Diverged(step, what, f"after epoch {epoch} of phase {context.phase}")
            return
        context.cost.add(forward=sum(examples), backward=sum(examples))
        loss = sum(mean * count for mean, count in zip(means, examples, strict=True)) / sum(examples)
        result.steps, result.epochs = self.step, epoch + 1
        result.losses.append({self.term.label: loss})
        event = {"event": "epoch", "phase": context.phase, "name": self.phase.name, "epoch": epoch + 1, "epochs": self.phase.epochs}
        rate, spent = self.optimizer.param_groups[0]["lr"], context.cost.passes
        context.report({**event, "losses": result.losses[-1], "steps": result.steps, "lr": rate, "passes": spent})

    def _step(self, batch: Together, epoch: int) -> Tensor:
        """Take one step of every model and return the mean loss of each, ``[M]``."""
        progress = Progress(self.step, self.total_steps, epoch, self.phase.epochs)
        factor = self.phase.schedule(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        each = self._losses(batch)
        means = each.sum(1) / batch.sizes
        value = each.sum() if self.term.reduction == "sum" else means.sum()
        moving = list(self.net.moving.values())
        found = torch.autograd.grad(value, moving, allow_unused=True)
        for parameter, gradient in zip(moving, found, strict=True):
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
        if self.phase.clip is not None:
            clip_each(moving, self.phase.clip)
        self._apply(progress, factor)
        self.step += 1
        return means.detach()

    def _losses(self, batch: Together) -> Tensor:
        """Return the loss of every example, ``[M, B]``, zero for padding; the gradient of its sum is each model's own."""
        logits = self.net(batch.x, batch.weights)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        flat = Forward(self.contexts[0], Batch(batch.x, batch.y.flatten(), batch.y.flatten(), "train"))
        flat._logits = logits.flatten(0, 1)
        each = self.term.loss(self.contexts[0], flat.batch, flat).view(batch.y.shape)
        return each if batch.weights is None else each * batch.weights

    @torch.no_grad()
    def _apply(self, progress: Progress, factor: float) -> None:
        take_step(self.optimizer, self.phase.optimizer.decoupled_weight_decay)
        context: Any = SimpleNamespace(model=SimpleNamespace(state_dict=self.net.state))
        for rule in self.phase.after_step:
            rule(Step(context, self.net.moving, progress, self.rule_state, self.phase.optimizer.lr * factor))


def _term(phase: Phase) -> Term:
    term = phase.terms[0]
    assert isinstance(term, Term)
    return term


def _reading(context: Context, phase: Phase) -> Any:
    return reading(context, [_term(phase)], order=phase.order, epoch_of=None, batch_size=phase.batch_size, augment=phase.augment)


def _optimizer(optimizer: Optimizer, model: nn.Module, moving: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimiser of stacked parameters; options are chosen by the shape that a parameter has in one model."""
    single, scale = dict(model.named_parameters()), optimizer.scale
    chosen = None if scale is None else lambda name, parameter: scale(name, single[name])
    return dataclasses.replace(optimizer, scale=chosen).make(moving)


def clip_each(parameters: Sequence[Tensor], largest: float) -> None:
    """Scale the gradients of stacked parameters so that no model's norm exceeds ``largest``; as ``clip_grad_norm_``, model by model."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (largest / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
