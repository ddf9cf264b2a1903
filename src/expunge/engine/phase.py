"""Phase and `run_phase`: the only optimiser step in the package."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expunge.engine import randomness
from expunge.engine.combine import Combiner, Gradients
from expunge.engine.context import Context
from expunge.engine.parameters import (
    Snapshot,
    base_name,
    effective,
    is_adapter,
    is_norm,
    leaves,
    modes_kept,
    owner_of,
    running_statistics_kept,
)
from expunge.engine.select import Mask, frozen_names
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward, Penalty, Progress, Term, Weight
from expunge.engine.update import AfterStep, Optimizer, Perturb, Schedule, Step, constant, enforce, sgd
from expunge.errors import BadInput, Diverged

Order = Literal["zip", "sequential", "interleave", "mixed"]
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
        self.streams = _streams(context, self.terms)
        for name in [name for term in self.terms for name in term.uses]:
            if name not in self.streams:
                self.streams[name] = context.stream(name)
        _check_streams(phase, self.streams)
        self.labels = dict(zip(map(id, phase.terms), _distinct([term.label for term in phase.terms]), strict=True))
        self.parameters = _movable(context.model, phase.trainable)
        self.mask = _leaf_mask(context.model, phase.mask, self.parameters)
        self.optimizer = phase.optimizer.make(self.parameters)
        self.features = {term.stream_name for term in self.terms if term.features} | {
            name for term in self.terms if term.features for name in term.uses
        }
        self.rule_state: dict[str, Tensor] = {}
        self.result = PhaseResult()
        self.steps_per_epoch = self._steps_per_epoch()
        self.total_steps = phase.epochs * self.steps_per_epoch
        if phase.steps is not None:
            self.total_steps = min(phase.steps, self.total_steps)
        self.pending: list[tuple[int, str, Tensor, int]] = []
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def run(self) -> PhaseResult:
        """Run all epochs."""
        self._set_modes()
        found = self.checkpoints.load(self.context, self.optimizer, self.rule_state)
        if found is not None:
            self.result = found
        self.good, self.good_name = Snapshot(self.context.model), self._where()
        with _effective_masks(self.context.model, self.phase.mask):
            while not self._done():
                self._epoch()
                self.good, self.good_name = Snapshot(self.context.model), self._where()
                self._select()
                if not self.phase.stop_every:
                    self._ask_to_stop()
                self.checkpoints.save(self.context, self.optimizer, self.rule_state, self.result)
        if self.result.selected_epoch is not None:
            Snapshot.of(_within(self.rule_state, _SELECTED)).restore(self.context.model)
        if self.phase.norm == "recalibrate":
            self._recalibrate()
        return self.result

    def _done(self) -> bool:
        return self.result.stopped or self.result.epochs >= self.phase.epochs or self.result.steps >= self.total_steps

    def _select(self) -> None:
        """Keep the weights of the best epoch among the rules' state, so that a phase that is resumed still knows them."""
        if self.phase.select is None:
            return
        score = float(self._ask(self.phase.select))
        score = math.inf if math.isnan(score) else score
        if "best score" not in self.rule_state or score < float(self.rule_state["best score"]):
            self.rule_state["best score"] = torch.tensor(score, dtype=torch.float64)
            self.rule_state.update({_SELECTED + name: value for name, value in self.good.state.items()})
            self.result.selected_epoch = self.result.epochs

    def _ask_to_stop(self) -> None:
        if self.phase.stop is not None:
            self.result.stopped = bool(self._ask(self.phase.stop, self._progress()))

    def _recalibrate(self) -> None:
        streams = [stream for stream in self.streams.values() if not self.context.is_forgotten(stream)] or list(self.streams.values())
        norms = [module for module in self.context.model.modules() if is_norm(module) and module.training]
        recalibrate(self.context, streams, _size(self.phase, next(iter(self.streams))), norms)

    def _epoch(self) -> None:
        """Run one epoch, or less if the stop rule ends it."""
        torch.manual_seed(randomness.derive(self.context.seed, "torch", self.context.phase, self.result.epochs))
        self.sums, self.counts = {}, {}
        for batches in self._batches(self.result.epochs):
            self._step(batches)
            if self.phase.stop_every and self.result.steps % self.phase.stop_every == 0:
                self._check()
                self._ask_to_stop()
            if self.result.stopped or self.result.steps >= self.total_steps:
                break
        self._check()
        self._check_weights()
        self.result.epochs += 1
        losses = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.result.losses.append(losses)
        self.context.report(
            {
                "event": "epoch",
                "phase": self.context.phase,
                "name": self.phase.name,
                "epoch": self.result.epochs,
                "epochs": self.phase.epochs,
                "losses": losses,
            }
        )

    def _ask(self, rule: Callable[..., Any], *arguments: Any) -> Any:
        with modes_kept(self.context.model), torch.no_grad():
            self.context.model.eval()
            return rule(self.context, *arguments)

    def _progress(self) -> Progress:
        return Progress(self.result.steps, int(self.total_steps), self.result.epochs, self.phase.epochs)

    def _where(self) -> str:
        return f"after epoch {self.result.epochs} of phase {self.context.phase}"

    # Batches

    def _steps_per_epoch(self) -> int:
        sizes = {name: stream.steps(_size(self.phase, name)) for name, stream in self.streams.items()}
        if self.phase.order == "sequential":
            return sum(sizes[name] for name in self._own_streams())
        if self.phase.order == "mixed":
            return -(-sum(map(len, self.streams.values())) // _size(self.phase, next(iter(self.streams))))
        leader = sizes[self._leader()]
        return leader * len(self._own_streams()) if self.phase.order == "interleave" else leader

    def _own_streams(self) -> list[str]:
        return list(dict.fromkeys(term.stream_name for term in self.terms))

    def _leader(self) -> str:
        return self.phase.epoch_of or max(self.streams, key=lambda name: self.streams[name].steps(_size(self.phase, name)))

    def _read(self, name: str, epoch: int) -> Iterator[Batch]:
        seed = randomness.derive(self.context.seed, "batches", self.context.phase)
        return self.streams[name].batches(_size(self.phase, name), seed=seed, epoch=epoch, shuffle=True, augment=self.phase.augment)

    def _cycle(self, name: str, start: int) -> Iterator[Batch]:
        """Yield batches for ever; ``start`` is the first pass, so that an epoch never depends on the epochs before it."""
        for epoch in itertools.count(start):
            yield from self._read(name, epoch)

    def _batches(self, epoch: int) -> Iterator[dict[str, Batch]]:
        if self.phase.order == "sequential":
            for name in self._own_streams():
                for batch in self._read(name, epoch):
                    yield {name: batch}
            return
        if self.phase.order == "mixed":
            yield from self._mixed(epoch)
            return
        leader = self._leader()
        others = {}
        for name, stream in self.streams.items():
            if name != leader:
                passes = -(-self.streams[leader].steps(_size(self.phase, leader)) // stream.steps(_size(self.phase, name)))
                others[name] = self._cycle(name, epoch * passes)
        for batch in self._read(leader, epoch):
            step = {name: batch if name == leader else next(others[name]) for name in self.streams}
            if self.phase.order == "zip":
                yield step
            else:
                yield from ({name: step[name]} for name in self._own_streams())

    def _mixed(self, epoch: int) -> Iterator[dict[str, Batch]]:
        """Yield shuffled batches over all streams, each split by stream."""
        owner = torch.cat([torch.full((len(stream),), number) for number, stream in enumerate(self.streams.values())])
        index = torch.cat([stream.index for stream in self.streams.values()])
        seed = randomness.derive(self.context.seed, "batches", self.context.phase)
        order = torch.argsort(randomness.bits(seed, "mixed/order", epoch, index), stable=True)
        for chunk in order.split(_size(self.phase, next(iter(self.streams)))):
            step = {}
            for number, (name, stream) in enumerate(self.streams.items()):
                part = index[chunk[owner[chunk] == number]]
                if len(part):
                    step[name] = next(stream.subset(part).batches(len(part), seed=seed, epoch=epoch, augment=self.phase.augment))
            yield step

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
        decay = self.phase.optimizer.decoupled_weight_decay
        if decay:
            for group in self.optimizer.param_groups:
                torch._foreach_mul_(group["params"], 1 - group["lr"] * decay)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for rule in self.phase.after_step:
            rule(Step(self.context, self.parameters, progress, self.rule_state, self.phase.optimizer.lr * factor))

    def _active(self, batches: dict[str, Batch]) -> list[Term]:
        """Return the terms that contribute to this step; with ``interleave`` each stream's own turns are counted."""
        turn = self.result.steps // (len(self._own_streams()) if self.phase.order == "interleave" else 1)
        return [term for term in self.terms if term.stream_name in batches and turn % term.every == 0]

    def _gradients(self, active: list[Term], batches: dict[str, Batch], progress: Progress, record: bool) -> Gradients:
        losses = self._losses(active, batches, progress)
        if record:
            self.pending += [(self.result.steps + 1, part.label, part.mean, part.examples) for part in losses]
        groups: dict[str, Tensor] = {}
        for part in losses:
            groups[part.group] = groups.get(part.group, 0) + part.weight * part.value
        moving = list(self.parameters.values())
        if self.phase.combine is None:
            return _grad(sum(groups.values()), moving)
        parts = {}
        for position, (group, value) in enumerate(groups.items()):
            parts[group] = _grad(value, moving, retain=position < len(groups) - 1)
        return self.phase.combine(parts, self.rule_state)

    def _losses(self, active: list[Term], batches: dict[str, Batch], progress: Progress) -> list[_Part]:
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
        return found

    def _forwards(self, batches: dict[str, Batch]) -> dict[str, Forward]:
        forwards: dict[str, Forward] = {}
        if self.phase.order == "mixed" and len(batches) > 1:
            parts = list(batches.values())
            joint = Batch(*(torch.cat([getattr(part, key) for part in parts]) for key in ("x", "y", "index")), "mixed")
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
        numbers = torch.stack([value for _, _, value, _ in flat]).tolist()
        for (step, label, _, examples), number in zip(flat, numbers, strict=True):
            if not math.isfinite(number):
                self._diverged(step, label)
            self.sums[label] = self.sums.get(label, 0.0) + number * examples
            self.counts[label] = self.counts.get(label, 0) + examples

    def _check_weights(self) -> None:
        finite = [torch.isfinite(value).all() for value in self.context.model.state_dict().values() if value.is_floating_point()]
        if not bool(torch.stack(finite).all()):
            self._diverged(self.result.steps, "weights")

    def _diverged(self, step: int, term: str) -> None:
        self.good.restore(self.context.model)
        raise Diverged(step, term, self.good_name)

    # Modes

    def _set_modes(self) -> None:
        model, phase = self.context.model, self.phase
        model.train()
        moving = {id(parameter) for parameter in self.parameters.values()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in moving)
        alone = all(map(self.context.is_forgotten, self.streams.values()))
        policy = phase.norm or ("frozen" if alone else "train")
        fixed = frozen_names(phase.mask) if phase.mask else set()
        movable = {_layer(name) for name in self.parameters if name not in fixed}
        for module in _norms_apart_from(model, movable) if policy != "frozen" else filter(is_norm, model.modules()):
            module.eval()


def _layer(name: str) -> str:
    """Return the layer to which a parameter belongs, or which its adapter changes."""
    if is_adapter(name):
        return f".{name}".partition(".parametrizations.")[0].removeprefix(".")
    return base_name(name).rpartition(".")[0]


def _norms_apart_from(model: nn.Module, movable: set[str]) -> Iterator[nn.Module]:
    """Yield the norm layers that cannot change; one without weights of its own goes with the layer before it."""
    layers = [_layer(name) for name, _ in model.named_parameters()]
    moves = bool(layers) and layers[0] in movable
    for name, module in model.named_modules():
        if name in layers:
            moves = name in movable
        if is_norm(module) and not moves:
            yield module


def _streams(context: Context, terms: list[Term]) -> dict[str, Stream]:
    streams: dict[str, Stream] = {}
    for term in terms:
        stream = context.stream(term.stream)
        if streams.setdefault(term.stream_name, stream) is not stream:
            raise ValueError(f"two different streams are called {term.stream_name!r}")
    return streams


def _check_streams(phase: Phase, streams: Mapping[str, Stream]) -> None:
    if not streams:
        raise ValueError("a phase needs at least one term on a stream")
    for name, stream in streams.items():
        if not len(stream):
            raise BadInput(name, "the stream holds no example.", "Choose a request that leaves some, or another method.")
        if _size(phase, name) < 1:
            raise ValueError(f"a batch of {name!r} must hold at least one example, got {_size(phase, name)}")
    if phase.epoch_of is not None and phase.epoch_of not in streams:
        raise ValueError(f"epoch_of={phase.epoch_of!r} is none of the phase's streams: {sorted(streams)}")


def _distinct(labels: Sequence[str]) -> list[str]:
    """Return the labels, those that were there before with a number."""
    return [label if (seen := labels[:place].count(label)) == 0 else f"{label} ({seen + 1})" for place, label in enumerate(labels)]


_SELECTED = "selected/"


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _size(phase: Phase, name: str) -> int:
    return phase.batch_size if isinstance(phase.batch_size, int) else phase.batch_size[name]


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


class _effective_masks:  # noqa: N801 - a context manager reads better in lower case
    """Hand the mask to reparametrisations that carry an update of their own (LoRA), for the time of a phase."""

    def __init__(self, model: nn.Module, mask: Mask | None):
        self.model, self.mask, self.touched = model, mask or {}, []

    def __enter__(self) -> None:
        for name, value in self.mask.items():
            owner, attribute = owner_of(self.model, name)
            if parametrize.is_parametrized(owner, attribute):
                for adapter in owner.parametrizations[attribute]:
                    if hasattr(adapter, "mask"):
                        adapter.mask = value
                        self.touched.append(adapter)

    def __exit__(self, *error: object) -> None:
        pass  # the mask stays until the adapter is merged, else the merge would lift it


def _grad(loss: Tensor, parameters: list[nn.Parameter], retain: bool = False) -> Gradients:
    found = torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True)
    return [torch.zeros_like(p) if g is None else _laid_out_like(p, g) for p, g in zip(parameters, found, strict=True)]


def _laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient in the parameter's memory layout, as ``backward`` does; optimisers and norms are slow on mixed ones."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


@torch.no_grad()
def recalibrate(context: Context, streams: Sequence[Stream], size: int = 256, norms: Sequence[nn.Module] | None = None) -> None:
    """Replace the running statistics of norm layers (all by default) by the average over whole streams, in place.

    Batches are weighted equally, as with BatchNorm's ``momentum=None``.
    """
    norms = list(filter(is_norm, context.model.modules())) if norms is None else norms
    before = [module.momentum for module in norms]
    with modes_kept(context.model):
        context.model.eval()
        try:
            for module in norms:
                module.reset_running_stats()
                module.momentum = None
                module.train()
            for stream in streams:
                for batch in stream.batches(size, seed=context.seed, shuffle=True):
                    context.model(batch.x)
        finally:
            for module, momentum in zip(norms, before, strict=True):
                module.momentum = momentum
