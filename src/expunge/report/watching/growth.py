"""What a report says while it grows: how much of it is there, and what no row can be told yet."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

Plain = dict[str, Any]


def of(underway: Mapping[str, Any]) -> Plain:
    """Return what the template of a growing report needs beside the report's own; see `expunge.report.watching.comparisons.describe`."""
    from expunge.report import html

    return {
        "data": html.inline_json([underway]),
        "script": html.text("static/watch_follow.js"),
        "style": html.text("static/watch.css"),
        "counts": counts(underway),
        "brief": rows(underway),
        "pools": any(request["pools"] for request in underway["requests"]),
    }


def counts(underway: Mapping[str, Any]) -> str:
    """Return how much of a comparison is there, in words: rows and jobs."""
    ended, jobs = underway["jobs"]
    return f"{rows(underway)}, {ended} of {jobs} {'job' if jobs == 1 else 'jobs'}"


def rows(underway: Mapping[str, Any]) -> str:
    """Return how many rows of a comparison are whole, in words."""
    whole, planned = underway["rows"]
    return f"{whole} of {planned} {'row' if planned == 1 else 'rows'}"


def so_far(shown: Plain, growing: Mapping[str, Any]) -> Plain:
    """Return a request as its page prints it, with the sentences that would otherwise be about all rows.

    Args:
        shown: see `expunge.report.page.present`.
        growing: of the record; see `expunge.bench.growing.records`.
    """
    whole, planned = growing["rows"]
    lead = (
        f"So far {whole} of {planned} {'row is' if planned == 1 else 'rows are'} finished." if whole < planned else "All rows are finished."
    )
    if not growing["pools"]:
        return {**shown, "summary": f"{lead} {shown['summary']}"}
    awaited = "No row has a verdict yet: the tier's pools of models come last, and a verdict counts their tests too."
    control = {"name": "The reference rows", "ok": False, "text": "are judged at the end, with the tests on the tier's pools."}
    cards = {name: replace(card, unmet=("no row has a verdict yet",)) for name, card in shown["headline"]["cards"].items()}
    return {**shown, "summary": f"{lead} {awaited}", "controls": [control], "headline": {**shown["headline"], "cards": cards}}
