"""One function per verb: parse, call, print. Nothing here imports torch before a verb needs it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.errors import BadInput, Diverged, RunFailed

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Remove the influence of chosen training data from a trained classifier, and show how close the result is to a model that never "
    "saw that data.\n\nVerbs take a YAML file and key=value pairs: `expunge unlearn my.yaml method=salun method.lr=0.02`.",
)

Words = Annotated[list[str] | None, typer.Argument(metavar="[FILE.yaml] [KEY=VALUE]...", help="A YAML file, and keys that override it.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the configuration that would run, and stop.")]


def _version(wanted: bool) -> None:
    if wanted:
        import expunge

        print(expunge.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def demo(words: Words = None, print_config: PrintConfig = False) -> None:
    """Forget real data in real models, beside models that were retrained without it. About two minutes on a laptop."""
    file, overrides = _split(words)
    from expunge.bench import demo as demonstration

    requests = demonstration.requests(file, overrides)
    if print_config:
        from expunge.config import resolve

        return _print_yaml(resolve(demonstration.tree(file, overrides)).tree())
    _compare(requests)


@app.command()
def train(words: Words = None, print_config: PrintConfig = False) -> None:
    """Train a model on all of the training data but the validation part, and on the forget set as well."""
    experiment = _resolve(words)
    if print_config:
        return _print_yaml(experiment.tree())
    from expunge.bench import single

    _finish(single.train(experiment, _progress()))


@app.command()
def unlearn(words: Words = None, print_config: PrintConfig = False) -> None:
    """Unlearn one request with one method, from `model.weights` or from an original that is trained first."""
    experiment = _resolve(words)
    if print_config:
        return _print_yaml(experiment.tree())
    from expunge.bench import single

    _finish(single.unlearn(experiment, _progress()))


@app.command()
def evaluate(words: Words = None, print_config: PrintConfig = False) -> None:
    """Measure a method against retrained models. Without forget and method: only the accuracy of the model."""
    experiment = _resolve(words)
    if print_config:
        return _print_yaml(experiment.tree())
    if experiment.method is None and experiment.forget is None:
        from expunge.bench import single

        return _finish(single.evaluate(experiment, _progress()))
    from expunge.bench.compare import request_of

    _compare([request_of(experiment, "One request")])


@app.command()
def bench(
    words: Words = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, what is there and what it costs, and stop.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Rows or requests whose label matches a pattern, such as 'salun*'.")] = None,
    limit: Annotated[int | None, typer.Option(help="The first rows alone.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="The share of machine I of N; later once more without it.")] = None,
    print_config: PrintConfig = False,
) -> None:
    """Run a grid over data, models, requests, methods, add-ons, hyper-parameters and seeds; what is there is not made again."""
    from expunge.bench import grid as grids
    from expunge.bench import shards

    tree = grids.read(*_split(words))
    if print_config:
        grids.expand(tree)
        return _print_yaml(tree)
    grid = grids.select(grids.expand(tree), only or (), limit)
    part = shards.parse(shard) if shard else None
    if dry_run:
        from expunge.bench import plan

        return _finish(list(plan.lines(plan.plan(grid, part))))
    _bench(grid, part)


@app.command("table")
def table(
    paths: Annotated[list[Path], typer.Argument(metavar="FOLDER|record.json...", help="Results, or a folder of them such as runs.")],
    form: Annotated[str, typer.Option("--format", help="csv, markdown, latex, html or json.")] = "markdown",
    metrics: Annotated[str | None, typer.Option(help="Which columns, with commas between them.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Published numbers of the same setting beside ours.")] = False,
    against: Annotated[str | None, typer.Option(help="Published numbers of a setting that differs, by its name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a file instead.")] = None,
) -> None:
    """Turn finished comparisons and benches into a table for a publication."""
    from expunge.report import formats

    chosen = [name.strip() for name in metrics.split(",")] if metrics else None
    text = formats.write(paths, form, chosen, published, against)
    if out is None:
        return print(text, end="")
    from expunge.runs import atomic_write

    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, addons, metrics, audits, models, datasets, scenarios, recipes or compatibility")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """List what can be chosen by name, or which add-on goes with which method."""
    if kind == "compatibility":
        return _list_compatibility(as_json)
    from expunge.components import catalogue

    entries = catalogue(kind)
    if as_json:
        print(json.dumps(entries, indent=1))
        return
    from rich.table import Table

    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [column for column in ("name", "tier", "scenarios", "needs", "summary") if any(column in entry for entry in entries)]
    if console.width < 120:
        columns = ["name", "summary"]
    for column in columns:
        table.add_column(column, no_wrap=column != "summary", overflow="fold")
    for entry in entries:
        table.add_row(*(", ".join(value) if isinstance(value := entry.get(column, ""), list) else value for column in columns))
    console.print(table)


def _list_compatibility(as_json: bool) -> None:
    from expunge.bench.compatibility import compatibility

    found = compatibility()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("method", no_wrap=True, vertical="bottom")
    for addon in found["addons"]:
        table.add_column("\n".join(addon.replace("_", " ")), vertical="bottom", no_wrap=True)
    for method, row in found["matrix"].items():
        table.add_row(method, *("yes" if key == "yes" else f"[dim]{key}[/dim]" for key in row.values()))
    console = _console()
    console.print(table)
    for key, reason in found["reasons"].items():
        console.print(f"{key}: {reason}", markup=False)


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="method, addon, metric, audit, model, dataset, scenario or recipe")],
    name: Annotated[str, typer.Argument(help="A name that `expunge list` shows.")],
) -> None:
    """Show one component: summary, source, needs, scenarios, hyper-parameters, deviations."""
    from expunge import registry
    from expunge.components import KINDS, catalogue
    from expunge.errors import nearest

    plural = kind if kind in KINDS else f"{kind}s"
    if plural not in KINDS:
        raise BadInput("show", f"no such kind {kind!r}.", nearest(kind, [k.rstrip("s") for k in KINDS]))
    entries = catalogue(plural)
    known = {word: entry for entry in entries for word in (entry["name"], *entry["aliases"])}
    if name not in known:
        raise BadInput("show", f"no {kind.rstrip('s')} is called {name!r}.", nearest(name, registry.names(plural)))
    _print_entry(known[name])


@app.command()
def config(words: Words = None) -> None:
    """Print the resolved configuration; what is printed runs again unchanged."""
    _print_yaml(_resolve(words).tree())


def _console() -> Any:
    """Return a console; what is piped elsewhere is not wrapped to 80 columns."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def _split(words: list[str] | None) -> tuple[Path | None, list[str]]:
    words = list(words or [])
    if words and "=" not in words[0]:
        return Path(words[0]), words[1:]
    return None, words


def _resolve(words: list[str] | None) -> Any:
    from expunge.config import read, resolve

    return resolve(read(*_split(words)))


def _print_yaml(tree: Any) -> None:
    from expunge.config import to_yaml

    print(to_yaml(tree), end="")


def _print_entry(entry: dict[str, Any]) -> None:
    from rich.table import Table

    console = _console()
    console.print(f"[bold]{entry['name']}[/bold]  {entry['summary']}")
    for key in ("source", "aliases", "tier", "game", "needs", "scenarios", "scenario_reason", "target", "unit"):
        value = entry.get(key)
        if value:
            console.print(f"{key.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}", markup=False)
    for name, fields in entry.get("presets", {}).items():
        console.print(f"{name} stands for: {fields}", markup=False)
    for deviation in entry["deviations"]:
        console.print(f"deviation: {deviation}", markup=False)
    for scenario, defaults in (entry.get("scenario_defaults") or {}).items():
        console.print(f"defaults for {scenario} requests: {defaults}", markup=False)
    if not entry["hyperparameters"]:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("field", "default", "allowed", "searched", "about"):
        table.add_column(column, overflow="fold")
    for field in entry["hyperparameters"]:
        search = field["search"]
        searched = f"{search['low']:g} to {search['high']:g}{' (log)' if search['log'] else ''}" if search else ""
        table.add_row(field["name"], json.dumps(field["default"]).strip('"'), field["type"], searched, field["about"])
    console.print(table)


def _command() -> str:
    return "expunge " + " ".join(sys.argv[1:])


def _progress() -> Any:
    from expunge.progress import Progress

    return Progress()


def _compare(requests: Any) -> None:
    from expunge.bench.compare import compare
    from expunge.report import terminal

    with _progress() as progress:
        records, folder = compare(requests, progress.report, _command())
    console = _console()
    for record in records:
        console.print(terminal.table(record))
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False, markup=False)


def _bench(grid: Any, shard: Any) -> None:
    from expunge.bench.bench import bench, summary
    from expunge.report import terminal

    with _progress() as progress:
        result = bench(grid, progress.report, _command(), shard)
    console = _console()
    for record in result.records:
        console.print(terminal.table(record))
    for line in summary(result):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if result.folder is not None:
        console.print(f"report: {result.folder / 'report.html'}", soft_wrap=True, highlight=False, markup=False)


def _finish(lines: list[str]) -> None:
    print("\n".join(lines))


def main() -> None:
    """Run the command line; wrong input ends with one line and status 2."""
    try:
        app(sys.argv[1:] or ["--help"], prog_name="expunge", standalone_mode=False)
    except BadInput as error:
        _end(str(error), 2)
    except (Diverged, RunFailed) as error:
        _end(str(error), 1)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _end("interrupted; what was finished is kept: run the same command again to go on.", 130)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # wrong words on the command line
            _end(f"{error.format_message().rstrip('.')}. `expunge --help` shows what there is.", error.exit_code)
        if type(error).__name__ == "WorkersLost":
            _end(str(error), 1)
        raise


def _end(message: str, status: int) -> None:
    print(f"expunge: {message}", file=sys.stderr)
    sys.exit(status)
