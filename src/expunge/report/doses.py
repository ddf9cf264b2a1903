"""How each metric and audit answers to a share of the forget set that was left in -> words and a small line for each."""

from collections.abc import Mapping
from typing import Any

from expunge.report.audits import chance
from expunge.report.numerals import typeset

WIDTH, HEIGHT, EDGE = 132, 40, 5
"""Of the drawing in a row, in pixels; its doses stand at equal distances."""
POWER = 0.8


def present(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the template needs, the most sensitive first; None where nobody measured it."""
    held = record.get("doses") or {}
    if not held:
        return None
    heads = record["table"]["metrics"] | record["audits"].get("audits", {})
    ordered = sorted(held.items(), key=lambda item: (item[1]["detectable"] is None, item[1]["detectable"] or 0))
    return {
        "rows": [_row(name, found, heads) for name, found in ordered],
        "size": (WIDTH, HEIGHT),
        "level": _height(POWER),
        "noticed": sum(found["detectable"] is not None for found in held.values()),
        "tests": max(((found.get("adjusted") or {}).get("tests", 0) for found in held.values()), default=0),
        "among": sum((found.get("adjusted") or {}).get("detectable") is not None for found in held.values()),
    }


def _row(name: str, found: Mapping[str, Any], heads: Mapping[str, Any]) -> dict[str, Any]:
    spearman = found["spearman"]
    return {
        "name": name,
        "label": heads.get(name, {}).get("label", name),
        "spearman": None if spearman is None else typeset(f"{spearman:+.2f}"),
        "spearman_value": spearman,
        "p_value": None if found["p_value"] is None else chance(found["p_value"]),
        "p_value_value": found["p_value"],
        "detectable": None if found["detectable"] is None else share(found["detectable"]),
        "detectable_value": found["detectable"],
        "among": None if (among := (found.get("adjusted") or {}).get("detectable")) is None else share(among),
        "among_value": among,
        "reason": found["reason"] or "",
        "points": _points(found),
        "words": "; ".join(f"{share(dose)} left in: noticed in {share(power)}" for dose, power in _pairs(found)),
    }


def _pairs(found: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(dose, power) for dose, power in zip(found["doses"], found["power"], strict=True) if power is not None]


def _points(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    pairs = _pairs(found)
    step = (WIDTH - 2 * EDGE) / max(len(pairs) - 1, 1)
    return [
        {"x": round(EDGE + step * at, 2), "y": _height(power), "dose": share(dose), "power": share(power), "seen": power >= POWER}
        for at, (dose, power) in enumerate(pairs)
    ]


def _height(power: float) -> float:
    return round(HEIGHT - EDGE - power * (HEIGHT - 2 * EDGE), 2)


def share(fraction: float) -> str:
    """Return a share as a percentage: whole from 10 % on, one decimal below."""
    percentage = 100 * fraction
    return f"{percentage:.0f} %" if percentage >= 10 or percentage == round(percentage) else f"{percentage:.1f} %"
