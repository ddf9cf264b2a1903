"""Verbs about deletion requests."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.shared import REQUESTS, Words, app, end, make_console, make_progress, print_lines, words_of


@app.command(rich_help_panel=REQUESTS)
def ledger(
    file: Annotated[Path, typer.Argument(metavar="LEDGER", help="The ledger file; made with the first request.")],
    add: Annotated[Path | None, typer.Option(metavar="CSV", help="Requests to add: a column id, and one called request or ticket.")] = None,
    by: Annotated[str, typer.Option(help="Who asked, for those that are added: a reference, not a person.")] = "",
    withdraw: Annotated[str | None, typer.Option(metavar="REQUEST", help="Mark a request that is not served yet as withdrawn.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every line, as JSON.")] = False,
) -> None:
    """List the deletion requests of a ledger and what became of them, and add requests."""
    from expunge.requests import listing

    listing.change(file, add, by, withdraw)
    if as_json:
        print(json.dumps(listing.lines(file), indent=1))
        return
    make_console().print(listing.table(file))


@app.command(rich_help_panel=REQUESTS)
def serve(
    words: Words = None,
    ledger: Annotated[Path, typer.Option("--ledger", help="The ledger whose waiting requests are served.")] = Path("ledger.jsonl"),
    splits: Annotated[str, typer.Option(help="What a method is given: fresh (the request alone) or cumulative (all so far).")] = "fresh",
    evidence: Annotated[Path | None, typer.Option(help="The folder of an evaluation of the method, to be named in the records.")] = None,
) -> None:
    """Serve the waiting requests of a ledger one after another, with an audit record for each."""
    from expunge.requests import listing

    out = sys.stdout

    def say(line: str) -> None:
        """Print past the live display, which would take what is for a file to the terminal."""
        print(line, file=None if out.isatty() else out, flush=True)

    with make_progress() as progress:
        listing.serve(ledger, *words_of(words), progress.report, splits, evidence, say)


@app.command(rich_help_panel=REQUESTS)
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER|LEDGER", help="A run folder with an audit record, or a ledger alone.")],
    ledger: Annotated[Path | None, typer.Option("--ledger", help="The ledger in which the request stands.")] = None,
    data: Annotated[bool, typer.Option("--data", help="Read the data set, and compare the content of the deleted examples.")] = False,
    write: Annotated[str | None, typer.Option(metavar="REQUEST", help="First write the record of a run that has none.")] = None,
    head: Annotated[
        str | None, typer.Option(metavar="HASH", help="The ledger's last line as noted earlier: it must be there still.")
    ] = None,
) -> None:
    """Check an audit record, the files it names and its place in the ledger; status 1 if anything does not fit."""
    from expunge.requests import listing

    lines, fits = listing.verify(folder, ledger, data, write, head)
    print_lines(lines)
    if not fits:
        end("the record, a file or the ledger does not fit: see the lines with ✕.", 1)


@app.command(rich_help_panel=REQUESTS)
def certificate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A certified procedure: linear_head or noisy_descent.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Its settings.")] = None,
    models: Annotated[int, typer.Option(help="Models of each kind that are made; more of them can show a larger epsilon.")] = 512,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Compare a claimed epsilon with what an attack shows where retraining is exact: refuted, or how much could have been seen."""
    from expunge.requests import audit

    found = audit.examined(name, words or [], models, seed)
    print(json.dumps(found.tree(), indent=1)) if as_json else print_lines(audit.lines(found))
