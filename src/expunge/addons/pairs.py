"""Phases in which gradients of forgotten and of retained data meet in one step."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from expunge.engine.combine import Chain, joined, total
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Penalty, Term
from expunge.errors import NotApplicable


@dataclass(frozen=True)
class Pair:
    """A phase whose steps have a gradient for each side.

    Attributes:
        phase: with its terms in two groups.
        forget: name of the group of the forgotten data; empty if the phase has none of it.
        retain: name of the group of everything else; empty if the phase has nothing else.
    """

    phase: Phase
    forget: str
    retain: str

    @property
    def groups(self) -> tuple[str, ...]:
        """Both names."""
        return self.forget, self.retain

    @property
    def scales(self) -> dict[str, float]:
        """The largest constant weight of a group's terms, by which its gradient can be divided; 1 where weights change."""
        return {group: _scale([part.weight for part in self.phase.terms if part.group_name == group]) for group in self.groups}

    def key(self, addon: str) -> str:
        """Return a name for an add-on's memory that no other one in the phase has."""
        return f"{addon}/{len(self.phase.combine.changes) if isinstance(self.phase.combine, Chain) else 0}"


def _scale(weights: list[object]) -> float:
    if not weights or not all(isinstance(weight, int | float) for weight in weights):
        return 1.0
    return max(abs(weight) for weight in weights) or 1.0  # type: ignore[arg-type]


def sides(context: Context, phase: Phase) -> Pair | None:
    """Return the phase with its terms sorted into forgotten data and the rest, where one step sees whole groups; else None.

    Groups keep their names if the phase joins them by a rule of its own, which may know them by name.
    """
    if phase.order not in ("zip", "mixed"):
        return None
    if joined(phase.combine) is total:
        terms = [_regrouped(context, term) for term in phase.terms]
        phase = phase.but(terms=terms)
    forget = {term.group_name for term in phase.terms if isinstance(term, Term) and is_forgotten(context, term)}
    retain = {term.group_name for term in phase.terms if not isinstance(term, Term) or not is_forgotten(context, term)}
    if len(forget) > 1 or len(retain) > 1 or forget & retain:
        return None
    return Pair(phase, next(iter(forget), ""), next(iter(retain), ""))


def pair(context: Context, phase: Phase) -> Pair | None:
    """Return the two sides of a phase that has both; else None. A penalty alone is no side."""
    data = {is_forgotten(context, term) for term in phase.terms if isinstance(term, Term)}
    return sides(context, phase) if data == {True, False} else None


def added_up(context: Context, phase: Phase) -> Pair | None:
    """Return the two sides of a phase that has both and adds up their gradients; else None."""
    return pair(context, phase) if joined(phase.combine) is total else None


def forgetting(context: Context, phase: Phase) -> Pair | None:
    """Return the sides of a phase that has a gradient of forgotten data of its own; else None."""
    found = sides(context, phase)
    return found if found is not None and found.forget else None


def is_forgotten(context: Context, term: Term) -> bool:
    """Return whether a term reads data that are to be forgotten, and nothing else."""
    return term.stream == "forget" if isinstance(term.stream, str) else context.is_forgotten(term.stream)


def _regrouped(context: Context, term: Term | Penalty) -> Term | Penalty:
    return dataclasses.replace(term, group="forget" if isinstance(term, Term) and is_forgotten(context, term) else "retain")


def rewritten(addon: str, steps: Steps, find: Callable[[Phase], Pair | None], change: Callable[[Pair], Phase], lacking: str) -> Steps:
    """Yield the steps, those phases in which ``find`` finds something changed.

    Raises:
        NotApplicable: it was found in no phase. That is known when the method is done; `refuse` tells before any work where it can.
    """
    met = False
    for step in steps:
        found = find(step) if isinstance(step, Phase) else None
        met = met or found is not None
        yield step if found is None else change(found)
    if not met:
        raise NotApplicable(f"addons={addon}", lacking)
