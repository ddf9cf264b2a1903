"""Lower bounds on epsilon of every attack that gives one, beside what a perfect attack on as many models would have certified."""

from collections.abc import Mapping
from typing import Any

from expunge.report.audits import GAMES

WIDTH = 72
"""Of the gauge in a cell, in pixels; it is full at the ceiling."""


def present(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the template needs; None where no attack gave a bound."""
    held = record["audits"].get("audits", {})
    bounds = {audit: {row: bound for row, cell in head["rows"].items() if (bound := bound_of(cell))} for audit, head in held.items()}
    bounds = {audit: rows for audit, rows in bounds.items() if rows}
    if not bounds:
        return None
    rows = [row["name"] for row in record["table"]["rows"] if any(row["name"] in found for found in bounds.values())]
    lines = [
        {
            "label": held[audit]["label"],
            "game": GAMES.get(held[audit]["game"], held[audit]["game"]),
            "cells": [_cell(found.get(row)) for row in rows],
        }
        for audit, found in bounds.items()
    ]
    return {"rows": rows, "lines": lines}


def bound_of(cell: Mapping[str, Any]) -> dict[str, float] | None:
    """Return ``{value, ceiling}`` of the exact binomial bound in a cell of an audit; None where there is none."""
    found = (cell.get("details") or {}).get("epsilon")
    if isinstance(found, Mapping) and isinstance(found.get("clopper_pearson"), Mapping):
        found = found["clopper_pearson"]
    if not isinstance(found, Mapping) or not all(isinstance(found.get(key), int | float) for key in ("value", "ceiling")):
        return None
    return {"value": float(found["value"]), "ceiling": float(found["ceiling"])}


def _cell(bound: dict[str, float] | None) -> dict[str, Any] | None:
    if bound is None:
        return None
    share = bound["value"] / bound["ceiling"] if bound["ceiling"] > 0 else 0.0
    return {
        "value": bound["value"],
        "text": f"{bound['value']:.2f}",
        "ceiling": f"{bound['ceiling']:.2f}",
        "width": round(WIDTH * min(max(share, 0.0), 1.0), 1),
    }
