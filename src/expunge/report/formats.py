"""Tables for a publication: CSV, Markdown, LaTeX, HTML, JSON or Parquet."""

import csv as csv_module
import html as html_module
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from expunge.errors import BadInput, nearest
from expunge.report import published as printed
from expunge.report.columns import Column, half_width, percent
from expunge.report.numerals import typeset
from expunge.report.publication import FAILED, ORACLE, Cell, Line, Section, check_metrics, load, merge, section

FORMATS = ("csv", "markdown", "latex", "html", "json", "parquet")


def write(
    paths: Sequence[Path], form: str = "markdown", metrics: Sequence[str] | None = None, published: bool = False, against: str | None = None
) -> str | bytes:
    """Return the tables of finished comparisons and benches as text, or as the bytes of a Parquet file.

    Args:
        paths: records, their folders, or folders of such folders.
        form: one of ``FORMATS``.
        metrics: which columns; the key metrics if None.
        published: show published numbers of the same setting.
        against: show published numbers of this setting, and say in what ours differs.

    Raises:
        BadInput: no record, an unknown format, metric or setting.
    """
    if form not in FORMATS:
        raise BadInput("--format", f"no format is called {form!r}.", nearest(form, FORMATS))
    named = {setting.name: setting for setting in printed.SETTINGS}
    if against is not None and against not in named:
        raise BadInput("--against", f"no published setting is called {against!r}.", nearest(against, named))
    records = merge(load(paths))
    check_metrics(records, metrics)
    sections = []
    for record in records:
        shown = printed.fitting(record["request"]) if published else []
        shown += [named[against]] if against is not None and named[against] not in shown else []
        made = section(record, metrics, shown)
        sections.append(
            made if shown or not published else replace(made, notes=[*made.notes, "No published numbers are known for this setting."])
        )
    return WRITERS[form](sections)


def _marked(line: Line) -> str:
    name = f"{line.name} (published)" if line.role == "published" else line.name
    return name + (ORACLE if line.oracle else "") + (FAILED if line.failure else "")


def _texts(line: Line, shown: Sequence[Column], plus: str) -> list[str]:
    """Return the cells of a line as texts, the cost last; ``plus`` is the sign between a mean and half of its interval."""
    if not line.cells and line.failure:
        return [line.failure.partition(":")[0], *("–" for _ in shown[1:]), "–"] if shown else [line.failure.partition(":")[0]]
    return [*(_value(line, column, plus) for column in shown), _cost(line)]


def _value(line: Line, column: Column, plus: str) -> str:
    cell = line.cells.get(column.name)
    if cell is None:
        return "–"
    if line.role == "band":
        return column.band_text({"low": cell.low, "high": cell.high})
    if line.role == "published":
        return typeset(f"{cell.value:g}")
    spread = half_width({"interval": None if cell.low is None else {"low": cell.low, "high": cell.high}})
    text = column.text(cell.value) + (plus + column.text(spread) if spread is not None else "")
    gap = "" if cell.gap is None else f" ({'+' if not column.text(cell.gap).startswith('−') else ''}{column.text(cell.gap)})"
    return text + ("*" if cell.significant else "") + gap + (f" #{cell.rank}" if cell.rank else "")


def _cost(line: Line) -> str:
    if "seconds" not in line.cost:
        return "–" if line.role != "band" else ""
    ratio = f" ({percent(line.cost['seconds_ratio'])})" if "seconds_ratio" in line.cost else ""
    seconds = line.cost["seconds"]
    return f"{seconds:.3g} s{ratio}" if seconds < 120 else f"{seconds / 60:,.1f} min{ratio}"


def _heads(made: Section) -> list[str]:
    return ["", *(f"{column.label} {column.unit}".rstrip() for column in made.columns), "time (of retraining)"]


def _rows(made: Section, plus: str = " ± ") -> Iterator[list[str]]:
    for line in made.lines:
        yield [_marked(line), *_texts(line, made.columns, plus)]


FIELDS = (
    "request",
    "row",
    "role",
    "metric",
    "label",
    "unit",
    "value",
    "interval_low",
    "interval_high",
    "gap",
    "rank",
    "p_holm",
    "significant",
    "seconds",
    "seconds_ratio",
    "passes",
    "passes_ratio",
    "oracle",
    "tuned",
    "tuned_rule",
    "tuned_budget",
    "tuned_trials",
    "failure",
    "source",
)
"""Of CSV and Parquet: one line for each row and metric, with full precision; a row without any value has one line with its failure."""


def as_csv(sections: Sequence[Section]) -> str:
    """Return one CSV for all sections, one line for each row and metric."""
    text = io.StringIO()
    writer = csv_module.DictWriter(text, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for made in sections:
        for line in made.lines:
            writer.writerows(_records_of(made, line))
    return text.getvalue()


TUNED = {"tuned": "label", "tuned_rule": "rule", "tuned_budget": "budget", "tuned_trials": "trials"}
"""Field -> what of a tuning stands in it."""


def _records_of(made: Section, line: Line) -> Iterator[dict[str, Any]]:
    cost = {key: value for key, value in line.cost.items() if key in FIELDS}
    known = {
        "request": made.title,
        "row": line.name,
        "role": line.role,
        "oracle": line.oracle,
        **{key: line.tuned.get(name) for key, name in TUNED.items()},
        "failure": line.failure,
        "source": line.source,
    }
    for column in made.columns:
        cell = line.cells.get(column.name)
        if cell is not None:
            held = {"value": cell.value, "interval_low": cell.low, "interval_high": cell.high, "gap": cell.gap, "rank": cell.rank}
            held |= {"p_holm": cell.p_holm, "significant": cell.significant if cell.p_holm is not None else None}
            yield known | cost | {"metric": column.name, "label": column.label, "unit": column.unit} | held
    if not line.cells:
        yield known | cost


KINDS = {"rank": "int64", "passes": "float64", "tuned_budget": "int64", "tuned_trials": "int64", "significant": "bool_", "oracle": "bool_"}
"""Field -> its type in Parquet; values and ends are numbers, what is not named is text."""
NUMBERS = ("value", "interval_low", "interval_high", "gap", "p_holm", "seconds", "seconds_ratio", "passes_ratio")


def as_parquet(sections: Sequence[Section]) -> bytes:
    """Return the lines of the CSV as a Parquet file, with types, and with the notes of each section in the file's metadata.

    Raises:
        BadInput: PyArrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BadInput("--format", "parquet needs PyArrow, which is not installed.", "pip install 'expunge[parquet]'") from None
    kinds = {name: getattr(pyarrow, KINDS.get(name, "float64" if name in NUMBERS else "string"))() for name in FIELDS}
    notes = {made.title: {"setting": made.setting, "notes": list(made.notes)} for made in sections}
    schema = pyarrow.schema([(name, kinds[name]) for name in FIELDS], metadata={"expunge": json.dumps(notes)})
    rows = [{name: held.get(name) for name in FIELDS} for made in sections for line in made.lines for held in _records_of(made, line)]
    out = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), out)
    return out.getvalue().to_pybytes()


def as_markdown(sections: Sequence[Section]) -> str:
    """Return the sections as Markdown tables."""
    parts = []
    for made in sections:
        rows = [[_markdown(text) for text in row] for row in [_heads(made), *_rows(made)]]
        ruler = ["---", *("---:" for _ in rows[0][1:])]
        lines = [f"| {' | '.join(row)} |" for row in [rows[0], ruler, *rows[1:]]]
        notes = [f"- {_markdown(note)}" for note in made.notes]
        parts.append("\n".join([f"### {_markdown(made.title)}", "", _markdown(made.setting), "", *lines, "", *notes]))
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    for character in "\\`*[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def as_latex(sections: Sequence[Section]) -> str:
    """Return the sections as LaTeX tables; they need the package booktabs."""
    return "% \\usepackage{booktabs}\n" + "\n".join(map(_latex_table, sections))


def _latex_table(made: Section) -> str:
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in _rows(made, plus="±")]
    roles = [line.role for line in made.lines]
    for place in reversed(range(1, len(rows))):
        if roles[place] != roles[place - 1] and roles[place] in ("unlearned", "published"):
            rows.insert(place, r"\midrule")
    head = " & ".join(map(_latex, _heads(made))) + r" \\"
    notes = r" \\ ".join(map(_latex, made.notes))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(made.title)}: {_latex(made.setting)}}}",
            r"\centering\small",
            rf"\begin{{tabular}}{{l{'r' * (len(made.columns) + 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            rf"\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}",
            r"\end{table}",
            "",
        ]
    )


LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "*": r"$^*$",
}
"""Character -> what LaTeX prints it by."""


def _latex(text: str) -> str:
    return " ".join("".join(LATEX.get(character, character) for character in text).split())


def as_html(sections: Sequence[Section]) -> str:
    """Return the sections as one HTML page without scripts."""
    parts = ["<!doctype html>", '<meta charset="utf-8">', "<title>expunge</title>", f"<style>{STYLE}</style>"]
    for made in sections:
        parts += [f"<h2>{_html(made.title)}</h2>", f"<p>{_html(made.setting)}</p>", "<table>"]
        parts.append("<thead><tr>" + "".join(f"<th>{_html(head)}</th>" for head in _heads(made)) + "</tr></thead>")
        for line, row in zip(made.lines, _rows(made), strict=True):
            first, *others = map(_html, row)
            parts.append(f'<tr class="{line.role}"><th>{first}</th>' + "".join(f"<td>{text}</td>" for text in others) + "</tr>")
        parts += ["</table>", "<ul>", *(f"<li>{_html(note)}</li>" for note in made.notes), "</ul>"]
    return "\n".join(parts) + "\n"


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:.2em .7em;text-align:right;"
    "white-space:nowrap}th:first-child{text-align:left}thead{border-bottom:2px solid}.band td,.band th{color:#555}"
    ".published td,.published th{font-style:italic}.retrained+.band{border-bottom:1px solid}"
)


def _html(text: str) -> str:
    return html_module.escape(text)


def as_json(sections: Sequence[Section]) -> str:
    """Return the sections as JSON, with full precision."""
    found = []
    for made in sections:
        lines = [{**asdict(line), "cells": {name: _plain(cell) for name, cell in line.cells.items()}} for line in made.lines]
        heads = {column.name: {"label": column.label, "unit": column.unit, "target": column.target} for column in made.columns}
        found.append({"title": made.title, "setting": made.setting, "metrics": heads, "lines": lines, "notes": list(made.notes)})
    return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(cell: Cell) -> dict[str, Any]:
    return {**asdict(cell), "significant": cell.significant if cell.p_holm is not None else None}


WRITERS: dict[str, Callable[[Sequence[Section]], str | bytes]] = {
    "csv": as_csv,
    "markdown": as_markdown,
    "latex": as_latex,
    "html": as_html,
    "json": as_json,
    "parquet": as_parquet,
}
