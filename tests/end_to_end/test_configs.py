"""Every ready file builds, and what --print-config prints is the same configuration or the same grid."""

from pathlib import Path

import pytest

from expunge import config
from expunge.bench import grid

OWN = {"bench-fashion-mnist", "bench-cifar10-pools"}  # settings that nobody has published
ALL = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
FILES = [file for file in ALL if not file.stem.startswith("bench-")]
GRIDS = [file for file in ALL if file.stem.startswith("bench-")]


def test_there_are_files():
    assert len(FILES) >= 5 and len(GRIDS) >= 20


def test_every_published_setting_has_a_small_twin():
    twins = {file.stem.removesuffix("-twin") for file in GRIDS if file.stem.endswith("-twin")}
    assert twins == {file.stem for file in GRIDS if not file.stem.endswith("-twin")} - OWN


def test_every_file_says_what_it_is():
    assert all(file.read_text(encoding="utf-8").startswith("# ") for file in ALL)


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_grid_expands_and_round_trips(file, tmp_path):
    found = grid.expand(grid.read(file))
    assert found.rows >= 4 and not found.left_out
    printed = tmp_path / "printed.yaml"
    printed.write_text(config.to_yaml(found.asked))
    assert grid.expand(grid.read(printed)) == found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_builds_and_round_trips(file, tmp_path):
    experiment = config.resolve(config.read(file))
    printed = tmp_path / "printed.yaml"
    printed.write_text(config.to_yaml(experiment.tree()))
    again = config.resolve(config.read(printed))
    assert again.tree() == experiment.tree()
    assert config.fingerprint(again.tree()) == config.fingerprint(experiment.tree())
