"""Forget wrong labels."""

from typing import Literal

import numpy as np
import torch

from expunge.config import Fraction, PositiveInt, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Alteration, Scenario, how_many, pick
from expunge.engine import randomness
from expunge.errors import BadInput


class LabelNoise(Scenario):
    """Train with some wrong labels, then forget the examples that carry them."""

    source = "the confusion setting of github.com/makamoa/unlearning, where a wrong label is the next class"
    deviations = ("By default wrong labels are drawn from all other classes; noise=pairwise is as there.",)

    kind = "random"

    fraction: Fraction | None = hyper(None, "share of the training set; 0.1 if no count is given either")
    count: PositiveInt | None = hyper(None, "number of examples, instead of a fraction")
    noise: Literal["uniform", "pairwise"] = hyper("uniform", "any other class, or always the next one")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices that get a wrong label; see `expunge.data.scenario.Scenario.choose`."""
        if data.num_classes < 2:
            raise BadInput("forget", f"{data.name} has one class, so that no label can be wrong.")
        return pick(candidates, how_many(self.fraction, self.count, len(candidates), default=0.1), seed, "forget/label_noise")

    def alter(self, data: Data, chosen: np.ndarray, seed: int) -> Alteration:
        """Return the wrong labels; none equals the right one."""
        index = torch.from_numpy(chosen)
        shift = torch.ones_like(index)
        if self.noise == "uniform":
            shift += randomness.integers(seed, "forget/wrong_label", 0, index, data.num_classes - 1)
        return Alteration(chosen, ((data.labels[index] + shift) % data.num_classes).numpy())
