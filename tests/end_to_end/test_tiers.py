"""The strongest tier from one command, on nets that train in a blink: every pool is made, read and audited."""

import json

import pytest

from expunge import config
from expunge.bench import audits
from expunge.bench import request as requests
from expunge.bench.compare import compare, request_of
from expunge.errors import BadInput
from expunge.metrics.table import verdict

WORDS = [
    "data=digits", "model=mlp", "train=tiny", "train.epochs=2", "forget=random", "method=finetune", "method.epochs=1",
    "evaluate.tier=rigorous", "evaluate.seeds=4", "evaluate.base_models=8", "evaluate.shadow_models=12", "evaluate.swap_models=12",
    "evaluate.doses=[0.5]", "evaluate.block_examples=16", "evaluate.workers=1",
]  # fmt: skip
GAMES = {"ulira_privacy", "ulira_collateral", "membership_before", "swap"}


@pytest.fixture(scope="module")
def rigorous(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(requests.SMALLEST, "rigorous", {})
        request = request_of(config.resolve(config.read(None, [*WORDS, f"out={out}"])), "A request")
        (record,), folder = compare([request], lambda event: None, "test")
        events: list[dict] = []
        again, same = compare([request], events.append, "test")
    assert same == folder and again == [record], "a second call found nothing"
    assert not [event for event in events if event["event"] == "start"], "something was made twice"
    return record, folder


def test_every_kind_of_evidence_is_there(rigorous):
    record, _ = rigorous
    assert {"lira_online", "rmia", "linear_probe", "retain_only_relearning", "layer_alignment"} <= set(record["table"]["metrics"])
    found, skipped = record["audits"]["audits"], record["audits"]["skipped"]
    assert set(found) >= GAMES | {"example_auc"}
    assert set(found["example_auc"]["rows"]) == {"original", "retrained", "finetune"} == set(found["ulira_privacy"]["rows"])
    assert "8 models on each side" in skipped["set_classifier"] and "canaries" in skipped["one_run_audit"]
    assert record["doses"]["loss_auc"]["doses"] == [0, 0.5, 1] == record["doses"]["example_auc"]["doses"]


def test_audits_count_in_the_verdict_and_the_files_hold_them(rigorous):
    record, folder = rigorous
    row = record["table"]["rows"][1]
    counted = audits.tests(record["audits"], "retrained")
    assert {cell["label"] for cell in counted} >= {"per-example AUC", "U-LiRA privacy AUC"}
    assert row["verdict"] == verdict(row, counted)
    spoiled = [{**cell, "p_value": 0.0, "in_band": False, "finding": "a leak"} for cell in counted]
    assert verdict(row, spoiled).startswith("fails: a leak"), "audits do not count"
    assert "per-example AUC" in (folder / "table.csv").read_text() and "per-example AUC" in (folder / "report.html").read_text()
    assert json.loads((folder / "record.json").read_text())[0]["audits"]["models"] == {"control": 4, "reference": 4}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["evaluate.seeds=4"],
            r"evaluate.seeds: the rigorous tier needs at least 16, got 4. 12 more are missing .* evaluate.tier=standard",
        ),
        (["evaluate.seeds=16", "evaluate.shadow_models=25"], "evaluate.shadow_models: expected a multiple of 3, got 25"),
        (["evaluate.seeds=16", "evaluate.retrained=8"], "evaluate.retrained: 16 seeds, but only 8 retrained models"),
    ],
)
def test_too_few_models_are_refused_with_what_is_missing(words, said, tmp_path):
    request = request_of(config.resolve(config.read(None, [*WORDS, *words, f"out={tmp_path}"])), "A request")
    with pytest.raises(BadInput, match=said):
        compare([request], lambda event: None, "test")
    assert not list(tmp_path.iterdir()), "something was made before the refusal"


def test_one_original_for_all_models_has_no_audits(rigorous, tmp_path):
    _, folder = rigorous
    weights = next(folder.parent.glob("train-*/weights.safetensors"))
    words = [word for word in WORDS if not word.startswith("evaluate")]
    words += ["evaluate.seeds=4", "evaluate.retrained=8", "evaluate.workers=1", f"model.weights={weights}", f"out={folder.parent}"]
    (record,), _ = compare([request_of(config.resolve(config.read(None, words)), "A request")], lambda event: None, "test")
    assert "model.weights" in record["audits"]["reason"]
