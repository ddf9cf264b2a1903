"""Write docs/explanation/source-names.md from the table of names: ``python docs/make_source_names.py [FILE]``."""

import sys
from pathlib import Path

from expunge.runs import atomic_write
from expunge.source_names import LEFT_OUT, SOURCES, Use

TARGET = Path(__file__).parent / "explanation" / "source-names.md"
INTRODUCTION = """# You know it as ...

What five published systems call their algorithms, and what to write here. This page is made by `python docs/make_source_names.py`; do not
edit it. `tests/contract/test_source_names.py` checks that every line resolves and may run.

Most names can be written as they stand, as in `method=FT_prune` or `addons=[VarGrad]`. A name that stands for a method with an add-on
cannot; the error message then says what to write. Defaults are the papers'; *nearest to the released code* lists fields that come nearest
to what the code does, where that is something else. Deviations that remain are in the [catalogue](../catalogue.md).
"""


def page() -> str:
    """Return the page as Markdown."""
    lines = [INTRODUCTION]
    for source, table in SOURCES.items():
        lines += [f"## {source}", "", "| name there | here | nearest to the released code | remarks |", "| --- | --- | --- | --- |"]
        lines += [row(name, use) for name, use in table.items()]
        lines.append("")
    lines += ["## Left out", "", *(f"- **{name}**: {reason}" for name, reason in LEFT_OUT.items())]
    return "\n".join(lines) + "\n"


def row(name: str, use: Use) -> str:
    """Return the line of one name."""
    released = f"`{use.released_words()}`" if use.released else ""
    return f"| `{name}` | `{use.words()}` | {released} | {use.note} |"


def main() -> None:
    """Write the page, whole or not at all."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    with atomic_write(target) as temporary:
        temporary.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
