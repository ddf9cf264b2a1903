"""What goes wrong, in words a user can act on."""

import difflib
from collections.abc import Iterable
from typing import Any


class BadInput(ValueError):
    """The user's input cannot be used; nothing has been computed or written. The command line exits with status 2.

    Args:
        where: the key, file or argument at fault, for example ``method.epochs``.
        problem: what was found and what is allowed.
        remedy: how to mend it; may be empty.
    """

    def __init__(self, where: str, problem: str, remedy: str = ""):
        self.where, self.problem, self.remedy = where, problem, remedy
        super().__init__(f"{where}: {problem}" + (f" {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error travel out of a worker process as it is."""
        return type(self), (self.where, self.problem, self.remedy)


def is_about_results(error: Exception) -> bool:
    """Return whether an error is about the folder of results: it ends all work, since nothing more could be kept."""
    return isinstance(error, BadInput) and error.where == "out"


class NotApplicable(BadInput):
    """A method or add-on that cannot do what is asked of it, with the reason."""


class UndeclaredAccess(RuntimeError):
    """A method touched data that it does not list in ``needs``. This is a bug of the method, not of its user."""


class Diverged(RuntimeError):
    """Losses or weights stopped being finite.

    Args:
        step: optimiser steps taken in the phase when it happened, counted from 1.
        term: the term whose loss was not finite, or ``"weights"``.
        last_good: what still is finite, for example ``epoch 3 of phase 1``.
    """

    def __init__(self, step: int, term: str, last_good: str):
        self.step, self.term, self.last_good = step, term, last_good
        super().__init__(
            f"diverged at step {step}: {term} is not finite; the last good state is {last_good}. A smaller learning rate usually mends it."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error travel out of a worker process as it is."""
        return type(self), (self.step, self.term, self.last_good)


class RunFailed(RuntimeError):
    """A run ended without a model. The command line exits with status 1."""


def nearest(found: str, allowed: Iterable[str]) -> str:
    """Return ``Did you mean 'salun'?`` or, with no near match, the list of what is allowed."""
    allowed = sorted(map(str, allowed))
    match = difflib.get_close_matches(str(found), allowed, n=1, cutoff=0.6)
    return f"Did you mean '{match[0]}'?" if match else "Allowed: " + ", ".join(allowed) + "."
