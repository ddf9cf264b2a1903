"""What a study says -> one HTML file that opens anywhere, offline."""

import dataclasses
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from expunge.config import to_yaml
from expunge.lab.lab import Figure, Section, Sheet
from expunge.report.html import inline_json, packed, plotly, policy, with_plotly
from expunge.runs import atomic_write


def write(title: str, sheet: Sheet, record: dict[str, Any], path: Path) -> None:
    """Write the page as a single file of a few MB, most of it Plotly's JavaScript, compressed; it loads nothing."""
    text = render(title, sheet, record)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def render(title: str, sheet: Sheet, record: dict[str, Any]) -> str:
    """Return the page as text; a content security policy in its head forbids every script but its own two, and every request."""
    script = with_plotly(_text("page.js"))
    figures = [item for section in sheet.sections for item in section.content if isinstance(item, Figure)]
    return _template().render(
        title=title,
        sheet=sheet,
        sections=_numbered(sheet.sections),
        figures=inline_json([dataclasses.asdict(figure) for figure in figures]),
        record=inline_json(record),
        provenance=_provenance(record),
        config=to_yaml(record["config"]),
        style=_text("page.css"),
        script=script,
        plotly=packed(plotly()),
        policy=policy([plotly(), script]),
    )


def _numbered(sections: list[Section]) -> list[dict[str, Any]]:
    """Return the sections with the number of each figure, by which the script finds it."""
    number, found = 0, []
    for place, section in enumerate(sections):
        pieces = []
        for item in section.content:
            figure = isinstance(item, Figure)
            pieces.append({"figure": number if figure else None, "item": item})
            number += figure
        found.append({"id": f"part-{place + 1}", "title": section.title, "text": section.text, "pieces": pieces})
    return found


def _provenance(record: dict[str, Any]) -> list[tuple[str, str]]:
    environment = dict(record["environment"])
    versions = environment.pop("versions", {})
    pairs = [("command", record["command"]), ("took", f"{record['seconds']:.0f} s")]
    pairs += [(key, str(value)) for key, value in environment.items() if value is not None]
    return pairs + [(name, str(version)) for name, version in versions.items()]


def _text(name: str) -> str:
    return (resources.files("expunge.lab") / name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text("page.html.jinja"))
