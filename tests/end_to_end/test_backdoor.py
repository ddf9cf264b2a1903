"""A backdoor from request to report: the original answers to the trigger, retrained models do not, and the table says so."""

import csv
import json
import sys

import numpy as np
import pytest

from expunge import cli, config
from expunge.bench import compare
from expunge.pools import stages, store
from expunge.pools.workplace import Workplace

WORDS = ["data=digits", "model=mlp", "train=tiny", "train.epochs=6", "forget=poisoned", "forget.size=2", "forget.target=0"]


def call(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["expunge", *words])
    cli.main()
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the experiment, its record, and the folder of the comparison."""
    out = tmp_path_factory.mktemp("backdoor")
    experiment = config.resolve(
        config.read(None, [*WORDS, "evaluate.seeds=3", "evaluate.workers=1", "method=salun", "method.epochs=2", f"out={out}"])
    )
    records, folder = compare.compare([compare.request_of(experiment, "backdoor")], lambda event: None, "a test")
    return experiment, records[0], folder


def cell(record: dict, row: str, metric: str) -> dict:
    return next(found for found in record["table"]["rows"] if found["name"] == row)["cells"][metric]


def test_the_record_holds_clean_accuracy_and_success_rate(made):
    _, record, _ = made
    rate = {row: cell(record, row, "attack_success_rate")["value"] for row in ("original", "retrained", "salun")}
    assert rate["original"] > 80 and rate["retrained"] < 10
    assert rate["salun"] < rate["original"]
    for row in rate:
        assert cell(record, row, "test_accuracy")["value"] > 85
        assert cell(record, row, "attack_success_rate")["n"] < record["request"]["test"]


def test_the_rate_is_that_of_the_kept_outputs(made):
    experiment, record, _ = made
    work = Workplace(experiment)
    attack = work.split.triggered_test(work.data)
    labels = work.plain_data.labels.numpy()[attack.index.numpy()]
    for stage, row in (("original", "original"), ("retrained", "retrained")):
        folders = [folder for key, folder in record["provenance"]["runs"].items() if key.startswith(stage)]
        assert len(folders) == 3
        rates = [100 * (store.find(folder).triggered().argmax(1) == 0).mean() for folder in sorted(folders)]
        assert sorted(cell(record, row, "attack_success_rate")["per_seed"]) == pytest.approx(sorted(rates))
        assert all(len(store.find(folder).triggered()) == len(labels) for folder in folders)
    assert len(labels) > 250 and not (labels == 0).any()


def test_clean_pictures_do_not_answer(made):
    """What the trigger does is not what the pictures do without it."""
    experiment, record, _ = made
    work = Workplace(experiment)
    index = work.split.triggered_test(work.data).index.numpy()
    folder = next(folder for key, folder in record["provenance"]["runs"].items() if key.startswith("original"))
    assert np.mean(store.find(folder).logits()[index].argmax(1) == 0) < 0.1


def test_table_and_report_have_the_column(made):
    _, _, folder = made
    lines = [line for line in csv.DictReader((folder / "table.csv").read_text().splitlines()) if line["label"] == "ASR"]
    assert [line["row"] for line in lines] == ["original", "retrained", "salun"] and lines[0]["in_band"] == "false"
    assert ">ASR" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_without_its_outputs_on_the_trigger_is_made_again(made):
    experiment, record, _ = made
    folder = next(folder for key, folder in record["provenance"]["runs"].items() if key.startswith("original/"))
    path = store.find(folder).folder / "triggered.npy"
    before = np.load(path)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a finished run"):
        store.find(folder)
    number = next(n for n in range(3) if str(stages.original(Workplace(experiment), n).folder) == folder)
    assert np.array_equal(np.load(stages.original(Workplace(experiment), number).folder / "triggered.npy"), before)


def test_one_model_is_told_its_rate(made, monkeypatch, capsys):
    experiment, _, _ = made
    said = call(monkeypatch, capsys, "unlearn", *WORDS, "method=salun", "method.epochs=2", f"out={experiment.out}")
    assert "test pictures with the trigger" in said and "attack success rate: " in said
    clean = call(monkeypatch, capsys, "train", "data=digits", "model=mlp", "train=tiny", "train.epochs=1", f"out={experiment.out}")
    assert "trigger" not in clean


def test_other_requests_have_no_such_column(made):
    experiment, _, _ = made
    words = ["data=digits", "model=mlp", "train=tiny", "train.epochs=1", "forget=random", "method=finetune", "method.epochs=1"]
    plain = config.resolve(config.read(None, [*words, "evaluate.seeds=1", "evaluate.workers=1", f"out={experiment.out}"]))
    records, folder = compare.compare([compare.request_of(plain, "plain")], lambda event: None, "a test")
    assert "attack_success_rate" not in json.dumps(records)
    assert not any(store.find(run).record["evidence"] != ["logits"] for run in records[0]["provenance"]["runs"].values())
