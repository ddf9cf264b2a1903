"""What the requests and rows of a grid are called: their names, and the fields that tell one from another."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from expunge.config import fingerprint

Tree = dict[str, Any]
Parts = list[tuple[str, str, Tree]]
"""Of a label: a key, a name, and the fields that were given."""


def title_parts(request: Tree) -> Parts:
    """Return the parts of the label of a request."""
    found = [(key, request[key]["name"], _fields(request[key])) for key in ("forget", "data", "model", "train")]
    return [*found, ("seed", "", {key: request[key] for key in ("seed", "training_seed", "forget_seed") if key in request})]


def row_parts(row: Tree) -> Parts:
    """Return the parts of the label of a row."""
    found = [("method", row["method"]["name"], _fields(row["method"])), ("tuned", row["method"].get("tuned", {}).get("label", ""), {})]
    found += [(f"addon {place}", addon["name"], _fields(addon)) for place, addon in enumerate(row["addons"])]
    return [*found, ("seed", "", {key: row[key] for key in ("unlearning_seed",) if key in row})]


def _fields(choice: Tree) -> Tree:
    return {key: value for key, value in choice.items() if key not in ("name", "tuned")}


def of(trees: Sequence[Tree], parts_of: Callable[[Tree], Parts]) -> dict[str, str]:
    """Return a label for each tree, by its key: the names, and of the fields those that tell it from another with the same names."""
    trees = list({fingerprint(tree): tree for tree in trees}.values())
    alike: dict[tuple[tuple[str, str], ...], list[Parts]] = {}
    for tree in trees:
        parts = parts_of(tree)
        alike.setdefault(tuple((key, name) for key, name, _ in parts), []).append(parts)
    names = {key: {name for held in alike for part, name in held if part == key} for held in alike for key, _ in held}
    return {fingerprint(tree): _label(parts_of(tree), alike, names) for tree in trees}


def _label(parts: Parts, alike: Mapping[Any, list[Parts]], names: Mapping[str, set[str]]) -> str:
    others = alike[tuple((key, name) for key, name, _ in parts)]
    heads, marks, tails = [], list[str](), []
    for place, (key, name, fields) in enumerate(parts):
        differing = {field for other in others for field in {*fields, *other[place][2]} if fields.get(field) != other[place][2].get(field)}
        shown = {field: value for field, value in fields.items() if field in differing or key == "forget"}
        if key == "tuned":
            marks += [name] if name else []
        elif name and (key in ("forget", "method") or key.startswith("addon") or len(names[key]) > 1):
            heads.append(name)
        prefix = f"{name}." if key.startswith("addon") else f"{key}." if key in ("data", "model", "train") else ""
        tails += [f"{prefix}{field}={_text(value)}" for field, value in shown.items()]
    joined = "+".join(heads) if parts[0][0] == "method" else ", ".join(heads)
    return " ".join([joined, *marks, *tails])


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False).replace('"', "").replace(", ", ",")
    return text.removeprefix("[").removesuffix("]") if isinstance(value, list) else text
