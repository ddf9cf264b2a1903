"""Results at an address, as a user types it: made on one machine, found, printed and gone on with on another."""

import json

import pytest

GRID = """
data: digits
model: mlp
train: {name: tiny, epochs: 1}
evaluate: {seeds: 2, workers: 1}
device: cpu
grid:
  forget: [{name: random, fraction: 0.1}]
  method: [{name: finetune, epochs: 1}, {name: salun, epochs: 1}]
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that lets this process go on as another machine: with a cache of its own."""

    def become(name: str) -> None:
        monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / f"cache-{name}"))

    become("a")
    return become


@pytest.fixture
def address(tmp_path):
    return f"file://{tmp_path}/there"


def test_a_bench_is_found_printed_and_gone_on_with_elsewhere(expunge, machine, address, tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(GRID)
    words = ["bench", file, f"out={address}"]
    status, out, _ = expunge(*words)
    report = out.strip().splitlines()[-1]
    name = report.rpartition("/there/")[2]
    assert status == 0 and report.startswith(f"report: {tmp_path}/cache-a/") and report.endswith(f", at {address}/{name}")
    assert (tmp_path / "there" / name).is_file() and name.startswith("bench-")

    machine("b")
    status, out, _ = expunge(*words, "--dry-run")
    assert status == 0 and "8 runs, of which 0 trainings and 0 unlearnings are still to be made" in out
    status, table, _ = expunge("table", address, "--metrics=test_accuracy")
    assert status == 0 and "salun" in table and "retrained" in table
    assert {path.name for path in (tmp_path / "cache-b").rglob("*") if path.is_file()} == {".address", "record.json"}, "what a table reads"
    assert expunge("table", f"{address}/{name.partition('/')[0]}", "--metrics=test_accuracy") == (0, table, "")

    status, out, _ = expunge(*words)
    assert status == 0 and out.strip().splitlines()[-1] == report.replace("cache-a", "cache-b")
    declared = [{path.name for path in folder.rglob("declared/*.json")} for folder in (tmp_path / "there", tmp_path / "cache-b")]
    assert declared[0] == declared[1] and len(declared[0]) == 2, "when margins were declared is known there too"
    runs = sorted(path for path in (tmp_path / "there").glob("*/events.jsonl"))
    assert len(runs) == 8 and all(path.read_text().count('"event": "start"') == 1 for path in runs)

    machine("c")
    status, out, _ = expunge("report", address, f"--out={tmp_path / 'page.html'}")
    assert status == 0 and (tmp_path / "page.html").stat().st_size > 100_000
    brought = {path.parent.name for path in (tmp_path / "cache-c").rglob("logits.npy")}
    assert brought == {path.parent.name for path in runs}, "a page about models reads what they say"


def test_a_model_that_was_trained_elsewhere_is_unlearned_from(expunge, machine, address, tmp_path):
    words = ["data=digits", "model=mlp", "train=tiny", "train.epochs=1", "forget=random", f"out={address}"]
    status, trained, _ = expunge("train", *words)
    assert status == 0 and trained.strip().endswith("/weights.safetensors") and f", at {address}/train-" in trained
    machine("b")
    status, out, _ = expunge("unlearn", *words, "method=finetune", "method.epochs=1")
    assert status == 0 and f", at {address}/unlearn-" in out
    assert len(list((tmp_path / "there").glob("train-*"))) == 1
    config = next((tmp_path / "there").glob("unlearn-*/config.yaml")).read_text()
    assert f"out: {address}" in config and "cache-b" not in config


def test_a_stream_of_requests_is_served_once(expunge, machine, address, tmp_path):
    words = ["data=digits", "model=mlp", "train=tiny", "train.epochs=1", "forget=random", "method=finetune", "method.epochs=1"]
    stream = ["sequence", *words, "evaluate.seeds=1", "evaluate.workers=1", "--requests=2", f"out={address}"]
    made = []
    for name in ("a", "b"):
        machine(name)
        status, out, _ = expunge(*stream)
        assert status == 0
        made.append(out.strip().splitlines()[-1].rpartition(", at ")[2])
    assert made[0] == made[1] and made[0].startswith(f"{address}/sequence-")
    assert all(path.read_text().count('"event": "start"') == 1 for path in (tmp_path / "there").glob("*/events.jsonl"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:optuna", "ignore::ResourceWarning")
def test_a_tuning_goes_on_from_what_another_machine_has_tried(expunge, machine, address, tmp_path):
    pytest.importorskip("optuna")
    data = ["data=digits", "data.train_limit=200", "data.test_limit=100", "model=mlp", "train=tiny", "train.epochs=1", "forget=random"]
    words = ["tune", *data, "method=finetune", "method.epochs=1", "evaluate.workers=1", "tune.budget=100000", f"out={address}"]
    assert expunge(*words, "tune.trials=2")[0] == 0
    study = next((tmp_path / "there").glob("tune-*"))
    first = json.loads((study / "history.json").read_text())
    machine("b")
    status, out, said = expunge(*words, "tune.trials=3")
    assert status == 0 and "3 trials" in out, said
    second = json.loads((study / "history.json").read_text())
    assert len(first) == 2 and len(second) == 3 and second[:2] == first, "what was tried is not tried again"
    machine("a")
    assert expunge(*words, "tune.trials=3")[0] == 0 and json.loads((study / "history.json").read_text()) == second


def test_a_study_of_the_laboratory_is_kept_there(expunge, machine, address, tmp_path, monkeypatch):
    from expunge.lab import conduct

    small = ["lab.grid=7", "lab.examples=40", "model.hidden=[8]", "train.epochs=2", "method.epochs=2", "data.train_limit=300"]
    words = ["lab", "surface", *small, f"out={address}"]
    real, made = conduct._record, []
    monkeypatch.setattr(conduct, "_record", lambda *arguments: made.append(1) or real(*arguments))
    for name in ("a", "b"):
        machine(name)
        status, out, said = expunge(*words)
        assert status == 0 and f", at {address}/lab-surface-" in out, said
    assert made == [1] and next((tmp_path / "there").glob("lab-*/page.html")).is_file()


def test_a_ledger_needs_a_folder(expunge, machine, address, tmp_path):
    ledger, requests = tmp_path / "ledger.jsonl", tmp_path / "requests.csv"
    requests.write_text("id,request\n3,first\n")
    assert expunge("ledger", ledger, f"--add={requests}")[0] == 0
    status, _, said = expunge("serve", "data=digits", "model=mlp", "method=finetune", f"--ledger={ledger}", f"out={address}")
    assert status == 2 and f"out: `expunge serve` needs a folder, got the address '{address}': the ledger names its models" in said


def test_what_is_not_there_is_said(expunge, machine, address, tmp_path):
    (tmp_path / "there").mkdir()
    for verb in (["table"], ["report"], ["plot", "roc"]):
        status, _, said = expunge(verb[0], address, *verb[1:])
        assert status == 2 and f"expunge: {address}: holds no compare-* or bench-* folder. Give the address that out= named." in said
    status, _, said = expunge("track", address, "track=json_lines")
    assert status == 2 and "holds no train-* or unlearn-*" in said


def test_runs_at_an_address_are_sent_to_a_tracker_later(expunge, machine, address, tmp_path):
    words = ["data=digits", "model=mlp", "train=tiny", "train.epochs=1", f"out={address}"]
    assert expunge("train", *words)[0] == 0
    machine("b")
    status, out, said = expunge("track", address, "track=json_lines", f"track.json_lines.folder={tmp_path / 'told'}")
    assert status == 0 and "1 sent" in out, said
    assert any(json.loads(line) for path in (tmp_path / "told").rglob("*.jsonl") for line in path.read_text().splitlines())
