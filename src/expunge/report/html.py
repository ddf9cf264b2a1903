"""Records -> one HTML file that opens anywhere, offline."""

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from expunge.errors import BadInput
from expunge.report import bars, page, terminal
from expunge.runs import atomic_write

FORMAT = 2
"""Of the records that this version reads."""


def write(records: list[dict[str, Any]], path: Path) -> None:
    """Write the report of one or more deletion requests as a single file of about 5 MB, most of it Plotly's JavaScript.

    The file loads nothing: a content security policy in its head forbids the browser to, and forbids every script but its own two.

    Args:
        records: one for each request.
        path: of the HTML file.

    Raises:
        BadInput: no record, a record of another format, or one that holds a number that is not finite.
    """
    text = render(records)
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def render(records: list[dict[str, Any]]) -> str:
    """Return the report as text; see `write`."""
    _check(records)
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs().replace("\r\n", "\n"), _text("page.js")]
    requests = [
        {**page.present(record, number), "csv": _csv_link(terminal.csv(record)), "number": number}
        for number, record in enumerate(records, 1)
    ]
    return _template().render(
        requests=requests,
        title=records[0]["title"] if len(records) == 1 else f"{len(records)} deletion requests",
        data=_inline_json(records),
        style=_text("style.css"),
        scripts=scripts,
        policy=_policy(scripts),
        bar=(bars.BAR_WIDTH, bars.BAR_HEIGHT),
    )


def _check(records: list[dict[str, Any]]) -> None:
    if not records:
        raise BadInput("report", "there is no record to report.", "Evaluate a request first.")
    for position, record in enumerate(records):
        if record.get("format") != FORMAT:
            found = f"format {record.get('format')!r}; this version of expunge reads format {FORMAT}."
            raise BadInput(f"report.records[{position}]", found, "Evaluate again with this version.")


def _inline_json(records: list[dict[str, Any]]) -> str:
    """Return JSON without any character that could end the element in which it stands."""
    try:
        text = json.dumps(records, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    except ValueError as error:
        raise BadInput("report", f"a record holds a number that is not finite ({error}).", "Report the row as failed.") from None
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _csv_link(text: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def _text(name: str) -> str:
    return (resources.files("expunge.report") / name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text("template.html.jinja"))
