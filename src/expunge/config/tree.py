"""A YAML file and key=value words -> a tree of plain values."""

import copy
from pathlib import Path
from typing import Any

from expunge.config.yaml_text import parse_yaml, read_yaml
from expunge.errors import BadInput, nearest

KINDS = {"data": "datasets", "model": "models", "train": "recipes", "forget": "scenarios", "method": "methods"}
"""The top-level keys that choose a component, and its kind."""
SEEDS = ("training_seed", "unlearning_seed", "forget_seed")
"""Seeds of a part of what is random: each is ``seed`` unless it is given."""
KEYS = (*KINDS, "addons", "evaluate", "seed", *SEEDS, "device", "out", "track")
"""All top-level keys, in the order in which they are printed."""
LISTS = {"addons": "add-on", "track": "tracker"}
"""The keys that choose any number of components, and what one of them is called."""


def read(file: Path | None, overrides: list[str] | tuple[str, ...] = (), base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the tree of a YAML file with ``key=value`` overrides applied from left to right.

    Choosing another component by name (``method=scrub``) drops the fields of the old one.

    Raises:
        BadInput: file missing or not YAML, an override without ``=``, or an unknown top-level key.
    """
    tree: dict[str, Any] = {key: as_choice(value) if key in KINDS else value for key, value in copy.deepcopy(base or {}).items()}
    if file is not None:
        if not file.is_file():
            raise BadInput(str(file), "no such file.", "Give a YAML file, or only key=value pairs.")
        loaded = read_yaml(file)
        if loaded is not None and not isinstance(loaded, dict):
            raise BadInput(str(file), f"expected keys and values, got {type(loaded).__name__}.")
        for key, value in (loaded or {}).items():
            assign(tree, str(key), value)
    for key, value in map(parse_override, overrides):
        assign(tree, key, value)
    return tree


def parse_override(word: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``.

    Raises:
        BadInput: there is no ``=``, or the value is not YAML.
    """
    key, equals, text = word.partition("=")
    if not equals:
        raise BadInput(word, "expected key=value.", "For example method=salun or method.lr=0.02.")
    return key.strip(), parse_yaml(text, key)


def assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a key, or a field of a component by a dotted key, in a tree.

    Raises:
        BadInput: no such key.
    """
    _assign(tree, key.split("."), value, key)


def is_file(value: Any) -> bool:
    """Return whether a choice is the name of a YAML file."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))


def method_file(path: str) -> dict[str, Any]:
    """Return ``method``, and ``addons`` where it has some, of a file such as `expunge tune` writes.

    Raises:
        BadInput: no such file, or it holds no method.
    """
    if not Path(path).is_file():
        raise BadInput("method", f"there is no file {path}.", "Give a name, or a file that `expunge tune` wrote.")
    loaded = read_yaml(Path(path))
    held = loaded if isinstance(loaded, dict) and "method" in loaded else {"method": loaded}
    if not isinstance(held["method"], dict) or set(held) - {"method", "addons"}:
        raise BadInput(path, "holds no method.", "Expected `method:` with a name and fields, and perhaps `addons:`.")
    return held


def as_choice(value: Any) -> Any:
    """Return a bare name as a mapping with ``name``, and anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


def _assign(tree: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    key = path[0]
    if key == "grid":
        raise BadInput(where, "a grid asks for many experiments.", "Run the file with `expunge bench`.")
    if key not in KEYS:
        raise BadInput(where, f"no such key {key!r}.", nearest(key, KEYS))
    if len(path) == 1:
        if key == "method" and is_file(value):
            tree.update(method_file(value))
            return
        tree[key] = as_choice(value) if key in KINDS else value
        return
    if key in LISTS:
        _assign_listed(tree, path, value, where)
        return
    if key not in KINDS and key != "evaluate":
        raise BadInput(where, f"{key!r} has no fields.", f"Write {key}=VALUE.")
    if len(path) > 2:
        raise BadInput(where, "too many dots.", f"Write {key}.FIELD=VALUE.")
    if path[1] == "name":
        tree[key] = as_choice(value)
        return
    node = tree.setdefault(key, {})
    if not isinstance(node, dict):
        raise BadInput(where, f"{key} is {node!r}, which has no fields.")
    if path[1] != "tuned":
        node.pop("tuned", None)  # with another value it is not what was tuned
    node[path[1]] = value


def as_choices(value: Any) -> Any:
    """Return one name or mapping as a list with it, and anything else as it is."""
    return [value] if isinstance(value, str | dict) else value


def _assign_listed(tree: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    key, word = path[0], LISTS[path[0]]
    if len(path) != 3:
        raise BadInput(where, f"expected {key}.NAME.FIELD=VALUE.")
    chosen = (as_choices(tree.get(key)) if key == "track" else tree.get(key)) or []
    for position, item in enumerate(chosen):
        item = dict(as_choice(item))
        if item.get("name") == path[1]:
            item[path[2]] = value
            tree[key] = [*chosen[:position], item, *chosen[position + 1 :]]
            return
    raise BadInput(where, f"the {word} {path[1]!r} is not chosen.", f"Write {key}=[{path[1]}] first.")
