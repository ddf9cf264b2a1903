"""What a field may be, in words."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic.fields import FieldInfo

_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def describe(field: FieldInfo) -> str:
    """Return a field's type and range in words, for example ``a positive integer``."""
    return _describe(field.annotation, field.metadata)


def _describe(kind: Any, metadata: Iterable[Any] = ()) -> str:
    words = _TYPE_NAMES.get(kind) or _describe_type(kind)
    low, high = _bounds(metadata, ("gt", "ge"), max), _bounds(metadata, ("lt", "le"), min)
    if low == (0, "gt") and high is None:
        return words.replace("an integer", "a positive integer").replace("a number", "a positive number")
    if low is not None and high is not None:
        start = f"from {low[0]:g}" if low[1] == "ge" else f"above {low[0]:g}"
        return f"{words} {start} to {'' if high[1] == 'le' else 'below '}{high[0]:g}"
    if low is not None:
        return f"{words} {'of at least' if low[1] == 'ge' else 'above'} {low[0]:g}"
    if high is not None:
        return f"{words} {'of at most' if high[1] == 'le' else 'below'} {high[0]:g}"
    return words


def _bounds(metadata: Iterable[Any], sides: tuple[str, str], tightest: Any) -> tuple[float, str] | None:
    """Return the tightest limit on one side, and whether it is strict (gt, lt) or not (ge, le)."""
    found = [(getattr(item, side), side) for item in metadata for side in sides if getattr(item, side, None) is not None]
    if not found:
        return None
    value = tightest(limit for limit, _ in found)
    return value, sides[0] if (value, sides[0]) in found else sides[1]


def _describe_type(kind: Any) -> str:
    options = getattr(kind, "__args__", ())
    if hasattr(kind, "__metadata__"):
        return _describe(kind.__origin__, [part for item in kind.__metadata__ for part in getattr(item, "metadata", ())])
    if getattr(kind, "__origin__", None) is Literal:
        return "one of " + ", ".join(map(str, options))
    if type(None) in options:
        return " or ".join(_describe(option) for option in options if option is not type(None)) + " or nothing"
    if getattr(kind, "__origin__", None) in (list, tuple):
        return "a list"
    return getattr(kind, "__name__", str(kind)).replace("typing.", "")
