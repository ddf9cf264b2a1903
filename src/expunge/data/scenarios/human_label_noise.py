"""Forget wrong labels that people gave."""

from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from expunge.config import Fraction, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Alteration, Choice, Scenario, part_known
from expunge.errors import BadInput

COLUMNS = {
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
}
"""Choice -> name of the array in the file."""


class HumanLabelNoise(Scenario):
    """Train with the labels that people gave to the pictures, then forget the wrong ones, or those of them that were found.

    The labels come from a file of yours: an ``npz`` with one array of labels for each choice, in the order of the training set. Those
    of CIFAR-10N are licensed CC BY-NC 4.0, so that expunge does not bring them. Validation and test pictures keep the right labels.
    """

    source = "Wei et al., Learning with noisy labels revisited (CIFAR-10N), ICLR 2022, arXiv 2110.12088"

    kind = "random"
    prefix_field = "labels"

    labels: Literal["aggregate", "random1", "random2", "random3", "worst"] = hyper("worst", "whose labels: 9, 17 to 18, or 40 % are wrong")
    file: Path = hyper(..., "npz file with the arrays aggre_label, random_label1, random_label2, random_label3, worse_label")
    known_fraction: Fraction = hyper(1.0, "share of the wrong labels that was found; the others stay in the training data of a method")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices of all wrong labels; see `expunge.data.scenario.Scenario.choose`."""
        given, right = self._given(data), data.labels.numpy()[: data.train_size]
        wrong = np.flatnonzero(given != right)
        if len(wrong) > 0.6 * data.train_size:
            found = f"{len(wrong) / data.train_size:.0%} of its labels differ from those of {data.name}."
            raise BadInput("forget.file", found, "The file must be about this data set, in the order of its training set.")
        return np.intersect1d(candidates, wrong)

    def divide(self, data: Data, candidates: np.ndarray, seed: int, ranking: object = None) -> Choice:
        """Return a request for the wrong labels that were found; see `expunge.data.scenario.Scenario.divide`."""
        return part_known(self.choose(data, candidates, seed), self.known_fraction, seed)

    def alter(self, data: Data, chosen: np.ndarray, seed: int) -> Alteration:
        """Return the labels that people gave."""
        return Alteration(chosen, self._given(data)[chosen])

    def _given(self, data: Data) -> np.ndarray:
        """Return people's labels of the training examples, int64 ``[N]``."""
        column = COLUMNS[self.labels]
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                there, found = sorted(arrays), arrays[column] if column in arrays else None
        except (OSError, ValueError, EOFError, TypeError, BadZipFile) as error:
            raise BadInput("forget.file", f"{self.file} cannot be read: {error}.", "Give an npz file without pickled objects.") from None
        if found is None:
            raise BadInput("forget.file", f"{self.file} holds {', '.join(there) or 'nothing'}.", f"It needs the array {column}.")
        if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) < data.train_size:
            shape = f"{found.dtype} {list(found.shape)}"
            raise BadInput(
                "forget.file", f"{column} is {shape}; {data.name} has {data.train_size} training examples.", "One label for each."
            )
        labels = found[: data.train_size].astype(np.int64)
        if labels.min() < 0 or labels.max() >= data.num_classes:
            found_range = f"labels go from {labels.min()} to {labels.max()}; {data.name} has {data.num_classes} classes."
            raise BadInput("forget.file", found_range, "The file must be about this data set.")
        return labels
