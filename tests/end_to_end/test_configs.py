"""Every ready file builds, and what --print-config prints is the same configuration."""

from pathlib import Path

import pytest

from expunge import config

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_there_are_files():
    assert len(FILES) >= 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_builds_and_round_trips(file, tmp_path):
    experiment = config.resolve(config.read(file))
    printed = tmp_path / "printed.yaml"
    printed.write_text(config.to_yaml(experiment.tree()))
    again = config.resolve(config.read(printed))
    assert again.tree() == experiment.tree()
    assert config.fingerprint(again.tree()) == config.fingerprint(experiment.tree())
