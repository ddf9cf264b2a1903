"""Certified procedures on a small convex task, where retraining is exact and many models take seconds: what `claim.examine` is tried on.

Each has the faults that certificates have in practice as settings, so that an audit can be seen to catch them: too little noise, an epsilon
that nobody computed, a budget that nobody kept.
"""

from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from expunge.attacks.epsilon import gaussian_epsilon
from expunge.audits.claim import Certified, Claim
from expunge.config import Component, Flag, NonNegativeFloat, PositiveFloat, PositiveInt, hyper, validate
from expunge.engine.randomness import derive
from expunge.errors import BadInput, nearest
from expunge.methods.certified.linear_head import CertifiedHead
from expunge.testbed.bed import random_request
from expunge.testbed.features import Features, frozen
from expunge.testbed.heads import Ridge


class Task(Component):
    """The examples: whitened components of Fashion-MNIST, even against odd labels, and a random forget set."""

    examples: PositiveInt = hyper(200, "training examples")
    dimension: PositiveInt = hyper(8, "features of each")
    forget: PositiveInt = hyper(10, "examples that are removed")

    def load(self) -> tuple[Features, np.ndarray]:
        """Return features with two classes and the canonical indices of the forget set.

        Raises:
            BadInput: nothing would be left.
        """
        if self.forget >= self.examples:
            raise BadInput("certificate.forget", f"{self.forget} of {self.examples} examples cannot be removed.", "Keep some.")
        features = frozen(train=self.examples, unseen=100, dimension=self.dimension).of_parity()
        return features, random_request(features, self.forget)


class LinearHead(Task):
    """The certified linear head of this package, with its random term, its Newton steps and its budget.

    An observer sees the weights. All that the certificate leaves to trust (that the bound on the gradient is a bound, that the budget is
    kept over requests, that the noise has the size that was stated) is under test.

    The bounds are generous: a fault that they have room for, such as noise that is ten times too small, does not show.
    """

    loss: Literal["logistic", "ridge"] = hyper("logistic", "of the head; removal is exact for ridge")
    penalty: PositiveFloat = hyper(3e-2, "L2 penalty per example")
    deviation: PositiveFloat = hyper(1.0, "of the random term, as stated")
    epsilon: PositiveFloat = hyper(1.0, "of the certificate")
    delta: PositiveFloat = hyper(1e-5, "of the certificate")
    requests: PositiveInt = hyper(1, "in how many requests the examples go")
    noise: PositiveFloat = hyper(1.0, "real size of the random term over the stated one")
    keeps_budget: Flag = hyper(True, "whether a removal beyond the budget is refused")

    @cached_property
    def data(self) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Features of the training examples, labels, and which rows go."""
        features, forget = self.load()
        task = features.task
        return torch.from_numpy(task.x), torch.from_numpy(task.labels), forget

    @property
    def claim(self) -> Claim:
        """What the head promises after the removals."""
        return Claim(self.epsilon, self.delta, self.forget, "weights of the head; over its random term")

    def unlearned(self, models: int, seed: int) -> np.ndarray:
        """Return the weights of heads after the removals, ``[models, K D]``.

        Raises:
            NotApplicable: the budget does not suffice, so that there is no certificate to audit.
        """
        x, labels, forget = self.data
        return np.stack([self._removed(x, labels, forget, derive(seed, "unlearned", number)) for number in range(models)])

    def retrained(self, models: int, seed: int) -> np.ndarray:
        """Return the weights of heads that never saw the removed examples, ``[models, K D]``."""
        x, labels, forget = self.data
        kept = np.setdiff1d(np.arange(len(x)), forget)
        heads = [self._head(x[kept], labels[kept], derive(seed, "retrained", number)) for number in range(models)]
        return np.stack([head.weights.numpy().ravel() for head in heads])

    def _removed(self, x: torch.Tensor, labels: torch.Tensor, forget: np.ndarray, seed: int) -> np.ndarray:
        head = self._head(x, labels, seed)
        for part in np.array_split(forget, self.requests):
            head.remove(part.tolist())
        return head.weights.numpy().ravel()

    def _head(self, x: torch.Tensor, labels: torch.Tensor, seed: int) -> CertifiedHead:
        settings: dict[str, Any] = {"loss": self.loss, "penalty": self.penalty, "epsilon": self.epsilon, "delta": self.delta}
        head = CertifiedHead(x, labels, 2, deviation=self.deviation * self.noise, seed=seed % 2**31, **settings)
        head.deviation = self.deviation if self.keeps_budget else float("inf")
        return head


class NoisyDescent(Task):
    """Least squares published with normal noise; a removal takes gradient steps on what is left and publishes with fresh noise.

    The steps contract the distance to the retrained optimum by a factor that the eigenvalues give, so that both published laws are
    normal with one covariance, and their epsilon is that of the distance over the noise: with no steps the certificate of noise alone.

    Source: Neel et al., Descent-to-Delete, ALT 2021; the conversion is the analytic Gaussian mechanism (Balle & Wang, ICML 2018).
    Deviations: the distance before the steps is measured on this task and not bounded over all tasks.
    """

    penalty: PositiveFloat = hyper(1e-2, "L2 penalty per example")
    steps: int = hyper(1, "gradient steps on the retained examples", ge=0)
    deviation: PositiveFloat = hyper(0.1, "of the published noise on each weight, as stated")
    delta: PositiveFloat = hyper(1e-5, "of the certificate")
    noise: PositiveFloat = hyper(1.0, "real size of the noise over the stated one")
    claimed: NonNegativeFloat = hyper(0.0, "an epsilon to claim in place of the computed one; 0 claims the latter")

    @cached_property
    def optima(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The weights after the steps, those of retraining, both ``[D, K]``, and a bound on their distance."""
        features, forget = self.load()
        task, members = features.task, np.ones((1, features.train_size))
        kept = members.copy()
        kept[0, forget] = 0
        head = Ridge(self.penalty)
        target, weights = head.fit(task, kept), head.fit(task, members)
        values = np.linalg.eigvalsh(head.hessian(task, kept)[0])
        rate, contraction = 2 / (values[0] + values[-1]), (values[-1] - values[0]) / (values[-1] + values[0])
        bound = contraction**self.steps * float(np.linalg.norm(weights - target))
        for _ in range(self.steps):
            weights = weights - rate * head.gradient(task, weights, kept)
        return weights[0], target[0], bound

    @property
    def claim(self) -> Claim:
        """The computed epsilon for the stated noise, or what was set in its place."""
        found = self.claimed or gaussian_epsilon(self.optima[2] / self.deviation, self.delta)
        return Claim(found, self.delta, self.forget, "published weights; over the published noise")

    def unlearned(self, models: int, seed: int) -> np.ndarray:
        """Return published weights after the removal, ``[models, D K]``."""
        return self._published(self.optima[0], models, derive(seed, "unlearned"))

    def retrained(self, models: int, seed: int) -> np.ndarray:
        """Return published weights of retraining, ``[models, D K]``."""
        return self._published(self.optima[1], models, derive(seed, "retrained"))

    def _published(self, weights: np.ndarray, models: int, seed: int) -> np.ndarray:
        drawn = np.random.default_rng(seed).normal(size=(models, weights.size))
        return weights.ravel() + self.noise * self.deviation * drawn


CERTIFICATES: dict[str, type[Task]] = {"linear_head": LinearHead, "noisy_descent": NoisyDescent}
"""Name -> procedure."""


def certificate(name: str, fields: dict[str, Any]) -> Certified:
    """Return a procedure by name with its settings.

    Raises:
        BadInput: no such name or field.
    """
    if name not in CERTIFICATES:
        raise BadInput("certificate", f"no certified procedure is called {name!r}.", nearest(name, CERTIFICATES))
    return validate(CERTIFICATES[name], fields, name)  # type: ignore[return-value]
