"""A lock on a folder that a dead process does not hold, among the processes of one machine and among machines that share the folder.

On one machine the kernel holds the lock and lets it go with the process, however it ends. Between machines the holder moves a number in
the lock's file; who sees it stand still for a minute of his own monotonic clock takes the lock over, so clocks that differ or jump play
no part. A lock saves work and nothing else: what two processes make of one identity is equal, and every file is replaced whole.
"""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from expunge import runs
from expunge.errors import BadInput

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: the moving number alone decides
    fcntl = None  # type: ignore[assignment]

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""A holder on another machine whose number stands still for so long is dead."""
NAME = ".lock"

_PATIENT: ContextVar[bool] = ContextVar("patient", default=True)
_SEEN: dict[Path, tuple[Any, float]] = {}
"""Lock file -> what another machine's holder last wrote there, and when this process first saw it, on its monotonic clock."""
_WATCHED: dict[Path, tuple[Any, float, bool]] = {}
"""Likewise for those who only look on, and whether they have seen it move."""


class Busy(Exception):
    """Another process is making this.

    Args:
        folder: what is locked.
        holder: who holds it, in words.
    """

    def __init__(self, folder: Path, holder: str):
        self.folder, self.holder = folder, holder
        super().__init__(f"{folder} is being made by {holder}")


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Let `hold` raise `Busy` within the block instead of waiting, so that a worker can take other work."""
    token = _PATIENT.set(False)
    try:
        yield
    finally:
        _PATIENT.reset(token)


@contextlib.contextmanager
def hold(folder: Path, tell: Callable[[str], None] = lambda holder: None, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock on a folder, which is made where need be, for the time of the block.

    Args:
        folder: what is locked.
        tell: called once with the holder's name where there is one and this process waits for it.
        wait: wait within `impatient` too, for what takes a moment.

    Raises:
        Busy: another process holds it, within `impatient` and without ``wait``.
        BadInput: the folder cannot be written.
    """
    if not runs.writes():  # of several that work on one model the one that writes holds it
        yield
        return
    held, told = _attempt(folder), False
    while isinstance(held, str):
        if not (wait or _PATIENT.get()):
            raise Busy(folder, held)
        if not told:
            tell(held)
            told = True
        time.sleep(0.2)
        held = _attempt(folder)
    try:
        yield
    finally:
        held.release()


def is_held(folder: Path) -> bool | None:
    """Return whether a living process holds the lock on a folder; None while that cannot be told. Nothing is changed.

    Of a holder on another machine it cannot be told until its number moves, which takes `BEAT_SECONDS`, or stands still for a minute.
    """
    path = folder / NAME
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        kernel = _flock(handle)
        content = os.pread(handle, 4096, 0)
    finally:
        os.close(handle)
    if kernel is not None and (not kernel or _parse(content).get("machine") == _machine()):
        return not kernel
    now = time.monotonic()
    last, since, moved = _WATCHED.get(path, (content, now, False))
    if last != content:
        since, moved = now, True
    _WATCHED[path] = (content, since, moved)
    return False if now - since > STALE_SECONDS else moved or None


@dataclass
class _Held:
    """A lock of this process: an open file that the kernel has locked, and the number in it."""

    path: Path
    handle: int
    beats: int = 0
    closing: threading.Lock = field(default_factory=threading.Lock)

    def beat(self) -> None:
        """Move the number, so that other machines see that this process lives."""
        with self.closing, contextlib.suppress(OSError):
            if self.handle >= 0:
                self.beats += 1
                os.pwrite(self.handle, _holder(self.beats), 0)

    def release(self) -> None:
        """Let go. The file is removed first, and whoever opened it meanwhile finds that it is no longer there."""
        _beating(self, False)
        with self.closing:
            if _same_file(self.path, self.handle):
                self.path.unlink(missing_ok=True)
            os.close(self.handle)
            self.handle = -1


def _attempt(folder: Path) -> "_Held | str":
    """Return the lock, or who holds it."""
    path = folder / NAME
    try:
        for _ in range(3):
            with contextlib.suppress(FileExistsError):  # mkdir raises it too where the folder goes while it looks
                folder.mkdir(parents=True, exist_ok=True)
            held = _make(path)
            if held is not None:
                _beating(held, True)
                return held
            holder = _other(path)
            if holder:
                return holder
        return "another process"
    except OSError as error:
        raise BadInput("out", f"cannot lock {folder}: {error.strerror or error}.", "Choose another folder with out=FOLDER.") from None


def _make(path: Path) -> _Held | None:
    """Return a new lock; None where there is a file already. It comes into being locked and with its content."""
    temporary = path.with_name(f"{NAME}-{uuid.uuid4().hex[:12]}")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileNotFoundError:  # the holder has cleared the folder up
        return None
    try:
        os.write(handle, _holder(0))
        _flock(handle)
        os.link(temporary, path)
        return _Held(path, handle)
    except (FileExistsError, FileNotFoundError):  # not found: the folder was cleared up meanwhile
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _other(path: Path) -> str:
    """Return who holds a lock that is there; empty after the lock of a dead process was removed, or gone by itself."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return ""
    try:
        kernel = _flock(handle)
        content = os.pread(handle, 4096, 0)
        if kernel is False or not _is_dead(path, content, kernel is True):
            return _name(content)
        if _same_file(path, handle):
            path.unlink(missing_ok=True)
            _SEEN.pop(path, None)
        return ""
    finally:
        os.close(handle)


def _flock(handle: int) -> bool | None:
    """Return whether the kernel gives the lock; None where the file system has no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_dead(path: Path, content: bytes, locked: bool) -> bool:
    """Return whether the holder of a file that the kernel lets us lock is dead: surely on this machine, after a while elsewhere."""
    if locked and _parse(content).get("machine") == _machine():
        return True
    now = time.monotonic()
    last, since = _SEEN.setdefault(path, (content, now))
    if last != content:
        _SEEN[path] = (content, now)
        return False
    return now - since > STALE_SECONDS


def _same_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(beats: int) -> bytes:
    """Return what stands in the file; of fixed length, because it is overwritten in place."""
    return json.dumps({"beats": f"{beats:012d}", "process": os.getpid(), "host": _host(), "machine": _machine()}).encode()


def _parse(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(content: bytes) -> str:
    found = _parse(content)
    return f"process {found['process']} on {found['host']}" if {"process", "host"} <= found.keys() else "another process"


@cache
def _host() -> str:
    import platform

    return platform.node() or "unknown"


@cache
def _machine() -> str:
    """Return what tells machines apart that may have the same name: the running kernel."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.is_file() else f"{_host()}-{uuid.getnode()}"


_ALIVE: list[_Held] = []
_GUARD = threading.Lock()
_THREAD: list[threading.Thread] = []


def _beating(held: _Held, start: bool) -> None:
    """Put a lock among those whose number a thread of this process moves, or take it away."""
    with _GUARD:
        if not start:
            _ALIVE.remove(held)
            return
        _ALIVE.append(held)
        if not _THREAD or not _THREAD[0].is_alive():
            _THREAD[:] = [threading.Thread(target=_beat, name="locks", daemon=True)]
            _THREAD[0].start()


def _beat() -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        with _GUARD:
            held = list(_ALIVE)
        for one in held:
            one.beat()
