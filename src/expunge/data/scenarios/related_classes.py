"""Forget the classes that matter most to another data set."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from expunge.config import PositiveInt, Text, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Choice, Scenario
from expunge.errors import BadInput

if TYPE_CHECKING:
    from expunge.data.ranking import Ranking


class RelatedClasses(Scenario):
    """Forget the classes that a model sees most often in the pictures of a downstream set: those that its features owe most to.

    The model is the original of ``model.weights``, or one that is trained for this alone. This is the hard case for transfer, because a
    retrained model loses on the downstream set too. Which classes they are, and how often each was seen, is in the record.
    """

    aliases = ("top_classes",)
    source = "Kim et al., Are we truly forgetting?, arXiv 2503.06991: forgetting of the top classes"
    deviations = (
        "The published lists of classes come as files; here they are computed. Such a list goes into forget=class forget.file=FILE.",
    )

    kind = "class"
    ranks: ClassVar[Literal["", "base_pool", "original"]] = "original"
    prefix_field = "downstream"

    downstream: Path | None = hyper(None, "folder of pictures, DOMAIN/CLASS/PICTURE, as for evaluate.downstream")
    domain: Text | None = hyper(None, "one domain of it, by the name of its folder; all if not given")
    count: PositiveInt = hyper(1, "classes to forget; 100, 200 and 300 of ImageNet's 1,000 in the source")
    by: Literal["predictions", "probability"] = hyper(
        "predictions", "how a class is weighed: pictures taken for it, or its mean probability"
    )

    def check(self, candidates: np.ndarray) -> None:
        """Refuse a request without a downstream set.

        Raises:
            BadInput: none is given, or it is not there.
        """
        if self.downstream is None or not self.downstream.is_dir():
            found = "no downstream set is given" if self.downstream is None else f"there is no folder {self.downstream}"
            raise BadInput("forget.downstream", f"{found}.", "Write forget=related_classes:FOLDER, a folder DOMAIN/CLASS/PICTURE.")

    def check_count(self, data: Data) -> None:
        """Refuse to forget all classes.

        Raises:
            BadInput: there are no more classes than are to be forgotten.
        """
        if self.count >= data.num_classes:
            raise BadInput("forget.count", f"{data.name} has {data.num_classes} classes, got {self.count}.", "At least one must be left.")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Refuse: the choice rests on a model.

        Raises:
            BadInput: always.
        """
        raise BadInput("forget", f"{self.name} asks a model, and there is none.", "Use `expunge unlearn` or `evaluate`.")

    def divide(self, data: Data, candidates: np.ndarray, seed: int, ranking: "Ranking | None" = None) -> Choice:
        """Return the examples of the first classes of the ranking; see `expunge.data.scenario.Scenario.divide`."""
        if ranking is None:
            return Choice(self.choose(data, candidates, seed))
        if not np.array_equal(ranking.index, candidates):
            raise BadInput("forget", "the ranking is about other training examples.", "Make it again with this data and seed.")
        self.check_count(data)
        return Choice(candidates[ranking.scores["place"] < self.count], notes=ranking.notes)
