"""A linear head whose examples can be removed with a certificate."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.engine import randomness
from expunge.engine.architecture import Architecture
from expunge.errors import BadInput, NotApplicable
from expunge.methods.certified.newton import LossName, gradient, minimise, removal
from expunge.runs import atomic_write


@dataclass(frozen=True)
class Receipt:
    """What one removal cost.

    Attributes:
        removed: number of examples.
        bound: of the norm of the gradient that this removal adds.
        spent: sum of all bounds since the head was trained, the training's own residual included.
        budget: what may be spent.
    """

    removed: int
    bound: float
    spent: float
    budget: float


class CertifiedHead:
    """One-vs-rest linear classifiers over frozen unit features, trained with a random linear term that hides what removal leaves behind.

    After removals, the weights are (epsilon, delta)-indistinguishable from those trained without the examples, as long as the sum of the
    bounds stays within ``deviation * epsilon / c`` with ``c = sqrt(2 ln(1.5 / delta))``; `remove` refuses what would exceed it. All
    classes count as one mechanism: their random terms are independent and their bounds are joined by the Euclidean norm.

    What it does not cover: the features, whose encoder must never have seen the examples or be private itself; the random term, the
    removed examples and earlier weights, which must stay secret; requests chosen after seeing the weights; a choice of settings by
    looking at the data.

    Source: Guo et al., Certified Data Removal from Machine Learning Models, ICML 2020, arXiv 1911.03030, theorem 3 and corollary 1.
    Deviations: the Lipschitz constant of the logistic loss's curvature is ``1 / (6 sqrt 3)``, the paper rounds it up to 1/4.

    The defaults rest on scikit-learn's digits, pixels as features: 85 % accuracy with or without the term, and 17 of 1400 examples removed
    one by one before the refusal. Ten times the deviation costs 9 points there and buys hundreds of removals.

    Args:
        features: float ``[n, D]``; they are scaled to unit length.
        labels: int64 ``[n]``.
        num_classes: number of classes.
        loss: logistic, or ridge (least squares on targets -1 and 1), for which removal is exact.
        penalty: L2 penalty per example.
        deviation: standard deviation of the random linear term; more of it buys more removals and costs accuracy.
        epsilon: of the certificate.
        delta: of the certificate; far below one over the number of examples.
        seed: of the random term; as secret as the term.

    Raises:
        BadInput: a number out of range, or features and labels that do not fit.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        loss: LossName = "logistic",
        penalty: float = 1e-2,
        deviation: float = 1.0,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        seed: int = 0,
    ):
        _check(features, labels, num_classes, penalty=penalty, deviation=deviation, epsilon=epsilon, delta=delta)
        self.x, self.targets = unit(features), signs(labels, num_classes)
        self.loss, self.penalty, self.deviation, self.epsilon, self.delta = loss, penalty, deviation, epsilon, delta
        self.kept = torch.ones(len(features), dtype=torch.bool)
        self.refit(seed)

    @property
    def budget(self) -> float:
        """How large the norm of the gradient may become."""
        return self.deviation * self.epsilon / math.sqrt(2 * math.log(1.5 / self.delta))

    def refit(self, seed: int) -> None:
        """Train anew on what is left, with a new random term; nothing is spent then but the residual of the training."""
        made = randomness.generator("cpu", seed, "certified")
        self.noise = self.deviation * torch.randn(self.targets.shape[1], self.x.shape[1], generator=made, dtype=torch.float64)
        self.weights = minimise(self._kept, self.targets[self.kept], penalty=self.penalty, noise=self.noise, loss=self.loss)
        self.spent = self.residual()

    def remove(self, index: Tensor | list[int]) -> Receipt:
        """Remove examples, named by their row, and return what it cost.

        Raises:
            BadInput: a row that does not exist or is removed already, or none would be left.
            NotApplicable: the budget does not suffice; nothing has changed then.
        """
        rows = torch.unique(torch.as_tensor(index, dtype=torch.int64))
        wrong = [int(row) for row in rows if not 0 <= row < len(self.x) or not self.kept[row]]
        if wrong:
            raise BadInput("remove", f"row {wrong[0]} does not exist or is removed already.", f"Rows go from 0 to {len(self.x) - 1}.")
        left = self.kept.clone()
        left[rows] = False
        if not bool(left.any()):
            raise BadInput("remove", "no example would be left.")
        weights, bound = removal(self.weights, self.x[left], self.x[rows], self.targets[rows], penalty=self.penalty, loss=self.loss)
        if self.spent + bound > self.budget:
            raise NotApplicable(
                "remove",
                f"{len(rows)} examples cost {bound:.3g}, and {self.budget - self.spent:.3g} of the budget {self.budget:.3g} is left.",
                "Train anew with refit(seed), or ask for fewer.",
            )
        self.weights, self.kept, self.spent = weights, left, self.spent + bound
        return Receipt(len(rows), bound, self.spent, self.budget)

    def residual(self) -> float:
        """Return the measured norm of the gradient over what is left: what the bounds bound. It depends on the secret term."""
        return float(
            gradient(self.weights, self._kept, self.targets[self.kept], penalty=self.penalty, noise=self.noise, loss=self.loss).norm()
        )

    def logits(self, features: Tensor) -> Tensor:
        """Return scores ``[B, K]`` of features ``[B, D]``, which are scaled to unit length first."""
        return unit(features) @ self.weights.T

    def on(self, model: nn.Module, example: Tensor, head: str | None = None) -> "OnFeatures":
        """Return a classifier from x to logits: the model's frozen features under this head.

        Args:
            model: whose features were given; it is not copied.
            example: a few of its inputs, to find the features.
            head: name of the layer that makes the logits, where it cannot be found.
        """
        return OnFeatures(model, Architecture(model, example, head), self.weights)

    def save(self, path: Path) -> None:
        """Write weights, random term, what is left and what is spent as one safetensors file, which is as secret as the random term."""
        settings = {key: getattr(self, key) for key in _SETTINGS}
        tensors = {"weights": self.weights, "noise": self.noise, "kept": self.kept}
        with atomic_write(Path(path)) as temporary:
            save_file(tensors, temporary, {"expunge": json.dumps({**settings, "spent": self.spent})})

    @classmethod
    def load(cls, path: Path, features: Tensor, labels: Tensor) -> "CertifiedHead":
        """Return the head of a file, with what is spent, for the features and labels it was trained on.

        Raises:
            BadInput: they are not as many as the file's.
        """
        with safe_open(path, framework="pt") as opened:
            state: dict[str, Any] = json.loads(opened.metadata()["expunge"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        if len(features) != len(tensors["kept"]):
            raise BadInput(str(path), f"belongs to {len(tensors['kept'])} examples, got {len(features)}.")
        made = object.__new__(cls)
        made.__dict__.update(state, **tensors)
        made.x, made.targets = unit(features), signs(labels, len(made.weights))
        return made

    @property
    def _kept(self) -> Tensor:
        return self.x[self.kept]


_SETTINGS = ("loss", "penalty", "deviation", "epsilon", "delta")


class OnFeatures(nn.Module):
    """A classifier from x to logits: frozen features of a model, scaled to unit length, under linear weights."""

    def __init__(self, model: nn.Module, architecture: Architecture, weights: Tensor):
        super().__init__()
        self.model, self.architecture = model, architecture
        self.head = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        self.head.weight.data.copy_(weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, C]``."""
        with torch.no_grad():
            features = self.architecture.forward_with_features(self.model, x)[1]
        return self.head(F.normalize(features.float(), dim=1))


def unit(features: Tensor) -> Tensor:
    """Return features of length one, float64 on the CPU; the bounds need a length of at most one."""
    return F.normalize(features.detach().cpu().double(), dim=1)


def signs(labels: Tensor, num_classes: int) -> Tensor:
    """Return one-vs-rest targets, 1 for the class and -1 for the others, float64 ``[n, K]``."""
    return 2 * F.one_hot(labels.cpu(), num_classes).double() - 1


def _check(features: Tensor, labels: Tensor, num_classes: int, **numbers: float) -> None:
    if features.dim() != 2 or len(features) != len(labels) or not len(features):
        raise BadInput("features", f"expected [n, D] and n labels, got {list(features.shape)} and {len(labels)}.")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise BadInput("labels", f"expected 0 to {num_classes - 1}, got {int(labels.min())} to {int(labels.max())}.")
    for key, value in numbers.items():
        if not value > 0:
            raise BadInput(key, f"expected a positive number, got {value}.")
    if numbers["delta"] >= 1:
        raise BadInput("delta", f"expected less than 1, got {numbers['delta']}.")
