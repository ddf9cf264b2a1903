"""Records -> one HTML file that opens anywhere, offline."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from expunge.errors import BadInput
from expunge.report import bars, page, terminal
from expunge.report.figures import payload
from expunge.report.watching import growth
from expunge.runs import atomic_write

FORMAT = 2
"""Of the records that this version reads."""


def write(records: list[dict[str, Any]], path: Path, beside: Sequence[Path] | None = None, deep: bool = False) -> None:
    """Write the report of one or more deletion requests as a single file of about 3 MB, most of it Plotly's JavaScript, compressed.

    The file loads nothing: a content security policy in its head forbids the browser to, and forbids every script but its own two.

    Args:
        records: one for each request.
        path: of the HTML file.
        beside: for each record the folder that it comes from, beside which run folders are looked for; the file's own folder if None.
        deep: look into models of any size.

    Raises:
        BadInput: no record, a record of another format, or one that holds a number that is not finite.
    """
    check(records)
    places = beside or [Path(path).absolute().parent] * len(records)
    payloads = [payload.of(record, place, deep) for record, place in zip(records, places, strict=True)]
    text = render(records, payloads)
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def render(
    records: list[dict[str, Any]], payloads: Sequence[dict[str, Any]] | None = None, underway: Mapping[str, Any] | None = None
) -> str:
    """Return the report as text; see `write`.

    Args:
        records: one for each request.
        payloads: what figures show beyond the records; nothing if None.
        underway: the comparison in progress that these records are a part of, see `expunge.report.watching.comparisons.describe`. The page
            then says so, and follows the server that it comes from.
    """
    check(records)
    found = payloads or [payload.nothing(record) for record in records]
    thinned = [page.thin(record) for record in records]
    shown = [record for record, _ in thinned]
    script = with_plotly(text("static/page.js"))
    growing = growth.of(underway) if underway else None
    scripts = [plotly(), script, *([growing["script"]] if growing else [])]
    requests = [
        {**page.present(record, number, held, left_out), "csv": _csv_link(terminal.csv(record))}
        for number, ((record, left_out), held) in enumerate(zip(thinned, found, strict=True), 1)
    ]
    if growing:
        requests = [growth.so_far(request, record["growing"]) for request, record in zip(requests, shown, strict=True)]
    data, figures = inline_json(shown), inline_json(list(found))
    return (
        templates()
        .get_template("report.html.jinja")
        .render(
            requests=requests,
            title=records[0]["title"] if len(records) == 1 else f"{len(records)} deletion requests",
            data=data,
            figures=figures,
            size=f"{len(data) / 1e6:.1f} MB of numbers, {len(figures) / 1e6:.1f} MB of figures' numbers and pictures, and Plotly",
            style=text("static/style.css"),
            script=script,
            growing=growing,
            plotly=packed(plotly()),
            policy=policy(scripts) + ("; connect-src 'self'" if growing else ""),
            bar=(bars.BAR_WIDTH, bars.BAR_HEIGHT),
        )
    )


def check(records: list[dict[str, Any]]) -> None:
    """Refuse what this version cannot report.

    Raises:
        BadInput: no record, or a record of another format.
    """
    if not records:
        raise BadInput("report", "there is no record to report.", "Evaluate a request first.")
    for position, record in enumerate(records):
        if record.get("format") != FORMAT:
            found = f"format {record.get('format')!r}; this version of expunge reads format {FORMAT}."
            raise BadInput(f"report.records[{position}]", found, "Evaluate again with this version.")


def inline_json(values: Any) -> str:
    """Return JSON without any character that could end the element in which it stands."""
    try:
        made = json.dumps(values, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    except ValueError as error:
        raise BadInput("report", f"a record holds a number that is not finite ({error}).", "Report the row as failed.") from None
    return made.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _csv_link(table: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(table.encode()).decode()


@cache
def plotly() -> str:
    """Return Plotly's script, as a content security policy names it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("\r\n", "\n")


def with_plotly(script: str) -> str:
    """Return a page's script with ``withPlotly()`` before it, which unpacks Plotly from the element of that name at its first call."""
    return f"{text('static/plotly.js')}\n{script}"


@cache
def packed(script: str) -> str:
    """Return a script compressed as base64: the browser reads a third of the bytes, and none of them before the page is there."""
    return base64.b64encode(gzip.compress(script.encode(), 9, mtime=0)).decode()


def policy(scripts: list[str]) -> str:
    """Return a content security policy that allows these scripts, the page's own styles and pictures, and nothing else."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def text(name: str) -> str:
    """Return a file of this package."""
    return (resources.files("expunge.report") / name).read_text(encoding="utf-8")


@cache
def templates() -> Any:
    """Return the templates; whatever they print is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("expunge.report", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
