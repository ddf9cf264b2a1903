"""The testbed: pools of linear heads over frozen features, with retraining exact and the law of every ridge pool known."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from expunge.attacks.margins import FORGET, IN, OUT, design
from expunge.config import fingerprint
from expunge.engine.randomness import derive
from expunge.errors import BadInput, NotApplicable
from expunge.metrics.scores import margin
from expunge.metrics.view import View
from expunge.pools.cache import EvidenceCache
from expunge.testbed.features import Features
from expunge.testbed.heads import Head, Ridge
from expunge.testbed.laws import Law, contrasts
from expunge.testbed.unlearners import NoisePlace, Request, Unlearner


@dataclass(frozen=True, eq=False)
class Pool:
    """Models of one kind, and what they say about all examples.

    Attributes:
        name: of the pool.
        features: that the models see.
        weights: float64 ``[M, d, C]``.
        states: what each example is in each model's life, uint8 ``[M, N + T]`` of OUT, IN, FORGET.
        law: of the weights; None for a head whose law is not normal.
        about: plain values that say how the pool was made; they name its cache.
    """

    name: str
    features: Features
    weights: np.ndarray
    states: np.ndarray
    law: Law | None
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.weights)

    def logits(self, number: int) -> np.ndarray:
        """Return the logits of one model, float32 ``[N + T, C]``."""
        return (self.features.x @ self.weights[number]).astype(np.float32)

    @cached_property
    def margins(self) -> np.ndarray:
        """Log odds of the true class, float32 ``[M, N + T]``, the numbers that an evidence cache keeps."""
        labels = self.features.labels
        return np.stack([margin(self.logits(number), labels) for number in range(len(self))]).astype(np.float32)

    @cached_property
    def linear_margins(self) -> np.ndarray:
        """``z_y - mean of the other logits``, float32 ``[M, N + T]``: what a law speaks of; with two classes, `margins`."""
        contrast = contrasts(self.features.labels, self.features.classes)
        return np.stack([((self.features.x @ weights) * contrast).sum(axis=1) for weights in self.weights]).astype(np.float32)

    def write(self, folder: Path, *, keep_logits: bool = True) -> EvidenceCache:
        """Write all rows into an evidence cache and return it; rows that are there are left as they are.

        Raises:
            BadInput: the folder holds evidence about something else.
        """
        cache = EvidenceCache(folder, self.about, self.features.labels, self.features.classes, keep_logits=keep_logits)
        for number in sorted(set(range(len(self))) - set(cache.rows(len(self)))):
            cache.write(number, self.logits(number), self.states[number])
        return cache


class Shadows(NamedTuple):
    """Pools of one plan with random requests; model k of each has the same examples IN.

    Attributes:
        original: trained on IN and FORGET.
        unlearned: originals after FORGET was unlearned.
        retrained: trained on IN.
        targets: canonical indices of the examples whose state varies.
    """

    original: Pool
    unlearned: Pool
    retrained: Pool
    targets: np.ndarray


@dataclass(frozen=True, eq=False)
class Testbed:
    """Everything that makes the pools; two of the same settings make the same models.

    Model k of a pool depends on the settings, the pool and k alone, so that a larger pool begins with the smaller one. Unlearned model k
    comes from original k; retrained models have randomness of their own.

    Attributes:
        features: of all examples.
        forget: canonical indices of the request, training examples.
        head: what is trained.
        noise: where a model's randomness enters: ``weights`` (normal noise on the optimum) or ``objective`` (a normal linear term).
        deviation: of that noise; see `visible`.
        seed: of everything random but the request.

    Raises:
        BadInput: a request that is empty, holds everything or is not about training examples, or a deviation that is not positive.
    """

    __test__ = False  # no test case, whatever its name says to pytest

    features: Features
    forget: np.ndarray
    head: Head = Ridge()
    noise: NoisePlace = "weights"
    deviation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        forget, size = np.unique(np.asarray(self.forget, dtype=np.int64)), self.features.train_size
        if not 0 < len(forget) < size or forget[0] < 0 or forget[-1] >= size:
            raise BadInput("forget", f"expected some but not all of the examples 0 to {size - 1}, got {len(forget)}.")
        if self.noise not in ("weights", "objective"):
            raise BadInput("noise", f"expected weights or objective, got {self.noise!r}.")
        if not self.deviation > 0:
            raise BadInput("deviation", f"expected a positive number, got {self.deviation}.", "Models of a pool must differ.")
        object.__setattr__(self, "forget", forget)

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """Canonical indices of forget, retain, validation (a fifth of the unseen examples), test (the rest) and unseen (as test)."""
        size, total = self.features.train_size, len(self.features.labels)
        cut = size + (total - size) // 5
        test = np.arange(cut, total)
        retain = np.setdiff1d(np.arange(size), self.forget)
        return {"forget": self.forget, "retain": retain, "validation": np.arange(size, cut), "test": test, "unseen": test}

    def visible(self, shift: float = 1.0) -> "Testbed":
        """Return a testbed whose noise is such that training on a forget example moves its margin by so many standard deviations.

        It is the root mean square over the forget set; single examples may be moved up or down, and by more or less.
        """
        quiet = replace(self, deviation=1e-4 * self.deviation)
        return replace(self, deviation=quiet.deviation * quiet._moved() / shift)

    def _moved(self) -> float:
        """Return the root mean square of the forget margins' shifts; from 200 models where the law is not known."""
        pools, x, labels = [self.original(200), self.retrained(200)], self.features.x[self.forget], self.features.labels[self.forget]
        if isinstance(self.head, Ridge):
            laws = [known_law(pool).margins(x, labels) for pool in pools]
            gap, variance = laws[0].mean - laws[1].mean, (laws[0].variance + laws[1].variance) / 2
        else:
            margins = [pool.linear_margins[:, self.forget].astype(np.float64) for pool in pools]
            gap, variance = margins[0].mean(axis=0) - margins[1].mean(axis=0), (margins[0].var(axis=0) + margins[1].var(axis=0)) / 2
        return float(np.sqrt(np.mean(gap**2 / variance)))

    def original(self, models: int, offset: int = 0) -> Pool:
        """Return models of all training data."""
        return self._pool("original", self._rows(IN), models, offset)

    def retrained(self, models: int, offset: int = 0) -> Pool:
        """Return models of the retained data.

        Args:
            models: how many.
            offset: number of the first; another offset gives models that are new, for the null of any metric.
        """
        return self._pool("retrained", self._rows(OUT), models, offset)

    def unlearned(self, unlearner: Unlearner, models: int) -> Pool:
        """Return what the unlearner makes of the originals."""
        return self._apply(unlearner, self.original(models), self._rows(FORGET))

    def dose(self, fraction: float, models: int) -> Pool:
        """Return models of the retained data and a random fraction of the forget set, drawn anew for each model.

        A model's fraction holds its smaller ones, and its noise is the same for all of them.
        """
        if not 0 <= fraction <= 1:
            raise BadInput("fraction", f"expected 0 to 1, got {fraction}.")
        states = np.repeat(self._rows(OUT), models, axis=0)
        for number in range(models):
            order = self._generator("dose", number).permutation(self.forget)
            states[number, order[: round(fraction * len(order))]] = IN
        return self._pool("dose", states, models, 0, {"fraction": fraction})

    def base(self, models: int) -> Pool:
        """Return models of random halves of the training data; models 2j and 2j + 1 of complementary ones."""
        return self._pool("base", self._padded(design(models, self.features.train_size, 2, derive(self.seed, "base") % 2**32)), models, 0)

    def shadows(self, unlearner: Unlearner, models: int, target_fraction: float = 0.3) -> Shadows:
        """Return pools with random requests: each target is in, forgotten and out equally often; the request of the testbed is not used.

        Args:
            unlearner: what is judged.
            models: a multiple of 3.
            target_fraction: share of the training examples that take turns; all others are in every model.
        """
        size, seed = self.features.train_size, derive(self.seed, "shadow") % 2**32
        targets = np.sort(np.random.default_rng([seed, 1]).permutation(size)[: round(target_fraction * size)])
        plan = np.full((models, size), IN, dtype=np.uint8)
        plan[:, targets] = design(models, len(targets), 3, seed)
        states = self._padded(plan)
        original = self._pool("shadow original", np.where(states == FORGET, IN, states).astype(np.uint8), models, 0)
        retrained = self._pool("shadow retrained", np.where(states == FORGET, OUT, states).astype(np.uint8), models, 0)
        return Shadows(original, self._apply(unlearner, original, states), retrained, targets)

    def view(self, pool: Pool, number: int) -> View:
        """Return what one model says about every part of the request, for the metrics of one model or of a pair."""
        logits, labels = pool.logits(number), self.features.labels
        parts = self.parts
        return View({part: logits[index] for part, index in parts.items()}, {part: labels[index] for part, index in parts.items()})

    def _rows(self, forgotten: int) -> np.ndarray:
        """Return the one row of states in which the forget set has this state."""
        row = np.full((1, self.features.train_size), IN, dtype=np.uint8)
        row[:, self.forget] = forgotten
        return self._padded(row)

    def _padded(self, states: np.ndarray) -> np.ndarray:
        unseen = len(self.features.labels) - self.features.train_size
        return np.pad(states, ((0, 0), (0, unseen)), constant_values=OUT)

    def _members(self, states: np.ndarray, *which: int) -> np.ndarray:
        return np.isin(states[:, : self.features.train_size], which).astype(np.float64)

    def _pool(self, name: str, states: np.ndarray, models: int, offset: int, more: dict[str, Any] | None = None) -> Pool:
        if models < 1:
            raise BadInput("models", f"expected at least one, got {models}.")
        task, members = self.features.task, self._members(states, IN)
        noise = self.deviation * self._noise(name, models, offset)
        if self.noise == "weights":
            weights = self.head.fit(task, members) + noise
        else:
            weights = self.head.fit(task, members, noise)
        rows = np.broadcast_to(states, (models, states.shape[1]))
        return Pool(name, self.features, weights, rows, self._law(members), self._about(name, offset, more))

    def _law(self, members: np.ndarray) -> Law | None:
        if not isinstance(self.head, Ridge):
            return None
        task = self.features.task
        root = np.eye(task.x.shape[1])[None]
        if self.noise == "objective":
            root = np.linalg.inv(self.head.hessian(task, members))
        return Law(self.head.fit(task, members), self.deviation**2 * root @ root)

    def _apply(self, unlearner: Unlearner, original: Pool, states: np.ndarray) -> Pool:
        request = Request(self.head, self.features.task, self._members(states, IN), self._members(states, FORGET), self.noise)
        weights, law = original.weights, original.law
        for number, step in enumerate(unlearner.steps(request)):
            weights = step.move(weights)
            if step.deviation:
                weights = weights + step.deviation * self._noise(f"{original.name} unlearned {number}", len(original), 0)
            law = law and law.through(step.move, step.deviation)
        name = original.name.replace("original", "unlearned")
        rows = np.broadcast_to(states, original.states.shape)
        return Pool(name, self.features, weights, rows, law, self._about(name, 0, {"unlearner": repr(unlearner)}))

    def _noise(self, purpose: str, models: int, offset: int) -> np.ndarray:
        shape = (self.features.x.shape[1], self.features.classes)
        return np.stack([self._generator(f"{purpose} noise", offset + number).normal(size=shape) for number in range(models)])

    def _generator(self, purpose: str, number: int) -> np.random.Generator:
        return np.random.default_rng(derive(self.seed, "testbed", purpose, number))

    def _about(self, name: str, offset: int, more: dict[str, Any] | None) -> dict[str, Any]:
        made = {"head": repr(self.head), "noise": self.noise, "deviation": self.deviation, "seed": self.seed, "offset": offset}
        data = {"data": self.features.fingerprint, "forget": fingerprint(self.forget.tolist())}
        return {"testbed": name, **data, **made, **(more or {})}


def random_request(features: Features, size: int, seed: int = 0) -> np.ndarray:
    """Return canonical indices of random training examples, ascending; a smaller request of the same seed is part of a larger one."""
    order = np.random.default_rng(derive(seed, "testbed", "request")).permutation(features.train_size)
    return np.sort(order[:size])


def known_law(pool: Pool) -> Law:
    """Return a pool's law.

    Raises:
        NotApplicable: its head has none that is known.
    """
    if pool.law is None:
        raise NotApplicable("law", f"the {pool.name} pool's law is not known; only a ridge head's is.", "Take head=Ridge().")
    return pool.law
