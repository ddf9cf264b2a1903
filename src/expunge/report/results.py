"""Folders of finished comparisons and benches -> their records, each with the folder that it lies in, and the page about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.errors import BadInput
from expunge.report.publication import load


def read(paths: Sequence[Path]) -> list[tuple[dict[str, Any], Path]]:
    """Return all records with their folders, in the order of the paths; a folder such as ``runs`` gives those of all results in it.

    Raises:
        BadInput: nothing is there, or it is no record of this version.
    """
    return [(record, file.parent.absolute()) for path in paths for file in _files(Path(path)) for record in load([file])]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "record.json").is_file():
        return [path / "record.json"]
    found = sorted([*path.glob("compare-*/record.json"), *path.glob("bench-*/record.json")])
    if not found:
        what = "holds no compare-* or bench-* folder" if path.is_dir() else "no such file or folder"
        raise BadInput(str(path), f"{what}.", "Give the folder that `expunge evaluate`, `expunge bench` or `expunge demo` named last.")
    return found


def write(paths: Sequence[Path], out: Path | None = None, deep: bool = False) -> Path:
    """Write the page about results, and return where it is.

    Args:
        paths: see `read`.
        out: of the page; ``report.html`` in the folder of the only result, or here if there are several.
        deep: look into models of any size.

    Raises:
        BadInput: see `read`.
    """
    from expunge.report import html

    found = read(paths)
    folders = {folder for _, folder in found}
    place = out or (folders.pop() / "report.html" if len(folders) == 1 else Path("report.html"))
    html.write([record for record, _ in found], place, [folder for _, folder in found], deep)
    return place
