"""Phase and `run_phase`: the only optimiser step in the package."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expunge.engine import parallel, randomness
from expunge.engine.combine import Combiner, Gradients
from expunge.engine.context import Context
from expunge.engine.gauges import Gauges, histograms
from expunge.engine.norms import layer_of, norms_apart_from, recalibrate
from expunge.engine.order import Order, reading
from expunge.engine.parameters import Snapshot, base_name, effective, is_norm, leaves, modes_kept, owner_of, running_statistics_kept
from expunge.engine.select import Mask, frozen_names
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Penalty, Progress, Term, Weight
from expunge.engine.update import AfterStep, Optimizer, Perturb, Schedule, Step, constant, enforce, sgd, take_step
from expunge.errors import Diverged

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
        at_end: rules that change the weights once, when the phase is over, under the mask and before the best epoch is taken.
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


class _Part(NamedTuple):
    """What one term contributes to a step."""

    label: str
    group: str
    value: Tensor
    weight: float
    mean: Tensor
    examples: int


class Checkpoints:
    """Where a phase keeps its state after every epoch. This one keeps nothing; `training.checkpoints` has one on disk."""

    def load(self, context: Context, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> PhaseResult | None:
        """Restore weights, optimiser and rule state in place and return how far the phase had come; None if there is nothing."""
        return None

    def save(self, context: Context, optimizer: torch.optim.Optimizer, state: dict[str, Tensor], result: PhaseResult) -> None:
        """Keep the state after an epoch."""


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
        self.terms = [term for term in phase.terms if isinstance(term, Term)]
        self.penalties = [term for term in phase.terms if isinstance(term, Penalty)]
        self.reading = reading(
            context, self.terms, order=phase.order, epoch_of=phase.epoch_of, batch_size=phase.batch_size, augment=phase.augment
        )
        self.labels = dict(zip(map(id, phase.terms), _distinct([term.label for term in phase.terms]), strict=True))
        self.parameters = _movable(context.model, phase.trainable)
        self.mask = _leaf_mask(context.model, phase.mask, self.parameters)
        self.optimizer = phase.optimizer.make(self.parameters)
        self.features = {term.stream_name for term in self.terms if term.features} | {
            name for term in self.terms if term.features for name in term.uses
        }
        self.rule_state: dict[str, Tensor] = {}
        self.first_look: dict[str, Tensor] = {}
        looks = phase.combine is not None or phase.perturb is not None or phase.clip is not None
        self.still = {name: value == 0 for name, value in self.mask.items()} if looks else {}
        self.result = PhaseResult()
        self.total_steps = phase.epochs * self.reading.steps_per_epoch()
        if phase.steps is not None:
            self.total_steps = min(phase.steps, self.total_steps)
        self.pending: list[tuple[int, str, Tensor, int]] = []
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.gauges = Gauges(context, context.detail) if context.detail is not None else None

    def run(self) -> PhaseResult:
        """Run all epochs."""
        self._set_modes()
        found = self.checkpoints.load(self.context, self.optimizer, self.rule_state)
        if found is not None:
            self.result = found
        self._tell_plan()
        self.good, self.good_name = Snapshot(self.context.model), self._where()
        _hand_to_adapters(self.context.model, self.phase.mask)
        while not self._done():
            self._epoch()
            self.good, self.good_name = Snapshot(self.context.model), self._where()
            self._select()
            if not self.phase.stop_every:
                self._ask_to_stop()
            self.checkpoints.save(self.context, self.optimizer, self.rule_state, self.result)
        if self.phase.at_end:
            self._end()
        if self.result.selected_epoch is not None:
            Snapshot.of(_within(self.rule_state, _SELECTED)).restore(self.context.model)
        if self.phase.norm == "recalibrate":
            self._recalibrate()
        return self.result

    def _tell_plan(self) -> None:
        moving = sum(parameter.numel() for parameter in self.parameters.values())
        still = float(torch.stack([(1 - value.double()).sum() for value in self.mask.values()]).sum()) if self.mask else 0.0
        plan = {"name": self.phase.name, "epochs": self.phase.epochs, "total_steps": int(self.total_steps)}
        shares = {"parameters": moving, "mask_density": 1 - still / max(1, moving), "lr": self.phase.optimizer.lr}
        self.context.report({"event": "phase", "phase": self.context.phase, **plan, "terms": list(self.labels.values()), **shares})
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
        enforce(self.mask, before, self.parameters, self.optimizer)

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
        active = self._active(batches)
        if not active and not self.penalties:
            self.result.steps += 1  # no term has its turn: momentum and weight decay rest too
            return
        factor = self.phase.schedule(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        moving = list(self.parameters.values())

        def compute(keep_statistics: bool) -> Gradients:
            with running_statistics_kept(self.context.model) if keep_statistics else nullcontext():
                return self._gradients(active, batches, progress, record=not keep_statistics)

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
        self.result.steps += 1
        if len(self.pending) >= 64:
            self._check()

    @torch.no_grad()
    def _apply(self, progress: Progress, factor: float) -> None:
        take_step(self.optimizer, self.phase.optimizer.decoupled_weight_decay)
        for rule in self.phase.after_step:
            rule(Step(self.context, self.parameters, progress, self.rule_state, self.phase.optimizer.lr * factor))

    def _active(self, batches: dict[str, Batch]) -> list[Term]:
        """Return the terms that contribute to this step; with ``interleave`` each stream's own turns are counted."""
        turn = self.result.steps // (len(self.reading.own) if self.phase.order == "interleave" else 1)
        return [term for term in self.terms if term.stream_name in batches and turn % term.every == 0]

    def _gradients(self, active: list[Term], batches: dict[str, Batch], progress: Progress, record: bool) -> Gradients:
        losses = self._losses(active, batches, progress, record)
        if record:
            self.pending += [(self.result.steps + 1, part.label, part.mean, part.examples) for part in losses]
        groups: dict[str, Tensor] = {}
        for part in losses:
            value = part.value if part.weight == 1 else part.weight * part.value
            groups[part.group] = groups[part.group] + value if part.group in groups else value
        if self.phase.combine is None:
            if record and self.gauges is not None and len(groups) > 1 and self.gauges.wants_groups(self.result.steps + 1):
                with self.context.cost.paused():
                    self._see({group: self._gradient(value, retain=True) for group, value in groups.items()})
            losses_of_groups = list(groups.values())
            return self._gradient(losses_of_groups[0] if len(groups) == 1 else torch.stack(losses_of_groups).sum())
        parts = {}
        for position, (group, value) in enumerate(groups.items()):
            parts[group] = self._gradient(value, retain=position < len(groups) - 1)
        if record:
            self._see(parts)
            self.first_look = dict(self.rule_state)
            return self.phase.combine(parts, self.rule_state)
        # A second look, as sharpness-aware steps take, replaces the first: the combiner remembers what it did before both.
        return self.phase.combine(parts, dict(self.first_look))

    def _see(self, parts: Mapping[str, Gradients]) -> None:
        if self.gauges is not None:
            self.gauges.see_groups(self.result.steps + 1, parts)

    def _gradient(self, loss: Tensor, retain: bool = False) -> Gradients:
        """Return the gradient, zero where the mask lets nothing move: combiners, clipping and ascent see what can move and no more."""
        found = _grad(loss, list(self.parameters.values()), retain)
        if not self.still:
            return found
        return [
            part.masked_fill(self.still[name], 0) if name in self.still else part for name, part in zip(self.parameters, found, strict=True)
        ]

    def _losses(self, active: list[Term], batches: dict[str, Batch], progress: Progress, record: bool) -> list[_Part]:
        """Return what each term contributes; in a mixed batch a mean is taken over the whole batch."""
        forwards = self._forwards(batches)
        joint = sum(map(len, batches.values()))
        found = []
        for term in active:
            batch = batches[term.stream_name]
            each = term.loss(self.context, batch, forwards[term.stream_name])
            if each.shape != (len(batch),):
                raise TypeError(f"{term.label} must return one loss per example, shape ({len(batch)},), got {tuple(each.shape)}")
            mean = value = each.mean()
            if term.reduction == "sum":
                value = each.sum()
            elif self.phase.order == "mixed":
                value = each.sum() / joint
            found.append(_Part(self.labels[id(term)], term.group_name, value, _weight(term.weight, progress), mean.detach(), len(batch)))
        if self.penalties:
            values = effective(self.context.model)
            for penalty in self.penalties:
                value = penalty.loss(self.context, values)
                label, weight = self.labels[id(penalty)], _weight(penalty.weight, progress)
                found.append(_Part(label, penalty.group_name, value, weight, value.detach(), 1))
        if record and self.gauges is not None:
            self.gauges.see_forwards(self.result.steps + 1, forwards)
        return found

    def _forwards(self, batches: dict[str, Batch]) -> dict[str, Forward]:
        forwards: dict[str, Forward] = {}
        if self.phase.order == "mixed" and len(batches) > 1:
            parts = list(batches.values())
            x, y, index = (torch.cat([getattr(part, key) for part in parts]) for key in ("x", "y", "index"))
            joint = Batch(x, y, index, "mixed")
            whole = Forward(self.context, joint, self.phase.precision, forwards, with_features=bool(self.features))
            start = 0
            for name, batch in batches.items():
                forwards[name] = whole.take(slice(start, start + len(batch)), batch)
                start += len(batch)
            return forwards
        for name, batch in batches.items():
            forwards[name] = Forward(self.context, batch, self.phase.precision, forwards, with_features=name in self.features)
        return forwards

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
        finite = [torch.isfinite(value).all() for value in self.context.model.state_dict().values() if value.is_floating_point()]
        if not parallel.agreed(bool(torch.stack(finite).all())):
            self._diverged(self.result.steps, "weights")

    def _diverged(self, step: int, term: str) -> None:
        if self.gauges is not None:
            self.gauges.end_epoch(self.result.steps)
        self.good.restore(self.context.model)
        raise Diverged(step, term, self.good_name)

    # Modes

    def _set_modes(self) -> None:
        model, phase = self.context.model, self.phase
        model.train()
        moving = {id(parameter) for parameter in self.parameters.values()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in moving)
        alone = all(map(self.context.is_forgotten, self.reading.streams.values()))
        policy = phase.norm or ("frozen" if alone else "train")
        fixed = frozen_names(phase.mask) if phase.mask else set()
        movable = {layer_of(name) for name in self.parameters if name not in fixed}
        for module in norms_apart_from(model, movable) if policy != "frozen" else filter(is_norm, model.modules()):
            module.eval()


def _distinct(labels: Sequence[str]) -> list[str]:
    """Return the labels, those that were there before with a number."""
    return [label if (seen := labels[:place].count(label)) == 0 else f"{label} ({seen + 1})" for place, label in enumerate(labels)]


_SELECTED = "selected/"


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _weight(weight: Weight, progress: Progress) -> float:
    return weight(progress) if callable(weight) else weight


def _movable(model: nn.Module, trainable: frozenset[str] | None) -> dict[str, nn.Parameter]:
    named = {base_name(name): parameter for name, parameter in model.named_parameters()}
    if trainable is not None:
        missing = trainable - named.keys()
        if missing:
            raise ValueError(f"no parameter is called {sorted(missing)[0]!r}")
        return {name: parameter for name, parameter in named.items() if name in trainable}
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}


def _leaf_mask(model: nn.Module, mask: Mask | None, parameters: Mapping[str, nn.Parameter]) -> Mask:
    """Return the part of a mask that acts on moving leaves; entries of ones cost nothing and are left out."""
    if mask is None:
        return {}
    unknown = mask.keys() - leaves(model).keys()
    if unknown:
        raise ValueError(f"the mask names {sorted(unknown)[0]!r}, which is no parameter of the model")
    return {name: value for name, value in mask.items() if name in parameters and bool((value != 1).any())}


def _hand_to_adapters(model: nn.Module, mask: Mask | None) -> None:
    """Give the mask to reparametrisations that carry an update of their own (LoRA). They keep it until they are merged."""
    for name, value in (mask or {}).items():
        owner, attribute = owner_of(model, name)
        if parametrize.is_parametrized(owner, attribute):
            for adapter in getattr(owner, "parametrizations")[attribute]:  # noqa: B009 - typed as a module otherwise
                if hasattr(adapter, "mask"):
                    adapter.mask = value


def _grad(loss: Tensor, parameters: list[nn.Parameter], retain: bool = False) -> Gradients:
    found = torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True)
    return [torch.zeros_like(p) if g is None else _laid_out_like(p, g) for p, g in zip(parameters, found, strict=True)]


def _laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient in the parameter's memory layout, as ``backward`` does; optimisers and norms are slow on mixed ones."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
