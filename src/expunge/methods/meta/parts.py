"""Methods as the parts of a method: named in fields, built for the request, run one after the other."""

from collections.abc import Iterable
from typing import Any

from expunge.config import build
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.run import check
from expunge.errors import BadInput

Part = str | dict[str, Any]
"""A method's name, or a mapping with ``name`` and fields."""

ALLOWED = frozenset({"forget", "retain"})
"""What a method made of methods declares, and so all that its parts may read."""


def method_of(part: Part, kind: str = "", where: str = "parts") -> Method:
    """Return the method that a part describes.

    Args:
        part: name, or name and fields.
        kind: kind of the request, whose defaults hold for the fields left open.
        where: the key to blame.

    Raises:
        BadInput: no such method or field, or one that needs more than forget and retain data.
    """
    plain = build("methods", part, where)
    if not isinstance(plain, Method):  # cannot happen with the registry's methods; tells the type checker
        raise TypeError(f"{where} is no method")
    more = sorted(plain.needs - ALLOWED)
    if more:
        raise BadInput(where, f"{plain.name} needs {more[0]} too, and parts of a method get forget and retain data only.")
    defaults = plain.scenario_defaults.get(kind)
    return build("methods", part, where, dict(defaults)) if defaults else plain  # type: ignore[return-value]


def check_parts(parts: Iterable[Part]) -> None:
    """Refuse what cannot be a part, for validators.

    Raises:
        BadInput: see `method_of`.
    """
    for part in parts:
        method_of(part)


def steps_of(part: Part, ctx: Context) -> Steps:
    """Yield the steps of a part, on the streams that the context has now.

    Raises:
        NotApplicable: the part does not fit the request.
    """
    method = method_of(part, ctx.kind)
    check(method, kind=ctx.kind, streams=sorted(ALLOWED))
    ctx.report({"event": "part", "method": method.tree()})
    yield from method.steps(ctx)
