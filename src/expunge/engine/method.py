"""What a method and an add-on are."""

from collections.abc import Iterator
from typing import Any, ClassVar

from expunge.config import Component
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.phase import Phase

Steps = Iterator[Phase | Edit]


class Method(Component):
    """An unlearning method: frozen hyper-parameters and one generator of phases and edits.

    Class attributes: ``needs`` (the streams and artefacts it may touch: forget, retain, validation, surrogate, recipe, oracle),
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
