"""The command line as a user types it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from expunge import cli, config
from expunge.pools.workplace import Workplace

SMALL = ["data=digits", "model=mlp", "train=tiny", "train.epochs=3", "evaluate.seeds=4", "evaluate.workers=1"]


@pytest.fixture
def expunge(monkeypatch, capsys):
    """Return a function that runs the command line in this process and returns what it printed."""

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["expunge", *words])
        cli.main()
        return capsys.readouterr().out

    return call


def test_pictures_of_ones_own_are_augmented_when_asked(expunge, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    file, labels = tmp_path / "mine.npz", np.arange(60) % 3
    np.savez(file, x_train=pixels[:45], y_train=labels[:45], x_test=pixels[45:], y_test=labels[45:])
    words = [f"data=tensors:{file}", "model=mlp", "train=tiny", "train.epochs=1", f"out={tmp_path / 'out'}"]
    assert "train accuracy" in expunge("train", *words)
    assert "train accuracy" in expunge("train", *words, "data.augment=true")
    assert len(list((tmp_path / "out").glob("train-*"))) == 2, "augmented training is another training"


def test_help_and_names_do_not_import_torch():
    code = """
import sys
from expunge import cli, registry
sys.argv = ["expunge", "--help"]
try:
    cli.main()
except SystemExit:
    pass
[registry.names(kind) for kind in registry.PACKAGES]
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Forget real data" in done.stdout


def test_demo_with_overrides_prints_table_and_report_and_looks_up_the_second_time(expunge, tmp_path):
    words = ["demo", *SMALL, "forget=random", "method=finetune", "method.epochs=1", f"out={tmp_path}"]
    first = expunge(*words)
    assert "original" in first and "retrained" in first and "finetune" in first and "no evidence of failure" in first
    report = first.strip().splitlines()[-1].removeprefix("report: ")
    records = sorted(tmp_path.glob("*/record.json"))
    stamps = {path: path.stat().st_mtime_ns for path in records}
    assert len([path for path in records if path.parent.name.startswith("train-")]) == 12, (
        "four originals, and eight retrained models for the audits"
    )
    assert len([path for path in records if path.parent.name.startswith("unlearn-")]) == 4
    assert expunge(*words).strip().splitlines()[-1].removeprefix("report: ") == report
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*/record.json"))} == stamps
    with open(report, encoding="utf-8") as page:
        assert "finetune" in page.read()


def test_run_folder_holds_everything(expunge, tmp_path):
    said = expunge("unlearn", *SMALL, "forget=class", "forget.classes=[3]", "method=delete", "method.epochs=1", f"out={tmp_path}")
    assert "forget accuracy" in said and "test_forgotten accuracy" in said
    folder = next(tmp_path.glob("unlearn-*"))
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "environment.json", "events.jsonl", "logits.npy", "record.json", "split.json", "weights.safetensors",
    }  # fmt: skip
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "ok" and record["cost"]["passes"] > 0 and record["identity"]["method"]["name"] == "delete"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"] and "dirty" in environment
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert events[0]["event"] == "start" and any(event["event"] == "epoch" for event in events)


def test_weights_of_a_run_go_on_into_another(expunge, tmp_path):
    expunge("train", *SMALL, f"out={tmp_path}")
    weights = next(tmp_path.glob("train-*")) / "weights.safetensors"
    said = expunge("evaluate", "data=digits", "model=mlp", f"model.weights={weights}", f"out={tmp_path}")
    assert "test accuracy" in said
    said = expunge(
        "unlearn",
        "data=digits",
        "model=mlp",
        f"model.weights={weights}",
        "forget=random",
        "method=finetune",
        "method.epochs=1",
        f"out={tmp_path}",
    )
    assert "retain accuracy" in said


def test_printed_configuration_runs_again_unchanged(expunge, tmp_path):
    words = ["unlearn", *SMALL, "forget=random", "method=salun", "method.lr=1e-3", "addons=[sam]", "addons.sam.rho=0.1"]
    printed = expunge(*words, "--print-config")
    (tmp_path / "config.yaml").write_text(printed)
    again = expunge("unlearn", str(tmp_path / "config.yaml"), "--print-config")
    assert printed == again
    tree = config.parse_yaml(printed, "printed")
    assert tree["method"]["lr"] == 0.001 and tree["addons"][0]["rho"] == 0.1
    changed = expunge("config", str(tmp_path / "config.yaml"), "method=scrub")
    assert config.parse_yaml(changed, "changed")["method"]["name"] == "scrub" and "keep" not in changed


def test_list_and_show(expunge):
    entries = json.loads(expunge("list", "methods", "--json"))
    assert {"salun", "scrub", "finetune"} <= {entry["name"] for entry in entries}
    for entry in entries:
        assert entry["summary"] and "needs" in entry and "scenarios" in entry
    said = expunge("show", "method", "salun")
    for part in ("ICLR 2024", "forget, retain", "0.013", "0.0005 to 0.05 (log)", "deviation"):
        assert part in said
    assert "salun" in expunge("show", "method", "SalUn")


def test_a_run_that_diverges_is_marked_and_the_other_rows_go_on(expunge, tmp_path):
    from expunge.bench import compare
    from expunge.report import terminal

    base = config.resolve(config.read(None, [*SMALL, "forget=random", f"out={tmp_path}"]))
    plain = {key: value for key, value in base.tree().items() if key not in ("method", "addons")}
    rows = [
        compare.Row("too fast", {"name": "finetune", "lr": 1e9, "epochs": 2}),
        compare.Row("finetune", {"name": "finetune", "lr": 0.01, "epochs": 1}),
    ]
    records, _ = compare.compare([compare.Request("A request", plain, rows)], lambda event: None, "test")
    found = {row["name"]: row for row in records[0]["table"]["rows"]}
    assert found["too fast"]["status"] == "diverged" and "step" in found["too fast"]["reason"]
    assert found["finetune"]["status"] == "finished"
    assert "diverged" in terminal.csv(records[0])


def test_every_example_is_forwarded_exactly_once_for_all_metrics(tmp_path):
    import torch

    from expunge.pools import evidence
    from expunge.pools.workplace import Workplace

    work = Workplace(config.resolve(config.read(None, [*SMALL, "forget=random", f"out={tmp_path}"])))
    model = work.new_model(0, weights=False)
    seen = torch.zeros(len(work.data.source), dtype=torch.int64)
    images = next(work.data.source.batches(torch.arange(len(seen)), len(seen), augment=False, seed=0, epoch=0))[0]
    position = 0

    def count(module, inputs, output):
        nonlocal position
        size = len(inputs[0])
        assert torch.equal(inputs[0], images[position : position + size])
        seen[position : position + size] += 1
        position += size

    model.register_forward_hook(count)
    logits = evidence.collect(model, work.data)
    from expunge.metrics import default_metrics

    view = evidence.view(logits, work.data, work.split)
    for metric in (metric for metric in default_metrics("random") if not metric.inspection):
        metric.compare(view, view) if metric.is_pair() else metric.measure(view)
    assert bool((seen == 1).all())


def test_unlearning_that_diverges_ends_with_status_1_and_leaves_nothing_that_looks_like_a_result(monkeypatch, capsys, tmp_path):
    words = ["unlearn", *SMALL, "forget=random", "method=finetune", "method.lr=1e9", "method.epochs=2", f"out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["expunge", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "diverged at step" in said and "last_good.safetensors" in said
    assert not list(tmp_path.glob("unlearn-*/weights.safetensors"))


def test_weights_of_our_own_keep_their_validation_part(expunge, monkeypatch, capsys, tmp_path):
    from expunge.errors import BadInput
    from expunge.pools.workplace import Workplace

    expunge("train", *SMALL, f"out={tmp_path}")
    weights = next(tmp_path.glob("train-*")) / "weights.safetensors"

    def workplace(*words: str) -> Workplace:
        return Workplace(
            config.resolve(config.read(None, ["data=digits", "model=mlp", f"model.weights={weights}", "forget=random", *words]))
        )

    assert len(workplace().split.validation) > 50
    assert len(workplace("data.validation_fraction=0.0").split.validation) == 0
    with pytest.raises(BadInput, match="seed=0"):
        _ = workplace("seed=1").split


def test_moving_the_data_or_using_other_workers_changes_no_fingerprint(tmp_path):
    from expunge.pools import stages

    work = Workplace(config.resolve(config.read(None, [*SMALL, "train.epochs=1", "forget=random", f"out={tmp_path}"])))
    first = stages.original(work, 0).folder
    other = Workplace(
        config.resolve(config.read(None, [*SMALL, "train.epochs=1", "forget=random", "evaluate.workers=2", f"out={tmp_path}"]))
    )
    assert stages.original(other, 0).folder == first


def test_too_few_retrained_models_are_refused_before_any_work(monkeypatch, capsys, tmp_path):
    words = ["evaluate", *SMALL, "forget=random", "method=finetune", "evaluate.retrained=2", f"out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["expunge", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "evaluate.retrained" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
