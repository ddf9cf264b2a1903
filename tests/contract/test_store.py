"""The store under bad luck: a full disk, a folder that cannot be read, a clock that jumps, two drivers, another torch."""

import errno
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from expunge import config, runs
from expunge.errors import BadInput
from expunge.pools import locks, stages
from expunge.pools.cache import EvidenceCache
from expunge.pools.workplace import Workplace

WORDS = ["data=digits", "model=mlp", "train=tiny", "train.epochs=1", "device=cpu"]


def workplace(out, *more, report=lambda event: None) -> Workplace:
    return Workplace(config.resolve(config.read(None, [*WORDS, f"out={out}", *more])), report)


def starts(folder: Path) -> int:
    return (folder / "events.jsonl").read_text().count('"event": "start"')


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 32 kB that can be made larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("no permission to mount a disk")

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    yield folder, resize
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_clearly_and_a_larger_one_mends_it(small_disk):
    folder, resize = small_disk
    index, failures = np.arange(200), 0
    for size in ("36k", "64k", "128k", "192k", "256k"):  # full at each of the files in turn
        resize(size)
        try:
            run = stages.train(workplace(folder / "runs"), index, 0, "a")
        except BadInput as error:
            failures += 1
            assert error.where == "out" and "No space left on device" in str(error)
            assert not list(folder.rglob("record.json")) and not list(folder.rglob(".lock"))
        else:
            assert np.isfinite(run.logits()).all()
    assert failures >= 3
    resize("8m")
    run = stages.train(workplace(folder / "runs"), index, 0, "a")
    assert run.status == "ok" and not list(run.folder.glob(".*"))
    assert run.record["weights"] == stages.train(workplace(folder / "other"), index, 0, "a").record["weights"]


def test_a_full_disk_does_not_kill_who_writes_to_the_evidence_cache(small_disk):
    folder, resize = small_disk
    labels = np.zeros(500, dtype=np.int64)
    logits, state = np.zeros((500, 10), dtype=np.float32), np.zeros(500, dtype=np.uint8)
    with pytest.raises(BadInput, match="No space left on device"):
        EvidenceCache(folder / "cache", {}, labels, 10).write(0, logits, state)
    resize("8m")
    cache = EvidenceCache(folder / "cache", {}, labels, 10)
    cache.write(0, logits, state)
    assert cache.rows() == [0] and not list((folder / "cache").rglob(".*"))


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_fails_leaves_no_half_of_a_file(tmp_path, monkeypatch, call):
    path = tmp_path / "record.json"
    runs.write_json(path, {"old": 1})
    monkeypatch.setattr(os, call, lambda *arguments: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(BadInput, match="out: cannot write .*record.json: No space left on device"):
        runs.write_json(path, {"new": 2})
    assert runs.read_json(path) == {"old": 1} and [file.name for file in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error")])
def test_a_record_that_cannot_be_read_is_not_made_again(tmp_path, monkeypatch, error):
    index = np.arange(100)
    run = stages.train(workplace(tmp_path), index, 0, "a")
    before, read = (run.folder / "record.json").read_bytes(), Path.read_text

    def fail(self, *arguments, **more):
        if self.name == "record.json":
            raise error
        return read(self, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(BadInput, match=f"out: cannot read .*record.json: {error.strerror}. See that the folder can be read"):
        stages.train(workplace(tmp_path), index, 0, "a")
    monkeypatch.undo()
    assert (run.folder / "record.json").read_bytes() == before and starts(run.folder) == 1


@pytest.mark.parametrize("text", ["", '{"status": '])
def test_a_record_that_is_damaged_is_made_again(tmp_path, text):
    index = np.arange(100)
    run = stages.train(workplace(tmp_path), index, 0, "a")
    (run.folder / "record.json").write_text(text)
    again = stages.train(workplace(tmp_path), index, 0, "a")
    assert again.record["weights"] == run.record["weights"] and starts(run.folder) == 2


@pytest.mark.parametrize("jump", [-7 * 86400.0, 7 * 86400.0])
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch, jump):
    index = np.arange(100)
    expected = stages.train(workplace(tmp_path / "calm"), index, 0, "a").record
    wall, calls = time.time, [0]

    def jumping():
        calls[0] += 1
        return wall() + (jump if calls[0] % 2 else 0)

    monkeypatch.setattr(time, "time", jumping)
    folder = tmp_path / "stormy" / Path(f"train-{config.fingerprint(expected['identity'])}")
    folder.mkdir(parents=True)
    for name, age in ((".record.json.old.json", -jump), (".weights.safetensors.young.safetensors", 0.0), (".lock-abc", jump)):
        (folder / name).touch()
        os.utime(folder / name, (wall() + age, wall() + age))
    found = stages.train(workplace(tmp_path / "stormy"), index, 0, "a")
    assert found.folder == folder and calls[0] > 1
    assert found.record["weights"] == expected["weights"] and 0 <= found.record["cost"]["seconds"] < 60
    assert not list(folder.glob(".*")), "what a killed process has left is gone, whatever its date"


def test_two_drivers_train_a_stage_once(tmp_path):
    heard, index, inside = [], np.arange(200), threading.Event()

    def first(event):
        if event["event"] == "epoch":
            inside.set()
            time.sleep(0.5)

    def second(event):
        heard.append(event["event"])

    found = []
    thread = threading.Thread(target=lambda: found.append(stages.train(workplace(tmp_path, report=first), index, 0, "a")))
    thread.start()
    assert inside.wait(timeout=60)
    with locks.impatient(), pytest.raises(locks.Busy):
        stages.train(workplace(tmp_path), index, 0, "a")
    run = stages.train(workplace(tmp_path, report=second), index, 0, "a")
    thread.join()
    assert heard == ["waiting", "found"] and run.folder == found[0].folder and starts(run.folder) == 1
    assert not (run.folder / ".lock").exists()


def test_another_torch_makes_other_runs(tmp_path, monkeypatch):
    plain = workplace(tmp_path, "forget=random", "method=salun")
    seen = dict.fromkeys(("train", "unlearn"))
    real = stages.metadata.version
    for version in ("2.9.0", "2.9.1", "2.9.1+cu132"):
        monkeypatch.setattr(stages.metadata, "version", lambda name, version=version: version if name == "torch" else real(name))
        identities = {
            "train": stages.train_identity(plain, plain.split.train, 0),
            "unlearn": stages.unlearn_identity(plain, "start", 0, plain.split),
        }
        for stage, identity in identities.items():
            assert identity["versions"] == {"torch": version.partition("+")[0]}
            same = config.fingerprint(identity) == seen[stage]
            assert same == (version == "2.9.1+cu132"), "the build is no part of it"
            seen[stage] = config.fingerprint(identity)
        assert json.loads(json.dumps(identities)) == identities


def test_weights_that_are_only_scored_know_the_torch_that_scored_them(tmp_path):
    run = stages.train(workplace(tmp_path), np.arange(100), 0, "a")
    scored = stages.score_identity(workplace(tmp_path, f"model.weights={run.folder / 'weights.safetensors'}"))
    assert scored["versions"] == run.record["identity"]["versions"] == {"torch": stages.metadata.version("torch").partition("+")[0]}


@pytest.mark.parametrize("model,package", [("timm:resnet18", "timm"), ("torchvision:resnet18", "torchvision"), ("hf:vit", "transformers")])
def test_the_package_of_the_architecture_is_part_of_what_a_run_is(tmp_path, model, package):
    assert set(stages.versions(workplace(tmp_path, f"model={model}"))) == {"torch", package}


def test_a_method_that_is_killed_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 0)
    words = ["forget=random", "forget.fraction=0.1", "method=salun", "method.epochs=4"]
    calm = workplace(tmp_path / "calm", *words)
    original = stages.original(calm, 0)
    expected = stages.unlearn(calm, original.folder, 0, "salun")

    class Killed(Exception):
        pass

    def dying(event):
        if event["event"] == "epoch" and event["epoch"] == 3:
            raise Killed

    with pytest.raises(Killed):
        stages.unlearn(workplace(tmp_path / "stormy", *words, report=dying), original.folder, 0, "salun")
    events = []
    run = stages.unlearn(workplace(tmp_path / "stormy", *words, report=events.append), original.folder, 0, "salun")
    assert [event["epoch"] for event in events if event["event"] == "resumed"] == [2]
    assert run.record["weights"] == expected.record["weights"] and run.record["phases"] == expected.record["phases"]
    assert not list(run.folder.glob("checkpoint*"))


def test_a_record_that_was_cut_short_counts_as_none(tmp_path):
    work, index = workplace(tmp_path), np.arange(60)
    run = stages.train(work, index, 0, "a")
    whole = run.record
    runs.write_json(run.folder / "record.json", {"status": "ok"})
    assert stages.train(work, index, 0, "a").record["weights"] == whole["weights"]
    assert {"cost", "identity"} <= runs.read_json(run.folder / "record.json").keys()


def test_a_lost_split_or_configuration_is_written_again(tmp_path):
    work, index = workplace(tmp_path, "forget=random"), np.arange(60)
    run = stages.train(work, index, 0, "a")
    names = ("split.json", "config.yaml")
    held = {name: (run.folder / name).read_bytes() for name in names}
    for name in names:
        (run.folder / name).unlink()
    assert stages.train(work, index, 0, "a").record == run.record and starts(run.folder) == 1
    assert {name: (run.folder / name).read_bytes() for name in names} == held
