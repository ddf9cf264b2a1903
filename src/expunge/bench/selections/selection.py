"""What a selection rule is: the parts that it may see, and a score of one model, lower is better."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from expunge.config import Component
from expunge.metrics.view import View

SEEABLE = ("forget", "retain", "validation", "validation_forgotten")
"""Parts that tuning may see. No test part is among them, and what is no part of a view cannot be asked for."""


@dataclass(frozen=True)
class Sight:
    """What a rule sees of one trial: views that hold the parts which it declares, and nothing else.

    Attributes:
        unlearned: the model that a method with some hyper-parameters has made.
        original: the model that it started from.
        retrained: models that were retrained without the tuning's forget set; empty for a rule that does not declare them.
        kind: of the request: random, class or subclass.
    """

    unlearned: View
    original: View
    retrained: Sequence[View] = ()
    kind: str = "random"


@dataclass(frozen=True)
class Score:
    """How good one model is.

    Attributes:
        value: lower is better, from 0 on.
        readings: what it is made of, by name.
    """

    value: float
    readings: dict[str, float] = field(default_factory=dict)


class Selection(Component):
    """A rule that scores trials.

    Class attributes: ``parts`` (what it may see, of `SEEABLE`), ``needs_retrained`` (whether it compares with retrained models, which
    makes its results *oracle-tuned*), ``scenarios`` (kinds of request for which it makes sense) and ``scenario_reason``.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    needs_retrained: ClassVar[bool] = False
    scenarios: ClassVar[frozenset[str] | set[str]] = frozenset({"class", "random", "subclass"})
    scenario_reason: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        """Refuse a rule that declares what tuning may not see.

        Raises:
            TypeError: it declares another part.
        """
        super().__pydantic_init_subclass__(**more)
        forbidden = sorted(set(cls.parts) - set(SEEABLE))
        if forbidden:
            raise TypeError(f"the selection rule {cls.__name__} declares {', '.join(forbidden)}; tuning may see {', '.join(SEEABLE)} alone")

    @classmethod
    def label(cls) -> str:
        """Return what a row that was tuned by it is called, wherever its numbers appear."""
        return "oracle-tuned" if cls.needs_retrained else "tuned"

    def score(self, sight: Sight) -> Score:
        """Return how good the unlearned model is."""
        raise NotImplementedError

    @classmethod
    def narrowed(cls, view: View) -> View:
        """Return a view that holds the declared parts alone."""
        logits = {part: view.logits[part] for part in cls.parts if part in view.logits}
        return View(logits, {part: view.labels[part] for part in logits})
