"""The application, and what its verbs share: words, consoles, progress, ends."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

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


def make_console() -> Any:
    """Return a console; what is piped elsewhere is not wrapped to 80 columns."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def shown_path(path: Path) -> str:
    """Return where a file is, for people: its address, where it has one."""
    from expunge.pools.remote import shown

    return shown(path)


def opened_path(name: str, **wanted: Any) -> Path:
    """Return the folder or file that a word names; what is at an address is brought here first."""
    from expunge.pools.remote import opened

    return opened(name, **wanted)


def words_of(words: list[str] | None, ray: str | None = None) -> tuple[Path | None, list[str]]:
    """Return the YAML file among the words of a command, if they begin with one, and its key=value pairs."""
    words = [*(words or []), *([f"evaluate.ray={ray}"] if ray else [])]
    if words and "=" not in words[0]:
        return Path(words[0]), words[1:]
    return None, words


def experiment_of(words: list[str] | None, ray: str | None = None) -> Any:
    """Return the experiment that the words of a command describe."""
    from expunge.config import read, resolve

    return resolve(read(*words_of(words, ray)))


def print_yaml(tree: Any) -> None:
    """Print a tree of plain values."""
    from expunge.config import to_yaml

    print(to_yaml(tree), end="")


def command_line() -> str:
    """Return the command as it was given, for the record."""
    return "expunge " + " ".join(sys.argv[1:])


def make_progress(trackers: Any = ()) -> Any:
    """Return what shows progress, and tells trackers; nothing but errors where another rank shows it."""
    from expunge.progress import Progress, Silent

    if int(os.environ.get("RANK", "0")) and "TORCHELASTIC_RUN_ID" in os.environ:
        return Silent()
    if not trackers:
        return Progress()
    from expunge.tracking.following import Followed

    return Followed(Progress(), trackers)


def print_lines(lines: list[str]) -> None:
    """Print lines that may be long."""
    print("\n".join(lines))


def end(message: str, status: int) -> None:
    """End the process with one line and a status."""
    rank = f" (rank {os.environ['RANK']})" if "TORCHELASTIC_RUN_ID" in os.environ else ""
    print(f"expunge{rank}: {message}", file=sys.stderr)
    sys.exit(status)
