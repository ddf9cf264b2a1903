"""What an audit is: a statistic of two sets of models, or a game that an attacker plays on a pool, with its law when there is no leak.

A metric looks at one model. An audit looks at many at once, because "how far is unlearning from retraining" is a question about two
distributions. Its first kind (`Audit.statistic`) compares the models of a row with retrained models of other seeds: the reference half. The
other half of the retrained models is the control, a row like any other, and splits of both halves give the null.
Its second kind (`Audit.play`) is a game on shadow models that have each forgotten something else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from expunge.audits import relabelling
from expunge.config import Component
from expunge.errors import BadInput
from expunge.metrics.metric import Target, Tier


@dataclass(frozen=True)
class Panel:
    """What several models say about parts of the data; row k is model k.

    Attributes:
        margins: part -> true-class margins, float32 ``[N, n]``.
        correct: part -> whether each prediction is right, bool ``[N, n]``.
    """

    margins: Mapping[str, np.ndarray]
    correct: Mapping[str, np.ndarray]

    @property
    def models(self) -> int:
        """How many there are."""
        return len(next(iter(self.margins.values())))

    def take(self, rows: np.ndarray) -> "Panel":
        """Return some of the models."""
        return Panel(*({part: values[rows] for part, values in table.items()} for table in (self.margins, self.correct)))

    def join(self, other: "Panel") -> "Panel":
        """Return the models of both."""
        return Panel(
            {part: np.concatenate([values, other.margins[part]]) for part, values in self.margins.items()},
            {part: np.concatenate([values, other.correct[part]]) for part, values in self.correct.items()},
        )

    def of(self, part: str) -> np.ndarray:
        """Return the margins of a part, float32 ``[N, n]``.

        Raises:
            BadInput: the panel does not hold it.
        """
        if part not in self.margins or not self.margins[part].shape[1]:
            raise BadInput(f"panel.{part}", "the audit needs this part and it holds no examples.", f"Parts: {', '.join(self.margins)}.")
        return self.margins[part]


@dataclass(frozen=True)
class Shadows:
    """Shadow models of one method: every target is unlearned, kept, and never seen in a third of them each.

    Attributes:
        original: margins of the targets before unlearning, float32 ``[K, n]``.
        unlearned: the same after it.
        retrained: the same for models trained on the kept examples only; None where nobody made them.
        states: OUT, IN or FORGET of each target in each model, uint8 ``[K, n]``.
    """

    original: np.ndarray
    unlearned: np.ndarray
    retrained: np.ndarray | None
    states: np.ndarray


@dataclass(frozen=True)
class Finding:
    """What an audit found about one row.

    Attributes:
        value: in the audit's unit.
        standard_error: over models and examples; None where no formula is valid.
        interval: 95 %, ``(low, high)``; None likewise.
        details: more, as plain values: quantiles over examples, rates at false-positive rates, epsilon bounds with ceilings.
        note: what a reader must know to read the value.
        null_error: standard deviation of the value without a leak, for games; judged is by the smaller of this and the standard error.
        degrees: of freedom of that error, for games; None takes it as exact.
        p_value: where the design of the experiment gives one; None where divisions or the error must.
        smallest_p_value: the smallest that this design can give; None where there is no such limit.
    """

    value: float
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    null_error: float | None = None
    degrees: float | None = None
    p_value: float | None = None
    smallest_p_value: float | None = None


class Audit(Component):
    """An audit overrides `statistic` (fixed request, pools of unlearned and retrained models) or `play` (shadow pools).

    Class attributes: ``label``, ``unit``, ``target`` (RETRAINED: both sides of the null fail; ZERO_UP_TO_BAND or LOWER: above fails;
    HIGHER: below fails; REPORT: never judged), ``tier``, ``game`` (efficacy, privacy, membership, collateral, swap), ``parts`` of the
    split that it needs, ``minimum`` (models on each side below which it means nothing), ``scenarios`` (kinds of request, or names of
    scenarios), ``null_value`` (what a game gives without a leak; None where the null is measured), ``limits``, ``above`` and ``below``
    (what a value outside the null means), ``pool`` (which models a game is played on), ``area`` (the value is an AUC, which can be read
    as a shift), ``relative`` (its ratio to the null's mean is of use, since the null is neither 0 nor 1) and ``symmetric`` (exchanging
    two sets of equal size leaves the statistic as it is, so that a division and its opposite count together).
    """

    label: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    tier: ClassVar[Tier] = "standard"
    game: ClassVar[str] = "efficacy"
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    scenarios: ClassVar[tuple[str, ...]] = ("random", "class", "subclass")
    minimum: ClassVar[int] = 4
    null_value: ClassVar[float | None] = None
    limits: ClassVar[tuple[float, float] | None] = None
    above: ClassVar[str] = ""
    below: ClassVar[str] = ""
    pool: ClassVar[Literal["shadow", "swap"]] = "shadow"
    area: ClassVar[bool] = False
    relative: ClassVar[bool] = False
    symmetric: ClassVar[bool] = False

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return one number for a set of models against retrained ones; both panels have independent training seeds.

        Called for the row and, by `relabel`, for the null: it must be cheap, or say so by `null_draws`.

        Args:
            candidate: models of a row, N.
            reference: retrained models of other seeds, M.
            labels: part -> true classes, int64 ``[n]``.
            seed: of anything that is drawn.
        """
        raise NotImplementedError(f"{self.name} is a game on shadow models")

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the statistic of many divisions of all the models into two sets of the same sizes, float64 ``[draws or fewer]``.

        The first is the division as it is. Where there are no more than ``draws`` divisions, each is there once. An audit overrides
        this where one computation serves all divisions.
        """
        pool = candidate.join(reference)
        divisions = relabelling.divisions(candidate.models, reference.models, draws, seed)
        return np.array([self.statistic(pool.take(chosen), pool.take(~chosen), labels, seed) for chosen in divisions])

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the statistic with interval and details; called once for each row."""
        return Finding(self.statistic(candidate, reference, labels, seed))

    def play(self, shadows: Shadows, seed: int = 0) -> Finding:
        """Return what an attacker achieves on shadow models."""
        raise NotImplementedError(f"{self.name} compares a row with retrained models")

    @property
    def null_draws(self) -> int:
        """How many divisions make a null; from 200 on a p-value is counted, below it a Student t tail takes over."""
        return 4000

    def smallest_p_value(self, first: int, second: int) -> float:
        """Return the smallest p-value that counting divisions of so many models can be expected to give.

        An audit whose `relabel` draws from fewer divisions than there are overrides this.
        """
        return relabelling.smallest_p_value(self.null_draws, first, second, self.target, self.symmetric)

    @classmethod
    def is_game(cls) -> bool:
        """Return whether the audit is played on shadow models."""
        return cls.play is not Audit.play
