"""Forget a backdoor."""

from typing import Literal

import numpy as np
import torch

from expunge.config import Fraction, Integer, PositiveInt, Text, hyper
from expunge.data.augmentation import Trigger
from expunge.data.dataset import Data
from expunge.data.scenario import Alteration, Choice, Scenario, class_number, how_many, part_known, pick
from expunge.errors import BadInput

VALUES = {"black": 0, "white": 255}


class Poisoned(Scenario):
    """Train with a small square on some pictures that are all labelled as one class, then forget these pictures.

    With ``known_fraction`` below 1 only a part of them was found: the others stay in the retained data of a method. Retrained models are
    trained on clean pictures alone, which is what the user wants and what training without the forget set would not give.
    """

    source = (
        "Jia et al., Model sparsity can simplify machine unlearning, NeurIPS 2023, arXiv 2304.04934: Trojan cleanse; partial knowledge: "
        "Goel et al., Corrective machine unlearning, TMLR 2024, arXiv 2402.14015"
    )
    deviations = (
        "Pictures of the target class are neither poisoned nor counted as successes of the attack.",
        "The square is white for data whose corners are black anyway.",
    )

    kind = "random"

    target: Integer | Text = hyper(0, "name or number of the class that the square stands for")
    fraction: Fraction | None = hyper(None, "share of the training set; 0.1 if no count is given either")
    count: PositiveInt | None = hyper(None, "number of pictures, instead of a fraction")
    size: PositiveInt = hyper(4, "side of the square in pixels")
    shade: Literal["contrast", "black", "white"] = hyper("contrast", "black, but white where black would change too few pictures")
    known_fraction: Fraction = hyper(1.0, "share of the poisoned pictures that was found and is to be forgotten")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices that are poisoned; see `expunge.data.scenario.Scenario.choose`."""
        self._check_pictures(data)
        target = class_number(data, self.target, "forget.target")
        members = candidates[data.labels.numpy()[candidates] != target]
        count = how_many(self.fraction, self.count, len(candidates), default=0.1)
        if count > len(members):
            raise BadInput("forget.fraction", f"{count} pictures are to be poisoned, {len(members)} are of other classes than the target.")
        return pick(members, count, seed, "forget/poisoned")

    def divide(self, data: Data, candidates: np.ndarray, seed: int, ranking: object = None) -> Choice:
        """Return a request for the poisoned pictures that were found; see `expunge.data.scenario.Scenario.divide`."""
        return part_known(self.choose(data, candidates, seed), self.known_fraction, seed)

    def alter(self, data: Data, chosen: np.ndarray, seed: int) -> Alteration:
        """Return the target labels and the square.

        Raises:
            BadInput: the square would change fewer than nine tenths of the pictures.
        """
        corner = self._corner(data, chosen)
        shades = ("black", "white") if self.shade == "contrast" else (self.shade,)
        changed = {shade: float((corner != VALUES[shade] / 255).flatten(1).any(1).float().mean()) for shade in shades}
        shade = next((shade for shade in shades if changed[shade] >= 0.9), None)
        if shade is None:
            found = " and ".join(f"a {shade} square changes {changed[shade]:.0%}" for shade in shades)
            raise BadInput("forget.shade", f"{found} of the pictures; 90% are needed.", "Choose another shade or a larger size.")
        target = class_number(data, self.target, "forget.target")
        return Alteration(chosen, np.full(len(chosen), target, dtype=np.int64), Trigger(self.size, VALUES[shade]), target)

    def _check_pictures(self, data: Data) -> None:
        if not data.source.is_picture:
            raise BadInput(
                "forget", f"poisoning needs uint8 pictures, and {data.name} has floating point inputs.", "Choose another scenario."
            )
        if min(data.input_shape[1:]) < self.size + 2:
            raise BadInput(
                "forget.size", f"a square of {self.size} pixels does not fit {data.input_shape[1:]} pixels.", "Choose a smaller one."
            )

    def _corner(self, data: Data, index: np.ndarray) -> torch.Tensor:
        """Return the pixels under the square in up to 1,000 of the pictures, float in [0, 1]."""
        some = torch.from_numpy(index[:1000])
        region = slice(-2 - self.size, -2)
        return torch.cat([x[:, :, region, region].cpu() for x, _ in data.source.batches(some, 500, augment=False, seed=0, epoch=0)])
