"""A method of another package is found through its entry point, without being installed here."""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import make_context
from expunge import registry
from expunge.config import build
from expunge.engine.measure import logits_of
from expunge.engine.run import run
from expunge.errors import BadInput

PACKAGE = Path(__file__).parents[2] / "docs" / "examples" / "expunge_example"


def clear() -> None:
    registry.modules.cache_clear()
    registry._load.cache_clear()
    importlib.invalidate_caches()
    sys.modules.pop("expunge_example", None)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put on the path what an installation of the package would leave there."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    folder = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in items.items()) for group, items in project["entry-points"].items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(PACKAGE))
    clear()
    yield project
    monkeypatch.undo()
    clear()


def test_without_the_package_there_is_no_such_method() -> None:
    with pytest.raises(BadInput, match="uniform_answers"):
        registry.find("methods", "uniform_answers")


def test_the_method_is_found_described_and_runs(installed) -> None:
    assert installed["entry-points"].keys() == {"expunge.methods"}
    assert "uniform_answers" in registry.names("methods") and "salun" in registry.names("methods")
    found = registry.find("methods", "uniform_answers")
    assert found.name == "uniform_answers" and found.__module__ == "expunge_example"
    from expunge.components import entry

    described = entry(found)
    assert described["needs"] == ["forget", "retain"] and [field["name"] for field in described["hyperparameters"]][0] == "weight"
    method = build("methods", {"name": "uniform_answers", "lr": 0.05, "epochs": 10}, "method")
    context = make_context("class", needs=found.needs)
    before = logits_of(context, "forget")[0].softmax(1).amax(1).mean()
    run(context, method)
    after = logits_of(context, "forget")[0].softmax(1).amax(1).mean()
    assert float(after) < 0.5 < float(before)


def test_its_fields_are_validated_like_any_other(installed) -> None:
    with pytest.raises(BadInput, match=r"method\.weight: expected a positive number, got -1"):
        build("methods", {"name": "uniform_answers", "weight": -1.0}, "method")
    with pytest.raises(BadInput, match="uniform_answers"):
        registry.find("methods", "uniform_answer")
