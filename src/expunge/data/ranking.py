"""Forget sets that models choose: a ranking of the training examples, and what the scenarios that need one share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from expunge.config import Flag, Fraction, PositiveInt, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Choice, Scenario, how_many
from expunge.engine import randomness
from expunge.errors import BadInput

Level = Literal["high", "low"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """What models say about each training example. The models are made for the ranking and are judged nowhere.

    Attributes:
        index: canonical indices of the candidates, int64 ``[n]``, ascending.
        scores: column -> float64 ``[n]``; which columns there are depends on the scenario.
        notes: plain values about the models and about the examples that were chosen, for the record.
    """

    index: np.ndarray
    scores: dict[str, np.ndarray]
    notes: dict[str, Any] = field(default_factory=dict)


class RankedScenario(Scenario):
    """A request for the examples that come first in a ranking by models.

    A concrete one says how to order the examples, and which of them a level admits.
    """

    fraction: Fraction | None = hyper(None, "share of the training set; 0.1 if no count is given either")
    count: PositiveInt | None = hyper(None, "number of examples, instead of a fraction")
    balanced: Flag = hyper(False, "take equally many of each class, as far as there are")

    @abstractmethod
    def keys(self, scores: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Return sort keys ``[n]``, the most important first: what comes lowest is forgotten. The seed breaks what is left of ties."""

    def admits(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """Return which examples belong to the level at all, bool ``[n]``; by default every one."""
        return np.ones(len(next(iter(scores.values()))), dtype=bool)

    def check(self, candidates: np.ndarray) -> None:
        """Refuse what can be seen to be impossible before any model is trained.

        Raises:
            BadInput: more examples than there are, or fields that do not fit together.
        """
        self.size(len(candidates))

    def size(self, available: int) -> int:
        """Return how many examples are to be forgotten.

        Raises:
            BadInput: none, or more than half of all: no part of a ranking stands out in its own majority.
        """
        count = how_many(self.fraction, self.count, available, default=0.1)
        if not 0 < 2 * count <= available:
            raise BadInput(
                "forget.count", f"expected 1 to {available // 2}, half of the training examples, got {count}.", "Choose another count."
            )
        return count

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Refuse: the choice rests on models.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            "forget", f"{self.name} ranks examples by what models say, and there is no ranking.", "Use `expunge unlearn` or `evaluate`."
        )

    def divide(self, data: Data, candidates: np.ndarray, seed: int, ranking: Ranking | None = None) -> Choice:
        """Return the first examples of the ranking; see `expunge.data.scenario.Scenario.divide`."""
        if ranking is None:
            return Choice(self.choose(data, candidates, seed))
        if not np.array_equal(ranking.index, candidates):
            raise BadInput(
                "forget", "the ranking is about other training examples.", "Make it again with this data, seed and validation part."
            )
        return Choice(self.first(data.labels.numpy()[candidates], ranking, seed), notes=ranking.notes)

    def first(self, labels: np.ndarray, ranking: Ranking, seed: int) -> np.ndarray:
        """Return the canonical indices of the first examples, ascending.

        Args:
            labels: of the ranked examples, int64 ``[n]``.
            ranking: the ranking.
            seed: breaks ties.

        Raises:
            BadInput: the level has fewer examples than are to be forgotten.
        """
        count, admitted = self.size(len(ranking.index)), self.admits(ranking.scores)
        if count > admitted.sum():
            found = f"{count} examples are to be forgotten, and {int(admitted.sum())} of {len(admitted)} belong to this level."
            raise BadInput(
                "forget.count", found, "Choose a smaller count, another level, or a recipe that fits the training set more closely."
            )
        ties = randomness.uniform(seed, "forget/ties", 0, torch.from_numpy(ranking.index)).numpy()
        order = np.lexsort((ties, *reversed(self.keys(ranking.scores))))
        order = order[admitted[order]]
        if self.balanced:
            order = order[np.argsort(_rounds(labels[order]), kind="stable")]
        return np.sort(ranking.index[order[:count]])


def _rounds(labels: np.ndarray) -> np.ndarray:
    """Return how many examples of the same class come before each one, int64 ``[n]``."""
    rounds = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rounds[members] = np.arange(len(members))
    return rounds


def check_models(models: int) -> None:
    """Refuse a base pool whose two halves cannot both tell examples in from examples out.

    Raises:
        BadInput: not a multiple of 4, or fewer than 8.
    """
    if models < 8 or models % 4:
        found = (
            f"half of the models select and half describe, each in pairs of complementary halves: expected 8, 12, 16, ..., got {models}."
        )
        raise BadInput("forget.models", found, "Use forget.models=16.")
