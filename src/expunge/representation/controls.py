"""Models of which it is known what a good test says about them, made from an original and a retrained one.

Every one is a plain copy with the names of the original, so that whatever reads the original reads it too.
"""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from expunge.engine import randomness
from expunge.engine.architecture import Architecture
from expunge.engine.context import reset_parameters
from expunge.engine.stream import Stream
from expunge.metrics import scores
from expunge.representation import features
from expunge.representation.features import join


def identity(original: nn.Module) -> nn.Module:
    """Return a copy of the original: nothing was unlearned."""
    return copy.deepcopy(original)


def head_only_edit(
    original: nn.Module, retrained: nn.Module, architecture: Architecture, streams: list[Stream], ridge: float = 1e-3
) -> nn.Module:
    """Return the original with a head that imitates a retrained model's answers; the encoder stays bit for bit.

    The head minimises the mean cross entropy with the retrained model's probabilities, plus ``ridge / 2`` times the squared weights on
    standardised features, which is convex: the result does not depend on a seed. It passes tests of outputs, as far as its features
    allow it to imitate, and must fail those of features.

    Args:
        original: whose encoder is kept.
        retrained: whose answers are imitated.
        architecture: of the original.
        streams: on what they are imitated, usually forget and retain.
        ridge: strength of the penalty.
    """
    own = join(*(features.read(architecture, original, stream) for stream in streams))
    wanted = join(*(features.read(architecture, retrained, stream) for stream in streams))
    weight, bias = soft_regression(own.features, np.exp(scores.log_softmax(wanted.logits)), ridge)
    edited = copy.deepcopy(original)
    with torch.no_grad():
        head = architecture.on(edited).head
        _assign(head, weight, bias)
    return edited


def soft_regression(x: np.ndarray, probabilities: np.ndarray, ridge: float, iterations: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Return weights ``[C, D]`` and biases ``[C]`` of the softmax regression on soft labels, for features ``[n, D]``.

    Args:
        x: features.
        probabilities: wanted distributions ``[n, C]``.
        ridge: penalty on the weights of the standardised features.
        iterations: limit of L-BFGS.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 0, spread, 1)
    z = np.hstack([(x - mean) / spread, np.ones((len(x), 1))])
    classes = probabilities.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        table = flat.reshape(classes, -1)
        log_p = scores.log_softmax(z @ table.T)
        slopes = table.copy()
        slopes[:, -1] = 0
        value = -(probabilities * log_p).sum() / len(z) + ridge / 2 * np.square(slopes).sum()
        return float(value), ((np.exp(log_p) - probabilities).T @ z / len(z) + ridge * slopes).ravel()

    with threadpool_limits(1):
        found = minimize(objective, np.zeros(classes * z.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    table = found.x.reshape(classes, -1)
    weight = table[:, :-1] / spread
    return weight, table[:, -1] - weight @ mean


def tempered(original: nn.Module, architecture: Architecture, temperature: float = 2.0) -> nn.Module:
    """Return the original with logits divided by a temperature: every answer is the same, with less confidence."""
    edited = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in architecture.on(edited).head.parameters():
            parameter.div_(temperature)
    return edited


def noisy(original: nn.Module, deviation: float = 1.0, seed: int = 0) -> nn.Module:
    """Return the original with normal noise on its logits, the same whenever the same input is asked, so that asking twice gains nothing.

    The noise is keyed by the input's values rounded to 1/65536, and does not depend on the other inputs of a batch.
    """
    edited = copy.deepcopy(original)

    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys = _content(inputs[0], seed)[:, None] * output.shape[1] + torch.arange(output.shape[1])
        return output + deviation * randomness.normal(seed, "output noise", 0, keys).to(output.device, output.dtype)

    edited.register_forward_hook(add)
    return edited


def reinitialised(original: nn.Module, seed: int = 0, initialise: Callable[[int], Mapping[str, Tensor]] | None = None) -> nn.Module:
    """Return an untrained model: everything is forgotten, and all use is lost.

    Args:
        original: whose shape it has.
        seed: of the initial weights.
        initialise: returns a state dict for a seed; every layer's ``reset_parameters`` if None.
    """
    work = copy.deepcopy(original)
    if initialise is None:
        return reset_parameters(work, seed)
    work.load_state_dict(initialise(seed))
    return work


def _assign(head: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    for parameter, value in ((head.weight, weight), (head.bias, bias)):
        if isinstance(parameter, Tensor):
            parameter.copy_(torch.from_numpy(value).reshape(parameter.shape))
        else:
            assert parameter is None


def _content(x: Tensor, seed: int) -> Tensor:
    """Return one int64 for each input ``[B]`` that depends on its content; sums of whole numbers are exact in any order."""
    whole = (x.detach().double().cpu().flatten(1) * 65536).round().to(torch.int64)
    factors = randomness.bits(seed, "content", 0, torch.arange(whole.shape[1]))
    return (whole * factors).sum(dim=1)
