"""Verbs that show what was found."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.shared import (
    LOOK,
    PrintConfig,
    Words,
    app,
    command_line,
    make_progress,
    opened_path,
    print_lines,
    print_yaml,
    words_of,
)
from expunge.errors import BadInput


@app.command(rich_help_panel=LOOK)
def lab(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study that `expunge list labs` shows, such as boundary.")],
    words: Words = None,
    print_config: PrintConfig = False,
) -> None:
    """See unlearning happen: a study of small nets as a page that opens offline, in less than a minute on one processor."""
    from expunge.lab import settings

    study = settings.read(name, *words_of(words))
    if print_config:
        return print_yaml(study.tree())
    from expunge.lab.conduct import conduct

    print_lines(conduct(study, make_progress(), command_line()))


@app.command(rich_help_panel=LOOK)
def track(
    words: Annotated[
        list[str], typer.Argument(metavar="FOLDER|ADDRESS... track=NAME...", help="Runs, or a folder of them, and where they go.")
    ],
) -> None:
    """Send finished runs to a tracker that does not have them: MLflow, TensorBoard, Weights & Biases or files of JSON lines."""
    from expunge.config import read, resolve
    from expunge.tracking.following import send

    chosen = resolve(read(None, [word for word in words if "=" in word])).track
    kinds = ("train", "unlearn", "score", "compare", "bench")
    print_lines(send([opened_path(word, kinds=kinds) for word in words if "=" not in word], chosen))


@app.command("table", rich_help_panel=LOOK)
def table(
    paths: Annotated[list[str], typer.Argument(metavar="FOLDER|ADDRESS|record.json...", help="Results, or a folder of them such as runs.")],
    form: Annotated[str, typer.Option("--format", help="csv, markdown, latex, html, json or parquet.")] = "markdown",
    metrics: Annotated[str | None, typer.Option(help="Which columns, with commas between them.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Published numbers of the same setting beside ours.")] = False,
    against: Annotated[str | None, typer.Option(help="Published numbers of a setting that differs, by its name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a file instead.")] = None,
) -> None:
    """Turn finished comparisons and benches into a table for a publication."""
    from expunge.report import formats

    chosen = [name.strip() for name in metrics.split(",")] if metrics else None
    made = formats.write([opened_path(path, only=["record.json"]) for path in paths], form, chosen, published, against)
    if out is None:
        if isinstance(made, bytes):
            raise BadInput("--format", f"{form} is no text.", "Give a file: --out=table.parquet.")
        return print(made, end="")
    from expunge.runs import atomic_write

    with atomic_write(out) as temporary:
        temporary.write_bytes(made if isinstance(made, bytes) else made.encode())


@app.command(rich_help_panel=LOOK)
def report(
    paths: Annotated[
        list[str], typer.Argument(metavar="RUN|ADDRESS...", help="Results: compare-* or bench-* folders, or a folder of them.")
    ],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; beside a single result if not given.")] = None,
    inside: Annotated[bool, typer.Option("--inside", help="Look into models of any size: a forward pass of each.")] = False,
) -> None:
    """Write one web page about finished results: it opens offline in any browser."""
    from expunge.report import results

    print(f"report: {results.write([opened_path(path) for path in paths], out, inside)}")


@app.command(rich_help_panel=LOOK)
def plot(
    path: Annotated[str, typer.Argument(metavar="RUN|ADDRESS", help="A compare-* or bench-* folder.")],
    figure: Annotated[str, typer.Argument(help="tradeoff, metric, losses, margins, roc, examples, confusion, along, cka, distance, ...")],
    out: Annotated[Path | None, typer.Option(help="A .pdf, .svg or .png file; FIGURE.pdf if not given.")] = None,
    row: Annotated[str | None, typer.Option(help="The method beside original and retrained.")] = None,
    request: Annotated[int, typer.Option(help="Which request of the result, from 1.")] = 1,
    metric: Annotated[str | None, typer.Option(help="What tradeoff and metric show.")] = None,
) -> None:
    """Draw one figure of a result for a paper, in a style that colour-blind readers can read."""
    from expunge.report import plots

    print(plots.write(opened_path(path), figure, out, row, request, metric))


@app.command(rich_help_panel=LOOK)
def watch(
    folder: Annotated[str, typer.Argument(help="What out= names, such as runs; of an address what this machine has of it.")] = "runs",
    port: Annotated[int, typer.Option(help="Of the page; any free one if not given.")] = 0,
) -> None:
    """See runs while they are made, and the report of a comparison while it grows: in the terminal, and as pages for this machine alone.

    Ends with Ctrl-C, and leaves the runs alone.
    """
    from expunge.pools.remote import local
    from expunge.report import watch as watching

    watching.watch(local(folder), port)
