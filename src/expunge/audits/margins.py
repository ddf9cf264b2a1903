"""Declared margins: how far from retraining a value may lie and still count as the same. Metric or audit -> a number in its unit."""

import math
from collections.abc import Mapping
from typing import Any

from expunge import registry
from expunge.errors import BadInput, nearest

KINDS = ("metrics", "audits")


def resolve(margins: Mapping[str, float]) -> dict[str, float]:
    """Return declared margins by registry name; a column head such as ``UA`` or ``loss AUC`` names its metric too.

    Raises:
        BadInput: nothing is called so, it is never judged, it is declared twice, or no value that there is could lie outside.
    """
    if not margins:
        return {}
    known = _known()
    found: dict[str, float] = {}
    for given, margin in margins.items():
        name = known.get(_plain(given))
        if name is None:
            raise BadInput(f"evaluate.margins.{given}", "no metric or audit is called so.", nearest(given, sorted(set(known.values()))))
        if name in found:
            raise BadInput(f"evaluate.margins.{given}", f"{name} is declared twice.", "Take one of the two out.")
        _check_room(given, name, margin)
        found[name] = margin
    return found


def _check_room(given: str, name: str, margin: float) -> None:
    """Refuse a margin that cannot fail: whatever it is about would be shown by any models."""
    kind = next(kind for kind in KINDS if name in registry.names(kind))
    component = registry.find(kind, name)
    low, high = getattr(component, "limits", None) or (-math.inf, math.inf)
    middle = _without_leak(component) if kind == "audits" else None
    room = high - low if middle is None else max(high - middle, middle - low)
    if margin >= room:
        around = "" if middle is None else f" around {middle:g}, which is no leak"
        found = f"values of {name} go from {low:g} to {high:g}{around}, so that none lies outside a margin of {margin:g}."
        raise BadInput(f"evaluate.margins.{given}", found, f"Declare one below {room:g}.")


def _without_leak(audit: Any) -> float | None:
    """Return what an audit gives without a leak, where that is known beforehand: a half for an area under a curve."""
    return 0.5 if audit.null_value is None and "AUC" in audit.label else audit.null_value


def _known() -> dict[str, str]:
    """Return every name and every column head, in lower case -> registry name; what is only reported has no margin."""
    found: dict[str, str] = {}
    for kind in KINDS:
        for name in registry.names(kind):
            component = registry.find(kind, name)
            if str(getattr(component, "target", "report")) != "report":
                found.setdefault(_plain(getattr(component, "label", name)), name)
                found[name] = name
    return found


def _plain(name: str) -> str:
    return str(name).strip().lower().replace(" ", "_")
