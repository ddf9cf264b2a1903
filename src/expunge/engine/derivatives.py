"""Gradients over whole streams, Fisher information, Hessian-vector and influence products.

Everything runs in eval mode, so that BatchNorm uses its running statistics and no result depends on the batch size. Passes are
charged to the cost meter.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from expunge.engine import parallel, randomness
from expunge.engine.context import Context
from expunge.engine.parameters import Vector, at_least_single, leaves, modes_kept
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward, Loss, cross_entropy

FisherKind = Literal["empirical", "exact", "sampled"]


def jvp(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return value and directional derivative, like `torch.func.jvp`; attention is computed step by step, fused it has none."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), _unfused_encoders():
        # torch compiles its own forward-mode rules with the deprecated torch.jit.script on first use.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
        found: Any = torch.func.jvp(function, primals, tangents)
        return found


@contextmanager
def _unfused_encoders() -> Iterator[None]:
    """Keep `torch.nn.TransformerEncoderLayer` from its fused path of eval mode."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _scoring(context: Context) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Put the model in eval mode with all of its parameters but the fixed ones differentiable, and yield them by base name."""
    with modes_kept(context.model), torch.enable_grad():  # edits and rules run without gradients
        context.model.eval()
        parameters = _parameters(context)
        for parameter in context.model.parameters():
            parameter.requires_grad_(False)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield parameters


def gradient(
    context: Context, stream: str | Stream, loss: Loss = cross_entropy, *, reduction: Literal["mean", "sum"] = "sum", size: int = 256
) -> Vector:
    """Return the gradient of a per-example loss summed (or averaged) over a whole stream, by base name.

    The sum runs over examples, not over batch means: the result does not depend on ``size``.
    """
    chosen = context.stream(stream)
    with _scoring(context) as parameters:
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for batch in chosen.batches(size):
            value = loss(context, batch, Forward(context, batch)).sum()
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            for name, part in zip(parameters, found, strict=True):
                if part is not None:
                    total[name] += part
    if reduction == "mean":
        total = {name: value / len(chosen) for name, value in total.items()}
    return total


def _parameters(context: Context) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in leaves(context.model).items() if name not in context.fixed}


def _state(context: Context) -> tuple[Vector, Vector]:
    """Return what is differentiated, and everything else that a functional call needs."""
    model = context.model
    if any(hasattr(module, "parametrizations") for module in model.modules()):
        raise RuntimeError("per-example gradients need plain weights; merge the adapters first")
    values = {name: value.detach() for name, value in model.named_parameters()}
    rest = {name: value for name, value in values.items() if name in context.fixed}
    return {name: value for name, value in values.items() if name not in rest}, {**rest, **dict(model.named_buffers())}


def per_example_gradients(context: Context, batch: Batch, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy) -> Vector:
    """Return one gradient per example, ``[B, ...]`` by name, by vmap.

    Args:
        context: whose model, in eval mode.
        batch: the examples.
        loss: maps logits ``[1, C]`` and label ``[1]`` to a scalar.
    """
    parameters, buffers = _state(context)

    def single(values: Vector, x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(context.model, (values, buffers), (x[None],))
        return loss(at_least_single(logits), y[None])

    with modes_kept(context.model), context.cost.paused(), sdpa_kernel(SDPBackend.MATH):  # vmap knows no fused attention
        context.model.eval()
        found = vmap(grad(single), in_dims=(None, 0, 0))(parameters, batch.x, batch.y)
    context.cost.add(forward=len(batch), backward=len(batch))
    return found


def fisher_diagonal(
    context: Context, stream: str | Stream, kind: FisherKind = "empirical", *, labels: Tensor | None = None, size: int | None = None
) -> Vector:
    """Return the diagonal of the Fisher information, averaged over a stream, by base name.

    Squares are taken per example, so that the result does not depend on the batch size.

    Args:
        context: whose model.
        stream: examples.
        kind: ``empirical``: true labels, ``E_x (grad log p(y|x))^2``; ``exact``: ``E_x sum_y p(y|x) (grad log p(y|x))^2``, C backward
            passes; ``sampled``: one label drawn from the model for each example, unbiased for ``exact``.
        labels: unused labels to take instead, int64 ``[n]``, for ``empirical``.
        size: examples per vmap chunk; chosen by the model's size if None.
    """
    chosen = context.stream(stream) if labels is None else context.stream(stream).relabelled(labels)
    size = size or _chunk(context)
    total = {name: torch.zeros_like(value) for name, value in _parameters(context).items()}
    with parallel.apart(chosen, context.cost) as own:
        for batch in own.batches(size):
            for labelled, weight in _labelled(context, batch, kind):
                _add_squares(total, per_example_gradients(context, labelled), weight)
    parallel.add_up(total.values())
    return {name: value / len(chosen) for name, value in total.items()}


def _labelled(context: Context, batch: Batch, kind: FisherKind) -> Iterator[tuple[Batch, Tensor | None]]:
    """Yield the batch with the labels that a Fisher information takes, and with the weights of its examples."""
    if kind == "empirical":
        yield batch, None
        return
    with torch.no_grad(), modes_kept(context.model):
        context.model.eval()
        p = torch.softmax(at_least_single(context.model(batch.x)), dim=1)
    if kind == "sampled":
        u = randomness.uniform(context.seed, "fisher", 0, batch.index).to(p.dtype)
        yield Batch(batch.x, (p.cumsum(1) < u[:, None]).sum(1).clamp_max(p.shape[1] - 1), batch.index, batch.name), None
        return
    for label in range(p.shape[1]):
        yield Batch(batch.x, torch.full_like(batch.y, label), batch.index, batch.name), p[:, label]


def _add_squares(total: Vector, gradients: Vector, weight: Tensor | None = None) -> None:
    for name, value in gradients.items():
        square = value.square()
        if weight is not None:
            square *= weight.view(-1, *[1] * (value.dim() - 1))
        total[name] += square.sum(0)


def _chunk(context: Context) -> int:
    """Return a chunk that keeps per-example gradients within about 256 MB."""
    count = sum(parameter.numel() for parameter in context.model.parameters())
    return int(max(1, min(64, 64_000_000 // max(1, count))))


def batch_fisher(context: Context, stream: str | Stream, size: int = 32) -> Vector:
    """Return the published cheap stand-in for the exact Fisher diagonal; it depends on the batch size.

    For every class and batch it takes ``mean p(y|x)`` times the squared gradient of the *batch mean* loss, and averages over batches.

    Source: the ``fisher_new`` code of arXiv 2304.04934; kept for comparison with published tables.
    """
    chosen = context.stream(stream)
    with _scoring(context) as parameters:
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for batch in chosen.batches(size):
            logits = at_least_single(context.model(batch.x))
            p = torch.softmax(logits, dim=1).detach().mean(0)
            for label in range(logits.shape[1]):
                value = F.cross_entropy(logits, torch.full_like(batch.y, label))
                kept = label < logits.shape[1] - 1
                found = torch.autograd.grad(value, list(parameters.values()), retain_graph=kept, allow_unused=True)
                for name, part in zip(parameters, found, strict=True):
                    if part is not None:
                        total[name] += p[label] * part.square()
    return {name: value / chosen.steps(size) for name, value in total.items()}


Losses = Callable[[Vector], Tensor]
"""Maps parameters to the cross entropies of one batch, ``[B]``."""


def _batch_losses(context: Context, stream: Stream, size: int) -> Iterator[tuple[Batch, Losses]]:
    """Yield each batch with its losses as a function of the parameters, in eval mode; the cost meter rests inside."""
    _, rest = _state(context)
    with modes_kept(context.model):
        context.model.eval()
        for batch in stream.batches(size):

            def losses(values: Vector, batch: Batch = batch) -> Tensor:
                logits = at_least_single(functional_call(context.model, (values, rest), (batch.x,)))
                return F.cross_entropy(logits, batch.y, reduction="none")

            with context.cost.paused():
                yield batch, losses


def _mean_product(
    context: Context, stream: str | Stream, size: int, product: Callable[[Losses, Vector], Vector], *, forward: int, backward: int
) -> Vector:
    """Return the sum of a product over batches divided by the examples, and charge its passes."""
    chosen = context.stream(stream)
    parameters, _ = _state(context)
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    with parallel.apart(chosen, context.cost) as own:
        for _, losses in _batch_losses(context, own, size):
            for name, value in product(losses, parameters).items():
                total[name] += value
    parallel.add_up(total.values())
    context.cost.add(forward=forward * len(chosen), backward=backward * len(chosen))
    return {name: value / len(chosen) for name, value in total.items()}


def fisher_product(context: Context, stream: str | Stream, vector: Vector, size: int = 256) -> Vector:
    """Return ``F v`` for the empirical Fisher ``F = E g g^T``: two passes, ``g.v`` forward and the weighted gradient back."""

    def product(losses: Losses, parameters: Vector) -> Vector:
        _, slopes = jvp(losses, (parameters,), (vector,))

        def weighted(values: Vector) -> Tensor:
            return (losses(values) * slopes.detach()).sum()

        return grad(weighted)(parameters)

    return _mean_product(context, stream, size, product, forward=3, backward=1)


def hessian_product(context: Context, stream: str | Stream, vector: Vector, size: int = 256) -> Vector:
    """Return ``H v`` for the Hessian of the mean cross entropy over a stream, forward over reverse."""

    def product(losses: Losses, parameters: Vector) -> Vector:
        def total(values: Vector) -> Tensor:
            return losses(values).sum()

        return jvp(grad(total), (parameters,), (vector,))[1]

    return _mean_product(context, stream, size, product, forward=2, backward=2)


def conjugate_gradient(
    product: Callable[[Vector], Vector], right: Vector, *, iterations: int = 50, tolerance: float = 1e-5
) -> tuple[Vector, float]:
    """Return ``x`` with ``product(x) = right`` for a symmetric positive definite product, and the relative residual reached."""
    solution = {name: torch.zeros_like(value) for name, value in right.items()}
    residual = {name: value.clone() for name, value in right.items()}
    direction = {name: value.clone() for name, value in right.items()}
    start = power = _dot(residual, residual)
    if start == 0:
        return solution, 0.0
    for _ in range(iterations):
        image = product(direction)
        step = power / _dot(direction, image)
        for name in solution:
            solution[name] += step * direction[name]
            residual[name] -= step * image[name]
        new = _dot(residual, residual)
        if new <= tolerance**2 * start:
            power = new
            break
        for name in direction:
            direction[name] = residual[name] + new / power * direction[name]
        power = new
    return solution, float((power / start) ** 0.5)


def _dot(a: Vector, b: Vector) -> float:
    return float(sum((a[name].double() * b[name].double()).sum() for name in a))


def published_woodfisher(context: Context, stream: str | Stream, vector: Vector, samples: int = 1000) -> Vector:
    """Return the published recursion's stand-in for ``H^-1 v``, in its exact closed form.

    The reference rescales one vector, the gradient ``g_0`` of the first example, and never leaves its direction: with
    ``o_t = c_t g_0`` every step is a scalar recursion in ``g_0.g_i`` and ``v.g_i``, which are two Jacobian-vector products per batch.
    It is not an inverse Fisher product; `conjugate_gradient` over `fisher_product` is.

    Args:
        context: whose model.
        stream: examples, in their stored order.
        vector: what is multiplied, by base name.
        samples: the constant M of the recursion; ``samples + 2`` examples are read, as in the reference, or all if there are fewer.

    Source: arXiv 2304.04934 (code), after Singh and Alistarh, WoodFisher, NeurIPS 2020.
    """
    chosen = context.stream(stream)
    chosen = chosen.subset(chosen.index[: samples + 2])
    parameters, _ = _state(context)
    first = per_example_gradients(context, next(chosen.batches(1)))
    g0 = {name: value[0] for name, value in first.items()}
    with_g0, with_v = [], []
    for _, losses in _batch_losses(context, chosen, 256):
        with_g0.append(jvp(losses, (parameters,), (g0,))[1].double())
        with_v.append(jvp(losses, (parameters,), (vector,))[1].double())
    context.cost.add(forward=4 * len(chosen))
    a, b = torch.cat(with_g0).tolist(), torch.cat(with_v).tolist()
    scale, spent = 1.0, 0.0  # o = scale * g_0 and k = v - spent * g_0
    for a_i, b_i in zip(a[1:], b[1:], strict=True):
        t = scale * a_i
        spent += (b_i - spent * a_i) / (samples + t) * scale
        scale -= t / (samples + t) * scale
    return {name: value - spent * g0[name] for name, value in vector.items()}
