"""Models of one architecture as one function of stacked weights, with BatchNorm's running statistics followed outside of it."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from expunge.engine.norms import layer_of, norms_apart_from
from expunge.engine.parameters import is_norm
from expunge.engine.stream import Stream, scoring_size

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def norm_refusal(model: nn.Module) -> str | None:
    """Return which norm layer keeps statistics that cannot be followed for many models at once; None if there is none such."""
    for name, module in model.named_modules():
        if is_norm(module) and (type(module) not in _NORMS or module.momentum is None):
            return f"its layer {name} ({type(module).__name__}) keeps running statistics in a way of its own"
    return None


class StackedNet:
    """Models of one architecture as one function of stacked weights.

    Args:
        models: on one device, their parameters marked by whether they move. Weights and buffers are copied.

    Attributes:
        moving: stacked parameters that are trained, ``[M, ...]`` by name.
        fixed: stacked parameters that are not.
        buffers: stacked buffers.
    """

    def __init__(self, models: Sequence[nn.Module]):
        parameters, self.buffers = stack_module_state(list(models))  # type: ignore[arg-type]
        single = dict(models[0].named_parameters())
        self.moving = {name: value for name, value in parameters.items() if single[name].requires_grad}
        self.fixed = {name: value.detach() for name, value in parameters.items() if not single[name].requires_grad}
        self.template = copy.deepcopy(models[0])
        _set_modes(self.template, set(self.moving))
        self.statistics: list[tuple[str, float]] = []
        self.norms = _replace_norms(self.template, self.statistics)
        self.seen: list[tuple[str, float]] = []

    def __call__(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return logits ``[M, B, C]`` of the models in training mode, and bring running statistics up to date.

        Args:
            x: each model's own batch, ``[M, B, ...]``.
            weights: 1 for an example and 0 for padding, ``[M, B]``; None where nothing is padded.
        """
        forward = vmap(self._one, in_dims=(0, 0, 0, None if weights is None else 0))
        logits, statistics = forward({**self.moving, **self.fixed}, self.buffers, x, weights)
        self._follow(statistics)
        return logits

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, weights: Tensor | None) -> tuple[Tensor, Any]:
        found: list[tuple[Tensor, Tensor]] = []
        self.statistics.clear()
        for norm in self.norms:
            norm.weights, norm.found = weights, found
        logits = functional_call(self.template, (parameters, buffers), (x,))
        self.seen = list(self.statistics)
        for norm in self.norms:
            norm.weights, norm.found = None, []
        return logits, found

    @torch.no_grad()
    def _follow(self, statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Do to the running statistics what BatchNorm does: ``r <- (1 - momentum) r + momentum s``, with the unbiased variance."""
        for (name, momentum), (mean, variance) in zip(self.seen, statistics, strict=True):
            self.buffers[f"{name}.running_mean"].mul_(1 - momentum).add_(mean, alpha=momentum)
            self.buffers[f"{name}.running_var"].mul_(1 - momentum).add_(variance, alpha=momentum)
            self.buffers[f"{name}.num_batches_tracked"].add_(1)

    def state(self) -> dict[str, Tensor]:
        """Return all stacked weights and buffers by name."""
        return {**self.moving, **self.fixed, **self.buffers}

    @torch.no_grad()
    def finite(self) -> Tensor:
        """Return which models hold finite numbers only, bool ``[M]``."""
        floating = [value for value in self.state().values() if value.is_floating_point()]
        return torch.stack([torch.isfinite(value.reshape(len(value), -1)).all(1) for value in floating]).all(0)

    @torch.no_grad()
    def write_back(self, models: Sequence[nn.Module]) -> None:
        """Copy weights and buffers into the models."""
        stacked = self.state()
        for number, model in enumerate(models):
            own = dict(model.named_parameters()) | dict(model.named_buffers())
            for name, value in stacked.items():
                own[name].copy_(value[number])


def _set_modes(template: nn.Module, moving: set[str]) -> None:
    """Train, but leave norm layers in which nothing can move as they are; what the engine does for a phase over training data."""
    template.train()
    for module in norms_apart_from(template, {layer_of(name) for name in moving}):
        module.eval()


def _replace_norms(template: nn.Module, statistics: list[tuple[str, float]]) -> "list[FunctionalBatchNorm]":
    """Put a norm layer that changes nothing in place where each BatchNorm in training mode stands."""
    made = []
    for name, module in list(template.named_modules()):
        if is_norm(module) and module.training:
            functional = FunctionalBatchNorm(module, name, statistics)
            owner, _, attribute = name.rpartition(".")
            setattr(template.get_submodule(owner), attribute, functional)
            made.append(functional)
    return made


class FunctionalBatchNorm(nn.Module):
    """BatchNorm in training mode that hands out the statistics of its batch instead of writing them into its buffers.

    Args:
        norm: the layer whose parameters and buffers it has, under the same names.
        name: of the layer in the model.
        order: where it notes its name and momentum at each call.
    """

    weights: Tensor | None = None
    """1 for an example and 0 for padding, ``[B]``; None where nothing is padded."""
    weight: Tensor | None
    bias: Any
    found: list[tuple[Tensor, Tensor]]
    """Where it puts mean and unbiased variance, ``[channels]`` each."""

    def __init__(self, norm: Any, name: str, order: list[tuple[str, float]]):
        super().__init__()
        self.title, self.order, self.eps, self.momentum = name, order, norm.eps, norm.momentum
        self.register_parameter("weight", norm.weight)
        self.register_parameter("bias", norm.bias)
        for buffer, value in norm.named_buffers(recurse=False):
            self.register_buffer(buffer, value)
        self.found = []

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` normalised over the examples of the batch and all places, ``[B, channels, ...]``."""
        self.order.append((self.title, self.momentum))
        count = x.numel() // x.shape[1]
        if self.weights is not None:
            return self._padded(x, self.weights, count // len(x))
        if count < 2:
            raise ValueError(f"BatchNorm needs more than one value for each channel in training, got a batch of {len(x)}")
        out, mean, inverse = torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps)
        variance = inverse.detach() ** -2 - self.eps
        self.found.append((mean.detach(), variance * (count / (count - 1))))
        return out

    def _padded(self, x: Tensor, weights: Tensor, places: int) -> Tensor:
        axes, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        weights = weights.to(x.dtype)
        weights, count = weights.view(-1, *[1] * (x.dim() - 1)), weights.sum() * places
        mean = (x * weights).sum(axes) / count
        centred = x - mean.view(shape)
        variance = (centred.square() * weights).sum(axes) / count
        self.found.append((mean.detach(), (variance * (count / (count - 1))).detach()))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        return out if self.weight is None else out * self.weight.view(shape) + self.bias.view(shape)


@torch.no_grad()
def outputs_together(models: Sequence[nn.Module], stream: Stream, size: int = 0) -> Tensor:
    """Return the logits of a stream's examples from all models in one pass, float32 ``[M, n, C]`` on the CPU: evaluation mode."""
    template = copy.deepcopy(models[0]).eval()
    parameters, buffers = stack_module_state(list(models))  # type: ignore[arg-type]

    def one(own: dict[str, Tensor], kept: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(template, (own, kept), (x,))

    every = vmap(one, in_dims=(0, 0, None))
    batches = stream.batches(scoring_size(template, size))
    return torch.cat([every(parameters, buffers, batch.x).float().cpu() for batch in batches], dim=1)
