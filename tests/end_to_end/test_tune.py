"""Tuning: the same budget for each method, nothing seen that judges, killed and gone on with, and a result that is used as it is."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from expunge import config
from expunge.bench.tuning import trial as tune_trial
from expunge.bench.tuning import tune as tuning
from expunge.bench.tuning.settings import settings
from expunge.bench.tuning.space import space_of, with_values
from expunge.bench.tuning.study import Study, Trial
from expunge.errors import BadInput
from expunge.pools import evidence

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:optuna", "ignore::ResourceWarning")

FILE = """
data: {name: digits, train_limit: 200, test_limit: 100}
model: mlp
train: {name: tiny, epochs: 2}
forget: {name: random, fraction: 0.2}
evaluate: {seeds: 2, workers: 1}
tune: {budget: 9000, startup: 2}
"""


@pytest.fixture
def words(tmp_path):
    """Return the words that tune one method in a folder of its own."""
    file = tmp_path / "tune.yaml"
    file.write_text(FILE)
    return ["tune", str(file), f"out={tmp_path / 'runs'}", "method=random_label", "method.epochs=2"]


def study(tmp_path) -> Path:
    return next((tmp_path / "runs").glob("tune-*"))


def history(folder: Path) -> list[dict]:
    """Return the history without wall times."""
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in json.loads((folder / "history.json").read_text())]


def test_tune_writes_what_evaluate_and_bench_use_and_says_so(expunge, words, tmp_path):
    status, out, _ = expunge(*words, "--dry-run")
    assert status == 0 and "lr: " in out and "0 trials are there" in out and not (tmp_path / "runs").exists()
    status, out, err = expunge(*words)
    assert status == 0 and "random_label: tuned by validation: lr=" in out, err
    folder = study(tmp_path)
    assert {"best.yaml", "history.json", "history.csv", "record.json", "study.db"} <= {path.name for path in folder.iterdir()}
    record, trials = json.loads((folder / "record.json").read_text()), history(folder)
    assert record["sees"] == ["forget", "retain", "validation", "validation_forgotten"] and record["label"] == "tuned"
    assert sum(trial["passes"] for trial in trials) <= 9000 + max(trial["passes"] for trial in trials)
    assert record["best"]["score"] == min(trial["score"] for trial in trials if trial["score"] is not None) <= record["default"]["score"]
    assert all(len(trial["epochs"]) <= 2 for trial in trials) and len(trials[0]["epochs"]) == 2
    # 160 - 16 retained and 36 forgotten examples, forward and backward in both epochs.
    assert trials[0]["unlearning"] == 2 * 3 * 180 and trials[0]["scoring"] == 3 * 200
    assert (folder / "history.csv").read_text().count("\n") == len(trials) + 1

    stamps = {path.name: path.read_bytes() for path in folder.glob("*.yaml")}
    assert expunge(*words)[0] == 0 and history(folder) == trials
    assert {path.name: path.read_bytes() for path in folder.glob("*.yaml")} == stamps

    best = str(folder / "best.yaml")
    status, out, err = expunge("evaluate", words[1], words[2], f"method={best}", "--print-config")
    assert status == 2 and "tune" in err  # a file for tuning is no file for evaluating
    plain = tmp_path / "plain.yaml"
    plain.write_text(FILE.replace("tune: {budget: 9000, startup: 2}", ""))
    status, out, _ = expunge("evaluate", str(plain), words[2], f"method={best}")
    assert status == 0 and "random_label tuned" in out
    made = json.loads(next((tmp_path / "runs").glob("compare-*/record.json")).read_text())[0]
    assert made["methods"]["random_label tuned"]["tuned"]["study"] == folder.name
    assert made["methods"]["random_label tuned"]["hyperparameters"]["lr"] == pytest.approx(record["best"]["values"]["lr"])
    grid = tmp_path / "grid.yaml"
    grid.write_text(FILE.replace("tune: {budget: 9000, startup: 2}", f"grid: {{method: [{{name: random_label, epochs: 2}}, {best}]}}"))
    status, out, err = expunge("bench", str(grid), words[2])
    assert status == 0 and "2 rows in 1 request, 0 failed" in out and "random_label tuned" in out, err


def test_no_test_example_and_nothing_that_judges_is_seen(expunge, words, tmp_path, monkeypatch):
    seen: list[np.ndarray] = []
    whole = evidence.outputs

    def watched(model, stream, size=250):
        seen.append(stream.index.numpy())
        return whole(model, stream, size)

    monkeypatch.setattr(tune_trial.evidence, "outputs", watched)
    words = [*words, "tune.rule=oracle_gap", "tune.budget=5000"]
    grid, asked = tuning.read(Path(words[1]), words[2:])
    search = tuning.searches(grid, asked)[0]
    work = search.workplace()
    finished = evidence.collect
    monkeypatch.setattr(evidence, "collect", lambda *arguments: finished(*arguments))
    status, out, _ = expunge(*words)
    assert status == 0 and "oracle-tuned by oracle_gap" in out
    scored = [index for index in seen if len(index) < len(work.data.source)]
    assert len(scored) > 10 and max(index.max() for index in scored) < work.data.train_size

    judged = search.request.workplace()
    assert np.array_equal(work.split.validation, judged.split.validation)
    assert not np.array_equal(work.split.forget, judged.split.forget)
    assert not {work.seed_of(number) for number in range(100)} & {judged.seed_of(number) for number in range(100)}
    mine = {path.name for path in (tmp_path / "runs").glob("train-*")}
    assert len(mine) == 2  # an original and a retrained model of the tuning
    plain = tmp_path / "plain.yaml"
    plain.write_text(FILE.replace("tune: {budget: 9000, startup: 2}", ""))
    status, out, _ = expunge("evaluate", str(plain), words[2], f"method={study(tmp_path) / 'best.yaml'}")
    assert status == 0 and "oracle-tuned" in out
    folder = next((tmp_path / "runs").glob("compare-*"))
    used = {Path(path).name for path in json.loads((folder / "record.json").read_text())[0]["provenance"]["runs"].values()}
    assert len(used) == 6 and not mine & used
    for printed in ("report.html", "table.csv", "record.json"):
        assert "oracle-tuned" in (folder / printed).read_text(), printed
    for form in ("markdown", "csv", "latex", "html", "json"):
        assert "oracle-tuned" in expunge("table", str(folder), f"--format={form}")[1], form
    status, _, err = expunge("evaluate", str(plain), words[2], f"method={study(tmp_path) / 'best.yaml'}", "method.lr=0.5", "--print-config")
    assert status == 0 and "tuned" not in err


def test_several_methods_have_one_budget_and_workers_share_a_study(expunge, words, tmp_path):
    words = [word for word in words if not word.startswith("method")]
    words += ["grid.method=[{name: random_label, epochs: 1}, {name: ssd}]", "evaluate.workers=2", "tune.budget=4000", "train.epochs=1"]
    status, out, err = expunge(*words)
    assert status == 0 and out.count("of 4,000 sample-passes") == 2, err
    folders = sorted((tmp_path / "runs").glob("tune-*"))
    assert len(folders) == 2
    for folder in folders:
        trials = history(folder)
        assert [trial["number"] for trial in trials] == list(range(len(trials))) and len(trials) >= 3
        assert len({str(trial["values"]) for trial in trials}) == len(trials) and not any(trial["state"] == "running" for trial in trials)
        assert not list((folder / "locks").glob("trial-*"))


def test_a_larger_budget_goes_on_and_a_smaller_one_replaces_nothing(expunge, words, tmp_path):
    expunge(*words, "tune.budget=4000")
    folder = study(tmp_path)
    before = history(folder)
    status, _, _ = expunge(*words, "tune.budget=9000")
    after = history(folder)
    whole = [trial for trial in before if trial["state"] != "cut"]
    assert status == 0 and after[: len(whole)] == whole and len(after) > len(before)
    names = ("best.yaml", "record.json", "history.csv")
    held = [(folder / name).read_bytes() for name in names]
    for smaller in ("tune.budget=4000", "tune.budget=1", "tune.trials=1"):
        status, out, _ = expunge(*words, smaller)
        assert status == 0 and [(folder / name).read_bytes() for name in names] == held and history(folder) == after
        assert "there already: lr=" in out and "nothing was changed" in out and smaller in out
        assert "give another out= to ask anew" in out and f"use it: method={folder / 'best.yaml'}" in out


def test_interrupted_and_started_again_the_history_is_that_of_a_calm_study(words, tmp_path, monkeypatch):
    def run(out):
        grid, asked = tuning.read(Path(words[1]), [f"out={out}", *words[3:]])
        return tuning.tune(grid, asked, lambda event: None, "test")[0].study.folder

    calm, looks, whole = run(tmp_path / "calm"), [], tune_trial.Attempt._look

    def die(self, *arguments):
        looks.append(whole(self, *arguments))
        if len(looks) == 4:  # in the second epoch of the second trial
            raise KeyboardInterrupt

    monkeypatch.setattr(tune_trial.Attempt, "_look", die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stormy")
    folder = next((tmp_path / "stormy").glob("tune-*"))
    assert len(history(folder)) == 1  # the second is there, and not over
    assert run(tmp_path / "stormy") == folder
    assert history(folder) == history(calm) and (folder / "best.yaml").read_text() == (calm / "best.yaml").read_text()


@pytest.mark.slow
def test_killed_and_started_again_the_history_is_that_of_a_calm_study(words, tmp_path):
    def start(out):
        command = [
            sys.executable,
            "-c",
            "from expunge.cli import main\nif __name__ == '__main__': main()",
            *words[:2],
            f"out={out}",
            *words[3:],
        ]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)

    calm, stormy = start(tmp_path / "calm"), tmp_path / "stormy"
    _, error = calm.communicate(timeout=200)
    assert calm.returncode == 0, error.decode()
    process = start(stormy)
    while len(list(stormy.glob("tune-*/history.json"))) == 0 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    interrupted = len(history(next(stormy.glob("tune-*"))))
    process = start(stormy)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error.decode()
    folders = [max(out.glob("tune-*"), key=lambda path: path.stat().st_mtime) for out in (tmp_path / "calm", stormy)]
    assert history(folders[0]) == history(folders[1]) and len(history(folders[0])) > interrupted
    assert (folders[0] / "best.yaml").read_text() == (folders[1] / "best.yaml").read_text()


def test_what_fails_or_diverges_is_in_the_history_and_not_the_end(expunge, words, tmp_path, monkeypatch):
    status, out, _ = expunge(*words, "tune.budget=700")
    assert status == 1 and "the budget of 700 sample-passes ended before the first trial did" in out
    status, out, _ = expunge(*words, "tune.budget=4000")
    assert status == 0 and (study(tmp_path) / "best.yaml").is_file()
    status, out, _ = expunge(*words, "tune.budget=700")
    assert status == 0 and (study(tmp_path) / "best.yaml").is_file() and "tune.budget=700 and tune.trials=" in out
    status, out, _ = expunge(*words, "method.lr=1e30", "tune.space={lr: [1e30, 0.01]}", "tune.trials=6", "tune.sampler=random")
    folder = max((tmp_path / "runs").glob("tune-*/record.json"), key=lambda path: path.stat().st_mtime).parent
    states = [trial["state"] for trial in history(folder)]
    assert status == 0 and "diverged" in states and "complete" in states and "lr=0.01" in out
    monkeypatch.setattr(tune_trial.engine, "run", lambda *arguments: (_ for _ in ()).throw(MemoryError("no room")))
    status, out, _ = expunge(*words, "tune.seed=3")
    assert status == 1 and "no trial of 3 gave a model: MemoryError: no room" in out


def tried(state: str, passes: int, number: int) -> Trial:
    return Trial(number, {}, state, 1.0 if state == "complete" else None, {}, [], passes, 0, 0.0, "")


@pytest.mark.parametrize(
    ("states", "over"),
    [
        ("ddddddddd", False),  # cheap, and no setting was tried yet
        ("dddddddddd", True),  # as many again, and no more
        ("dddddcccccccc", False),
        ("dddddcccccccccc", True),
        ("ccccccccccp", True),
        ("f", False),
        ("fff", True),
    ],
)
def test_settings_that_gave_no_model_are_counted_apart(tmp_path, monkeypatch, states, over):
    names = {"c": ("complete", 100), "d": ("diverged", 1), "f": ("failed", 1), "p": ("pruned", 50)}
    trials = [tried(*names[state], number) for number, state in enumerate(states)]
    monkeypatch.setattr(Study, "trials", lambda self: trials)
    study = Study(tmp_path, {}, settings({"trials": 10}), 10_000)
    assert study.is_over() is over
    assert len(study.counted()) == min(len(trials), 10 + 5 * states.startswith("dddddc")), "the same limits afterwards"


def test_no_trial_begins_for_which_there_is_no_room(tmp_path, monkeypatch):
    """A setting that diverged in its first step says nothing about what a whole one takes."""
    trials = [tried("complete", 100, 0), tried("diverged", 1, 1), tried("complete", 120, 2)]
    monkeypatch.setattr(Study, "trials", lambda self: trials)
    assert [Study(tmp_path, {}, settings({}), budget).is_over() for budget in (320, 321)] == [True, False]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["tune.rule=validaton"], ["tune.rule: no selection is called 'validaton'", "validation"]),
        (["tune.rule=test_accuracy"], ["tune.rule", "no selection is called"]),
        (["tune.bugdet=10"], ["tune.bugdet", "Did you mean 'budget'?"]),
        (["tune.budget=0"], ["tune.budget", "positive integer"]),
        (["tune.space.lrr=null"], ["tune.space.lrr", "Did you mean 'lr'?"]),
        (["tune.space.lr={low: 1, high: 0.1}"], ["tune.space.lr", "1 to 0.1 is no range"]),
        (["tune.space.lr={low: -1, high: 0.1}"], ["tune.space.lr", "random_label.lr cannot be -1"]),
        (["tune.space.lr=null"], ["declares no range to search"]),
        (["tune.rule=forget_validation", "forget={name: class, classes: [3]}"], ["does not fit a class request"]),
        (["data.validation_fraction=0"], ["validation data"]),
        (["method=original"], ["declares no range to search"]),
        (["tune.rule.budget=3"], ["tune.rule.budget", "validation has no field"]),
    ],
)
def test_wrong_words_end_with_one_line_and_nothing_written(expunge, words, tmp_path, more, parts):
    status, _, err = expunge(*words, *more, "--dry-run")
    assert status == 2 and err.count("\n") == 1 and all(part in err for part in parts), err
    assert not (tmp_path / "runs").exists()


def test_spaces_hold_the_start_and_reach_addons():
    method = config.build("methods", {"name": "cf_k", "lr": 0.9, "blocks": 2}, "method")
    addons = (config.build("addons", "sam", "addons.sam"),)
    space = space_of(method, addons, {"epochs": [1, 3], "blocks": {"low": 1, "high": 3}})
    assert set(space) == {"lr", "blocks", "epochs", "addons.sam.rho"} or {"lr", "blocks", "epochs"} < set(space)
    assert space["lr"].high == 0.9 and space["blocks"].whole and space["epochs"].choices[0] == method.epochs
    rho = next(key for key in space if key.startswith("addons.sam."))
    changed, (sam,) = with_values(method, addons, {"lr": 0.5, rho: 0.07})
    assert changed.lr == 0.5 and getattr(sam, rho.rpartition(".")[2]) == 0.07 and changed.blocks == 2
    with pytest.raises(BadInput, match="tune.space"):
        settings({"space": [1, 2]})


def test_each_recipe_of_a_grid_is_tuned_on_originals_of_its_own(words, tmp_path):
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(
        FILE.replace("train: {name: tiny, epochs: 2}", "grid: {train: [{name: tiny, epochs: [1, 2]}], method: [random_label]}")
    )
    grid, asked = tuning.read(recipes, words[2:3])
    searched = tuning.searches(grid, asked)
    assert [search.tree["train"]["epochs"] for search in searched] == [1, 2]
    first, second = (starts[0].original for starts in tuning._starts(searched, asked, lambda event: None))
    assert first != second and "epochs: 2" in (second / "config.yaml").read_text()
    assert tuning.plan(grid, asked)[-1] == "2 originals of the tuning, unless they are there"

    weights = first / "weights.safetensors"
    grid, asked = tuning.read(Path(words[1]), [*words[2:], f"model.weights={weights}", "data.validation_fraction=0.1"])
    (search,) = tuning.searches(grid, asked)
    name = tuning.study_of(search, asked, 1).folder.name
    assert tuning.check_apart(search)["same_original"] and "0 originals" in tuning.plan(grid, asked)[-1]
    weights.write_bytes((second / "weights.safetensors").read_bytes())
    assert tuning.study_of(search, asked, 1).folder.name != name, "another model under the same name"


def test_a_trial_that_ended_while_it_was_looked_at_is_not_tried_again(words, tmp_path, monkeypatch):
    grid, asked = tuning.read(Path(words[1]), words[2:])
    study = tuning.study_of(tuning.searches(grid, asked)[0], asked, 1000)
    with study._next() as trial:
        stale = study._study.get_trials(deepcopy=True)
        study._study.tell(trial, 1.0)
    monkeypatch.setattr(study._study, "get_trials", lambda **more: stale)
    with contextlib.ExitStack() as held:
        assert study._left(held) is None
        assert not list((study.folder / "locks").glob("trial-*"))
    study.close()


def test_a_study_that_is_damaged_is_said(expunge, words, tmp_path):
    grid, asked = tuning.read(Path(words[1]), words[2:])
    folder = tuning.study_of(tuning.searches(grid, asked)[0], asked, 9000).folder
    folder.mkdir(parents=True)
    (folder / "study.db").write_text("no database" * 1000)
    status, _, err = expunge(*words, "--dry-run")
    assert status == 2 and "study.db: cannot be opened" in err and "delete it to begin anew" in err
