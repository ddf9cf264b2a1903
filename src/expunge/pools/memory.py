"""How much memory there is, and how much a process has taken."""

import os
from collections.abc import Iterator
from pathlib import Path

_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Version of control groups -> the files with limit and use, and the line of ``memory.stat`` with the pages that can be dropped."""


def free(root: Path = Path("/")) -> int | None:
    """Return the bytes that this machine, or the container or batch job around this process, can still give; None where nobody says."""
    found = [size for size in (_machine(root), *_groups(root)) if size is not None]
    return min(found) if found else None


def resident(process: int) -> int:
    """Return the bytes of memory that a process holds; 0 where it is gone or nobody says."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _machine(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _groups(root: Path) -> Iterator[int | None]:
    """Yield what is left of the limit of each control group around this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / "sys/fs/cgroup" / controllers
            group = top / name.lstrip("/")
            for folder in (group, *group.parents[: len(group.parts) - len(top.parts)]):
                yield _left(folder, 1 if controllers else 2)


def _left(folder: Path, version: int) -> int | None:
    limit, used, droppable = _FILES[version]
    try:
        most = (folder / limit).read_text().strip()
        pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        left = None if most == "max" else int(most) - int((folder / used).read_text()) + int(pages.get(droppable, 0))
    except (OSError, ValueError):
        return None
    return None if left is None else max(0, left)
