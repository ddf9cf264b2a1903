"""`run_phase`: the only optimiser step in the package."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.engine import parallel, randomness
from expunge.engine.combine import Gradients
from expunge.engine.context import Context
from expunge.engine.gauges import Gauges, histograms
from expunge.engine.movable import hand_to_adapters, leaf_mask, movable, set_modes
from expunge.engine.norms import recalibrate
from expunge.engine.objective import Objective
from expunge.engine.order import reading
from expunge.engine.parameters import Snapshot, adapters, below, effective, is_norm, modes_kept, running_statistics_kept
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Progress
from expunge.engine.update import AfterStep, Step, enforce, take_step
from expunge.errors import Diverged


@dataclass
class PhaseResult:
    """What a phase did.

    Attributes:
        steps: optimiser steps taken.
        epochs: epochs begun.
        losses: for each epoch the mean over examples of every term's loss, weights and reductions left out.
        selected_epoch: whose weights were kept, counted from 1; None without a selection rule.
        stopped: whether the stop rule ended it.
    """

    steps: int = 0
    epochs: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    selected_epoch: int | None = None
    stopped: bool = False


class Checkpoints:
    """Where a phase keeps its state after every epoch. This one keeps nothing; `training.checkpoints` has one on disk."""

    def load(self, context: Context, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> PhaseResult | None:
        """Restore weights, optimiser and rule state in place and return how far the phase had come; None if there is nothing."""
        return None

    def save(
        self, context: Context, optimizer: torch.optim.Optimizer, state: dict[str, Tensor], result: PhaseResult, finished: bool = False
    ) -> None:
        """Keep the state after an epoch; ``finished`` says that it was the last of its phase."""


def run_phase(context: Context, phase: Phase, checkpoints: Checkpoints | None = None) -> PhaseResult:
    """Run a phase on the context's model, in place.

    Raises:
        Diverged: a loss or a weight stopped being finite; the model is then back at its last good epoch.
        UndeclaredAccess: a term reads a stream that the method does not declare.
    """
    devices = [context.device] if context.device.type == "cuda" else []
    with modes_kept(context.model), torch.random.fork_rng(devices=devices):
        return _Loop(context, phase, checkpoints or Checkpoints()).run()


class _Loop:
    """The state of a running phase."""

    def __init__(self, context: Context, phase: Phase, checkpoints: Checkpoints):
        self.context, self.phase, self.checkpoints = context, phase, checkpoints
        self.parameters = movable(context, phase.trainable)
        self.mask = leaf_mask(context.model, phase.mask, self.parameters)
        self.optimizer = phase.optimizer.make(self.parameters)
        self.rule_state: dict[str, Tensor] = {}
        context.memory, context.mask = self.rule_state, self.mask
        self.gauges = Gauges(context, context.detail) if context.detail is not None else None
        self.objective = Objective(context, phase, self.parameters, self.mask, self.rule_state, self.gauges)
        self.reading = reading(
            context, self.objective.terms, order=phase.order, epoch_of=phase.epoch_of, batch_size=phase.batch_size, augment=phase.augment
        )
        self.result = PhaseResult()
        self.total_steps = phase.epochs * self.reading.steps_per_epoch()
        if phase.steps is not None:
            self.total_steps = min(phase.steps, self.total_steps)
        self.pending: list[tuple[int, str, Tensor, int]] = []
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def run(self) -> PhaseResult:
        """Run all epochs."""
        set_modes(self.context, self.phase, self.parameters, self.reading.streams.values())
        found = self.checkpoints.load(self.context, self.optimizer, self.rule_state)
        if found is not None:
            self.result = found
        self._tell_plan()
        self.good, self.good_name = Snapshot(self.context.model), self._where()
        hand_to_adapters(self.context.model, self.phase.mask)
        while not self._done():
            self._epoch()
            self.good, self.good_name = Snapshot(self.context.model), self._where()
            self._select()
            if not self.phase.stop_every:
                self._ask_to_stop()
            self.checkpoints.save(self.context, self.optimizer, self.rule_state, self.result, self._done())
        if self.phase.at_end:
            self._end()
        if self.result.selected_epoch is not None:
            Snapshot.of(below(_SELECTED, self.rule_state)).restore(self.context.model)
        if self.phase.norm == "recalibrate":
            self._recalibrate()
        return self.result

    def _tell_plan(self) -> None:
        moving = sum(parameter.numel() for parameter in self.parameters.values())
        still = float(torch.stack([(1 - value.double()).sum() for value in self.mask.values()]).sum()) if self.mask else 0.0
        plan = {"name": self.phase.name, "epochs": self.phase.epochs, "total_steps": int(self.total_steps)}
        shares = {"parameters": moving, "mask_density": 1 - still / max(1, moving), "lr": self.phase.optimizer.lr}
        self.context.report({"event": "phase", "phase": self.context.phase, **plan, "terms": [*self.objective.labels.values()], **shares})
        if self.gauges is not None:
            self.gauges.begin(self.result.steps)
            if self.context.phase == 0 and self.result.epochs == 0:
                self._tell_weights()

    def _tell_weights(self) -> None:
        if self.gauges is not None and self.gauges.detail.histograms:
            found = histograms(self.context)
            self.context.report({"event": "weights", "phase": self.context.phase, "epoch": self.result.epochs, "histograms": found})

    @torch.no_grad()
    def _end(self) -> None:
        before = {name: self.parameters[name].detach().clone() for name in self.mask}
        for rule in self.phase.at_end:
            rule(Step(self.context, self.parameters, self._progress(), self.rule_state, 0.0))
        zeros = {name: (value != 0).to(value.dtype) for name, value in self.mask.items()}  # steps were damped when they were taken
        enforce(zeros, before, self.parameters, self.optimizer)

    def _done(self) -> bool:
        return self.result.stopped or self.result.epochs >= self.phase.epochs or self.result.steps >= self.total_steps

    def _select(self) -> None:
        """Keep the weights of the best epoch among the rules' state, so that a phase that is resumed still knows them."""
        if self.phase.select is None:
            return
        score = parallel.agreed(float(self._ask(self.phase.select)))
        score = math.inf if math.isnan(score) else score
        if "best score" not in self.rule_state or score < float(self.rule_state["best score"]):
            self.rule_state["best score"] = torch.tensor(score, dtype=torch.float64)
            self.rule_state.update({_SELECTED + name: value for name, value in self.good.state.items()})
            self.result.selected_epoch = self.result.epochs

    def _ask_to_stop(self) -> None:
        if self.phase.stop is not None:
            self.result.stopped = parallel.agreed(bool(self._ask(self.phase.stop, self._progress())))

    def _recalibrate(self) -> None:
        every = list(self.reading.streams.values())
        norms = [module for module in self.context.model.modules() if is_norm(module) and module.training]
        recalibrate(self.context, [s for s in every if not self.context.is_forgotten(s)] or every, self.reading.joint_size, norms)

    def _epoch(self) -> None:
        """Run one epoch, or less if the stop rule ends it."""
        torch.manual_seed(randomness.derive(self.context.seed, "torch", self.context.phase, self.result.epochs))
        self.sums, self.counts = {}, {}
        for batches in self.reading.epoch(self.result.epochs):
            self._step(batches)
            if self.phase.stop_every and self.result.steps % self.phase.stop_every == 0:
                self._check()
                self._ask_to_stop()
            if self.result.stopped or self.result.steps >= self.total_steps:
                break
        self._check()
        parallel.take_over(self.context.model.state_dict().values())
        self._check_weights()
        self.result.epochs += 1
        losses = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.result.losses.append(losses)
        measured = {"values": self.gauges.end_epoch(self.result.steps)} if self.gauges is not None else {}
        self.context.report(
            {
                "event": "epoch",
                "phase": self.context.phase,
                "name": self.phase.name,
                "epoch": self.result.epochs,
                "epochs": self.phase.epochs,
                "losses": losses,
                "steps": self.result.steps,
                "lr": self.optimizer.param_groups[0]["lr"],
                "passes": self.context.cost.passes,
                **measured,
            }
        )
        self._tell_weights()

    def _ask(self, rule: Callable[..., Any], *arguments: Any) -> Any:
        with modes_kept(self.context.model), torch.no_grad():
            self.context.model.eval()
            return rule(self.context, *arguments)

    def _progress(self) -> Progress:
        return Progress(self.result.steps, int(self.total_steps), self.result.epochs, self.phase.epochs)

    def _where(self) -> str:
        return f"after epoch {self.result.epochs} of phase {self.context.phase}"

    # One step

    def _step(self, batches: dict[str, Batch]) -> None:
        progress = self._progress()
        turn = self.result.steps // (len(self.reading.own) if self.phase.order == "interleave" else 1)  # each stream's own are counted
        active = self.objective.active(batches, turn)
        if not active and not self.objective.penalties:
            self.result.steps += 1  # no term has its turn: momentum and weight decay rest too
            return
        factor = self.phase.schedule(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        moving = list(self.parameters.values())

        def compute(keep_statistics: bool) -> Gradients:
            with running_statistics_kept(self.context.model) if keep_statistics else nullcontext():
                parts = self.objective.parts(active, batches, progress, record=not keep_statistics)
                if not keep_statistics:
                    self.pending += [(progress.step + 1, part.label, part.mean, part.examples) for part in parts]
                return self.objective.gradient(parts, progress, record=not keep_statistics)

        gradients = compute(False) if self.phase.perturb is None else self.phase.perturb(self.context, moving, compute)
        if self.gauges is not None:
            self.gauges.see_update(self.result.steps + 1, gradients, self.optimizer.param_groups[0]["lr"], self.rule_state)
        for parameter, gradient in zip(moving, gradients, strict=True):
            parameter.grad = gradient
        if self.phase.clip is not None:
            torch.nn.utils.clip_grad_norm_(moving, self.phase.clip)
        before = {name: self.parameters[name].detach().clone() for name in self.mask}
        self._apply(progress, factor)
        if self.mask:
            enforce(self.mask, before, self.parameters, self.optimizer)
        self._tell(self.phase.follow, progress, factor)
        self.result.steps += 1
        if len(self.pending) >= 64:
            self._check()

    @torch.no_grad()
    def _apply(self, progress: Progress, factor: float) -> None:
        take_step(self.optimizer, self.phase.optimizer.decoupled_weight_decay)
        self._tell(self.phase.after_step, progress, factor)

    @torch.no_grad()
    def _tell(self, rules: Iterable[AfterStep], progress: Progress, factor: float) -> None:
        for rule in rules:
            rule(Step(self.context, self.parameters, progress, self.rule_state, self.phase.optimizer.lr * factor))

    # Safety

    def _check(self) -> None:
        """Look at the losses since the last look, with one synchronisation, and add them up."""
        if not self.pending:
            return
        flat, self.pending = self.pending, []
        numbers = parallel.agreed(torch.stack([value for _, _, value, _ in flat]).tolist())
        for (step, label, _, examples), number in zip(flat, numbers, strict=True):
            if self.gauges is not None:
                self.gauges.add(step, f"loss/{label}", number, examples)
            if not math.isfinite(number):
                self._diverged(step, label)
            self.sums[label] = self.sums.get(label, 0.0) + number * examples
            self.counts[label] = self.counts.get(label, 0) + examples
        if self.gauges is not None:
            self.gauges.read(self.result.steps)

    def _check_weights(self) -> None:
        model = self.context.model
        values = [*model.state_dict().values(), *(effective(model).values() if adapters(model) else ())]
        finite = [torch.isfinite(value).all() for value in values if value.is_floating_point()]
        if not parallel.agreed(bool(torch.stack(finite).all())):
            self._diverged(self.result.steps, "weights")

    def _diverged(self, step: int, term: str) -> None:
        if self.gauges is not None:
            self.gauges.end_epoch(self.result.steps)
        self.good.restore(self.context.model)
        raise Diverged(step, term, self.good_name)


_SELECTED = "selected/"
