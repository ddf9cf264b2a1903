"""How much a model would miss each of its weights: scores by which pruning ranks them."""

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from expunge.addons.matrices import is_patch_embedding, weights
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.derivatives import gradient, jvp
from expunge.engine.parameters import Vector, is_norm, leaves, modes_kept, shared_names
from expunge.engine.select import Mask, invert, random_score, select
from expunge.errors import NotApplicable

Score = Literal["magnitude", "random", "snip", "grasp", "synflow"]

_ROUNDS, _TEMPERATURE, _EXAMPLES = 100, 200.0, 256


def prunable(ctx: Context) -> Vector:
    """Return the prunable weights by base name, detached.

    Raises:
        NotApplicable: there are none.
    """
    parameters, shared = leaves(ctx.model), shared_names(ctx.model)
    names = [shared[f"{name}.{attribute}"] for name, module, attribute in weights(ctx.model) if not is_patch_embedding(module)]
    apart = {*ctx.fixed, *ctx.architecture.class_rows(0)}
    found = {name: parameters[name].detach() for name in names if name not in apart}
    if not found:
        raise NotApplicable("model", "has no weights to prune: none before the head that may change.", "Choose a method without pruning.")
    return found


def importance(ctx: Context, score: Score, sparsity: float, alive: Mask | None = None) -> Vector:
    """Return the score of every prunable weight; the lowest are pruned first.

    Args:
        ctx: whose model, in eval mode; ``snip`` and ``grasp`` read the stream ``retain``.
        score: ``magnitude``: ``|w|``. ``random``: uniform. ``snip``: ``|w g|`` with the gradient g over the retained data. ``grasp``:
            ``w H g`` on one batch, logits divided by 200: what is left out first lengthens the gradient most. ``synflow``: ``|w dR/dw|``
            in the linearised net, pruned to the sparsity in 100 rounds.
        sparsity: what ``synflow`` prunes to.
        alive: zeros where weights are pruned already, for ``synflow``.
    """
    values = prunable(ctx)
    if score == "magnitude":
        return {name: value.abs() for name, value in values.items()}
    if score == "random":
        return random_score(ctx, values, f"pruning/{ctx.phase}")
    if score == "snip":
        slope = gradient(ctx, "retain", reduction="mean")
        return {name: (value * slope[name]).abs() for name, value in values.items()}
    return grasp(ctx, values) if score == "grasp" else synflow(ctx, list(values), sparsity, alive)


def grasp(ctx: Context, values: Vector) -> Vector:
    """Return ``w * (H g)`` over the given weights.

    Source: Wang et al., GraSP, ICLR 2020, arXiv 2002.07376, equation 8: the weights with the highest ``-w H g`` are removed.
    """
    retain = ctx.stream("retain")
    drawn = randomness.shuffle(ctx.seed, retain.name, 0, retain.index)[:_EXAMPLES]
    batch = next(retain.subset(drawn).batches(len(drawn)))
    fixed = {name: value for name, value in {**dict(ctx.model.named_parameters()), **dict(ctx.model.named_buffers())}.items()}

    def loss(chosen: Vector) -> Tensor:
        logits = functional_call(ctx.model, {**fixed, **chosen}, (batch.x,)).float()
        return F.cross_entropy(logits / _TEMPERATURE, batch.y)

    with modes_kept(ctx.model), ctx.cost.paused():
        ctx.model.eval().requires_grad_(False)
        slope = grad(loss)(values)
        _, product = jvp(grad(loss), (values,), (slope,))
    ctx.cost.add(forward=3 * len(batch), backward=3 * len(batch))
    return {name: value * product[name] for name, value in values.items()}


def synflow(ctx: Context, names: list[str], sparsity: float, alive: Mask | None = None) -> Vector:
    """Return the synaptic flow ``|w dR/dw|`` of the last of 100 rounds; what was pruned in an earlier one has minus infinity.

    ``R`` is the sum of the outputs for an input of ones, in a copy of the net, float64, with every weight replaced by its absolute value,
    in eval mode. Running statistics are as at initialisation, 0 and 1: those of a trained net would shut off units that no weight shuts
    off. The model itself is not touched.

    Source: Tanaka et al., SynFlow, NeurIPS 2020, arXiv 2006.05467, algorithm 1: after round i the share ``(1 - s)^(i / 100)`` is kept.
    """
    net = linearised(ctx.model)
    parameters = leaves(net)
    chosen = {name: parameters[name] for name in names}
    shape = next(ctx.stream("retain").batches(1)).x.shape[1:]
    x = torch.ones((1, *shape), dtype=torch.float64, device=ctx.device)
    kept = {name: torch.ones_like(value) for name, value in chosen.items()} if alive is None else {name: alive[name] for name in names}
    for number in range(1, _ROUNDS + 1):
        with torch.no_grad():
            for name, value in chosen.items():
                value.mul_(kept[name])
        with torch.enable_grad(), ctx.cost.paused():
            found = torch.autograd.grad(net(x).sum(), list(chosen.values()))
        flow = {name: (value.detach() * slope).abs() for (name, value), slope in zip(chosen.items(), found, strict=True)}
        flow = {name: value.masked_fill(kept[name] == 0, float("-inf")) for name, value in flow.items()}
        kept = invert(select(flow, bottom=1 - (1 - sparsity) ** (number / _ROUNDS)))
    ctx.cost.add(forward=_ROUNDS, backward=_ROUNDS)
    return flow


@torch.no_grad()
def linearised(model: nn.Module) -> nn.Module:
    """Return a copy in float64 and eval mode with absolute values of all weights and fresh running statistics."""
    net = copy.deepcopy(model).double().eval()
    norms: list[Any] = list(filter(is_norm, net.modules()))
    for module in norms:
        module.reset_running_stats()
    for parameter in net.parameters():
        parameter.abs_().requires_grad_(True)
    return net
