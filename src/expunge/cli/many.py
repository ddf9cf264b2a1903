"""Verbs that make many runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli.shared import (
    MANY,
    OnRay,
    PrintConfig,
    Words,
    app,
    command_line,
    make_console,
    make_progress,
    print_lines,
    print_yaml,
    shown_path,
    words_of,
)
from expunge.errors import RunFailed


@app.command(rich_help_panel=MANY)
def bench(
    words: Words = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, what is there and what it costs, and stop.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Rows or requests whose label matches a pattern, such as 'salun*'.")] = None,
    limit: Annotated[int | None, typer.Option(help="The first rows alone.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="The share of machine I of N; later once more without it.")] = None,
    ray: OnRay = None,
    print_config: PrintConfig = False,
) -> None:
    """Run a grid over data, models, requests, methods, add-ons, hyper-parameters and seeds; what is there is not made again."""
    from expunge.bench import grid as grids
    from expunge.bench import shards

    tree = grids.read(*words_of(words, ray))
    if print_config:
        grids.expand(tree)
        return print_yaml(tree)
    grid = grids.select(grids.expand(tree), only or (), limit)
    part = shards.parse(shard) if shard else None
    if dry_run:
        from expunge.bench import plan

        return print_lines(list(plan.lines(plan.plan(grid, part))))
    _bench(grid, part)


def _bench(grid: Any, shard: Any) -> None:
    from expunge.bench.bench import bench, summary
    from expunge.report import terminal

    with make_progress(grid.requests[0].workplace().experiment.track if grid.requests else ()) as progress:
        result = bench(grid, progress.report, command_line(), shard)
        if result.folder is not None:
            progress.report({"event": "result", "folder": str(result.folder)})
    console = make_console()
    for record in result.records:
        console.print(terminal.table(record))
    for line in summary(result):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if result.folder is not None:
        console.print(f"report: {shown_path(result.folder / 'report.html')}", soft_wrap=True, highlight=False, markup=False)


@app.command(rich_help_panel=MANY)
def sequence(
    words: Words = None,
    requests: Annotated[int, typer.Option("--requests", help="How many requests the forget set comes in.")] = 5,
    splits: Annotated[str, typer.Option(help="What a method is given: fresh (the request alone) or cumulative (all so far).")] = "fresh",
    ray: OnRay = None,
    print_config: PrintConfig = False,
) -> None:
    """Serve requests one after another, each from the model of the one before, and measure the drift after every one of them."""
    from expunge.requests import drift

    asked = drift.read(*words_of(words, ray), requests, splits)
    if print_config:
        return print_yaml(asked[0].request.workplace(asked[0].request.rows[0]).experiment.tree())
    from expunge.report import drift as drawn

    with make_progress() as progress:
        records, folder = drift.serve(asked, progress.report, command_line())
    console = make_console()
    for record in records:
        console.print(drawn.table(record))
    console.print(f"report: {shown_path(folder / 'report.html')}", soft_wrap=True, highlight=False, markup=False)


@app.command(rich_help_panel=MANY)
def tune(
    words: Words = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be searched, and what is there, and stop.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Rows or requests whose label matches a pattern, such as 'salun*'.")] = None,
    print_config: PrintConfig = False,
) -> None:
    """Choose hyper-parameters by a named rule, with the same budget for each method, and never on what judges the result."""
    from expunge.bench import grid as grids
    from expunge.bench.tuning import tune as tuning

    grid, asked = tuning.read(*words_of(words))
    if print_config:
        return print_yaml({**grid.asked, "tune": asked.tree()})
    grid = grids.select(grid, only or ())
    if dry_run:
        return print_lines(tuning.plan(grid, asked))
    with make_progress() as progress:
        found = tuning.tune(grid, asked, progress.report, command_line())
    print_lines(tuning.lines(found, asked))
    if all(one.best is None for one in found):
        raise RunFailed("nothing could be tuned; why is above.")


@app.command(rich_help_panel=MANY)
def contribute(
    folder: Annotated[Path, typer.Argument(help="A folder with NAME.py, config.yaml and README.md; with --check also a folder of such.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="out, device or evaluate.workers.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Run nothing; say whether rows are whole and made from the files.")] = False,
) -> None:
    """Run a contributed method, and write its row of the leaderboard."""
    from expunge.bench import contribution

    if check:
        return print_lines([f"{row.label}: {row.verdict}" for row in contribution.check(folder)])
    with make_progress() as progress:
        row = contribution.run(folder, words or [], progress.report, command_line())
    print_lines([contribution.markdown([row]).rstrip(), f"row: {folder / 'row.json'}"])
