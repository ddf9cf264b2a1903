"""What is done to the models of the testbed: unlearning with a known outcome, from none at all to exact.

Each is a sequence of steps that hold for all models of a pool at once. For a ridge head all of them are affine in the weights, so that the
law of the unlearned models is known exactly as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from expunge.testbed.features import Task
from expunge.testbed.heads import Head
from expunge.testbed.laws import Move

NoisePlace = Literal["weights", "objective"]


class Request(NamedTuple):
    """What an unlearner may use.

    Attributes:
        head: that the models have.
        task: its training data.
        retain: weights of the examples that stay, float64 ``[m, n]``; m = 1 for one request to all models.
        forget: of those that go, ``[m, n]``.
        noise: where the models' randomness entered.
    """

    head: Head
    task: Task
    retain: np.ndarray
    forget: np.ndarray
    noise: NoisePlace


class Step(NamedTuple):
    """A map of the weights, and the standard deviation of fresh normal noise on each weight after it."""

    move: Move
    deviation: float = 0.0


class Unlearner(Protocol):
    """Frozen settings and the steps that they give."""

    def steps(self, request: Request) -> Iterator[Step]:
        """Yield the steps in order."""
        ...


@dataclass(frozen=True)
class Identity:
    """Do nothing: the control that every metric must catch."""

    def steps(self, request: Request) -> Iterator[Step]:
        """Yield no step."""
        yield from ()


@dataclass(frozen=True)
class Exact:
    """Take the forget set's influence away and keep each model's own randomness: the law of retrained models, exactly.

    With noise on the weights the optimum is moved from that of all data to that of the retained; with a random term in the objective,
    the retained data's objective is minimised with the same term.
    """

    def steps(self, request: Request) -> Iterator[Step]:
        """Yield the one step."""
        head, task, everything = request.head, request.task, request.retain + request.forget
        if request.noise == "weights":
            shift = head.fit(task, request.retain) - head.fit(task, everything)
            yield Step(lambda weights: weights + shift)
        else:
            yield Step(lambda weights: head.fit(task, request.retain, -head.gradient(task, weights, everything)))


@dataclass(frozen=True)
class Newton:
    """One Newton step on the retained data, as in certified removal.

    Exact for a ridge head with a random term in the objective. With noise on the weights its mean is exact and its spread is
    too large, since the step stretches the noise; for a softmax head it leaves a gradient of second order in the size of the request.

    Source: Guo et al., ICML 2020, arXiv 1911.03030, equation 3.
    """

    def steps(self, request: Request) -> Iterator[Step]:
        """Yield the one step."""
        head, task = request.head, request.task

        def move(weights: np.ndarray) -> np.ndarray:
            return weights + head.newton_step(task, weights, request.retain, head.gradient(task, weights, request.forget))

        yield Step(move)


@dataclass(frozen=True)
class Ascent:
    """Gradient ascent on the mean loss of the forget set: too little, then too much.

    Attributes:
        count: steps.
        lr: learning rate.
    """

    count: int = 5
    lr: float = 0.1

    def steps(self, request: Request) -> Iterator[Step]:
        """Yield the steps."""
        yield from _descent(request, request.forget, self.count, -self.lr, 0.0)


@dataclass(frozen=True)
class Descent:
    """Gradient descent on the mean loss of the retained data, with fresh noise after each step if asked for (Langevin unlearning).

    Attributes:
        count: steps.
        lr: learning rate.
        deviation: of the noise after each step.
    """

    count: int = 5
    lr: float = 0.5
    deviation: float = 0.0

    def steps(self, request: Request) -> Iterator[Step]:
        """Yield the steps."""
        yield from _descent(request, request.retain, self.count, self.lr, self.deviation)


@dataclass(frozen=True)
class Blur:
    """Normal noise on every weight and nothing else: hides the forget set without forgetting it.

    Attributes:
        deviation: of the noise.
    """

    deviation: float

    def steps(self, request: Request) -> Iterator[Step]:
        """Yield the one step."""
        yield Step(lambda weights: weights, self.deviation)


def _descent(request: Request, members: np.ndarray, count: int, lr: float, deviation: float) -> Iterator[Step]:
    rate = lr / members.sum(axis=1)[:, None, None]

    def move(weights: np.ndarray) -> np.ndarray:
        return weights - rate * request.head.gradient(request.task, weights, members)

    yield from (Step(move, deviation) for _ in range(count))
