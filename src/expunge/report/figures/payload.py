"""All that a page draws beyond the record: one mapping of plain values for each request; what is not there is said in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from expunge.errors import BadInput
from expunge.report.figures.models import Models, find
from expunge.statistics import NotEnoughEvidence

MOST_ROWS = 40
"""Rows whose models are looked at; a page with more shows the first ones."""


def of(record: dict[str, Any], beside: Path | None = None, deep: bool = False, only: str | None = None) -> dict[str, Any]:
    """Return what the figures of one request show.

    Args:
        record: one request's results.
        beside: folder of the record; run folders are looked for beside it.
        deep: look into models of any size.
        only: of the figures this one alone.

    Returns:
        Figure -> its values, or ``{reason: why it is not there}``; ``missing``: what run folders are gone; ``folders``: row -> their names.
    """
    models = _first(find(record, beside))
    found: dict[str, Any] = {
        "missing": models.problems,
        "folders": {row: [path.name for path in held.values()] for row, held in models.folders.items()},
        "beyond": max(0, len(record["table"]["rows"]) - MOST_ROWS),
        "fingerprints": _fingerprints(models),
        "classes": list(record["request"]["class_names"]),
    }
    figures = _figures(deep)
    found |= {name: _try(models, figure) for name, figure in figures.items() if only in (None, name)}
    return found | ({"pictures": _pictures(models, found)} if only is None else {})


def _figures(deep: bool) -> dict[str, Callable[[Models], dict[str, Any]]]:
    from expunge.report.figures import attacker, confusion, epochs, gallery, inside, losses, pairs

    return {
        "epochs": epochs.of,
        "losses": losses.of,
        "roc": attacker.curves,
        "examples": attacker.examples,
        "gallery": gallery.of,
        "confusion": confusion.of,
        "pairs": pairs.of,
        "inside": lambda models: inside.of(models, deep),
        "relearning": inside.relearning,
    }


def nothing(record: dict[str, Any]) -> dict[str, Any]:
    """Return what is there without any run folder."""
    absent = Models(record, {})
    said = {
        "missing": [],
        "folders": {},
        "beyond": 0,
        "fingerprints": {},
        "classes": list(record["request"]["class_names"]),
        "pictures": {},
    }
    return said | {name: _try(absent, lambda models: {}) for name in _figures(False)}


def _fingerprints(models: Models) -> dict[str, str]:
    try:
        return {"Data": models.split.data_fingerprint, "Split in full": models.split.content_hash} if models.rows else {}
    except BadInput:
        return {}


def _first(models: Models) -> Models:
    names = [row["name"] for row in models.record["table"]["rows"]][:MOST_ROWS]
    return Models(models.record, {row: held for row, held in models.folders.items() if row in names}, models.problems)


def _try(models: Models, figure: Callable[[Models], dict[str, Any]]) -> dict[str, Any]:
    """Return a figure's values, or why it has none."""
    if not models.rows:
        return {"reason": "the run folders are not there any more."}
    try:
        return figure(models)
    except BadInput as error:
        return {"reason": f"{error.problem} {error.remedy}".strip()}
    except NotEnoughEvidence as error:
        return {"reason": f"{error}."}
    except (OSError, KeyError, ValueError) as error:
        return {"reason": f"a run folder could not be read ({type(error).__name__}: {error})."}


def _pictures(models: Models, found: dict[str, Any]) -> dict[str, str]:
    from expunge.report.figures import gallery, pictures

    wanted: set[int] = set(found["pairs"].get("pictured", []))
    if "rows" in found["gallery"]:
        wanted |= gallery.indices(found["gallery"])
    try:
        return pictures.data_links(models.data, wanted) if wanted else {}
    except (BadInput, OSError):
        return {}
