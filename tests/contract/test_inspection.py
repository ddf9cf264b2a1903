"""Looking inside finished runs: the same questions for every model, once, and nothing left behind by a killed process."""

import dataclasses
import json
import shutil
import zipfile

import numpy as np
import pytest

from expunge import config
from expunge.errors import BadInput
from expunge.pools import executor, inspection, stages
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace
from expunge.representation import inside

WORDS = ["data=digits", "model=mlp", "train=tiny", "train.epochs=2", "forget=random", "evaluate.workers=1"]
SMALL = inside.SETTINGS["standard"].but(
    epochs=2, retain_limit=200, watched_limit=50, forget_limit=60, fitted_limit=120, other_limit=40, budget=3, draws=1, block_examples=20
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("inspection")


@pytest.fixture(scope="module")
def work(out) -> Workplace:
    return workplace(out)


def workplace(out, *words: str) -> Workplace:
    return Workplace(config.resolve(config.read(None, [*WORDS, *words, f"out={out}"])))


@pytest.fixture
def original(work) -> Run:
    return stages.original(work, 0)


@pytest.fixture
def retrained(work) -> Run:
    return stages.retrained(work, 0)


def files(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.folder.iterdir()}


def test_what_is_found_depends_on_model_and_settings_alone(work, original, retrained):
    first = inspection.inspect(work, retrained, original, SMALL)
    path = inspection.path_of(work, retrained, original, SMALL)
    once = path.read_bytes()
    path.unlink()
    inspection.inspect(work, retrained, original, SMALL)
    assert path.read_bytes() == once and len(first) > 20
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == set(first)
        for name in arrays:
            assert np.array_equal(arrays[name], first[name]) and arrays[name].dtype == first[name].dtype, name


def test_every_model_is_asked_about_the_same_examples(work, original, retrained):
    found = [inspection.inspect(work, run, original, SMALL) for run in (original, retrained)]
    fixed = [name for name in found[0] if name.startswith("rows_") or name in ("taught", "retain_only_rows", "block_names", "weight_names")]
    assert {f"rows_{part}" for part in inside.PARTS} <= set(fixed)
    for name in fixed:
        assert np.array_equal(found[0][name], found[1][name]), name
    for part in inside.PARTS:
        rows = found[0][f"rows_{part}"]
        assert len(rows) == min(SMALL.limit(part), len(work.split.index(part))) == len(np.unique(rows))
        assert (np.diff(rows) > 0).all() and rows.max() < len(work.split.index(part))
        assert found[0][f"features_{part}"].shape[0] == len(rows) and found[0][f"features_{part}"].dtype == np.float32
        assert not np.array_equal(found[0][f"features_{part}"], found[1][f"features_{part}"])
    said = [part["untrained_logits"] for part in found]
    assert np.array_equal(*said) and said[0].shape == (len(found[0]["rows_forget"]), work.data.num_classes)
    labels = work.data.labels.numpy()[work.split.forget[found[0]["rows_forget"]]]
    assert (np.bincount(labels[found[0]["taught"]]) == np.minimum(5, np.bincount(labels))).all()
    assert found[0]["alignment_with_original"] == pytest.approx(1) and found[0]["weight_distance"] == 0
    assert found[1]["alignment_with_original"] < 1 and found[1]["weight_distance"] > 0


def test_the_features_are_those_of_the_rows(work, original):
    found = inspection.inspect(work, original, original, SMALL)
    model = inspection._model(work, original)
    stream = work.split.stream("forget", work.data)
    stream = stream.subset(stream.index[np.array(found["rows_forget"])])
    from expunge.engine.architecture import Architecture
    from expunge.representation import features

    reading = features.read(Architecture(model, next(stream.batches(4)).x), model, stream)
    assert np.array_equal(reading.features, found["features_forget"])
    assert np.array_equal(reading.logits, np.asarray(original.logits())[work.split.forget[found["rows_forget"]]])


def test_found_again_nothing_is_written_and_the_run_stays_as_it_was(work, original, retrained):
    inspection.inspect(work, retrained, original, SMALL)
    before, events = (files(original), files(retrained)), []
    inspection.inspect(work, retrained, original, SMALL, report=events.append)
    assert (files(original), files(retrained)) == before
    assert [event["event"] for event in events] == ["found"]
    assert json.loads(before[1]["record.json"]) == retrained.record


def test_a_killed_process_leaves_nothing(work, original, out, monkeypatch):
    folder = out / "killed"
    shutil.copytree(original.folder, folder)
    run, settings, calls = Run(folder, original.record), inside.Settings(), []
    for path in folder.glob("inspection-*"):
        path.unlink()
    real = np.lib.format.write_array

    def dying(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments, **more)

    before = files(run)
    monkeypatch.setattr(np.lib.format, "write_array", dying)
    with pytest.raises(KeyboardInterrupt):
        inspection.inspect(work, run, None, settings)
    assert files(run) == before and len(calls) == 2
    monkeypatch.undo()
    assert set(inspection.inspect(work, run, None, settings)) == {"retain_only", "retain_only_rows", "retain_only_finite"}


@pytest.mark.parametrize("damage", ["cut", "text", "objects", "compressed"])
def test_a_damaged_file_is_refused_and_made_again(work, original, damage):
    settings = inside.Settings(seed=7)
    inspection.inspect(work, original, None, settings)
    path = inspection.path_of(work, original, None, settings)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        path.write_text("no archive")
    elif damage == "objects":
        np.savez(path, retain_only=np.array([{}], dtype=object))
    else:
        np.savez_compressed(path, retain_only=np.zeros(2))
    with pytest.raises(BadInput, match="cannot be read"):
        inspection.load(work, original, None, settings)
    inspection.inspect(work, original, None, settings)
    assert path.read_bytes() == whole


def test_other_questions_are_other_files(work, original, retrained, out):
    paths = {
        inspection.path_of(work, retrained, original, SMALL),
        inspection.path_of(work, retrained, retrained, SMALL),
        inspection.path_of(work, retrained, original, SMALL.but(budget=4)),
        inspection.path_of(workplace(out, "seed=3"), retrained, original, SMALL),
        inspection.path_of(work, retrained, original, inspection.settings_of(work)),
    }
    assert len(paths) == 5
    shallow = inside.Settings()
    assert inspection.path_of(work, retrained, original, shallow) == inspection.path_of(work, retrained, None, shallow)


def test_tiers_look_for_more(work, out):
    fast = inspection.settings_of(work)
    standard, rigorous = (inspection.settings_of(workplace(out, f"evaluate.tier={tier}")) for tier in ("standard", "rigorous"))
    assert fast.epochs == 1 and not fast.deep and standard.epochs == 5 and standard.deep
    assert dataclasses.asdict(standard) == dataclasses.asdict(rigorous)
    assert inspection.settings_of(work, {"seed": 4}).seed == 4


def test_jobs_follow_the_runs_that_they_look_into(work, original):
    tree = work.experiment.tree()
    run = executor.Job("original/0", "expunge.pools.stages:run_job", {"stage": "original", "tree": tree, "number": 0})
    jobs = [run, inspection.job("inspected/0", tree, "original/0", "original/0"), inspection.job("again", tree, str(original.folder), None)]
    assert jobs[1].after == ("original/0",) and jobs[2].after == ()
    found = executor.run(jobs, 1, lambda event: None)
    assert found["inspected/0"] == found["again"] == str(inspection.path_of(work, original, None, inspection.settings_of(work)))
    loaded = inspection.load(work, original, original)
    assert loaded["retain_only"].shape == (2,) and bool(loaded["retain_only_finite"])
    accuracy = np.mean(np.argmax(original.logits()[work.split.forget], axis=1) == work.data.labels.numpy()[work.split.forget])
    assert loaded["retain_only"][0] == pytest.approx(accuracy)


def test_a_run_without_a_model_is_not_looked_into(work, original):
    failed = Run(original.folder, {**original.record, "status": "diverged"})
    assert inspection.inspect(work, failed, original) == {} == inspection.load(work, failed, original)


def test_an_original_without_a_model_is_not_compared_with(work, original, retrained):
    failed, settings = Run(original.folder / "gone", {**original.record, "status": "diverged"}), SMALL.but(seed=1)
    found = inspection.inspect(work, retrained, failed, settings)
    assert "features_forget" in found and not {"relearn_steps", "weight_distance", "alignment_with_original"} & set(found)
    assert set(found) == set(inspection.load(work, retrained, None, settings))


def test_a_training_that_diverges_says_so(work, original):
    found = inspection.inspect(work, original, original, SMALL.but(lr=1e30, relearn_lr=1e30))
    assert not found["retain_only_finite"] and len(found["retain_only"]) == 3 and len(set(found["retain_only"].tolist())) == 1
    assert all(np.isfinite(value).all() for value in found.values() if value.dtype.kind == "f")


def test_what_nobody_looked_for_is_refused(work, original):
    with pytest.raises(BadInput, match="no such inspection"):
        inspection.load(work, original, None, inside.Settings(seed=99))


def test_a_member_that_is_too_short_is_refused(tmp_path):
    path = tmp_path / "short.npz"
    inspection.write(path, {"x": np.arange(6.0)})
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content[:-8])
    with pytest.raises(BadInput, match="holds 40 bytes, expected 48"):
        inspection.read(path)
