"""The run folder: configuration, record, weights, events, environment. Every file is written whole or not at all."""

import contextlib
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.errors import BadInput

_writes = True


def write_files(wanted: bool) -> None:
    """Say whether this process writes files; of several that work on one model, one alone does."""
    global _writes
    _writes = wanted


def writes() -> bool:
    """Return whether this process writes files."""
    return _writes


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends without an error.

    A reader, or a process that starts after a crash, sees the old file or the whole new one.

    Raises:
        BadInput: the folder cannot be written, or the disk is full.
    """
    if not _writes:
        with tempfile.TemporaryDirectory() as elsewhere:
            yield Path(elsewhere) / path.name
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from None
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":  # which has errors of the disk of its own
            raise unwritable(path, error) from None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: Exception) -> BadInput:
    """Return the error for a file that cannot be written."""
    reason = str(getattr(error, "strerror", None) or error).rstrip(".")
    with contextlib.suppress(OSError):
        if not getattr(error, "errno", None) and shutil.disk_usage(path.parent).free < 1 << 20:  # NumPy says how many bytes and not why
            reason = "No space left on device"
    return BadInput("out", f"cannot write {path}: {reason}.", "Choose another folder with out=FOLDER, or make room.")


def check_writable(folder: Path, needed_bytes: int = 64 << 20) -> None:
    """See that files can be made in a folder, and leave nothing behind.

    Raises:
        BadInput: read-only, a file in the way, or less room than needed.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise BadInput("out", f"{existing} is a file.", "Choose a folder with out=FOLDER.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise unwritable(existing, error) from None
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise BadInput(
            "out", f"{existing} has {free >> 20} MB left, at least {needed_bytes >> 20} MB are needed.", "Make room, or use out=FOLDER."
        )


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically. Non-finite numbers are refused: a record never holds a number that is none."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        BadInput: the file is not JSON, or is missing; ``where`` is ``out`` if the folder cannot be read at all.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise BadInput(
            str(path), f"cannot be read: {error}.", "If expunge wrote it, delete its folder and run the command again."
        ) from None
    except OSError as error:  # what is there may be whole: it must not be made again
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> BadInput:
    """Return the error for a file that is there, or may be, and that the system does not give."""
    return BadInput("out", f"cannot read {path}: {error.strerror or error}.", "See that the folder can be read, or use out=FOLDER.")


def append_event(path: Path, **event: Any) -> None:
    """Append one line of JSON with the time to an event log; a line that a killed process left unfinished is closed first.

    Raises:
        BadInput: the file cannot be written, or the disk is full.
    """
    if not _writes:
        return
    line = json.dumps({"time": round(time.time(), 3), **event}).encode() + b"\n"
    try:
        with open(path, "ab+") as log:
            if log.tell():
                log.seek(-1, os.SEEK_END)
                line = line if log.read(1) == b"\n" else b"\n" + line
            log.write(line)
    except OSError as error:
        raise unwritable(path, error) from None


def parse_event(line: str | bytes) -> dict[str, Any] | None:
    """Return the event of a line of a log; None for a line that a killed process left unfinished."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes have left in a folder; the caller holds the lock on it, so nobody else writes there.

    Their age plays no part: clocks jump, and those of a file server go their own way.
    """
    for pattern in (".*.*", ".lock-*") if _writes else ():
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()


@functools.cache
def environment() -> dict[str, Any]:
    """Return what a result may depend on beside the configuration: versions, hardware, commit."""
    import torch

    packages = ("expunge", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors", "pydantic", "timm", "transformers")
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
        **_git(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git() -> dict[str, Any]:
    def run(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = run("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(run("status", "--porcelain")) if commit else None}
