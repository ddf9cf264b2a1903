"""A store of runs at an address, such as ``s3://bucket/runs``: on any file system that fsspec can write to.

Runs are made in a folder of this machine that stands for the address, its cache. What is finished goes up, and what is not here is looked
for at the address first. In both directions the file that says that a folder is finished, its record, comes last: who sees a record sees
all of it. Every function here takes paths, and does nothing for one that lies in no cache.

An address has no locks. Two machines that make one run at once make the same weights and outputs, since its name says all that decides
them; whichever record came up first stays.
"""

import json
import platform
import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from expunge import runs
from expunge.errors import BadInput
from expunge.pools import addresses
from expunge.pools.addresses import (
    OURS,
    REACH,
    cache_named,
    files_at,
    folder_of,
    is_address,
    local,
    name_of,
    persist,
    place_of,
    refuse,
    shown,
    told,
)

__all__ = [
    "agree",
    "check_writable",
    "distrust",
    "folder_of",
    "has",
    "is_address",
    "local",
    "name_of",
    "opened",
    "pull",
    "pull_file",
    "push",
    "push_file",
    "record",
    "refuse",
    "see",
    "shown",
]

Report = Callable[[dict[str, Any]], None]

RECORD = "record.json"
AGAIN = ".again"
"""File of a run folder whose copy at the address is damaged: it is to be replaced."""
SIGN = "expunge.json"
"""File at an address that is written before any work, to see that files can be."""
HERE_ALONE = ("checkpoint.safetensors",)
TOLD_BYTES = 32 << 20
"""Transfers of at least so much are told."""


def check_writable(folder: Path) -> None:
    """See that results can be kept in a store, before any work, here and at the address.

    Raises:
        BadInput: the folder cannot be written, the disk is full, or files cannot be written at the address or read there.
    """
    place = place_of(folder)
    if place is None:
        return runs.check_writable(folder)
    with cache_named():
        runs.check_writable(folder)
    if runs.writes():
        _sign(place[0])


@cache
def _sign(address: str) -> None:
    files, path = files_at(address)
    content = json.dumps({"what": "runs of expunge", "format": 1}).encode()
    remedy = "See that the bucket or folder is there, that the credentials allow to write to it, and that the network is up."
    with told(f"write {address}/{SIGN}", remedy):
        persist(lambda: _with_parents(files, f"{path}/{SIGN}", lambda: files.pipe_file(f"{path}/{SIGN}", content)))
    with told(f"read {address}/{SIGN}", "See that the credentials allow to read there as well."):
        persist(lambda: files.cat_file(f"{path}/{SIGN}"))


@cache
def see(address: str) -> None:
    """See that this machine reaches a store that another one has begun; asked once in a process.

    Raises:
        BadInput: it does not, with the machine's name.
    """
    address = addresses.checked(address)
    files, path = files_at(address)
    remedy = "Every machine needs the package for the address, its credentials and the network."
    with told(f"read {address} from the machine {platform.node()}", remedy):
        persist(lambda: files.cat_file(f"{path}/{SIGN}"))


def has(folder: Path, sign: str = RECORD) -> bool:
    """Return whether a folder is finished at the address, and not known to be damaged there."""
    place = place_of(folder)
    return place is not None and not (folder / AGAIN).is_file() and sign in _listed(*place)


def record(folder: Path, name: str = RECORD) -> Any:
    """Return what a JSON file of a folder says at the address, and bring nothing; None where it is not there or is damaged."""
    content = _asked(folder / name, "cat_file")
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        return None


def pull(folder: Path, report: Report = lambda event: None, *, sign: str | None = RECORD, only: Sequence[str] = ()) -> bool:
    """Bring the files of a finished folder from the address, the sign of it last, and return whether there was one.

    What lies here under the same name is replaced; in a folder that is never finished only where the sizes differ.

    Args:
        folder: in a cache.
        report: hears how far a large transfer is.
        sign: file that says that the folder is finished; None for a folder that never is.
        only: names of the files that are wanted; all if there is none.

    Raises:
        BadInput: the address does not answer, or does not give the files.
    """
    place = place_of(folder)
    there = {} if place is None else _listed(*place)
    if place is None or not there or (sign is not None and sign not in there):
        return False
    wanted = {name: size for name, size in sorted(there.items(), key=lambda one: one[0] == sign) if not only or name in only}
    if sign is None:
        wanted = {name: size for name, size in wanted.items() if not _has_size(folder / name, size)}
    voice = _Voice(f"bringing {folder.name}", sum(wanted.values()), report)
    for name, size in wanted.items():
        _get(folder / name, size, voice)
    return True


def push(folder: Path, report: Report = lambda event: None, *, sign: str = RECORD, anew: bool = False) -> None:
    """Send what the address lacks of a finished folder, the sign of it last; nothing of a folder that is not finished here.

    Args:
        folder: in a cache.
        report: hears how far a large transfer is.
        sign: file that says that the folder is finished.
        anew: send everything, also what is there.

    Raises:
        BadInput: a file cannot be sent. What is here stays, and the next call sends what is missing.
    """
    place = place_of(folder)
    if place is None or not runs.writes() or not (folder / sign).is_file():
        return
    anew = anew or (folder / AGAIN).is_file()
    there = {} if anew else _listed(*place)
    mine = [path for path in sorted(folder.iterdir(), key=lambda path: path.name == sign) if _goes_up(path)]
    missing = [path for path in mine if sign not in there or path.name not in there]
    voice = _Voice(f"sending {folder.name}", sum(path.stat().st_size for path in missing), report)
    for path in missing:
        _put(path, voice)
    (folder / AGAIN).unlink(missing_ok=True)


def pull_file(path: Path, report: Report = lambda event: None) -> bool:
    """Return whether a file is here, after bringing it if it is at the address alone."""
    size = None if path.is_file() else _size(path)
    if size is not None:
        _get(path, size, _Voice(f"bringing {path.name}", size, report))
    return path.is_file()


def push_file(path: Path, report: Report = lambda event: None, *, anew: bool = False) -> None:
    """Send a file that the address lacks, or in any case if ``anew``."""
    if place_of(path) is not None and runs.writes() and (anew or _size(path) is None):
        _put(path, _Voice(f"sending {path.name}", path.stat().st_size, report))


def agree(folder: Path, *names: str) -> bool:
    """Return whether a folder of results holds these files, after here and the address have given each other what one of them lacks."""
    if all((folder / name).is_file() for name in names):
        push(folder)
        return True
    pull(folder)
    return all((folder / name).is_file() for name in names)


def distrust(folder: Path) -> None:
    """Take what the address has of a run for damaged: it is not finished here, and what is made anew replaces it there."""
    if place_of(folder) is None:
        return
    (folder / AGAIN).touch()
    (folder / RECORD).unlink(missing_ok=True)


def opened(name: str | Path, only: Sequence[str] = (), kinds: Sequence[str] = ("compare", "bench")) -> Path:
    """Return the folder or file of this machine that a name tells of; of an address what is wanted is brought first.

    Args:
        name: a folder, a file, the address of a store, or of a folder or record in it.
        only: names of the files that are wanted of each folder; all if there is none.
        kinds: which folders of a store are wanted.

    Raises:
        BadInput: there is nothing at the address, or it does not answer.
    """
    path = local(name)
    if not is_address(name):
        return path
    place = place_of(path)
    assert place is not None
    if not place[1]:
        wanted = [path / folder for folder in _folders(place[0]) if folder.partition("-")[0] in kinds]
    else:
        wanted = [path if OURS.fullmatch(path.name) else path.parent]
    brought = [pull(folder, only=only) for folder in wanted]
    if not any(brought):
        raise BadInput(str(name), f"holds no {' or '.join(f'{kind}-*' for kind in kinds)} folder.", "Give the address that out= named.")
    return path


class _Voice:
    """Tells about once a second how much of a large transfer is done."""

    def __init__(self, title: str, size: int, report: Report):
        self.title, self.size, self.report = title, size, report
        self.done, self.said = 0, 0.0

    def of_file(self) -> Any:
        """Return what fsspec tells of the bytes of one file."""
        from fsspec.callbacks import Callback

        before = self.done
        return Callback(hooks={"told": lambda size, value, **more: self.tell(before + value)})

    def tell(self, done: int) -> None:
        """Tell how much is done, unless that was told a moment ago."""
        self.done, now = done, time.monotonic()
        if self.size >= TOLD_BYTES and (now - self.said >= 1 or done >= self.size):
            self.said = now
            self.report({"event": "transfer", "title": self.title, "done": done, "size": self.size})


def _get(path: Path, size: int, voice: _Voice) -> None:
    """Bring a file, streamed, whole or not at all."""
    place = place_of(path)
    assert place is not None
    files, root = files_at(place[0])
    before = voice.done

    def once() -> None:
        voice.done = before
        files.get_file(f"{root}/{place[1]}", str(temporary), callback=voice.of_file())
        if temporary.stat().st_size != size:
            raise ConnectionError(f"{temporary.stat().st_size} of {size} bytes came")

    with cache_named(), runs.atomic_write(path) as temporary, told(f"read {name_of(path)}", REACH, here=True):
        persist(once)
    voice.tell(before + size)


def _put(path: Path, voice: _Voice) -> None:
    """Send a file, streamed."""
    place = place_of(path)
    assert place is not None
    files, root = files_at(place[0])
    target, before = f"{root}/{place[1]}", voice.done

    def once() -> None:
        voice.done = before
        _with_parents(files, target, lambda: files.put_file(str(path), target, callback=voice.of_file()))

    kept = f"Nothing is lost: it lies in {path.parent} on {platform.node()}, and the same command again sends what is missing."
    with told(f"write {name_of(path)}", kept):
        persist(once)
    voice.tell(before + path.stat().st_size)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _goes_up(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name not in HERE_ALONE


def _with_parents(files: Any, target: str, write: Callable[[], Any]) -> None:
    """Write a file, making its folder where there are folders; a bucket that is not there is not made, its name may be mistyped."""
    try:
        write()
    except FileNotFoundError:
        parent, top = target.rpartition("/")[0], re.match(r"/?[^/]*", target)
        assert top is not None
        if not files.exists(top[0]):
            raise FileNotFoundError(f"there is no {top[0]}") from None
        files.makedirs(parent, exist_ok=True)
        write()


def _listed(address: str, below: str) -> dict[str, int]:
    """Return name -> bytes of the files of a folder at an address; nothing of one that is not there."""
    found = _entries(address, below)
    named = {entry["name"].rstrip("/").rpartition("/")[2]: entry["size"] for entry in found if entry["type"] == "file"}
    return {name: size for name, size in named.items() if name and not name.startswith(".")}


def _folders(address: str) -> list[str]:
    """Return the names of our folders in a store, in order."""
    names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in _entries(address, "") if entry["type"] == "directory")
    return sorted(name for name in names if OURS.fullmatch(name))


def _entries(address: str, below: str) -> list[dict[str, Any]]:
    files, path = files_at(address)
    with told(f"list {address}", REACH):
        return persist(lambda: _or_none(lambda: _fresh(files).ls(f"{path}/{below}".rstrip("/"), detail=True))) or []


def _size(path: Path) -> int | None:
    """Return the bytes of a file at the address; None where it is not there."""
    found = _asked(path, "info")
    return None if found is None else int(found["size"])


def _asked(path: Path, verb: str) -> Any:
    """Return what the file system says of a file at the address; None where it is not there, or the path lies in no cache."""
    place = place_of(path)
    if place is None:
        return None
    files, root = files_at(place[0])
    with told(f"read {name_of(path)}", REACH):
        return persist(lambda: _or_none(lambda: getattr(_fresh(files), verb)(f"{root}/{place[1]}")))


def _fresh(files: Any) -> Any:
    """Return a file system that has forgotten what it listed: other machines write there too."""
    files.invalidate_cache()
    return files


def _or_none(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except FileNotFoundError:
        return None
