"""A method is a short file: half have fewer than 20 lines of code, nine in ten at most 40, and every longer one says why."""

import importlib.util
import statistics
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "method_length.py"


def load():
    spec = importlib.util.spec_from_file_location("method_length", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_methods_are_short_files() -> None:
    measured = load()
    code = sorted(count for _, count in measured.methods().values())
    assert len(code) > 60 and statistics.median(code) < 20 and code[int(0.9 * len(code))] <= measured.MANY
    long = {name for name, (_, count) in measured.methods().items() if count > measured.MANY}
    assert measured.REASONS.keys() == long, "a long method needs a reason, and a short one needs none"
    assert all(len(reason) > 20 for reason in measured.REASONS.values())


CLASS = """class A(B):
    '''Doc

    long.'''

    source = "s"
    lr: float = hyper(
        0.1
    )

    def f(self):
        return 1
"""


@pytest.mark.parametrize(("text", "expected"), [('"""Doc."""\n\nimport math\n\n\nX = 1  # said\n# nothing\n', (7, 1)), (CLASS, (12, 3))])
def test_lines_of_code_are_counted_without_documentation(tmp_path: Path, text: str, expected: tuple[int, int]) -> None:
    path = tmp_path / "file.py"
    path.write_text(text)
    assert load().lines(path) == expected
