"""A contributed method: one folder, one command, one row in a checked format."""

import json
import os
import shutil
from pathlib import Path

import pytest

from expunge import registry
from expunge.bench import contribution
from expunge.errors import BadInput

COMMUNITY = Path(__file__).parents[2] / "community"


@pytest.fixture(autouse=True)
def forgotten():
    """Take what a test contributes out of the registry again."""
    yield
    os.environ.pop(registry.CONTRIBUTED, None)
    registry.modules.cache_clear()
    registry._load.cache_clear()


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the example whose experiment takes seconds."""
    made = tmp_path / "community" / "runner_up"
    shutil.copytree(COMMUNITY / "runner_up", made)
    text = (made / "config.yaml").read_text().replace("epochs: 8", "epochs: 1").replace("seeds: 6", "seeds: 3")
    (made / "config.yaml").write_text(text.replace("data: digits", "data: {name: digits, train_limit: 200, test_limit: 100}"))
    return made


def test_one_command_makes_a_row_that_passes_its_own_check(folder, tmp_path, expunge):
    status, _, err = expunge("contribute", folder, "--check")
    assert status == 2 and "was made from another config.yaml" in err
    # Two processes: what is in no package is found in workers too.
    status, out, err = expunge("contribute", folder, f"out={tmp_path / 'runs'}", "evaluate.workers=2")
    assert status == 0 and "runner_up" in out, err
    row = contribution.LeaderboardRow.model_validate(json.loads((folder / "row.json").read_text()))
    assert (row.method, row.seeds, row.retrained, row.status) == ("runner_up", 3, 3, "finished") and not row.reads_retrained
    record = json.loads(next((tmp_path / "runs").glob("compare-*/record.json")).read_text())[0]
    rows = {held["name"]: held for held in record["table"]["rows"]}
    for name, value in row.metrics.items():
        assert value.value == rows["runner_up"]["cells"][name]["value"]
        assert (
            value.gap == pytest.approx(value.value - rows["retrained"]["cells"][name]["value"])
            if name in rows["retrained"]["cells"]
            else True
        )
    assert len(row.metrics) > 5 and set(row.files) == {"runner_up.py", "config.yaml"}
    assert expunge("contribute", folder.parent, "--check")[0] == 0
    assert "| runner_up |" in (folder.parent / "leaderboard.md").read_text()

    (folder / "row.md").write_text((folder / "row.md").read_text().replace("fails", "passes").replace("no evidence", "passes"))
    with pytest.raises(BadInput, match="row.md: does not say what row.json says"):
        contribution.check(folder)
    (folder / "row.md").write_text(contribution.markdown([row]))
    (folder / "runner_up.py").write_text((folder / "runner_up.py").read_text() + "\n")
    with pytest.raises(BadInput, match="was made from another runner_up.py"):
        contribution.check(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | {"verdict": None}, "verdict"),
        (lambda row: row | {"seeds": 2}, "seeds"),
        (lambda row: row | {"status": "failed"}, "status"),
        (lambda row: row | {"rank": 1}, "rank"),
        (lambda row: row | {"metrics": {}}, "metrics"),
        (lambda row: {key: value for key, value in row.items() if key != "tuned"}, "tuned"),
        (lambda row: row | {"metrics": {**row["metrics"], "x": {**row["metrics"]["loss_auc"], "low": 2.0, "high": 1.0}}}, "no interval"),
    ],
)
def test_a_row_that_is_not_of_the_format_is_refused(folder, change, message):
    row = json.loads((COMMUNITY / "runner_up" / "row.json").read_text())
    (folder / "row.json").write_text(json.dumps(change(row)))
    with pytest.raises(BadInput, match=message):
        contribution.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.yaml").unlink(), "there is no config.yaml"),
        (lambda folder: (folder / "other.py").write_text(""), "expected one Python file, found 2"),
        (lambda folder: (folder / "runner_up.py").rename(folder / "salun.py"), "defines no class Salun"),
        (lambda folder: (folder / "runner_up.py").write_text("class Other(Method): ..."), "defines no class RunnerUp"),
        (lambda folder: (folder / "config.yaml").write_text("method: runner_up"), "contribution: expected author and source"),
        (
            lambda folder: edit(folder, "{name: runner_up, lr: 0.005, epochs: 1}", "salun"),
            "expected the folder's own method runner_up, got salun",
        ),
        (lambda folder: edit(folder, "seeds: 3", "seeds: 2"), "a row needs 3 seeds"),
        (lambda folder: edit(folder, "lr: 0.005", "lr: -1"), "method.lr: expected a positive number"),
    ],
)
def test_what_a_folder_lacks_is_said_before_any_work(folder, change, message):
    change(folder)
    with pytest.raises(BadInput, match=message):
        contribution.run(folder, [], lambda event: None, "test")


def edit(folder, before, after):
    text = (folder / "config.yaml").read_text()
    assert before in text
    (folder / "config.yaml").write_text(text.replace(before, after))


def test_a_row_is_made_of_the_file_as_it_is_and_no_name_is_taken(folder):
    with pytest.raises(BadInput, match="method.lr: a row is made of config.yaml as it is"):
        contribution.run(folder, ["method.lr=0.1"], lambda event: None, "test")
    taken = folder / "ssd.py"
    (folder / "runner_up.py").rename(taken)
    taken.write_text(taken.read_text().replace("RunnerUp", "Ssd"))
    with pytest.raises(BadInput, match="there is a method 'ssd' already"):
        contribution.read(folder)


def test_a_row_on_the_board_without_the_files_it_names_is_found(tmp_path):
    shutil.copytree(COMMUNITY, tmp_path / "community")
    made_up = tmp_path / "community" / "winner"
    made_up.mkdir()
    shutil.copy(COMMUNITY / "runner_up" / "row.json", made_up)
    (tmp_path / "community" / "leaderboard.md").write_text(contribution.leaderboard(tmp_path / "community"))
    with pytest.raises(BadInput, match="winner: expected one Python file, found 0"):
        contribution.check(tmp_path / "community")


def test_rows_of_different_recipes_or_models_are_in_different_tables():
    usual = contribution._described("train", {"name": "tiny"})
    longer = contribution._described("train", {"name": "tiny", "epochs": 80})
    assert usual == "tiny" and longer == "tiny epochs=80"
    assert contribution._described("model", {"name": "mlp", "hidden": [7]}) == "mlp hidden=[7]"


def test_the_rows_of_the_repository_are_whole():
    assert contribution.check(COMMUNITY)
