"""Name -> component. A component is one module that defines the class of its name; entry points let other packages add their own.

`names` only reads file names and text, so that listing them costs no import of torch.
"""

import importlib
import importlib.util
import os
import re
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
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
    "selections": "expunge.bench.selections",
    "models": "expunge.models",
    "datasets": "expunge.data.datasets",
    "scenarios": "expunge.data.scenarios",
    "recipes": "expunge.training.recipes",
    "labs": "expunge.lab",
    "trackers": "expunge.tracking",
}


CONTRIBUTED = "EXPUNGE_CONTRIBUTED"
"""Environment variable, ``FILE.py:Class``, of a method that is in no package; worker processes inherit it."""


def contribute(file: Path) -> str:
    """Let a method that stands in a file of its own be found by the file's name, here and in worker processes; return the name.

    Raises:
        BadInput: no class of that name is in the file, or the name is taken.
    """
    name, wanted = file.stem, file.stem.replace("_", "").lower()
    classes = re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    class_name = next((one for one in classes if one.lower() == wanted), None)
    if class_name is None:
        expected = "".join(part.title() for part in name.split("_"))
        raise BadInput(
            str(file), f"defines no class {expected}.", "The file's name is the method's name, the class's the same in CamelCase."
        )
    os.environ.pop(CONTRIBUTED, None)
    modules.cache_clear()
    if name in modules("methods"):
        raise BadInput(str(file), f"there is a method {name!r} already.", "Give the file and its class another name.")
    os.environ[CONTRIBUTED] = f"{file.resolve()}:{class_name}"
    modules.cache_clear()
    _load.cache_clear()
    return name


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
    if kind == "methods" and os.environ.get(CONTRIBUTED):
        file, _, class_name = os.environ[CONTRIBUTED].rpartition(":")
        found[Path(file).stem] = (file, class_name)
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
    component = getattr(_of_file(Path(module)) if module.endswith(".py") else importlib.import_module(module), class_name)
    component.name = name
    return component


def _of_file(path: Path) -> ModuleType:
    """Return the module of a file that is in no package."""
    name = f"contributed_to_expunge_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(str(path), "cannot be read as Python.")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
