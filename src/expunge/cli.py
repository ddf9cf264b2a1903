"""One function per verb: parse, call, print. Nothing here imports torch before a verb needs it."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.errors import BadInput, Diverged, RunFailed

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Remove the influence of chosen training data from a trained classifier, and show how close the result is to a model that never "
    "saw that data.\n\nVerbs take a YAML file and key=value pairs: `expunge unlearn my.yaml method=salun method.lr=0.02`.",
)

MEASURE, MANY, REQUESTS, LOOK, NAMES = "Forget and measure", "Many runs", "Deletion requests", "Look", "What there is"
"""Panels of the help."""

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE.yaml] [KEY=VALUE]...",
        help="A YAML file, and keys that override it: data, model, train, forget, method, addons, evaluate, seed, device, out, and their "
        "fields such as method.lr. `expunge list methods` and `expunge show method salun` say what there is.",
    ),
]
OnRay = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="auto|local|HOST:PORT", help="Run on a Ray cluster: join the one that runs here, start one, or join that."
    ),
]
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


@app.command(rich_help_panel=MEASURE)
def demo(words: Words = None, ray: OnRay = None, print_config: PrintConfig = False) -> None:
    """Forget real data in real models, beside models that were retrained without it. About two minutes on a laptop."""
    file, overrides = _split(words, ray)
    from expunge.bench import demo as demonstration

    requests = demonstration.requests(file, overrides)
    if print_config:
        from expunge.config import resolve

        return _print_yaml(resolve(demonstration.tree(file, overrides)).tree())
    _compare(requests)


@app.command(rich_help_panel=MEASURE)
def train(words: Words = None, print_config: PrintConfig = False) -> None:
    """Train a model on all of the training data but the validation part, and on the forget set as well."""
    experiment = _resolve(words)
    if print_config:
        return _print_yaml(experiment.tree())
    from expunge.bench import single

    _finish(single.train(experiment, _progress(experiment.track)))


@app.command(rich_help_panel=MEASURE)
def unlearn(words: Words = None, print_config: PrintConfig = False) -> None:
    """Unlearn one request with one method, from `model.weights` or from an original that is trained first."""
    experiment = _resolve(words)
    if print_config:
        return _print_yaml(experiment.tree())
    from expunge.bench import single

    _finish(single.unlearn(experiment, _progress(experiment.track)))


@app.command(rich_help_panel=MEASURE)
def evaluate(words: Words = None, ray: OnRay = None, print_config: PrintConfig = False) -> None:
    """Measure a method against retrained models. Without forget and method: only the accuracy of the model."""
    experiment = _resolve(words, ray)
    if print_config:
        return _print_yaml(experiment.tree())
    if experiment.method is None and experiment.forget is None:
        from expunge.bench import single

        return _finish(single.evaluate(experiment, _progress(experiment.track)))
    from expunge.bench.compare import request_of

    _compare([request_of(experiment, "One request")])


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

    tree = grids.read(*_split(words, ray))
    if print_config:
        grids.expand(tree)
        return _print_yaml(tree)
    grid = grids.select(grids.expand(tree), only or (), limit)
    part = shards.parse(shard) if shard else None
    if dry_run:
        from expunge.bench import plan

        return _finish(list(plan.lines(plan.plan(grid, part))))
    _bench(grid, part)


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

    asked = drift.read(*_split(words, ray), requests, splits)
    if print_config:
        return _print_yaml(asked[0].request.workplace(asked[0].request.rows[0]).experiment.tree())
    from expunge.report import drift as drawn

    with _progress() as progress:
        records, folder = drift.serve(asked, progress.report, _command())
    console = _console()
    for record in records:
        console.print(drawn.table(record))
    console.print(f"report: {_shown(folder / 'report.html')}", soft_wrap=True, highlight=False, markup=False)


@app.command(rich_help_panel=LOOK)
def lab(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study that `expunge list labs` shows, such as boundary.")],
    words: Words = None,
    print_config: PrintConfig = False,
) -> None:
    """See unlearning happen: a study of small nets as a page that opens offline, in less than a minute on one processor."""
    from expunge.lab import settings

    study = settings.read(name, *_split(words))
    if print_config:
        return _print_yaml(study.tree())
    from expunge.lab.conduct import conduct

    _finish(conduct(study, _progress(), _command()))


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
    _finish(send([_opened(word, kinds=kinds) for word in words if "=" not in word], chosen))


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

    grid, asked = tuning.read(*_split(words))
    if print_config:
        return _print_yaml({**grid.asked, "tune": asked.tree()})
    grid = grids.select(grid, only or ())
    if dry_run:
        return _finish(tuning.plan(grid, asked))
    with _progress() as progress:
        found = tuning.tune(grid, asked, progress.report, _command())
    _finish(tuning.lines(found, asked))
    if all(one.best is None for one in found):
        raise RunFailed("nothing could be tuned; why is above.")


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
    _console().print(listing.table(file))


@app.command(rich_help_panel=REQUESTS)
def serve(
    words: Words = None,
    ledger: Annotated[Path, typer.Option("--ledger", help="The ledger whose waiting requests are served.")] = Path("ledger.jsonl"),
    splits: Annotated[str, typer.Option(help="What a method is given: fresh (the request alone) or cumulative (all so far).")] = "fresh",
    evidence: Annotated[Path | None, typer.Option(help="The folder of an evaluation of the method, to be named in the records.")] = None,
) -> None:
    """Serve the waiting requests of a ledger one after another, with an audit record for each."""
    from expunge.requests import listing

    with _progress() as progress:
        lines = listing.serve(ledger, *_split(words), progress.report, splits, evidence)
    _finish(lines)


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
    _finish(lines)
    if not fits:
        _end("the record, a file or the ledger does not fit: see the lines with ✕.", 1)


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
    print(json.dumps(found.tree(), indent=1)) if as_json else _finish(audit.lines(found))


@app.command(rich_help_panel=MANY)
def contribute(
    folder: Annotated[Path, typer.Argument(help="A folder with NAME.py, config.yaml and README.md; with --check also a folder of such.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="out, device or evaluate.workers.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Run nothing; say whether rows are whole and made from the files.")] = False,
) -> None:
    """Run a contributed method, and write its row of the leaderboard."""
    from expunge.bench import contribution

    if check:
        return _finish([f"{row.label}: {row.verdict}" for row in contribution.check(folder)])
    with _progress() as progress:
        row = contribution.run(folder, words or [], progress.report, _command())
    _finish([contribution.markdown([row]).rstrip(), f"row: {folder / 'row.json'}"])


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
    made = formats.write([_opened(path, only=["record.json"]) for path in paths], form, chosen, published, against)
    if out is None:
        if isinstance(made, bytes):
            raise BadInput("--format", f"{form} is no text.", "Give a file: --out=table.parquet.")
        return print(made, end="")
    from expunge.runs import atomic_write

    with atomic_write(out) as temporary:
        temporary.write_bytes(made if isinstance(made, bytes) else made.encode())


data_app = typer.Typer(help="Look at a data set.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel=NAMES)


@data_app.callback()
def _data() -> None:
    pass


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set that `expunge list datasets` shows.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example data.root=FOLDER.")] = None,
    sample: Annotated[int, typer.Option(help="Pictures of each part that are decoded.")] = 200,
    every: Annotated[bool, typer.Option("--all", help="Decode every picture.")] = False,
) -> None:
    """Say which files of a data set are there and which are missing, how many examples there are, and which pictures are damaged."""
    from expunge.config import build, read
    from expunge.data.check import check

    tree = read(None, [f"data={name}", *(words or [])])
    for line in check(build("datasets", tree["data"], "data"), None if every else sample):  # type: ignore[arg-type]
        print(line, flush=True)


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

    print(f"report: {results.write([_opened(path) for path in paths], out, inside)}")


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

    print(plots.write(_opened(path), figure, out, row, request, metric))


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


@app.command("list", rich_help_panel=NAMES)
def list_(
    kind: Annotated[
        str, typer.Argument(help="methods, addons, metrics, audits, models, datasets, scenarios, recipes, labs, trackers or compatibility")
    ],
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


@app.command(rich_help_panel=NAMES)
def show(
    kind: Annotated[str, typer.Argument(help="method, addon, metric, audit, model, dataset, scenario, recipe, lab or tracker")],
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


@app.command(rich_help_panel=NAMES)
def config(words: Words = None) -> None:
    """Print the resolved configuration; what is printed runs again unchanged."""
    _print_yaml(_resolve(words).tree())


def _console() -> Any:
    """Return a console; what is piped elsewhere is not wrapped to 80 columns."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def _shown(path: Path) -> str:
    from expunge.pools.remote import shown

    return shown(path)


def _opened(name: str, **wanted: Any) -> Path:
    """Return the folder or file that a word names; what is at an address is brought here first."""
    from expunge.pools.remote import opened

    return opened(name, **wanted)


def _split(words: list[str] | None, ray: str | None = None) -> tuple[Path | None, list[str]]:
    words = [*(words or []), *([f"evaluate.ray={ray}"] if ray else [])]
    if words and "=" not in words[0]:
        return Path(words[0]), words[1:]
    return None, words


def _resolve(words: list[str] | None, ray: str | None = None) -> Any:
    from expunge.config import read, resolve

    return resolve(read(*_split(words, ray)))


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


def _progress(trackers: Any = ()) -> Any:
    from expunge.progress import Progress, Silent

    if int(os.environ.get("RANK", "0")) and "TORCHELASTIC_RUN_ID" in os.environ:
        return Silent()
    if not trackers:
        return Progress()
    from expunge.tracking.following import Followed

    return Followed(Progress(), trackers)


def _compare(requests: Any) -> None:
    from expunge.bench.compare import compare
    from expunge.report import terminal

    with _progress(requests[0].workplace().experiment.track) as progress:
        records, folder = compare(requests, progress.report, _command())
        progress.report({"event": "result", "folder": str(folder)})
    console = _console()
    for record in records:
        console.print(terminal.table(record))
    console.print(f"report: {_shown(folder / 'report.html')}", soft_wrap=True, highlight=False, markup=False)


def _bench(grid: Any, shard: Any) -> None:
    from expunge.bench.bench import bench, summary
    from expunge.report import terminal

    with _progress(grid.requests[0].workplace().experiment.track if grid.requests else ()) as progress:
        result = bench(grid, progress.report, _command(), shard)
        if result.folder is not None:
            progress.report({"event": "result", "folder": str(result.folder)})
    console = _console()
    for record in result.records:
        console.print(terminal.table(record))
    for line in summary(result):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if result.folder is not None:
        console.print(f"report: {_shown(result.folder / 'report.html')}", soft_wrap=True, highlight=False, markup=False)


def _finish(lines: list[str]) -> None:
    print("\n".join(lines))


def main() -> None:
    """Run the command line; wrong input ends with one line and status 2."""
    try:
        _meet_ranks()
        if app(sys.argv[1:] or ["--help"], prog_name="expunge", standalone_mode=False) == 130:  # how typer tells of Ctrl-C
            raise KeyboardInterrupt
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
            _end(_about_words(error), error.exit_code)
        if type(error).__name__ == "WorkersLost":
            _end(str(error), 1)
        raise


def _about_words(error: Any) -> str:
    """Return what is wrong with the words of a command, and which page of the help says more."""
    from expunge.config import Experiment

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "expunge"
    found = error.format_message().rstrip(".")
    word = str(getattr(error, "option_name", "")).lstrip("-")
    if word.partition(".")[0] in Experiment.model_fields:
        return f"{found}. Settings have no dashes: write {word}=VALUE."
    if "=" in found.partition("Did you mean")[0] and path == "expunge":
        found = found.partition(" Did you mean")[0].rstrip(".")
        return f"{found}. A verb comes first, such as `expunge unlearn method=salun`; `expunge --help` shows them."
    return f"{found}{'' if found.endswith('?') else '.'} `{path} --help` shows what there is."


_ONE_MODEL = ("train", "unlearn")
_NO_MODEL = ("config", "list", "show")


def _meet_ranks() -> None:
    """Meet the other processes that torchrun has started to work on one model; all but the first print nothing but errors.

    Raises:
        BadInput: the verb makes many models.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or "--print-config" in sys.argv or (verb := (sys.argv[1:] or ["list"])[0]) in _NO_MODEL:
        return
    from expunge.engine import parallel

    if not parallel.asked():
        return
    if verb not in _ONE_MODEL:
        raise BadInput(
            "torchrun",
            f"`expunge {verb}` makes many models, each in a process of its own; torchrun is for one model on many devices.",
            "Start it without torchrun, or use `train` and `unlearn`.",
        )
    parallel.start()
    if parallel.rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process


def _end(message: str, status: int) -> None:
    rank = f" (rank {os.environ['RANK']})" if "TORCHELASTIC_RUN_ID" in os.environ else ""
    print(f"expunge{rank}: {message}", file=sys.stderr)
    sys.exit(status)
