"""What an attacker may look at, one row of numbers for each example: loss, probabilities, gradients."""

import copy

import numpy as np
import torch
from torch import nn

from expunge.engine.architecture import Architecture
from expunge.engine.context import Context
from expunge.engine.derivatives import per_example_gradients
from expunge.engine.stream import Stream
from expunge.metrics import scores

LOOKS = ("loss", "probabilities", "gradient_norms", "feature_gradient")


def looks(model: nn.Module, stream: Stream, num_classes: int) -> dict[str, np.ndarray]:
    """Return what each look shows of every example of a stream, float64 ``[n, d]`` by name.

    ``loss``: the cross entropy of the label, by its logit-scaled form ``log(p / (1 - p))``, which no rounding cuts off.
    ``probabilities``: log-probability of the label, then those of the other classes from the largest down, so that an attacker learns
    nothing about classes. ``gradient_norms``: logarithm of the norm of the loss's gradient in each parameter. ``feature_gradient``: the
    gradient with respect to the head's input.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in LOOKS}
    context = Context(copy.deepcopy(model), {"asked": stream}, needs={"asked"}, seed=0, num_classes=num_classes)
    batches = list(stream.batches(100))
    architecture = Architecture(model, batches[0].x)
    for batch in batches:
        with torch.no_grad():
            logits = model.eval()(batch.x)
        labels, plain = batch.y.cpu().numpy(), logits.float().cpu().numpy()
        found["loss"].append(scores.margin(plain, labels)[:, None])
        found["probabilities"].append(_own_first(plain, labels))
        gradients = per_example_gradients(context, batch)
        norms = [torch.log10(value.flatten(1).double().norm(dim=1) + 1e-12) for value in gradients.values()]
        found["gradient_norms"].append(torch.stack(norms, dim=1).cpu().numpy())
        found["feature_gradient"].append(_feature_gradient(architecture, logits, batch.y))
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}


def _own_first(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return log-probabilities with the label's first and the others from the largest down, ``[n, C]``, at least -30."""
    log_p = scores.log_softmax(logits)
    rows = np.arange(len(labels))
    others = log_p.copy()
    others[rows, labels] = -np.inf
    others = -np.sort(-others, axis=1)[:, :-1]
    return np.maximum(np.column_stack([log_p[rows, labels], others]), -30.0)


@torch.no_grad()
def _feature_gradient(architecture: Architecture, logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return the gradient of the loss with respect to the head's input, ``W^T (p - y)``, ``[n, D]``.

    Its scale spans orders of magnitude over examples; every entry is compressed to ``sign(g) log(1 + |g| / 1e-4)``.
    """
    head = architecture.head
    residual = torch.softmax(logits.double(), dim=1) - torch.nn.functional.one_hot(labels, logits.shape[1])
    gradient = residual @ head.weight.flatten(1).double()  # type: ignore[operator, union-attr]
    return (gradient.sign() * torch.log1p(gradient.abs() / 1e-4)).cpu().numpy()
