"""What the verbs `ledger`, `serve` and `verify` do and print."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import config
from expunge.errors import BadInput, nearest
from expunge.pools.addresses import is_address
from expunge.requests import ledger as ledgers
from expunge.requests.ledger import Entry, Known, Ledger

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 8
"""Keys of a request that are listed before the rest is counted."""


def change(file: Path, add: Path | None, by: str, withdraw: str | None) -> None:
    """Add the requests of a file, and withdraw one.

    Raises:
        BadInput: wrong input, a file that is no ledger, or no ledger and nothing to begin one with.
    """
    if add is None and not file.is_file():
        raise BadInput(str(file), "there is no ledger.", f"Begin one with `expunge ledger {file} --add=REQUESTS.csv`.")
    ledger = Ledger(file)
    there = {known.name: list(known.keys) for known in ledger.requests().values() if known.status != "withdrawn"}
    if add is not None:
        found = ledgers.read_requests(add)
        if not found:
            raise BadInput(str(add), "holds no request.", "Write one line for each example.")
        found = {name: keys for name, keys in found.items() if there.get(name) != sorted(set(keys))}  # a killed command is typed again
        ledger.check_all(found)
        for name, keys in found.items():
            ledger.receive(name, keys, by)
    if withdraw is not None:
        ledger.note("withdrawn", withdraw)


def lines(file: Path) -> list[dict[str, Any]]:
    """Return every line of a ledger as plain values."""
    return [
        {
            "number": entry.number,
            "time": entry.time,
            "event": entry.event,
            "request": entry.request,
            "facts": dict(entry.facts),
            "hash": entry.hash,
        }
        for entry in Ledger(file).entries()
    ]


def table(file: Path) -> "RenderableType":
    """Return what `rich` prints: a line for each request, and the hash of the last line."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    ledger = Ledger(file)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("request", "by", "received", "examples", "status", "since", "result"):
        grid.add_column(column, overflow="fold")
    for known in ledger.requests().values():
        grid.add_row(*map(Text, _row(known)))
    torn = f"; {ledger.unfinished} unfinished lines of killed processes" if ledger.unfinished else ""
    return Group(grid, Text(f"last line: {ledger.head}{torn}", style="dim"))


def _row(known: Known) -> list[str]:
    from expunge.report.terminal import printable

    keys = ", ".join(map(str, known.keys[:SHOWN])) + (f" and {len(known.keys) - SHOWN} more" if len(known.keys) > SHOWN else "")
    result = str(known.facts.get("folder") or known.facts.get("reason") or "")
    return [printable(text) for text in (known.name, known.by, known.received, keys, known.status, known.changed, result)]


def serve(
    file: Path,
    settings: Path | None,
    words: list[str],
    report: Callable[[dict[str, Any]], None],
    splits: str,
    evidence: Path | None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the waiting requests; each is said when it is served, and the last line of the ledger even if an error follows.

    Raises:
        BadInput: no ledger, a waiting request that cannot be served, before any is, or see `expunge.requests.serve.serve`.
        RunFailed: likewise.
    """
    from expunge.requests import serve as served

    if splits not in ("fresh", "cumulative"):
        raise BadInput("--splits", f"got {splits!r}.", nearest(splits, ("fresh", "cumulative")))
    if not file.is_file():
        raise BadInput(str(file), "there is no ledger.", f"Begin one with `expunge ledger {file} --add=REQUESTS.csv`.")
    ledger = Ledger(file, lambda entry: say(_served(entry, file)) if entry.event == "served" else None)
    before, tree = ledger.head, config.read(settings, words)
    _check_waiting(ledger, tree)
    try:
        served.serve(ledger, tree, report, splits, evidence)  # type: ignore[arg-type]
    finally:
        if ledger.head != before:
            say(f"last line of the ledger: {ledger.head}")


def _check_waiting(ledger: Ledger, tree: dict[str, Any]) -> None:
    """Refuse waiting requests that do not fit the data, by name, before the first is served.

    Raises:
        BadInput: an example is not there, or is not trained on, or nothing would be left.
    """
    done, waiting = ledger.served(), [known for known in ledger.requests().values() if known.status in ("waiting", "started", "failed")]
    if not waiting or tree.get("forget") is not None or is_address(tree.get("out") or ""):
        return  # which is refused in words of its own
    if _misfit(tree, [*done, *waiting]) is None:
        return
    for number, known in enumerate(waiting, 1):
        error = _misfit(tree, [*done, *waiting[:number]])
        if error is not None:
            remedy = f"{error.remedy} Or take the request back: `expunge ledger {ledger.path} --withdraw={known.name}`."
            raise BadInput(f"request {known.name}", f"{error.where}: {error.problem}", remedy.strip())


def _misfit(tree: dict[str, Any], requests: list[Known]) -> BadInput | None:
    """Return why the examples of some requests cannot be forgotten together; None if they can."""
    from expunge.pools.workplace import Workplace

    keys = sorted(key for known in requests for key in known.keys)
    try:
        Workplace(config.resolve({**tree, "forget": {"name": "ids", "ids": keys}})).split  # noqa: B018 - made when it is first read
    except BadInput as error:
        if not error.where.startswith("forget"):
            raise
        return error
    return None


def _served(entry: Entry, file: Path) -> str:
    from expunge.requests import record

    folder = file.parent / entry.facts["folder"]
    held = record.read(folder)
    became = f"weights {held['weights']['before'][:12]} became {held['weights']['after'][:12]}"
    return f"{entry.request}: {held['deleted']['count']} examples, {became}, record {folder / record.NAME}"


def verify(folder: Path, ledger: Path | None, data: bool, write: str | None, head: str | None = None) -> tuple[list[str], bool]:
    """Return the checks of a run folder or of a ledger as lines, and whether none failed.

    Raises:
        BadInput: something that is about a run folder is asked of a ledger, or see `expunge.requests.verify`.
    """
    from expunge.requests import record
    from expunge.requests import verify as checks

    if folder.is_file():
        _check_alone(folder, {"--ledger": ledger is not None, "--data": data, "--write": write is not None})
        found = checks.verify_ledger(folder, head)
        return [check.line for check in found], all(check.passed for check in found)
    if write is not None:
        _write(folder, write, data)
    found = checks.verify(folder, ledger, data, head)
    fits = all(check.passed is not False for check in found)
    said = ["", "This shows:", *(f"  - {words};" for words in record.PROVES)] if fits else []
    limits = ["It does not show:", *(f"  - {words};" for words in record.DOES_NOT)]
    return [*(check.line for check in found), *said, *([] if fits else [""]), *limits], fits


def _check_alone(file: Path, asked: Mapping[str, bool]) -> None:
    """Refuse what cannot be asked of a ledger alone, instead of passing over it."""
    option = next((name for name, given in asked.items() if given), None)
    if option is not None:
        problem = f"is about the run folder of a deletion, and {file} is a file: a ledger."
        raise BadInput(option, problem, f"Leave it out, or give the folder with the audit record, and --ledger={file}.")


def _write(folder: Path, request: str, data: bool) -> None:
    """Write the record of a run that has none; all of its forget set counts as deleted by this request."""
    from expunge.data.split import Split
    from expunge.pools.workplace import Workplace
    from expunge.requests import record

    if (folder / record.NAME).is_file():
        raise BadInput(str(folder), "has an audit record already.", "Leave --write out; a record is written once.")
    split = Split.load(folder / "split.json")
    held = Workplace(record.settings_of(folder)).plain_data if data else None
    record.write(folder, request, split.forget.tolist(), held)
