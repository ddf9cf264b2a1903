"""What is to be forgotten: the verb of every scenario, and what several of them share."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from expunge.config import Component
from expunge.data.augmentation import Noise, Trigger
from expunge.data.dataset import Data
from expunge.engine import randomness
from expunge.errors import BadInput, nearest

if TYPE_CHECKING:
    from expunge.data.ranking import Ranking


def _no_examples() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a scenario makes of the training examples; those that it does not name are retained.

    Attributes:
        forget: canonical indices of the request, int64 ``[n]``.
        unknown: manipulated like the forget set, but not in the request: a method takes them for retained, a retrained model sees none.
        excluded: no model is trained on them; the forget set is compared with them instead of with test examples.
        notes: plain values about the choice, for the record.
    """

    forget: np.ndarray
    unknown: np.ndarray = field(default_factory=_no_examples)
    excluded: np.ndarray = field(default_factory=_no_examples)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Alteration:
    """How training examples differ from those of the data set: other labels, and perhaps a trigger on the picture or noise in its place.

    Attributes:
        index: canonical indices of the altered training examples, int64, ascending.
        labels: what they are labelled in training, int64, in the order of ``index``.
        trigger: the square stamped on their pictures; None for none.
        target: the class that the trigger stands for; None without a trigger.
        swapped: two classes whose labels are swapped; None for none.
        noise: what takes the place of their pictures; None for the pictures themselves. Not together with a trigger.
    """

    index: np.ndarray
    labels: np.ndarray
    trigger: Trigger | None = None
    target: int | None = None
    swapped: tuple[int, int] | None = None
    noise: Noise | None = None


class Scenario(Component):
    """A request to forget. Concrete ones say which training examples it means.

    Class attributes: ``kind`` (``random``, ``class`` or ``subclass``: what methods declare that they can do), ``kind_from_content``
    (whether a set within one class counts as ``subclass``, for scenarios that could mean either) and ``ranks`` (the models whose
    ranking of the examples the choice rests on, see `expunge.data.ranking`; empty for a choice that needs none).
    """

    kind: ClassVar[Literal["random", "class", "subclass"]] = "random"
    kind_from_content: ClassVar[bool] = False
    ranks: ClassVar[Literal["", "base_pool", "original"]] = ""

    @abstractmethod
    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the canonical indices to forget, int64 ``[n]``.

        Args:
            data: the data set.
            candidates: training indices outside of validation, int64, ascending.
            seed: the run's seed.

        Raises:
            BadInput: the fields do not fit the data.
        """

    def divide(self, data: Data, candidates: np.ndarray, seed: int, ranking: "Ranking | None" = None) -> Choice:
        """Return what is forgotten, and what else does not count as retained: by default nothing.

        Args:
            data: the data set.
            candidates: as in `choose`.
            seed: as in `choose`.
            ranking: what models say about the candidates, for scenarios that declare ``ranks``.

        Raises:
            BadInput: the fields do not fit the data, or a ranking is missing.
        """
        return Choice(self.choose(data, candidates, seed))

    def alter(self, data: Data, chosen: np.ndarray, seed: int) -> Alteration | None:
        """Return how the training data of all models is altered; None, as usual, for not at all.

        Args:
            data: the data set.
            chosen: all examples that `divide` names, ascending: those of the request, unknown and excluded ones.
            seed: the run's seed.
        """
        return None


def how_many(fraction: float | None, count: int | None, available: int, default: float) -> int:
    """Return the number of examples that ``fraction`` of the available ones, or ``count``, stands for.

    Raises:
        BadInput: both are given, or more than there are.
    """
    if fraction is not None and count is not None:
        raise BadInput("forget.count", f"got fraction={fraction} and count={count}; one of the two is allowed.", "Leave one out.")
    if count is None:
        return round((default if fraction is None else fraction) * available)
    if count > available:
        raise BadInput("forget.count", f"there are {available} training examples to choose from, got {count}.", "Choose a smaller count.")
    return count


def pick(candidates: np.ndarray, count: int, seed: int, purpose: str) -> np.ndarray:
    """Return ``count`` of the candidates at random, ascending. A larger count of the same seed holds the smaller one."""
    return np.sort(randomness.shuffle(seed, purpose, 0, torch.from_numpy(candidates)).numpy()[:count])


def part_known(manipulated: np.ndarray, known_fraction: float, seed: int) -> Choice:
    """Return a request for a share of the manipulated examples, drawn at random; the others are unknown to whoever makes the request.

    A retrained model is trained without any manipulated example: one that kept the unknown ones would be no model of clean data.
    """
    forget = pick(manipulated, round(known_fraction * len(manipulated)), seed, "forget/known")
    return Choice(forget, unknown=np.setdiff1d(manipulated, forget))


def unnamed(data: Data, where: str, scenario: str) -> BadInput:
    """Return the error for a request that names no class, with the classes that there are; no class is forgotten by default."""
    names = ", ".join(data.class_names[:20]) + (f" and {data.num_classes - 20} more" if data.num_classes > 20 else "")
    return BadInput(where, f"no class is named; {data.name} has {names}.", f"Write forget={scenario}:{data.class_names[0]}, for example.")


def class_number(data: Data, wanted: str | int, where: str) -> int:
    """Return the label of a class that is given by name or by number. A name goes before a number.

    Raises:
        BadInput: there is no such class; the message names the nearest one.
    """
    by_name = {name.casefold(): label for label, name in enumerate(data.class_names)}
    label = by_name.get(str(wanted).strip().casefold())
    if label is None and str(wanted).strip().isdecimal():
        label = int(wanted)
        if label >= data.num_classes:
            raise BadInput(where, f"{data.name} has the classes 0 to {data.num_classes - 1}, got {label}.")
    if label is None:
        several = "," in str(wanted) and where == "forget.classes"
        remedy = "For several write 'forget.classes=[A, B]' beside forget=class." if several else nearest(str(wanted).casefold(), by_name)
        raise BadInput(where, f"{data.name} has no class {wanted!r}.", remedy)
    return label
