"""What there is: every component with its summary, source, needs, scenarios and hyper-parameters, derived from the classes.

Importing all methods imports torch, which takes seconds; the answer is therefore kept in the user's cache folder until a file of
the package changes.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from expunge import registry
from expunge.config import Component, describe
from expunge.errors import BadInput, nearest

KINDS = tuple(registry.PACKAGES)


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Return one mapping of plain values for each component of a kind: methods, addons, metrics, models, datasets, scenarios, recipes.

    Raises:
        BadInput: no such kind.
    """
    if kind not in KINDS:
        raise BadInput("list", f"no such kind {kind!r}.", nearest(kind, KINDS))
    return kept(f"catalogue-{kind}", (kind,), lambda: [entry(registry.find(kind, name)) for name in registry.names(kind)])


def kept(name: str, kinds: tuple[str, ...], make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns, plain values that depend on the components of these kinds, from the cache folder where it is there."""
    file = _cache_folder() / f"{name}-{_state(kinds)}.json"
    with suppress(OSError, ValueError):
        return json.loads(file.read_text(encoding="utf-8"))
    made = make()
    with suppress(OSError, BadInput):
        from expunge.runs import write_json

        write_json(file, made)
    return made


def entry(component: type[Component]) -> dict[str, Any]:
    """Return what the class says about itself."""
    found: dict[str, Any] = {
        "name": component.name,
        "summary": component.summary(),
        "source": component.source,
        "aliases": [*component.aliases, *component.presets],
        "deviations": list(component.deviations),
    }
    if component.presets:
        found["presets"] = {name: dict(fields) for name, fields in component.presets.items()}
    for attribute in ("needs", "scenarios"):
        if isinstance(getattr(component, attribute, None), set | frozenset | tuple):
            found[attribute] = sorted(getattr(component, attribute))
    for attribute in ("label", "unit", "target", "tier", "game", "scenario_reason", "scenario_defaults"):
        value = getattr(component, attribute, None)
        if value is not None and not callable(value):
            found[attribute] = value
    found["hyperparameters"] = [_field(name, field) for name, field in component.model_fields.items()]
    return found


def _field(name: str, field: Any) -> dict[str, Any]:
    default = field.get_default(call_default_factory=True)
    plain = default if isinstance(default, str | int | float | bool | None) else json.loads(json.dumps(default, default=_plain))
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return {
        "name": name,
        "type": describe(field),
        "default": "required" if field.is_required() else plain,
        "about": field.description or "",
        "search": extra.get("search"),
    }


def _plain(value: Any) -> Any:
    return value.tree() if isinstance(value, Component) else str(value)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expunge"


def _state(kinds: tuple[str, ...]) -> str:
    """Return a hash that changes with any source file of the package, and with the packages that add components."""
    root = Path(__file__).parent
    hashed = hashlib.sha256(sys.version.encode() + repr([registry.modules(kind) for kind in kinds]).encode())
    for path in sorted(root.rglob("*.py")):
        status = path.stat()
        hashed.update(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}".encode())
    return hashed.hexdigest()[:16]
