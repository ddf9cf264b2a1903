"""Linear heads whose training has one exact answer. numpy, float64, many models at once.

Both minimise ``sum over members of (loss + penalty / 2 ||W||^2) + <B, W>``: a sum over examples, in which each brings its own share of the
penalty, so that leaving it out leaves nothing of it. ``B`` is a random linear term (objective perturbation) or 0.

Shapes: weights ``[M, d, C]``; members are weights of the examples, 0 or 1 or between, ``[m, n]`` with m = M, or m = 1 for all models alike.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from expunge.errors import BadInput
from expunge.testbed.features import Task


class Head(Protocol):
    """What the testbed asks of a head."""

    @property
    def penalty(self) -> float:
        """L2 penalty per example."""
        ...

    def fit(self, task: Task, members: np.ndarray, perturbation: np.ndarray | None = None) -> np.ndarray:
        """Return the minimisers."""
        ...

    def gradient(self, task: Task, weights: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Return the gradient over members, without the random term, ``[M, d, C]``."""
        ...

    def newton_step(self, task: Task, weights: np.ndarray, members: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the inverse Hessian over members at the weights, times ``right [M, d, C]``."""
        ...


@dataclass(frozen=True)
class Ridge:
    """Least squares on targets 1 for the class and -1 for the others; half the squared error.

    Attributes:
        penalty: L2 penalty per example.
    """

    penalty: float = 1e-2

    def __post_init__(self) -> None:
        _check_penalty(self.penalty)

    def hessian(self, task: Task, members: np.ndarray) -> np.ndarray:
        """Return the Hessian of one column of the weights, the same for all columns, ``[m, d, d]``."""
        count = members.sum(axis=1)[:, None, None]
        return task.x.T @ (members[:, :, None] * task.x) + self.penalty * count * np.eye(task.x.shape[1])

    def fit(self, task: Task, members: np.ndarray, perturbation: np.ndarray | None = None) -> np.ndarray:
        """Return the minimisers, ``[M, d, C]``, in closed form."""
        right = task.x.T @ (members[:, :, None] * _signs(task))
        return np.linalg.solve(self.hessian(task, members), right if perturbation is None else right - perturbation)

    def gradient(self, task: Task, weights: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Return the gradient over members, ``[M, d, C]``."""
        residual = members[:, :, None] * (task.x @ weights - _signs(task))
        return task.x.T @ residual + self.penalty * members.sum(axis=1)[:, None, None] * weights

    def newton_step(self, task: Task, weights: np.ndarray, members: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the inverse Hessian over members times ``right``, ``[M, d, C]``."""
        return np.linalg.solve(self.hessian(task, members), right)


@dataclass(frozen=True)
class Softmax:
    """Multinomial logistic regression, solved to machine precision by Newton steps for all models at once.

    The steps are found by conjugate gradients, preconditioned with one Hessian for all models, that of their average; so each step
    factorises one matrix, however many models there are.

    Attributes:
        penalty: L2 penalty per example.
        tolerance: norm of the gradient at which training ends, over the square root of the number of examples; times the largest
            entry of the random term where that is above 1.
    """

    penalty: float = 1e-4
    tolerance: float = 1e-11

    def __post_init__(self) -> None:
        _check_penalty(self.penalty)

    def fit(self, task: Task, members: np.ndarray, perturbation: np.ndarray | None = None) -> np.ndarray:
        """Return the minimisers, ``[M, d, C]``.

        Raises:
            BadInput: the gradient does not become small.
        """
        shape = (task.x.shape[1], task.classes)
        extra = np.zeros((1, *shape)) if perturbation is None else perturbation
        average = members.mean(axis=0, keepdims=True)
        centre = self._descend(task, np.zeros((1, *shape)), average, np.zeros((1, *shape)))
        return self._descend(task, np.repeat(centre, max(len(members), len(extra)), axis=0), members, extra)

    def gradient(self, task: Task, weights: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Return the gradient over members, ``[M, d, C]``."""
        return self._slope(task, weights, members, self._probabilities(task, weights))

    def newton_step(self, task: Task, weights: np.ndarray, members: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the inverse Hessian over members times ``right``, ``[M, d, C]``, to 12 digits."""
        return self._solve(task, weights, self._probabilities(task, weights), members, right, 1e-12)

    def _descend(self, task: Task, weights: np.ndarray, members: np.ndarray, extra: np.ndarray) -> np.ndarray:
        goal = self.tolerance * np.sqrt(len(task.x)) * max(1.0, float(np.abs(extra).max()))
        for _ in range(60):
            chances = self._probabilities(task, weights)
            slope = self._slope(task, weights, members, chances) + extra
            if (_norm(slope) <= goal).all():
                return weights
            step = self._solve(task, weights, chances, members, slope, 1e-5)
            weights = self._moved(task, weights, step, members, extra)
        raise BadInput("penalty", "no minimum found in 60 steps.", "Use a larger penalty.")

    def _moved(self, task: Task, weights: np.ndarray, step: np.ndarray, members: np.ndarray, extra: np.ndarray) -> np.ndarray:
        """Return the weights less the step, halved for each model until its objective does not rise."""
        present, length = self._objective(task, weights, members, extra), np.ones((len(weights), 1, 1))
        for _ in range(30):
            moved = weights - length * step
            worse = self._objective(task, moved, members, extra) > present + 1e-12 * np.abs(present)
            if not worse.any():
                return moved
            length[worse] /= 2
        return weights - length * step

    def _probabilities(self, task: Task, weights: np.ndarray) -> np.ndarray:
        scores = task.x @ weights
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return scores

    def _objective(self, task: Task, weights: np.ndarray, members: np.ndarray, extra: np.ndarray) -> np.ndarray:
        scores = task.x @ weights
        top = scores.max(axis=-1)
        own = scores[:, np.arange(len(task.x)), task.labels]
        losses = top + np.log(np.exp(scores - top[..., None]).sum(axis=-1)) - own
        penalties = self.penalty / 2 * members.sum(axis=1) * (weights**2).sum(axis=(1, 2))
        return (members * losses).sum(axis=1) + penalties + (extra * weights).sum(axis=(1, 2))

    def _slope(self, task: Task, weights: np.ndarray, members: np.ndarray, chances: np.ndarray) -> np.ndarray:
        excess = members[:, :, None] * (chances - np.eye(task.classes)[task.labels])
        return task.x.T @ excess + self.penalty * members.sum(axis=1)[:, None, None] * weights

    def _curve(self, task: Task, chances: np.ndarray, members: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return the Hessians times ``along``, ``[M, d, C]``."""
        turned = task.x @ along
        turned -= (chances * turned).sum(axis=-1, keepdims=True)
        turned *= chances
        turned *= members[:, :, None]
        return task.x.T @ turned + self.penalty * members.sum(axis=1)[:, None, None] * along

    def _hessian(self, task: Task, chances: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Return one model's Hessian ``[d C, d C]`` from its probabilities ``[n, C]`` and members ``[n]``."""
        d, classes = task.x.shape[1], task.classes
        blocks = np.empty((d, classes, d, classes))
        for row in range(classes):
            for column in range(row + 1):
                share = members * chances[:, row] * ((row == column) - chances[:, column])
                blocks[:, row, :, column] = blocks[:, column, :, row] = task.x.T @ (share[:, None] * task.x)
        return blocks.reshape(d * classes, d * classes) + self.penalty * members.sum() * np.eye(d * classes)

    def _solve(
        self, task: Task, weights: np.ndarray, chances: np.ndarray, members: np.ndarray, right: np.ndarray, tolerance: float
    ) -> np.ndarray:
        """Return the inverse Hessians times ``right``, each to a share ``tolerance`` of its norm: conjugate gradients."""
        from scipy import linalg

        centre = self._probabilities(task, weights.mean(axis=0, keepdims=True))[0]
        factor = linalg.cho_factor(self._hessian(task, centre, members.mean(axis=0)))

        def precondition(block: np.ndarray) -> np.ndarray:
            return linalg.cho_solve(factor, block.reshape(len(block), -1).T, check_finite=False).T.reshape(block.shape)

        found, rest = np.zeros_like(right), right.copy()
        along = precondition(rest)
        power, goal = (rest * along).sum(axis=(1, 2)), tolerance * _norm(right)
        for _ in range(500):
            if (_norm(rest) <= goal).all():
                break
            curved = self._curve(task, chances, members, along)
            length = _ratio(power, (along * curved).sum(axis=(1, 2)))
            found += length * along
            rest -= length * curved
            raised = precondition(rest)
            power, before = (rest * raised).sum(axis=(1, 2)), power
            along = raised + _ratio(power, before) * along
        return found


def _norm(block: np.ndarray) -> np.ndarray:
    return np.sqrt((block**2).sum(axis=(1, 2)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the quotient ``[M, 1, 1]``, 0 for models that are solved already."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)[:, None, None]


def _signs(task: Task) -> np.ndarray:
    return 2 * np.eye(task.classes)[task.labels] - 1


def _check_penalty(penalty: float) -> None:
    if not penalty > 0:
        raise BadInput("penalty", f"expected a positive number, got {penalty}.", "Without a penalty the answer need not be unique.")
