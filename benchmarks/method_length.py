"""How long the method files are: median, spread, and the longest with their reason.

    python benchmarks/method_length.py

A method's file holds its imports, its documentation (what it does, the source, the deviations, a line for each field) and its steps; the
goal is 10 to 40 lines of steps, and so lines of code are counted apart from documentation. Files that several methods share, and those
that hold no method, are counted on their own.
"""

import ast
import statistics
from pathlib import Path

from expunge import registry

ROOT = Path(registry.__file__).parent

REASONS = {
    "msg": "two published algorithms of this name, each with a reset of its own",
    "gradient_ascent_by_depth": "two published ways to treat blocks by depth",
}
"""Methods whose code is longer than `MANY` lines -> why."""
MANY = 40


def lines(path: Path) -> tuple[int, int]:
    """Return all lines of a file, and those of code: no blank lines, comments, docstrings, imports, or declarations of a class."""
    text = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_declaration(node):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    rows = text.splitlines()
    return len(rows), sum(
        bool(row.strip()) and not row.strip().startswith("#") and number not in left_out for number, row in enumerate(rows, 1)
    )


def _is_declaration(node: ast.AST) -> bool:
    """Return whether a statement is a text, or says something about a class: sources, deviations, defaults, fields."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "hyper"
    known = {"aliases", "presets", "source", "deviations", "needs", "scenarios", "scenario_reason", "scenario_defaults", "prefix_field"}
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in known


def methods() -> dict[str, tuple[int, int]]:
    """Return ``{method: (lines, lines of code)}``, the longest code first."""
    found = {name: ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py") for name, (module, _) in registry.modules("methods").items()}
    own = {name: lines(path) for name, path in found.items() if path.is_file()}
    return dict(sorted(own.items(), key=lambda entry: -entry[1][1]))


def shared() -> dict[str, tuple[int, int]]:
    """Return the same for files of the methods' folder that hold no method."""
    known = {module for module, _ in registry.modules("methods").values()}
    paths = [path for path in (ROOT / "methods").rglob("*.py") if path.name != "__init__.py"]
    names = {".".join(("expunge", *path.relative_to(ROOT).with_suffix("").parts)): path for path in paths}
    return {name.removeprefix("expunge.methods."): lines(path) for name, path in sorted(names.items()) if name not in known}


def main() -> None:
    """Print the statistics."""
    own, others = methods(), shared()
    for label, place in (("lines", 0), ("lines of code", 1)):
        counts = sorted(entry[place] for entry in own.values())
        nine = counts[int(0.9 * len(counts))]
        print(f"{len(counts)} methods, {label}: median {statistics.median(counts):g}, 90 % at most {nine}, {counts[0]} to {counts[-1]}")
    print(f"{len(others)} shared files, lines of code: median {statistics.median(code for _, code in others.values()):g}")
    print(f"\nMore than {MANY} lines of code:")
    for name, (whole, code) in own.items():
        if code > MANY:
            print(f"  {code:4} of {whole:4}  {name}: {REASONS.get(name, 'no reason given')}")


if __name__ == "__main__":
    main()
