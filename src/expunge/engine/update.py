"""From a gradient to a step: optimisers, schedules, sharpness-aware perturbation, noise, averaging, mask enforcement."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.engine.combine import Gradients
from expunge.engine.context import Context
from expunge.engine.parameters import dot, norm
from expunge.engine.select import Mask
from expunge.engine.terms import Progress

Schedule = Callable[[Progress], float]
"""Factor of the learning rate for the next step."""


@dataclass(frozen=True)
class Optimizer:
    """Which optimiser, with what settings. Groups let parameters differ: ``scale(name, parameter)`` returns option overrides.

    Among them ``lr_factor`` multiplies ``lr``, whoever has chosen it.
    """

    kind: Literal["sgd", "adam", "adamw"]
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: Callable[[str, nn.Parameter], Mapping[str, Any]] | None = None
    decoupled_weight_decay: float = 0.0
    """Shrink the weights by ``lr * decay`` each step, outside momentum."""

    def make(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """Return the torch optimiser of these parameters; ``initial_lr`` of each group is what schedules multiply."""
        groups: dict[tuple[tuple[str, Any], ...], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            overrides = dict(self.scale(name, parameter)) if self.scale else {}
            if "lr_factor" in overrides:
                overrides["lr"] = self.lr * overrides.pop("lr_factor")
            groups.setdefault(tuple(sorted(overrides.items())), []).append(parameter)
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        made = kinds[self.kind]([{"params": part, **dict(key)} for key, part in groups.items()], lr=self.lr, **self.options)
        for group in made.param_groups:
            group["initial_lr"] = group["lr"]
        return made


def sgd(lr: float, momentum: float = 0.9, weight_decay: float = 5e-4, nesterov: bool = False, **rest: Any) -> Optimizer:
    """Return SGD with coupled weight decay, as the papers use it."""
    return Optimizer("sgd", lr, {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}, **rest)


def take_step(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Shrink the parameters by a decoupled weight decay, step, and drop the gradients; call it without recording gradients."""
    if decay:
        for group in optimizer.param_groups:
            torch._foreach_mul_(group["params"], 1 - group["lr"] * decay)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def adam(lr: float, weight_decay: float = 0.0) -> Optimizer:
    """Return Adam."""
    return Optimizer("adam", lr, {"weight_decay": weight_decay})


def adamw(lr: float, weight_decay: float = 0.01) -> Optimizer:
    """Return AdamW."""
    return Optimizer("adamw", lr, {"weight_decay": weight_decay})


def constant(progress: Progress) -> float:
    """Return 1."""
    return 1.0


def cosine(final: float = 0.0) -> Schedule:
    """Fall from 1 to ``final`` along half a cosine."""

    def factor(progress: Progress) -> float:
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress.fraction)))

    return factor


def linear(final: float = 0.0) -> Schedule:
    """Fall from 1 to ``final`` on a line."""
    return lambda progress: 1 + (final - 1) * min(1.0, progress.fraction)


def milestones(at: tuple[int, ...], gamma: float = 0.1) -> Schedule:
    """Multiply by ``gamma`` when each of these epochs begins (counted from 0)."""
    return lambda progress: gamma ** sum(progress.epoch >= epoch for epoch in at)


def warm_up(share: float, then: Schedule = constant) -> Schedule:
    """Rise linearly during the first share of the steps, then follow another schedule over the rest."""

    def factor(progress: Progress) -> float:
        rise = share * progress.total_steps
        if progress.step < rise:
            return (progress.step + 1) / max(1.0, rise)
        rest = Progress(int(progress.step - rise), max(1, int(progress.total_steps - rise)), progress.epoch, progress.epochs)
        return then(rest)

    return factor


def triangle(peak: float = 0.23, final: float = 0.07, start: float = 0.2) -> Schedule:
    """Rise from ``start`` to 1 at the share ``peak`` of the steps, then fall to ``final``, both on a line."""

    def factor(progress: Progress) -> float:
        done = min(1.0, progress.fraction)
        return start + (1 - start) * done / peak if done < peak else 1 + (final - 1) * (done - peak) / (1 - peak)

    return factor


Compute = Callable[[bool], Gradients]
"""Returns the combined gradients at the current weights, zero where a mask lets nothing move; True keeps running statistics."""
Perturb = Callable[[Context, list[nn.Parameter], Compute], Gradients]


@contextmanager
def _displaced(parameters: list[nn.Parameter], by: Gradients) -> Iterator[None]:
    """Move the weights, and put them back bit for bit."""
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        moving: list[Tensor] = [*parameters]
        torch._foreach_add_(moving, by)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def sam(rho: float = 0.05, adaptive: bool = False, eta: float = 0.0) -> Perturb:
    """Return sharpness-aware minimisation: the gradient at ``theta + rho g / ||g||``, applied at ``theta``.

    The second forward leaves BatchNorm's running statistics as they are, and what a mask freezes is not displaced.

    Args:
        rho: radius.
        adaptive: ASAM; with ``T = |theta| + eta`` the displacement is ``rho T^2 g / ||T g||``.
        eta: keeps weights near zero from standing still.

    Source: Foret et al., SAM, ICLR 2021, algorithm 1; Kwon et al., ASAM, ICML 2021, equation 9 and algorithm 1.
    """

    def perturb(context: Context, parameters: list[nn.Parameter], compute: Compute) -> Gradients:
        first = compute(False)
        sizes = [p.detach().abs() + eta for p in parameters] if adaptive else [torch.ones_like(g) for g in first]
        length = norm([size * g for size, g in zip(sizes, first, strict=True)])
        if not bool(length > 0):
            return first
        with _displaced(parameters, [(rho / length * size.square() * g).to(g.dtype) for size, g in zip(sizes, first, strict=True)]):
            return compute(True)

    return perturb


def second_order_sam(rho: float = 0.05, difference: float = 1e-2) -> Perturb:
    """Return SAM with the derivative of its ascent: the full gradient of ``L(theta + rho g / ||g||)``, at ``theta``.

    With ``g2`` the gradient at the displaced weights and ``v = g2 - (g.g2) g / ||g||^2`` it is ``g2 + rho / ||g|| H v``. The product with
    the Hessian is a forward difference of gradients at ``theta``, a third pass, in which layers draw the random numbers of the first.

    Args:
        rho: radius.
        difference: length of the step of the difference, in weights.

    Source: the derivative that Foret et al., SAM, ICLR 2021, section 2, leave out; SO_SAM of the constrained unlearning project.
    """

    def perturb(context: Context, parameters: list[nn.Parameter], compute: Compute) -> Gradients:
        drawn = _random_state(context.device)
        first = compute(False)
        length = norm(first)
        if not bool(length > 0):
            return first
        with _displaced(parameters, [(rho / length * g).to(g.dtype) for g in first]):
            second = compute(True)
        along = dot(first, second) / length**2
        across = [(g2 - along * g).to(g2.dtype) for g, g2 in zip(first, second, strict=True)]
        size = norm(across)
        if not bool(size > 0):
            return second
        with _displaced(parameters, [(difference / size * v).to(v.dtype) for v in across]), _drawing_again(context.device, drawn):
            third = compute(True)
        factor = rho / length * size / difference
        return [(g2 + factor * (g3 - g)).to(g2.dtype) for g, g2, g3 in zip(first, second, third, strict=True)]

    return perturb


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _drawing_again(device: torch.device, state: Tensor) -> Iterator[None]:
    """Draw the random numbers inside from an earlier state, and go on from the present one afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield


@dataclass(frozen=True)
class Step:
    """What an after-step rule may see: the context, the parameters that move by name, where the phase is, and its own state."""

    context: Context
    parameters: Mapping[str, nn.Parameter]
    progress: Progress
    state: dict[str, Tensor]
    lr: float


AfterStep = Callable[[Step], None]
"""Changes the weights after the optimiser; masks are enforced after it."""


def noise(deviation: float) -> AfterStep:
    """Add N(0, deviation^2) to every moving parameter after each step."""

    def add(step: Step) -> None:
        made = step.context.generator("step noise", step.context.phase, step.progress.step)
        for parameter in step.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=made, device=parameter.device), alpha=deviation)

    return add


def lookahead(every: int, decay: Callable[[Progress], float]) -> AfterStep:
    """Pull the weights to their running average: every few steps ``a <- d a + (1 - d) theta; theta <- a``, buffers included."""

    def average(step: Step) -> None:
        if (step.progress.step + 1) % every:
            return
        share = decay(step.progress)
        values = {name: value for name, value in step.context.model.state_dict().items() if value.is_floating_point()}
        for name, value in values.items():
            key = f"average/{name}"
            if key not in step.state:
                step.state[key] = value.clone()
            step.state[key].lerp_(value, 1 - share)
            value.copy_(step.state[key])

    return average


_AVERAGE = "mean/"


def running_average(decay: float) -> tuple[AfterStep, AfterStep]:
    """Return the rule that follows weights and buffers by their average after each step, and the rule that takes the average at the end.

    The first ``1 / (1 - decay)`` steps count the same, so that a short phase is not drawn to where it began.
    """

    def follow(step: Step) -> None:
        share = min(decay, step.progress.step / (step.progress.step + 1))
        for name, value in step.context.model.state_dict().items():
            if value.is_floating_point():
                key = _AVERAGE + name
                step.state[key] = value.clone() if key not in step.state else step.state[key].lerp(value, 1 - share)

    def take(step: Step) -> None:
        for name, value in step.context.model.state_dict().items():
            if _AVERAGE + name in step.state:
                value.copy_(step.state[_AVERAGE + name])

    return follow, take


@torch.no_grad()
def enforce(mask: Mask, before: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Set ``theta = before + mask * (theta - before)``, exactly ``theta`` at one and ``before`` at zero, and clear the state at zero.

    Acting on the realised update instead of the gradient keeps weight decay, momentum and noise from leaking through.
    """
    for name, old in before.items():
        parameter, factor = parameters[name], mask[name]
        frozen, free = factor == 0, factor == 1
        moved = torch.where(free, parameter, old + factor * (parameter - old))
        parameter.copy_(torch.where(frozen, old, moved))
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.masked_fill_(frozen, 0)
