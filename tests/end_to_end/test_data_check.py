"""``expunge data check``, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expunge import cli, config
from expunge.data.check import check
from expunge.errors import BadInput

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
import layouts


def lines(name: str, *words: str, sample: int | None = 200) -> list[str]:
    return list(check(config.build("datasets", {"name": name, **dict(word.split("=") for word in words)}, "data"), sample))


def test_what_is_there_is_counted(tmp_path):
    layouts.write_imagenet(tmp_path, validation="solution")
    result = CliRunner().invoke(cli.app, ["data", "check", "imagenet", f"data.root={tmp_path}", "data.size=32", "--all"])
    assert result.exit_code == 0, result.output
    assert "found   train: training pictures" in result.output
    assert "found   LOC_val_solution.csv: labels of the validation pictures" in result.output
    assert "absent  meta.mat" in result.output
    assert "training: 12 pictures of 3 classes, 4 to 4 of each" in result.output
    assert "test: 6 of 6 pictures decoded, 0 of them damaged" in result.output
    assert "streamed by 8 processes" in result.output and "ready: expunge train data=imagenet" in result.output


def test_what_is_missing_is_said_before_the_error(tmp_path):
    layouts.write_celeba(tmp_path)
    (tmp_path / "list_eval_partition.txt").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "expunge", "data", "check", "celeba", f"data.root={tmp_path}"],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "found   img_align_celeba" in done.stdout
    assert "MISSING list_eval_partition.txt or Eval/list_eval_partition.txt or list_eval_partition.csv: partition" in done.stdout
    assert "list_eval_partition.txt is missing" in done.stderr


def test_damaged_pictures_are_named(tmp_path):
    layouts.write_cub(tmp_path)
    broken = next((tmp_path / "images").rglob("*0002.jpg"))
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"1 of the pictures that were decoded are damaged, images/.*0002.jpg"):
        lines("cub", f"root={tmp_path}", sample=None)


def test_a_sample_is_the_same_every_time_and_no_larger_than_asked(tmp_path):
    layouts.write_domains(tmp_path, each=10)
    first, second = (lines("office_home", f"root={tmp_path}", "domain=all", sample=7) for _ in range(2))
    assert first == second and "training: 7 of 64 pictures decoded, 0 of them damaged" in first


def test_small_data_sets_are_counted_too():
    found = lines("digits")
    assert found[0].startswith("training: ") and "10 classes" in found[0] and found[-1] == "ready: expunge train data=digits"


def test_tables_and_shards_are_checked(tmp_path):
    layouts.write_shards(tmp_path / "shards")
    layouts.write_huggingface(tmp_path / "table")
    for name, root in (("webdataset", "shards"), ("huggingface", "table")):
        found = lines(name, f"root={tmp_path / root}", f"cache={tmp_path / 'cache'}")
        assert "training: 12 pictures of 3 classes, 4 to 4 of each" in found
