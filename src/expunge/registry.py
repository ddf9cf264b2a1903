"""Name -> component. A component is one module that defines the class of its name; entry points let other packages add their own.

`names` only reads file names and text, so that listing them costs no import of torch.
"""

import importlib
import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from expunge import source_names
from expunge.errors import BadInput, nearest

if TYPE_CHECKING:
    from expunge.config import Component

PACKAGES = {
    "methods": "expunge.methods",
    "addons": "expunge.addons",
    "metrics": "expunge.metrics",
    "audits": "expunge.audits",
    "models": "expunge.models",
    "datasets": "expunge.data.datasets",
    "scenarios": "expunge.data.scenarios",
    "recipes": "expunge.training.recipes",
}


@cache
def modules(kind: str) -> dict[str, tuple[str, str]]:
    """Return ``{name: (module, class)}`` of every component of a kind, in alphabetical order, without importing any.

    A file counts when it defines a class whose name is the file's name in CamelCase (case and underscores are ignored,
    so ``salun.py`` may hold ``SalUn``). A trailing underscore of the file is not part of the name (``class_.py`` is ``class``).
    """
    root = Path(__file__).parent.joinpath(*PACKAGES[kind].split(".")[1:])
    found = {}
    for path in sorted(root.rglob("*.py")):
        wanted = path.stem.replace("_", "").lower()
        if wanted == kind.removesuffix("s"):  # metric.py holds what all metrics share
            continue
        for class_name in re.findall(r"^class (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            if class_name.lower() == wanted:
                module = ".".join((PACKAGES[kind], *path.relative_to(root).with_suffix("").parts))
                found[path.stem.rstrip("_")] = (module, class_name)
    for entry in entry_points(group=f"expunge.{kind}"):
        found[entry.name] = (entry.module, entry.attr)
    return dict(sorted(found.items()))


def names(kind: str) -> list[str]:
    """Return the names of all components of a kind."""
    return list(modules(kind))


def find(kind: str, name: str, where: str = "") -> "type[Component]":
    """Return the class of a component.

    Args:
        kind: one of ``PACKAGES``.
        name: registry name, or one of the class's ``aliases`` or ``presets``; `expunge.config.build` sets the fields of a preset.
        where: the key to blame in the error message; the kind if empty.

    Raises:
        BadInput: no such component; the message names the nearest one.
    """
    table = modules(kind)
    plain = str(name).strip().lower().replace("-", "_")
    if plain in table:
        return _load(kind, plain)
    for candidate in table:
        if str(name) in (*_load(kind, candidate).aliases, *_load(kind, candidate).presets):
            return _load(kind, candidate)
    combination = source_names.hint(str(name)) if kind == "methods" else ""
    raise BadInput(where or kind, f"no {kind.rstrip('s')} is called {name!r}.", combination or nearest(plain, table))


@cache
def _load(kind: str, name: str) -> "type[Component]":
    module, class_name = modules(kind)[name]
    component = getattr(importlib.import_module(module), class_name)
    component.name = name
    return component
