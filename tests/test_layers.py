"""Imports point down only, and modules of one layer import each other without cycles. Read from the text, nothing is imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "expunge"

LAYERS = (
    {"__init__", "__main__", "api", "cli"},
    {"bench", "report", "requests", "lab", "progress", "tracking", "components"},
    {"methods", "addons", "metrics", "audits", "representation", "training", "pools", "testbed"},
    {"data", "models"},
    {"engine", "attacks", "statistics"},
    {"runs", "config", "registry", "source_names", "errors"},
)
"""From the top. What stands in one set may import each other, as long as no module imports itself in the end."""

LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}


def modules(root):
    """Return {dotted name without the package: path}."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path, known, package="expunge", at_import_only=False):
    """Return the modules of the package that a file imports, those in functions too unless ``at_import_only``; types alone do not count."""
    found, stack = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == package:
            base = (node.module + ".").removeprefix(package + ".").rstrip(".")
            for alias in node.names:
                longer = f"{base}.{alias.name}".strip(".")
                found.add(longer if longer in known else base or "__init__")
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            found.add(f"relative import in {path.name}")
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix(package + ".") for alias in node.names if alias.name.startswith(package + ".")}
        stack += node.orelse if is_type_checking(node) else list(ast.iter_child_nodes(node))
    return found


def upward(name, targets):
    level = LEVEL[name.split(".")[0]]
    return sorted(target for target in targets if LEVEL.get(target.split(".")[0], -1) < level)


def cycle(graph):
    """Return a list of modules that import each other in a circle, or None."""
    state = {}

    def visit(name, trail):
        state[name] = "open"
        for target in sorted(graph.get(name, ())):
            if state.get(target) == "open":
                return [*trail[trail.index(target) :], target]
            found = None if target in state else visit(target, [*trail, target])
            if found:
                return found
        state[name] = "done"
        return None

    for name in sorted(graph):
        found = None if name in state else visit(name, [name])
        if found:
            return found
    return None


def test_every_module_has_a_layer():
    tops = {name.split(".")[0] for name in modules(ROOT)}
    assert len(tops) > 5
    assert tops <= LEVEL.keys(), f"put {sorted(tops - LEVEL.keys())} into LAYERS"


def test_imports_point_down():
    known, checked = modules(ROOT), 0
    wrong = {}
    for name, path in known.items():
        targets = imports(path, known)
        checked += len(targets)
        if upward(name, targets):
            wrong[name] = upward(name, targets)
    assert checked > 100
    assert wrong == {}


def test_no_cycles_while_importing():
    known = modules(ROOT)
    graph = {name: imports(path, known, at_import_only=True) - {name, "__init__"} for name, path in known.items()}
    assert cycle(graph) is None


def test_no_module_is_a_drawer():
    names = {part for name in modules(ROOT) for part in name.split(".")}
    assert names & {"utils", "helpers", "common", "misc", "base"} == set()


@pytest.mark.parametrize(
    "text,expected",
    [
        ("from expunge.methods import x", ["methods"]),
        ("import expunge.methods.y", ["methods.y"]),
        ("def f():\n    from expunge.cli import main", ["cli"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from expunge.cli import main", []),
        ("from expunge.errors import BadInput", []),
        ("from ..methods import x", ["relative import in planted.py"]),
        ("from expunge import api", ["api"]),
    ],
)
def test_planted_imports_are_seen(tmp_path, text, expected):
    path = tmp_path / "planted.py"
    path.write_text(text)
    found = imports(path, {"methods": path, "methods.y": path, "errors": path, "api": path})
    assert upward("engine.phase", found) == expected


def test_planted_cycles_are_seen():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
