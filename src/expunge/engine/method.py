"""What a method and an add-on are."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from expunge.config import Component
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.phase import Phase

Steps = Iterator[Phase | Edit]


class NeedsBySettings:
    """What a method declares where some of it depends on its settings: all of it on the class, on an instance what its own read.

    Attributes:
        always: what every setting reads.
        sometimes: what only some read, each with a function of the method that says whether its settings do.
    """

    def __init__(self, always: Iterable[str], sometimes: dict[str, Callable[[Any], bool]]):
        self.always, self.sometimes = frozenset(always), sometimes

    def __get__(self, method: object | None, owner: type) -> frozenset[str]:
        return self.always.union(name for name, reads in self.sometimes.items() if method is None or reads(method))


def needs_by_settings(*always: str, **sometimes: Callable[[Any], bool]) -> Any:
    """Return the ``needs`` of a method that reads some data with some settings only, as in ``validation=lambda m: m.target is None``."""
    return NeedsBySettings(always, sometimes)


class Method(Component):
    """An unlearning method: frozen hyper-parameters and one generator of phases and edits.

    Class attributes: ``needs`` (the streams and artefacts it may touch: forget, retain, validation, surrogate, recipe, oracle; an
    instance may need less, see `needs_by_settings`),
    ``scenarios`` (requests for which it makes sense: class, random, subclass), ``scenario_defaults`` (defaults that differ by request).
    """

    needs: ClassVar[frozenset[str] | set[str]] = frozenset()
    scenarios: ClassVar[frozenset[str] | set[str]] = frozenset({"class", "random", "subclass"})
    scenario_reason: ClassVar[str] = ""
    """Why the scenarios that are not listed make no sense."""
    scenario_defaults: ClassVar[dict[str, dict[str, Any]]] = {}
    changes_shape: ClassVar[bool] = False

    def steps(self, ctx: Context) -> Steps:
        """Yield what is to be done, in order; the weights have changed when the generator goes on."""
        raise NotImplementedError


class Addon(Component):
    """Rewrites the steps that any method yields."""

    needs: ClassVar[frozenset[str] | set[str]] = frozenset()
    """Streams it touches beside the method's own."""
    scenarios: ClassVar[frozenset[str] | set[str]] = frozenset({"class", "random", "subclass"})
    """Requests for which it makes sense."""
    scenario_reason: ClassVar[str] = ""
    """Why the others make none."""

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the changed steps."""
        raise NotImplementedError

    def refuse(self, method: Method) -> str:
        """Return why this add-on cannot go with a method; empty if it can."""
        return ""
