"""One YAML file -> many experiments: the grid of ``expunge bench``, expanded and checked. Nothing is read, trained or written.

A file of a bench is a file of an experiment with one more key. ``grid`` holds axes: a key, or a dotted key, and a list of choices. Within
a choice a field that is one value may be a list of values, and stands for a choice with each; a field that is a list itself may be a list
of lists. Every combination of data, model, train, forget, seed, training_seed and forget_seed is a request, and every combination of
method, add-ons and unlearning_seed one of its rows. ``grid`` may also be a list of such mappings, each expanded by itself, so that
requests can have methods of their own::

    evaluate: {seeds: 3}
    grid:
      forget: [{name: random, fraction: [0.1, 0.5]}, class:Shirt]
      method: [finetune, {name: salun, lr: [0.001, 0.01]}]
      addons: [[], [saliency_mask]]
      data.train_limit: [1000, 2000]
      seed: [0, 1]
"""

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from expunge import config, registry
from expunge.bench import labels
from expunge.bench.request import Request, Row
from expunge.config import Component, fingerprint
from expunge.engine import run as engine
from expunge.errors import BadInput, NotApplicable, nearest

Tree = dict[str, Any]

OF_REQUEST = ("data", "model", "train", "forget")
SEEDS_OF_REQUEST = ("seed", "training_seed", "forget_seed")
COMPONENTS = (*OF_REQUEST, "method")
AXES = (*COMPONENTS, "addons", *SEEDS_OF_REQUEST, "unlearning_seed")
"""What a grid can vary; ``evaluate``, ``device``, ``out`` and ``track`` are the same for a whole bench."""
LARGEST = 10_000
"""Rows that a grid may have."""


@dataclass(frozen=True)
class LeftOut:
    """A combination that means nothing, and why."""

    request: str
    row: str
    reason: str


@dataclass(frozen=True)
class Grid:
    """What a file asks for.

    Attributes:
        asked: the file with everything that changes it, as plain values.
        requests: with their rows.
        left_out: combinations of a request, a method and add-ons that the method or an add-on declares not to serve.
    """

    asked: Tree
    requests: list[Request]
    left_out: list[LeftOut]

    @property
    def rows(self) -> int:
        """How many rows there are, over all requests."""
        return sum(len(request.rows) for request in self.requests)


def read(file: Path | None, overrides: Sequence[str] = ()) -> Tree:
    """Return the tree of a file with overrides, ``grid`` among its keys as a list of mappings.

    ``KEY=VALUE`` takes the place of the axes of that key, ``KEY.FIELD=VALUE`` of the axis of that field, ``grid.KEY=[...]`` makes an axis.

    Raises:
        BadInput: no file, no YAML, no grid, or a key that does not exist.
    """
    if file is None:
        raise BadInput("bench", "there is no file.", "Write `expunge bench FILE.yaml`, a file with `grid:` in it; configs/ has some.")
    if not file.is_file():
        raise BadInput(str(file), "no such file.", "Give a YAML file with `grid:` in it.")
    loaded = config.read_yaml(file)
    if not isinstance(loaded, dict) or "grid" not in loaded:
        raise BadInput(str(file), "has no `grid:`.", "Say what varies, for example `grid: {method: [finetune, salun]}`.")
    axes = axes_of(loaded.pop("grid"))
    tree: Tree = {}
    for key, value in loaded.items():
        config.assign(tree, str(key), value)
    for key, value in map(config.parse_override, overrides):
        override(tree, axes, key, value)
    return {**tree, "grid": axes}


def axes_of(grid: Any) -> list[Tree]:
    """Return the mappings of a grid, each with its axes.

    Raises:
        BadInput: it holds none.
    """
    mappings = grid if isinstance(grid, list) else [grid]
    if not mappings or not all(isinstance(mapping, dict) and mapping for mapping in mappings):
        raise BadInput("grid", f"expected keys with lists, got {grid!r}.", "For example `grid: {method: [finetune, salun]}`.")
    return [{str(key): value for key, value in mapping.items()} for mapping in mappings]


def override(tree: Tree, axes: list[Tree], key: str, value: Any) -> None:
    """Set a key of the tree, or an axis, as ``KEY=VALUE`` on the command line asks; see `read`."""
    root = key.partition(".")[0]
    if root == "grid":
        for mapping in axes:
            mapping[key.removeprefix("grid.")] = value
        return
    if key == root:
        for mapping in axes:
            for name in [name for name in mapping if name.partition(".")[0] == root]:
                del mapping[name]
        config.assign(tree, key, value)
    elif any(root in mapping or key in mapping for mapping in axes):
        for mapping in axes:
            mapping[key] = [value]
    else:
        config.assign(tree, key, value)


def expand(tree: Tree) -> Grid:
    """Return the requests and rows of a tree.

    Requests that several mappings of the grid ask for are one request with the rows of all.

    Raises:
        BadInput: an unknown key, name or field, with the nearest one; a key that is fixed and varied; a choice twice; a method or an
            add-on that fits nothing; or too many combinations.
    """
    axes = axes_of(tree.get("grid"))
    base = {key: value for key, value in tree.items() if key != "grid"}
    if fixed := [key for key in base if key not in config.KEYS]:
        raise BadInput(fixed[0], f"no such key {fixed[0]!r}.", nearest(fixed[0], [*config.KEYS, "grid"]))
    asked = [_combinations(base, mapping) for mapping in axes]
    if (size := sum(len(requests) * len(rows) for requests, rows in asked)) > LARGEST:
        raise BadInput("grid", f"asks for {size} rows; at most {LARGEST} are allowed.", "Divide it over several files.")
    titles = labels.of([request for requests, _ in asked for request in requests], labels.title_parts)
    wanted: dict[str, _Wanted] = {}
    for requests, rows in asked:
        trees = [_resolved(base, request) for request in requests]
        _check_twice("grid", [titles[fingerprint(request)] for request in requests], trees)
        for request, resolved in zip(requests, trees, strict=True):
            wanted.setdefault(fingerprint(resolved), _Wanted(titles[fingerprint(request)], resolved, {**base, **request}, [])).rows.extend(
                rows
            )
    served = [_serve(held) for held in wanted.values()]
    left_out = [out for _, refused in served for out in refused]
    _check_used([row for _, rows in asked for row in rows], [request for request, _ in served], left_out)
    return Grid(copy.deepcopy(tree), [request for request, _ in served], left_out)


@dataclass(frozen=True)
class _Wanted:
    """A request with the rows that all mappings ask for: its title, its resolved tree, and that with everything as it was given."""

    title: str
    tree: Tree
    given: Tree
    rows: list[Tree]


def _combinations(base: Tree, axes: Tree) -> tuple[list[Tree], list[Tree]]:
    """Return the requests and the rows that one mapping asks for, as partial experiments, in the order of ``AXES``."""
    _check_axes(base, axes)
    choices = {key: _component_choices(base, axes, key) for key in COMPONENTS}
    seeds = {"seed": [base.get("seed", 0)], **{key: axes[key] for key in (*SEEDS_OF_REQUEST, "unlearning_seed") if key in axes}}
    drawn = [{"unlearning_seed": value} for value in seeds.pop("unlearning_seed", ())] or [{}]
    addons = _addon_choices(base, axes)
    sizes = {**{key: len(found) for key, found in {**choices, "addons": addons, **seeds}.items()}, "unlearning_seed": len(drawn)}
    if math.prod(sizes.values()) > LARGEST:
        product = " x ".join(f"{size} {key}" for key, size in sizes.items() if size > 1)
        raise BadInput("grid", f"asks for {product} = {math.prod(sizes.values())} rows; at most {LARGEST} are allowed.", "Take some out.")
    parts = [choices[key] for key in OF_REQUEST]
    requests = [dict(zip((*OF_REQUEST, *seeds), held, strict=True)) for held in itertools.product(*parts, *seeds.values())]
    rows = [{"method": method, "addons": put, **seed} for method, put, seed in itertools.product(choices["method"], addons, drawn)]
    return requests, rows


def _check_axes(base: Tree, axes: Tree) -> None:
    for key, values in axes.items():
        root, _, field = key.partition(".")
        if root in ("evaluate", "device", "out", "track"):
            raise BadInput(f"grid.{key}", f"{root} is the same for a whole bench.", f"Write {root} beside grid, or make a second file.")
        if root not in AXES or (root not in (*COMPONENTS, "addons") and field):
            raise BadInput(f"grid.{key}", f"no such key {key!r}.", nearest(key, AXES))
        if not isinstance(values, list) or not values:
            raise BadInput(f"grid.{key}", f"expected a list of choices, got {values!r}.", f"Write {key}: [...].")
        if not field and root in base:
            raise BadInput(f"grid.{key}", f"{key} is also given beside grid.", "Take one of the two out.")
        if root == "addons" and field.count(".") != 1 and field:
            raise BadInput(f"grid.{key}", "expected addons.NAME.FIELD.", "For example addons.sam.rho: [0.05, 0.1].")
        if root in COMPONENTS and "." in field:
            raise BadInput(f"grid.{key}", "too many dots.", f"Write {root}.FIELD.")


def _component_choices(base: Tree, axes: Tree, key: str) -> list[Tree]:
    """Return the choices of one component, each a name with fields that are no alternatives any more."""
    default = config.DEFAULTS.get(key)
    given = config.as_choice(base.get(key))
    if key not in axes and given is None and default is None:
        example = {"forget": "forget: [random, class:Shirt]", "method": "method: [finetune, salun]"}[key]
        raise BadInput(key, "is missing.", f"Give it beside grid, or as an axis: {example}.")
    chosen = axes.get(key, [{"name": default, **(given or {})} if default else given])
    where = f"grid.{key}" if key in axes else key
    found = [choice for item in chosen for choice in _alternatives(config.KINDS[key], item, where)]
    for name, values in axes.items():
        root, _, field = name.partition(".")
        if root == key and field:
            found = [_with_field(choice, field, value, f"grid.{name}", key) for choice in found for value in values]
    return found


def _with_field(choice: Tree, field: str, value: Any, where: str, key: str) -> Tree:
    _check_field(config.KINDS[key], choice["name"], field, where)
    if field in choice:
        raise BadInput(where, f"{choice['name']} has {field}={choice[field]!r} already.", "Take one of the two out.")
    return {**{key: held for key, held in choice.items() if key != "tuned"}, field: value}


def _addon_choices(base: Tree, axes: Tree) -> list[list[Tree]]:
    chosen = axes.get("addons", [base.get("addons") or []])
    for item in chosen:
        if not isinstance(item, list):
            raise BadInput(
                "grid.addons", f"expected lists of add-ons, got {item!r}.", "For example addons: [[], [saliency_mask], [sam, ema]]."
            )
    where = "grid.addons" if "addons" in axes else "addons"
    found = [list(put) for item in chosen for put in itertools.product(*(_alternatives("addons", addon, where) for addon in item))]
    for key, values in axes.items():
        if key.startswith("addons."):
            found = _with_addon_field(found, key, values)
    return found


def _with_addon_field(chosen: list[list[Tree]], key: str, values: list[Any]) -> list[list[Tree]]:
    """Return the choices with a field of one add-on varied, where that add-on is chosen."""
    _, name, field = key.split(".")
    _check_field("addons", name, field, f"grid.{key}")
    if not any(addon["name"] == name for put in chosen for addon in put):
        raise BadInput(f"grid.{key}", f"the add-on {name!r} is not chosen.", f"Write addons: [[{name}]] in the grid too.")
    if any(addon["name"] == name and field in addon for put in chosen for addon in put):
        raise BadInput(f"grid.{key}", f"{name} has {field} already.", "Take one of the two out.")
    found = []
    for put in chosen:
        here = any(addon["name"] == name for addon in put)
        for value in values if here else values[:1]:
            found.append([{**addon, field: value} if addon["name"] == name else addon for addon in put])
    return found


def _alternatives(kind: str, choice: Any, where: str) -> Iterator[Tree]:
    """Yield the choices that one with lists in its fields stands for.

    Raises:
        BadInput: no name, or a name or a field that does not exist.
    """
    choice = _of_file(choice, where) if kind == "methods" and config.is_file(choice) else config.as_choice(choice)
    if not isinstance(choice, dict) or not isinstance(choice.get("name"), str):
        raise BadInput(where, f"expected a name, or a mapping with a name, got {choice!r}.", f"`expunge list {kind}` lists the names.")
    fields = {str(key): value for key, value in choice.items() if key != "name" and (key, kind) != ("tuned", "methods")}
    tuned = {"tuned": choice["tuned"]} if kind == "methods" and "tuned" in choice else {}
    component = registry.find(kind, choice["name"].partition(":")[0], where)
    for key in fields:
        _check_field(kind, choice["name"], key, where)
    options = [value if _is_alternatives(component, key, value) else [value] for key, value in fields.items()]
    for key, values in zip(fields, options, strict=True):
        if not values:
            raise BadInput(f"{where}.{choice['name']}.{key}", "there is no choice in an empty list.", "Leave it out, or give values.")
    for values in itertools.product(*options):
        yield {"name": choice["name"], **dict(zip(fields, values, strict=True)), **tuned}


def _of_file(path: str, where: str) -> Tree:
    """Return the method of a file that `expunge tune` wrote."""
    held = config.method_file(path)
    if held.get("addons"):
        raise BadInput(where, f"{path} holds add-ons as well.", "Write its method and its addons as an entry of `grid` of their own.")
    return held["method"]


def _check_field(kind: str, name: str, field: str, where: str) -> None:
    component = registry.find(kind, name.partition(":")[0], where)
    if field not in component.model_fields:
        allowed = nearest(field, component.model_fields) if component.model_fields else "It has no fields."
        raise BadInput(where, f"{name} has no field {field!r}.", allowed)


def _is_alternatives(component: type[Component], field: str, value: Any) -> bool:
    if not isinstance(value, list):
        return False
    if not _takes_list(component.model_fields[field].annotation):
        return True
    return bool(value) and all(isinstance(item, list) for item in value)


def _takes_list(annotation: Any) -> bool:
    """Return whether a value of this type may be a list."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _takes_list(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return any(_takes_list(part) for part in get_args(annotation))
    return (origin or annotation) in (list, tuple, set, frozenset)


def _serve(wanted: _Wanted) -> tuple[Request, list[LeftOut]]:
    """Return a request with the rows that can serve it, and the others with their reason."""
    names = labels.of(wanted.rows, labels.row_parts)
    found, trees, left_out = [], [], []
    for row in wanted.rows:
        label, resolved = names[fingerprint(row)], config.resolve({**wanted.given, **row})
        streams, artefacts = ("forget", "retain", "validation"), ("recipe", "oracle")
        try:
            engine.check(resolved.method, resolved.addons, kind=resolved.forget.kind, streams=streams, artefacts=artefacts)
        except NotApplicable as refused:
            left_out.append(LeftOut(wanted.title, label, str(refused)))
        else:
            found.append(Row(label, row["method"], row["addons"], row.get("unlearning_seed")))
            trees.append(
                [
                    resolved.method.tree(),
                    [addon.tree() for addon in resolved.addons],
                    row.get("unlearning_seed"),
                    row["method"].get("tuned"),
                ]
            )
    _check_twice(f"grid ({wanted.title})", [row.label for row in found], trees)
    if not found:
        raise BadInput("grid", f"no method fits the request {wanted.title}: {left_out[-1].reason}", "Take it out, or add a method.")
    return Request(wanted.title, wanted.tree, found), left_out


def _check_used(rows: list[Tree], requests: list[Request], left_out: list[LeftOut]) -> None:
    """Refuse a method, or a choice of add-ons, of which every combination is left out."""
    used = [row for request in requests for row in request.rows]
    for row in rows:
        if row["method"] in [held.method for held in used] and row["addons"] in [held.addons for held in used]:
            continue
        label = labels.of([row], labels.row_parts)[fingerprint(row)]
        reason = next(out.reason for out in left_out if out.row.startswith(label))
        raise BadInput("grid", f"{label} fits no request: {reason}", "Take it out, or give `grid` as a list of mappings.")


def _resolved(base: Tree, request: Tree) -> Tree:
    resolved = config.resolve({**{key: value for key, value in base.items() if key not in ("method", "addons")}, **request})
    return {key: value for key, value in resolved.tree().items() if key not in ("method", "addons")}


def _check_twice(where: str, names: Sequence[str], trees: Sequence[Any]) -> None:
    """Refuse a choice that comes out the same as another."""
    first: dict[str, str] = {}
    for label, tree in zip(names, trees, strict=True):
        key = fingerprint(tree)
        if key in first:
            same = "is there twice." if first[key] == label else f"and {first[key]!r} come out the same."
            raise BadInput(where, f"{label!r} {same}", "Take one of the two out.")
        first[key] = label


def select(grid: Grid, only: Sequence[str] = (), limit: int | None = None) -> Grid:
    """Return the part of a grid whose rows match a pattern, and of these the first ones.

    Args:
        grid: the whole.
        only: patterns as in a shell, of which one must match the label of the row, of the request, or ``REQUEST/ROW``; none takes all.
        limit: how many rows, counted over all requests.

    Raises:
        BadInput: nothing matches, or the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise BadInput("--limit", f"expected a positive integer, got {limit}.")
    pairs = [(request, row) for request in grid.requests for row in request.rows]
    for pattern in only:
        if not any(_matches(pattern, request, row) for request, row in pairs):
            known = dict.fromkeys([*(row.label for _, row in pairs), *(request.title for request, _ in pairs)])
            raise BadInput("--only", f"nothing is called {pattern!r}.", nearest(pattern, known))
    kept = [(request, row) for request, row in pairs if not only or any(_matches(pattern, request, row) for pattern in only)][:limit]
    requests = [replace(request, rows=[row for held, row in kept if held is request]) for request in grid.requests]
    return replace(grid, requests=[request for request in requests if request.rows])


def _matches(pattern: str, request: Request, row: Row) -> bool:
    return any(fnmatchcase(name, pattern) for name in (row.label, request.title, f"{request.title}/{row.label}"))
