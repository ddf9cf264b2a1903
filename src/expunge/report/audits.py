"""The audits of a record -> the words and positions that the template prints."""

from collections.abc import Iterator, Mapping
from typing import Any

from expunge import registry
from expunge.errors import BadInput
from expunge.report.bars import bar
from expunge.report.columns import MARKS
from expunge.report.numerals import typeset

GAMES = {
    "efficacy": "unlearned or retrained?",
    "privacy": "unlearned or never seen?",
    "membership": "trained on or never seen, before unlearning?",
    "collateral": "are examples that stay easier to recognise?",
    "swap": "which of two sets was forgotten?",
}
"""Game -> the question that an attacker answers."""

WORDS = {
    "either_direction": "AUC of an example, in either direction",
    "over_examples": "over examples",
    "q50": "median",
    "q95": "95th percentile",
    "max": "largest",
    "rejected": "share of examples told apart, at 5 % false discoveries",
    "mann_whitney": "Mann-Whitney",
    "kolmogorov_smirnov": "Kolmogorov-Smirnov",
    "concatenated_auc": "AUC over all examples together",
    "true_positive_rate": "found at a false-alarm rate of",
    "0.01": "1 %",
    "0.001": "0.1 %",
    "epsilon": "epsilon",
    "trials": "independent trials on each side",
    "point": "estimate, no bound",
    "epsilon.clopper_pearson": "at least, by exact binomial limits",
    "epsilon.gaussian": "at least, by Gaussian differential privacy",
    "epsilon.one_run": "at least, from one run",
    "epsilon.value": "at least",
    "one_normal_law": "of two pools of one normal law, simulated",
    "median_epsilon": "epsilon of an example: median",
    "q95_epsilon": "epsilon of an example: 95th percentile",
    "families": "score of one attacker family",
    "pairs_judged": "pairs of models judged",
}
"""Key of the details, or key with the one above it -> words; a key that is not here is shown with spaces."""

LEAVES = ({"value", "ceiling"}, {"value", "interval"}, {"value", "delta", "valid"})
"""Mappings of these keys are one entry."""


def present(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template needs for the section of audits."""
    held = record["audits"]
    if held.get("reason"):
        return {"reason": held["reason"], "audits": [], "skipped": [], "rows": [], "notes": []}
    rows = [row["name"] for row in record["table"]["rows"]]
    shown = [name for name in rows if any(name in head["rows"] for head in held["audits"].values())]
    return {
        "reason": None,
        "rows": shown,
        "audits": [_audit(name, head, shown) for name, head in held["audits"].items()],
        "skipped": [(_label(name), reason) for name, reason in held["skipped"].items()],
        "notes": _notes(held, [name for name in rows if name not in shown]),
    }


def _notes(held: Mapping[str, Any], missing: list[str]) -> list[str]:
    copies = held.get("copies", [])
    words = [f"{name}: not compared, because two of its models are the same." for name in missing if name in copies]
    return words + [f"{name}: no models to compare." for name in missing if name not in copies]


def _audit(name: str, head: Mapping[str, Any], rows: list[str]) -> dict[str, Any]:
    null, played = head["null"], [row for row in rows if row in head["rows"]]
    return {
        "name": name,
        "rows": played,
        "label": head["label"],
        "unit": head["unit"],
        "tier": head["tier"],
        "game": GAMES.get(head["game"], head["game"]),
        "summary": head["summary"],
        "meanings": [(side, head[side]) for side in ("above", "below") if head[side]],
        "null": _null(head),
        "null_details": _null_details(null),
        "detectable": (head.get("detectable") or {}).get("words") or "not known: no standard error",
        "smallest": None if head.get("smallest_p_value") is None else f"{head['smallest_p_value']:.2g}",
        "source": head["source"],
        "minimum": head["minimum"],
        "cells": [_cell(head, head["rows"].get(row)) for row in rows],
        "details": list(_details(head, played)),
    }


def _null(head: Mapping[str, Any]) -> str:
    null, unit = head["null"], head["unit"]
    low, high = (None if null[end] is None else number(null[end], unit) for end in ("low", "high"))
    if low is None and high is None:
        return "–" if null["mean"] is None else number(null["mean"], unit)
    if low is None or high is None:
        return f"{high} at most" if low is None else f"{low} at least"
    return f"{low} to {high}"


def _null_details(null: Mapping[str, Any]) -> str:
    if null["sd"] is None:
        return str(null["source"])
    spread = f"mean {plain(null['mean'])}, standard deviation {plain(null['sd'])}"
    return f"{spread}, from {null['draws']:,} {null['source']}"


def _cell(head: Mapping[str, Any], cell: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return one row's finding: text, interval, p-values, mark and bar; None where the row was not played."""
    if cell is None:
        return None
    if cell["value"] is None:
        return {"value": None, "note": cell["note"] or "not measured", "p_value": None}
    unit, where = head["unit"], side(cell)
    interval = cell["interval"]
    spread = None if interval is None else f"{number(interval[0], unit)} to {number(interval[1], unit)}"
    p_value, holm = (None if cell[key] is None else chance(cell[key]) for key in ("p_value", "p_holm"))
    return {
        "value": cell["value"],
        "text": number(cell["value"], unit),
        "spread": spread,
        "p_value": p_value,
        "holm": holm,
        "side": where,
        "mark": MARKS.get(where, ""),
        "place": _place(cell, where),
        "bar": _bar(head, cell),
        "note": cell["note"],
    }


def side(cell: Mapping[str, Any]) -> str:
    """Return ``above`` or ``below`` for a value outside its band or too unlikely without a leak, else ``inside`` or ``unjudged``."""
    if cell["in_band"] is None and cell["p_value"] is None:
        return "unjudged"
    noticed = cell["in_band"] is False or bool(cell["finding"])
    return str(cell["side"]) if noticed else "inside"


def _place(cell: Mapping[str, Any], where: str) -> str:
    if where == "unjudged":
        return "not judged"
    if where == "inside":
        return "as retrained models"
    if cell["in_band"]:
        return f"inside the null's band, yet on the side {where} too often for chance"
    return f"{where} what retrained models give"


def _bar(head: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the bar; a missing end of the null is drawn as far from its mean as the other one."""
    null, free = head["null"], {"zero_up_to_band": "below", "lower": "below", "higher": "above"}.get(head["target"])
    low, high = null["low"], null["high"]
    if low is None and high is None:
        return None
    low, high = (2 * null["mean"] - high if low is None else low), (2 * null["mean"] - low if high is None else high)
    return bar(cell["value"], cell["interval"], (low, high), side(cell) in ("inside", "unjudged"), free)


def _details(head: Mapping[str, Any], rows: list[str]) -> Iterator[dict[str, Any]]:
    """Yield one line for each quantity: its name and one text for each row; ``same`` where all texts are equal."""
    tables = [_quantities(head, head["rows"][row]) for row in rows]
    for name in dict.fromkeys(name for table in tables for name in table):
        texts = [table.get(name, "–") for table in tables]
        yield {"name": name, "texts": texts, "same": len(set(texts)) == 1 and len(texts[0]) > 20}


def _quantities(head: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, str]:
    if cell["value"] is None:
        return {"note": str(cell["note"])}
    unit = f" {head['unit']}" if head["unit"] else ""
    first = {
        "value": f"{plain(cell['value'])}{unit}",
        "95 % interval": "–" if cell["interval"] is None else f"{plain(cell['interval'][0])} to {plain(cell['interval'][1])}",
        "p": plain(cell["p_value"]),
        "p, Holm over the audits of the row": plain(cell["p_holm"]),
        "ratio to the null's mean": plain(cell.get("over_null")),
        "models": plain(cell.get("models")),
    }
    found = {name: text for name, text in first.items() if text != "–" or name in ("value", "95 % interval")}
    found |= {words(path): _leaf(value) for path, value in _flat(cell["details"])}
    return found | ({"note": cell["note"]} if cell["note"] else {})


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and set(value) not in LEAVES:
        for key, item in value.items():
            yield from _flat(item, (*path, key))
    else:
        yield path, value


def words(path: tuple[str, ...]) -> str:
    """Return the name of a quantity in words."""
    known = [WORDS.get(f"{above}.{key}", WORDS.get(key, key.replace("_", " "))) for above, key in zip(("", *path), path, strict=False)]
    if path[0] == "true_positive_rate":
        return " ".join(known)
    return ": ".join(known)


def _leaf(value: Any) -> str:
    if not isinstance(value, Mapping):
        return plain(value)
    if "ceiling" in value:
        return f"{plain(value['value'])} (a perfect attack: {plain(value['ceiling'])})"
    if "interval" in value:
        limits = value["interval"]
        return plain(value["value"]) + (f" ({plain(limits[0])} to {plain(limits[1])})" if limits else "")
    return f"{plain(value['value'])} (delta {plain(value['delta'])}; valid {value['valid']})"


def number(value: float, unit: str) -> str:
    """Return a value as a table prints it: one decimal for percentages and large numbers, three for others."""
    return typeset(f"{value:.1f}" if unit == "%" or abs(value) >= 100 else f"{value:.3f}")


def chance(p_value: float) -> str:
    """Return a p-value in two digits; a tiny one as smaller than a round number, for its digits mean nothing."""
    return f"{p_value:.2g}" if p_value >= 0.0001 else "< 0.0001"


def plain(value: Any) -> str:
    """Return any value of a record in a few characters: four significant digits, – for None."""
    if value is None:
        return "–"
    if isinstance(value, bool) or isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return typeset(f"{value:.4g}")
    return " and ".join(plain(item) for item in value)


def _label(name: str) -> str:
    try:
        return str(registry.find("audits", name).label)  # type: ignore[attr-defined]
    except BadInput:
        return name
