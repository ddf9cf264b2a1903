"""A model whose passes are divided among ranks, and that nobody who calls it can tell from a whole one.

On every rank the caller gives the whole batch and gets the whole output, and derivatives of whatever is made of it are whole. Inside, a
rank passes its own rows alone. Four pairs of operations, each the derivative of the other, do that (after Shoeybi et al., Megatron-LM,
2019, arXiv 1909.08053, section 3): parameters *enter* unchanged and their gradients are *summed*; inputs are cut to the own rows and
gradients are *gathered*; outputs are gathered and gradients cut. A combiner, a penalty or a second derivative needs nothing of its own:
every gradient that leaves the model is already that of the whole batch, term by term. BatchNorm normalises by the whole batch.

What cannot be divided is done whole on every rank, with the same result: batches of fewer examples than ranks, calls with other arguments
than one tensor, function transforms (vmap, jvp), and passes that somebody watches from inside by hooks.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from expunge.engine import parallel
from expunge.engine.parameters import at_least_single, is_norm, modes_kept, running_statistics_kept
from expunge.errors import BadInput

passes: Counter[str] = Counter()
"""How many passes of this process were ``divided`` and how many were done ``whole`` on every rank."""
_regions: list[slice] = []
"""The own rows of the pass that is running, and how many rows there are in all (``step``): empty outside of one."""


def divide(model: nn.Module) -> nn.Module:
    """Divide a model's passes from now on, in place: its class gets a forward around its own. Copies of it are divided as well."""
    if parallel.ranks() > 1 and not isinstance(model, Divided):
        kind = type(model)
        if kind not in _CLASSES:
            _CLASSES[kind] = type(kind.__name__, (Divided, kind), {"__module__": kind.__module__})
        model.__class__ = _CLASSES[kind]
    return model


_CLASSES: dict[Any, Any] = {}


class Divided(nn.Module):
    """What `divide` puts in front of a model's class. Names, parameters and buffers are the model's own."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the whole output for the whole batch."""
        if parallel.ranks() == 1 or _regions:
            return super().forward(*inputs, **named)
        if named or not _divisible(self, inputs):
            passes["whole"] += 1
            return super().forward(*inputs, **named)
        passes["divided"] += 1
        return self._divided_forward(inputs[0])

    def _divided_forward(self, x: Tensor) -> Tensor:
        with ExitStack() as inside:
            inside.enter_context(_region(len(x)))
            if torch.is_grad_enabled():
                inside.enter_context(_entered(self))
            if self.training:
                inside.enter_context(_own_draws(x.device))
            if any(is_norm(module) and module.training for module in self.modules()):
                inside.enter_context(_NormOverRanks())
            return gathered(super().forward(_Cut.apply(x, _regions[-1])))


def _divisible(model: nn.Module, inputs: Sequence[Any]) -> bool:
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].dim() or len(inputs[0]) < parallel.ranks():
        return False
    return not torch._C._are_functorch_transforms_active() and not _watched(model)


def _watched(model: nn.Module) -> bool:
    """Return whether hooks inside the model would see the own rows alone; those that gather what they see are marked ``gathers``."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    inside = (module for module in model.modules() if module is not model)
    return any(not hasattr(hook, "gathers") for module in inside for kind in kinds for hook in getattr(module, kind).values())


@contextmanager
def _region(count: int) -> Iterator[None]:
    own = parallel.share(count)
    _regions.append(slice(own.start, own.stop, count))
    try:
        yield
    finally:
        _regions.pop()


@contextmanager
def _entered(model: nn.Module) -> Iterator[None]:
    """Let layers compute with tensors that stand for their parameters, and whose gradients are summed over ranks."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        yield
        return
    standing = dict(zip(map(id, parameters), _Enter.apply(*parameters), strict=True))
    held = [
        (module._parameters, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in standing
    ]
    for place, name, parameter in held:
        place[name] = standing[id(parameter)]
    try:
        yield
    finally:
        for place, name, parameter in held:
            place[name] = parameter


@contextmanager
def _own_draws(device: torch.device) -> Iterator[None]:
    """Let layers that draw random numbers draw others on each rank, and advance what is drawn from afterwards alike on all."""
    before = _random_state(device)
    _seed(device, parallel.seed_of(before))
    started = _random_state(device)
    try:
        yield
    finally:
        drew = not torch.equal(started, _random_state(device))
        _set_random_state(device, before)
        if drew:
            torch.rand((), device=device)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _seed(device: torch.device, seed: int) -> None:
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


# The pairs of operations


def gathered(rows: Tensor) -> Tensor:
    """Return all rows for a rank's own ones, inside a divided pass; outside of one they are all there."""
    if not _regions:
        return rows
    own = _regions[-1]
    if not isinstance(rows, Tensor) or not rows.dim() or len(rows) != own.stop - own.start:
        raise BadInput("model", "what it returns has not one row for each example, so that its passes cannot be divided among ranks.")
    return _Gather.apply(rows, own)  # type: ignore[no-any-return]


class _Enter(torch.autograd.Function):
    """Parameters, as they are; their gradients are summed."""

    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        present = [gradient for gradient in gradients if gradient is not None]
        summed = iter(_Sum.apply(*present) if present else ())
        return tuple(None if gradient is None else next(summed) for gradient in gradients)


class _Sum(torch.autograd.Function):
    """The sums over ranks of tensors that each rank has a part of."""

    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        made = tuple(value.clone() for value in values)
        parallel.add_up(made)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        present = [gradient for gradient in gradients if gradient is not None]
        entered = iter(_Enter.apply(*present) if present else ())
        return tuple(None if gradient is None else next(entered) for gradient in gradients)


class _Cut(torch.autograd.Function):
    """A rank's own rows of a whole batch; gradients are gathered."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, own: slice) -> Tensor:
        ctx.own = own
        return values[own.start : own.stop]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradient, ctx.own), None


class _Gather(torch.autograd.Function):
    """All rows, of which each rank has its own; gradients are cut."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, own: slice) -> Tensor:
        ctx.own = own
        # Adding to zeros keeps every bit, and unequal shares need no padding; half precision has no sum on every backend.
        whole = torch.zeros(own.step, *rows.shape[1:], dtype=torch.promote_types(rows.dtype, torch.float32), device=rows.device)
        whole[own.start : own.stop] = rows
        dist.all_reduce(whole)
        return whole.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Cut.apply(gradient, ctx.own), None


class _SumInside(torch.autograd.Function):
    """The sum over ranks of what each has inside a divided pass, for use inside of it; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        made = value.clone()
        dist.all_reduce(made)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumInside.apply(gradient)  # type: ignore[no-any-return]


# BatchNorm


class _NormOverRanks(TorchFunctionMode):
    """Gives every `F.batch_norm` in train mode inside, whoever calls it, the statistics of the whole batch."""

    def __torch_function__(self, function: Any, types: Any, inputs: Any = (), named: Any = None) -> Any:
        named = named or {}
        if function is F.batch_norm and named.get("training"):
            return batch_norm(*inputs, **{name: value for name, value in named.items() if name != "training"})
        return function(*inputs, **named)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return own rows ``[b, C, ...]`` normalised by mean and variance over the rows of all ranks, and follow these.

    Each rank brings its mean and the sum of squares around it, which join without cancellation.

    Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979, equation 2.1.
    """
    own = _regions[-1]
    values = at_least_single(x)
    across = [0, *range(2, x.dim())]
    each = values[0, 0].numel()  # positions of a channel in one example
    shape = [1, -1, *[1] * (x.dim() - 2)]
    anchor = values.detach()[0].reshape(x.shape[1], -1)[:, 0]  # so that the mean of a channel of equal values is that value, exactly
    around = values - anchor.view(shape)
    mean = around.mean(across)
    squares = (around - mean.view(shape)).square().sum(across)
    mine = (torch.arange(parallel.ranks(), device=x.device) == parallel.rank()).to(values.dtype)
    table = _SumInside.apply(mine.view(-1, 1, 1) * torch.stack([anchor + mean, squares]))
    counts = [each * (part.stop - part.start) for part in (parallel.share(own.step, of) for of in range(parallel.ranks()))]
    weights = torch.tensor(counts, dtype=values.dtype, device=x.device)[:, None]
    count, first = sum(counts), table[0, 0].detach()
    mean = first + (weights * (table[:, 0] - first)).sum(0) / count
    variance = (table[:, 1] + weights * (table[:, 0] - mean).square()).sum(0) / count
    _follow(running_mean, running_var, mean.detach(), variance.detach() * (count / max(1, count - 1)), momentum)
    scale = (variance + eps).rsqrt() if weight is None else weight.to(values.dtype) * (variance + eps).rsqrt()
    made = (values - mean.view(shape)) * scale.view(shape)
    if bias is not None:
        made = made + bias.to(values.dtype).view(shape)
    return made.to(x.dtype)


@torch.no_grad()
def _follow(running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, variance: Tensor, momentum: float) -> None:
    for running, new in ((running_mean, mean), (running_var, variance)):
        if running is not None:
            running.mul_(1 - momentum).add_(new.to(running.dtype), alpha=momentum)


# Trial

_TOLERANCE = 1e-2


def check(model: nn.Module, x: Tensor, modes: tuple[bool, ...] = (True, False)) -> None:
    """Compare a divided pass with a whole one, outputs and gradients, and leave the model as it is.

    Args:
        model: what will be divided; in train and in evaluation mode.
        x: a few examples, the same on all ranks.
        modes: train, evaluation, or both.

    Raises:
        BadInput: they differ: what the model says of one example depends on others by more than BatchNorm.
    """
    if parallel.ranks() == 1 or not isinstance(model, Divided):
        return
    for training in modes:
        with modes_kept(model), torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            model.train(training)
            with running_statistics_kept(model):
                whole, drew = _look(model, x, divided=False)
                if drew:  # layers that draw random numbers draw others on each rank, as they may
                    continue
                parts, _ = _look(model, x, divided=True)
        distance = max(float((a - b).norm() / a.norm().clamp_min(1e-6)) for a, b in zip(whole, parts, strict=True))
        if not parallel.agreed(distance < _TOLERANCE):
            found = f"a batch that is divided among {parallel.ranks()} ranks gives other numbers than a whole one ({distance:.1g} apart)."
            raise BadInput("model", found, "Use one process: what it says of one example depends on others by more than BatchNorm.")


def _look(model: nn.Module, x: Tensor, divided: bool) -> tuple[list[Tensor], bool]:
    """Return logits and the gradient of their squares, flat, and whether random numbers were drawn."""
    before = _random_state(x.device)
    with ExitStack() as inside:
        if not divided:
            inside.enter_context(parallel.alone())
        inside.enter_context(torch.enable_grad())
        logits = model(x)
        moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(at_least_single(logits).square().sum(), moving, allow_unused=True)
    flat = torch.cat([at_least_single(gradient.flatten()) for gradient in found if gradient is not None])
    return [at_least_single(logits.detach()), flat], not torch.equal(before, _random_state(x.device))
