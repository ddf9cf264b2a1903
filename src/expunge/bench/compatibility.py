"""Which add-on goes with which method, with the settings that both have by default. Nothing is trained."""

from typing import Any

from pydantic import ValidationError

from expunge import registry
from expunge.components import kept
from expunge.engine.run import no_request_in_common


def compatibility() -> dict[str, Any]:
    """Return ``methods`` and ``addons`` (names), ``matrix`` and ``reasons``.

    ``matrix[method][addon]`` is ``yes``, or the key of a text in ``reasons``: why the add-on refuses the method. What depends on the
    model, such as a phase that moves nothing in the last blocks, is only known when it runs. Kept until a file of the package changes.
    """
    return kept("compatibility", ("methods", "addons"), _matrix)


def _matrix() -> dict[str, Any]:
    methods, addons = registry.names("methods"), registry.names("addons")
    reasons = {method: {addon: refusal(method, addon) for addon in addons} for method in methods}
    keys = _keys([reason for row in reasons.values() for reason in row.values() if reason])
    matrix = {method: {addon: keys.get(reason, "yes") for addon, reason in row.items()} for method, row in reasons.items()}
    return {"methods": methods, "addons": addons, "matrix": matrix, "reasons": {key: reason for reason, key in keys.items()}}


def refusal(method: str, addon: str) -> str:
    """Return why an add-on refuses a method; empty if it does not."""
    try:
        chosen: Any = registry.find("methods", method)()
        put: Any = registry.find("addons", addon)()
    except ValidationError as error:
        missing = ".".join(map(str, error.errors()[0]["loc"]))
        return f"it depends on {missing}, which has no default."
    return no_request_in_common(put, chosen) or put.refuse(chosen)


def _keys(reasons: list[str]) -> dict[str, str]:
    """Return ``{reason: key}``, the most frequent reason first: a, b, ..., z, aa, ab, ..."""
    distinct = sorted(set(reasons), key=lambda reason: (-reasons.count(reason), reason))
    return {reason: _letters(number) for number, reason in enumerate(distinct)}


def _letters(number: int) -> str:
    first, last = divmod(number, 26)
    return (_letters(first - 1) if first else "") + chr(ord("a") + last)
