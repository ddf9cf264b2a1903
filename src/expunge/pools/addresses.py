"""Addresses of stores of runs, the folders of this machine that stand for them, and the file systems behind them.

Whatever fsspec can write to is an address. Credentials come from where the package of a file system looks for them.
"""

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from expunge import runs
from expunge.errors import BadInput

MARK = ".address"
"""File of a cache that says what it stands for."""
PAUSES = (1.0, 4.0)
"""Seconds before a transfer that failed is tried again."""
REACH = "See that the credentials allow it and that the network is up. What is finished is kept: the same command again goes on."
"""What to do where an address does not answer."""
OURS = re.compile(r"[a-z]+(-[a-z_]+)?-[0-9a-f]{12,16}")
"""Names of the folders of a store."""
_KNOWN: dict[Path, str] = {}
"""Cache -> what it stands for, as far as this process has asked."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_address(out: str | Path) -> bool:
    """Return whether a store of runs is at an address, and not in a folder."""
    return "://" in str(out)


def folder_of(out: str) -> Path:
    """Return the folder in which a store of runs is worked on: the folder itself, or the one of this machine that stands for an address.

    Raises:
        BadInput: no such kind of address, or one that holds a password; or the cache cannot be written.
    """
    if not is_address(out):
        return Path(out)
    address = checked(out)
    folder = _caches() / hashlib.sha256(address.encode()).hexdigest()[:16]
    _KNOWN[folder] = address
    if not (folder / MARK).is_file():
        with cache_named(), runs.atomic_write(folder / MARK) as temporary:
            temporary.write_text(address, encoding="utf-8")
    return folder


def name_of(path: Path) -> str:
    """Return the name under which other machines find a folder or a file too: its address, or its path where it has none."""
    place = place_of(path)
    return str(path) if place is None else "/".join(part for part in place if part)


def local(name: str | Path) -> Path:
    """Return where what a name tells of lies on this machine, or would lie; see `name_of`."""
    text = str(name)
    if not is_address(text):
        return Path(text)
    parts = text.rstrip("/").split("/")
    ours = next((place for place in reversed(range(3, len(parts))) if OURS.fullmatch(parts[place])), len(parts))
    if ".." in parts:
        raise BadInput(text, "goes up by `..`.", "Write the address without it.")
    return folder_of("/".join(parts[:ours])).joinpath(*parts[ours:])


def shown(path: Path) -> str:
    """Return a path as it is printed: with its address, if it has one."""
    return str(path) if place_of(path) is None else f"{path}, at {name_of(path)}"


def refuse(out: Any, verb: str, reason: str) -> None:
    """Refuse an address where a verb can only do with a folder.

    Raises:
        BadInput: it is an address.
    """
    if is_address(str(out or "")):
        raise BadInput("out", f"`expunge {verb}` needs a folder, got the address {out!r}: {reason}", "Give out=FOLDER.")


def files_at(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it.

    Raises:
        BadInput: no such kind of address, its package is not installed, or the server cannot be reached.
    """
    import fsspec

    protocol = address.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise BadInput("out", f"no address begins with {protocol}://.", "For example s3://, gs://, az://, sftp:// or file://.") from None
    except ImportError as error:
        package = _package(protocol, str(error))
        raise BadInput("out", f"{protocol}:// needs the package {package}, which is not installed.", f"pip install {package}") from None
    with told(f"reach {address}", "See that the address is right, that there are credentials for it, and that the network is up."):
        files, path = persist(lambda: fsspec.core.url_to_fs(address))
    return files, path.rstrip("/")


def persist(act: Callable[[], Any]) -> Any:
    """Return what a call returns, tried again after a pause where the network may have failed."""
    for pause in PAUSES:
        try:
            return act()
        except (PermissionError, FileNotFoundError, NotImplementedError):
            raise
        except Exception as error:  # each file system has errors of its own
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            time.sleep(pause)
    return act()


@contextlib.contextmanager
def told(doing: str, remedy: str, here: bool = False) -> Iterator[None]:
    """Turn whatever a file system raises into an error about the results.

    Args:
        doing: what is tried.
        remedy: how to mend it.
        here: whether a full disk is that of this machine, about which the caller tells.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # each file system has errors of its own
        if here and isinstance(error, OSError) and error.errno in _FULL:
            raise
        lines = str(error).strip().splitlines() or [""]
        reason = ": ".join(part for part in (type(error).__name__, lines[0][:300].rstrip(".")) if part)
        raise BadInput("out", f"cannot {doing}: {reason}.", remedy) from None


@contextlib.contextmanager
def cache_named() -> Iterator[None]:
    """Say that the cache is at fault, and not the address, where a file of it cannot be written."""
    try:
        yield
    except BadInput as error:
        if "out=FOLDER" not in error.remedy:
            raise
        remedy = "That is the cache of the address: make room, or choose another folder for it with EXPUNGE_CACHE=FOLDER."
        raise BadInput(error.where, error.problem, remedy) from None


def place_of(path: Path) -> tuple[str, str] | None:
    """Return (address of the store, path in it) of a folder or file of a cache; None for any other."""
    path, root = path.absolute(), _caches()
    if path == root or not path.is_relative_to(root):
        return None
    first, *others = path.relative_to(root).parts
    address = _address_in(root / first)
    return None if address is None else (address, "/".join(others))


def _caches() -> Path:
    """Return the folder of all caches: ``$EXPUNGE_CACHE``, or ``stores`` in the cache folder of expunge."""
    given = os.environ.get("EXPUNGE_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expunge" / "stores"
    return Path(given).absolute() if given else usual.absolute()


def _address_in(folder: Path) -> str | None:
    """Return what a cache stands for; None for a folder beside the caches, such as ``out=`` in the same place."""
    if folder not in _KNOWN:
        try:
            _KNOWN[folder] = (folder / MARK).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise runs.unreadable(folder / MARK, error) from None
    return _KNOWN[folder]


@cache
def checked(out: str) -> str:
    """Return an address without the last slash.

    Raises:
        BadInput: it cannot name a store.
    """
    protocol, _, rest = out.partition("://")
    if "::" in out or "?" in out or ".." in rest.split("/"):
        raise BadInput("out", f"{out!r} is no plain address.", "Write it without `::`, `?` and `..`, such as s3://bucket/runs.")
    if not rest.strip("/"):
        raise BadInput("out", f"{out!r} names no bucket or folder.", f"For example {protocol}://bucket/runs.")
    if urlsplit(out).password is not None:
        remedy = f"Leave it out; fsspec takes it from FSSPEC_{protocol.upper()}_PASSWORD or from its configuration file."
        raise BadInput("out", "the address holds a password, and records would show it.", remedy)
    return f"{protocol}://{rest.rstrip('/')}"


def _package(protocol: str, message: str) -> str:
    """Return the package that is to be installed for a kind of address, as far as fsspec says."""
    from fsspec.registry import known_implementations

    module = known_implementations.get(protocol, {}).get("class", protocol).partition(".")[0]
    named = re.search(r'"([\w-]+)"', message)
    return module if module != "fsspec" else named[1] if named else protocol
