"""Verbs that say what there is."""

import json
from typing import Annotated, Any

import typer

from expunge.cli.shared import NAMES, Words, app, experiment_of, make_console, print_yaml
from expunge.errors import BadInput

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

    console = make_console()
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
    console = make_console()
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


def _print_entry(entry: dict[str, Any]) -> None:
    from rich.table import Table

    console = make_console()
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


@app.command(rich_help_panel=NAMES)
def config(words: Words = None) -> None:
    """Print the resolved configuration; what is printed runs again unchanged."""
    print_yaml(experiment_of(words).tree())
