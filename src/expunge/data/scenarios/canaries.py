"""Forget canaries, each of which is in the training set by the toss of a coin."""

from typing import Literal

import numpy as np
import torch

from expunge.config import Fraction, PositiveInt, hyper
from expunge.data.augmentation import Noise
from expunge.data.dataset import Data
from expunge.data.scenario import Alteration, Choice, Scenario, how_many, pick
from expunge.data.split_file import to_ranges
from expunge.engine import randomness
from expunge.errors import BadInput


class Canaries(Scenario):
    """Spoil some training pictures, train on each of them with probability one half, and forget those trained on.

    Spoilt is their label, which becomes a random wrong one, or with ``what=noise`` the picture too, which becomes uniform noise: memory
    alone can know its label, so that a net of enough capacity leaks the most.

    The pictures that the coin left out are spoilt too and are what the forget set is compared with: the two differ in the
    coin alone. One model with and without tells a lower bound of epsilon, see `expunge.attacks.epsilon.one_run`, whose flips are in the
    record, in the order of the pictures.
    """

    source = "Steinke, Nasr & Jagielski, Privacy auditing with one training run, NeurIPS 2023, arXiv 2305.08846"

    kind = "random"

    fraction: Fraction | None = hyper(None, "share of the training set that is made canaries; 0.05 if no count is given either")
    count: PositiveInt | None = hyper(None, "number of canaries, instead of a fraction")

    what: Literal["label", "noise"] = hyper("label", "label: a wrong label; noise: a wrong label, and uniform noise for a picture")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices of all canaries, those left out included; see `expunge.data.scenario.Scenario.choose`."""
        if data.num_classes < 2:
            raise BadInput("forget", f"{data.name} has one class, so that no label can be wrong.")
        return pick(candidates, how_many(self.fraction, self.count, len(candidates), default=0.05), seed, "forget/canaries")

    def divide(self, data: Data, candidates: np.ndarray, seed: int, ranking: object = None) -> Choice:
        """Return the canaries that the coin put in, and those that it left out; see `expunge.data.scenario.Scenario.divide`."""
        canaries = self.choose(data, candidates, seed)
        included = randomness.integers(seed, "forget/included", 0, torch.from_numpy(canaries), 2).numpy() == 1
        if included.all() or not included.any():
            raise BadInput("forget.count", f"the coin fell on one side for all of {len(canaries)} canaries.", "Use more, 20 at least.")
        notes = {"canaries": to_ranges(canaries), "included": "".join("01"[flip] for flip in included.astype(int))}
        return Choice(canaries[included], excluded=canaries[~included], notes=notes)

    def alter(self, data: Data, chosen: np.ndarray, seed: int) -> Alteration:
        """Return the wrong labels of all canaries, and their noise; no label equals the right one, and nothing depends on the coin."""
        index = torch.from_numpy(chosen)
        shift = 1 + randomness.integers(seed, "forget/wrong_label", 0, index, data.num_classes - 1)
        noise = Noise(randomness.derive(seed, "forget/noise")) if self.what == "noise" else None
        return Alteration(chosen, ((data.labels[index] + shift) % data.num_classes).numpy(), noise=noise)
