"""Forget examples at random."""

import numpy as np
import torch

from expunge.config import Flag, Fraction, PositiveInt, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Scenario, how_many, pick
from expunge.engine import randomness


class Random(Scenario):
    """Forget training examples chosen at random from all classes.

    A smaller set of the same seed is part of the larger one.
    """

    kind = "random"

    fraction: Fraction | None = hyper(None, "share of the training set; 0.1 if no count is given either")
    count: PositiveInt | None = hyper(None, "number of examples, instead of a fraction")
    balanced: Flag = hyper(False, "take equally many of each class, as far as there are")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices to forget; see `expunge.data.scenario.Scenario.choose`."""
        count = how_many(self.fraction, self.count, len(candidates), default=0.1)
        if not self.balanced:
            return pick(candidates, count, seed, "forget/random")
        return _pick_balanced(data.labels.numpy()[candidates], candidates, count, seed)


def _pick_balanced(labels: np.ndarray, candidates: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return candidates in turns, one of each class in every round; which classes the last, short round serves is random."""
    shuffled = randomness.shuffle(seed, "forget/random", 0, torch.from_numpy(candidates)).numpy()
    order = np.searchsorted(candidates, shuffled)
    rounds = np.empty(len(candidates), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rounds[members] = np.arange(len(members))
    return candidates[order[np.argsort(rounds[order], kind="stable")[:count]]]
