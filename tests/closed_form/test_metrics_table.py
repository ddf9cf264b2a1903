"""Views, components and the table: references first, bands, controls, words."""

import json
from functools import cache

import numpy as np
import pytest
from scipy import stats

from expunge import registry, statistics
from expunge.attacks.margins import IN, design
from expunge.bench import doses
from expunge.errors import BadInput
from expunge.metrics import Failure, Target, View, default_metrics, evaluate, verdict
from expunge.metrics.metric import TIERS, Estimate, Metric
from expunge.metrics.view import Reference
from expunge.report import equivalence
from expunge.statistics import NotEnoughEvidence

PARTS = {"forget": 300, "retain": 1500, "validation": 100, "test": 600, "unseen": 600}
TRAINED, NEW = 7.0, 3.0


BASE_MODELS = 8


@cache
def reference(position: int, part: str, count: int) -> Reference:
    """Return base models that know the data as new examples, and those that they were trained on better."""
    trained = part in ("forget", "retain")
    inside = design(BASE_MODELS, count, 2, position) == IN if trained else np.zeros((BASE_MODELS, count), dtype=bool)
    margins = NEW + np.random.default_rng([position, 1]).normal(size=(BASE_MODELS, count)) + inside * (TRAINED - NEW)
    return Reference(margins.astype(np.float32), inside)


def model(seed: int, **height: float) -> View:
    """Return a model whose true-class logit is raised by ``height[part]`` over noise: more = better known."""
    made, logits, labels, references = np.random.default_rng(seed), {}, {}, {}
    parts = {**PARTS, **{part: 100 for part in ("test_forgotten", "triggered", "swapped") if part in height}}
    for position, (part, count) in enumerate(parts.items()):
        y = np.random.default_rng(position).integers(0, 5, count)
        z = made.normal(size=(count, 5))
        z[np.arange(count), y] += height.get(part, NEW)
        logits[part], labels[part] = z.astype(np.float32), y
        references[part] = reference(position, part, count)
    return View(logits, labels, references)


def originals(count: int = 4) -> list[View]:
    return [model(seed, forget=TRAINED, retain=TRAINED) for seed in range(count)]


def retrained(count: int = 4, first: int = 100) -> list[View]:
    return [model(first + seed, forget=NEW, retain=TRAINED) for seed in range(count)]


def metric(name: str) -> Metric:
    return registry.find("metrics", name)()


def cells(table: dict, row: str) -> dict:
    return next(found for found in table["rows"] if found["name"] == row)["cells"]


NAMES = [name for name in registry.names("metrics") if name != "metric"]
OUTSIDE = [name for name in NAMES if not registry.find("metrics", name).inspection]
"""Metrics of outputs, which need no look inside the model."""


def measured(found: Metric, view: View, other: View) -> Estimate | None:
    """Return the metric; None where it says that these few examples or classes cannot carry it."""
    try:
        return found.compare(view, other) if found.is_pair() else found.measure(view)
    except NotEnoughEvidence as missing:
        assert "not measurable" in str(missing)
        return None


def test_registry_holds_the_fast_suite():
    wanted = """unlearning_accuracy retain_accuracy test_accuracy forgotten_class_test_accuracy fidelity relative_unlearning_accuracy
        average_gap tug_of_war loss_auc entropy_auc modified_entropy_auc svc_membership threshold_membership jensen_shannon
        activation_distance churn loss_overlap"""
    assert set(wanted.split()) <= set(NAMES)


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_metric_declares_what_it_means(name):
    found, more = metric(name), dict(test_forgotten=NEW, triggered=NEW, swapped=NEW)
    estimate = measured(found, model(0, **more), model(1, **more))
    assert found.label and found.unit in ("%", "nats", "") and isinstance(found.target, Target) and found.parts
    assert found.tier in TIERS and found.summary().endswith(".")
    if estimate is not None:
        low, high = found.limits or (-np.inf, np.inf)
        assert np.isfinite(estimate.value) and estimate.n > 0 and low <= estimate.value <= high
        assert estimate.standard_error is None or np.isfinite(estimate.standard_error)
    if found.target in (Target.RETRAINED, Target.ZERO_UP_TO_BAND, Target.LOWER):
        assert found.above
    if found.target in (Target.RETRAINED, Target.HIGHER):
        assert found.below


def test_only_what_needs_many_examples_or_classes_is_left_unmeasured():
    view = model(0, test_forgotten=NEW, triggered=NEW, swapped=NEW)
    unmeasured = {name for name in OUTSIDE if measured(metric(name), view, view) is None}
    assert unmeasured == {"lira_tpr_1", "lira_tpr_01", "rmia_tpr_1", *(f"{part}_top_5_accuracy" for part in ("forget", "retain", "test"))}


def test_labels_are_distinct():
    labels = [metric(name).label for name in NAMES]
    assert len(labels) == len(set(labels)) > 40


@pytest.mark.parametrize("name", OUTSIDE)
def test_metrics_read_the_declared_parts_only(name):
    found, view = metric(name), model(0, test_forgotten=NEW, triggered=NEW, swapped=NEW)

    def only(parts: tuple[str, ...]) -> View:
        return View(*({part: held[part] for part in parts} for held in (view.logits, view.labels, view.references)))

    for part in found.parts:
        with pytest.raises(BadInput, match=part):
            short = only(tuple(other for other in found.parts if other != part))
            measured(found, short, short)
    estimate = measured(found, only(found.parts), only(found.parts))
    assert estimate is None or np.isfinite(estimate.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fidelity", 100), ("relative_unlearning_accuracy", 0), ("average_gap", 0), ("tug_of_war", 1),
        ("jensen_shannon", 0), ("activation_distance", 0), ("churn", 0),
    ],
)  # fmt: skip
def test_a_model_against_itself(name, value):
    assert metric(name).compare(model(3), model(3)).value == pytest.approx(value, abs=1e-9)


def test_accuracies_are_percentages_and_unlearning_accuracy_is_an_error():
    view = model(0, retain=1)
    right = np.mean(np.argmax(view.logits["retain"], axis=1) == view.labels["retain"])
    assert metric("retain_accuracy").measure(view).value == pytest.approx(100 * right)
    wrong = 1 - np.mean(np.argmax(view.logits["forget"], axis=1) == view.labels["forget"])
    estimate = metric("unlearning_accuracy").measure(view)
    assert estimate.value == pytest.approx(100 * wrong)
    assert estimate.standard_error == pytest.approx(100 * np.sqrt(wrong * (1 - wrong) / 300))


def test_the_success_rate_of_an_attack_is_judged_for_backdoors_and_only_above_the_band():
    found = metric("attack_success_rate")
    strong, weak = model(0, triggered=TRAINED), model(0, triggered=0)
    hits = np.argmax(strong.logits["triggered"], axis=1) == strong.labels["triggered"]
    assert found.measure(strong).value == 100 * hits.mean() > 95 > found.measure(weak).value
    assert "attack_success_rate" not in {known.name for known in default_metrics("random")}
    before, oracle = [model(seed, triggered=TRAINED) for seed in range(3)], [model(9 + seed, triggered=0) for seed in range(3)]
    never = [model(5 + seed, triggered=-TRAINED) for seed in range(3)]
    table = evaluate(before, oracle, {"never": never}, default_metrics("random", backdoor=True), "random")
    assert [cells(table, row)["attack_success_rate"]["in_band"] for row in ("original", "retrained", "never")] == [False, True, True]
    assert cells(table, "never")["attack_success_rate"]["value"] == 0 and "still answers to the trigger" in table["rows"][0]["verdict"]


@pytest.mark.parametrize("name", ["loss_auc", "entropy_auc", "modified_entropy_auc"])
def test_membership_areas_call_a_memorised_forget_set_a_member(name):
    assert metric(name).measure(model(0, forget=TRAINED)).value > 0.8
    assert metric(name).measure(model(0, forget=NEW)).value == pytest.approx(0.5, abs=0.06)
    assert metric(name).measure(model(0, forget=0.5)).value < 0.4


@pytest.mark.parametrize("name", ["svc_membership", "threshold_membership"])
def test_membership_shares_are_nonmember_rates(name):
    known, unknown = (metric(name).measure(model(0, forget=height, retain=TRAINED)).value for height in (TRAINED, NEW))
    assert known < 30 < 70 < unknown


def test_pair_metrics_refuse_other_examples():
    view, other = model(0), model(1)
    other.labels["forget"] = other.labels["forget"][::-1].copy()
    with pytest.raises(BadInput, match="different examples"):
        metric("fidelity").compare(view, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x.astype(np.float64), y), "float32"),
        (lambda x, y: (x, y.astype(np.int32)), "int64"),
        (lambda x, y: (x[:-1], y), "labels"),
        (lambda x, y: (np.where(np.arange(len(x))[:, None] == 3, np.float32(np.nan), x), y), "1 of 300 rows"),
        (lambda x, y: (x, y + 1), "5 outputs"),
        (lambda x, y: (x[:, :1], y), "at least 2"),
    ],
)
def test_views_name_the_part_that_is_wrong(change, words):
    good = model(0)
    logits, labels = change(good.logits["forget"], good.labels["forget"])
    with pytest.raises(BadInput, match=words) as raised:
        View({**good.logits, "forget": logits}, {**good.labels, "forget": labels})
    assert raised.value.where == "view.forget"


def test_views_refuse_parts_without_labels_or_of_other_models():
    good = model(0)
    with pytest.raises(BadInput, match="different parts"):
        View(good.logits, {"forget": good.labels["forget"]})
    with pytest.raises(BadInput, match="numbers of outputs"):
        View({**good.logits, "test": np.zeros((600, 6), dtype=np.float32)}, good.labels)
    with pytest.raises(BadInput, match="holds no examples"):
        good.margin("test_forgotten")


def test_scores_are_computed_once_and_cannot_be_changed():
    view = model(0)
    assert view.loss("forget") is view.loss("forget")
    with pytest.raises(ValueError, match="read-only"):
        view.loss("forget")[0] = 1


@pytest.fixture(scope="module")
def table() -> dict:
    unlearned = {
        "good": retrained(first=300),
        "damaged": [model(400 + seed, forget=2, retain=2, test=1, unseen=1) for seed in range(4)],
        "nothing": originals(),
        "broken": [retrained(first=500)[0], Failure("diverged", "the loss is not finite at step 3"), *retrained(first=520)[:2]],
        "gone": [Failure("failed", "no memory")] * 4,
    }
    return evaluate(originals(), retrained(), unlearned, default_metrics("random"), "random")


def test_table_is_plain_and_starts_with_the_references(table):
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert [row["name"] for row in table["rows"]] == ["original", "retrained", "good", "damaged", "nothing", "broken", "gone"]
    assert "forgotten_class_test_accuracy" not in table["metrics"]
    assert table["metrics"]["loss_auc"]["target"] == "retrained"
    assert table["metrics"]["churn"]["target"] == "zero_up_to_band"


def test_verdicts(table):
    said = {row["name"]: row["verdict"] for row in table["rows"]}
    assert said["original"].startswith("fails: ") and "still looks like training data" in said["original"]
    assert said["nothing"] == said["original"]
    assert said["damaged"].startswith("fails: damages the model (") and said["damaged"].endswith("more kinds of failure")
    for name in ("retrained", "good"):
        assert said[name].startswith("no evidence of failure: inside the retrained band on ")
    assert said["broken"] == "fails: diverged (1 of 4 seeds; seed 1: the loss is not finite at step 3)"
    assert said["gone"] == "fails: failed (4 of 4 seeds; seed 0: no memory)"
    assert not [text for text in said.values() if not text.startswith(("fails: ", "no evidence of failure: "))]


def test_failed_seeds_stay_visible(table):
    cell = cells(table, "broken")["retain_accuracy"]
    assert cell["per_seed"][1] is None and sum(value is not None for value in cell["per_seed"]) == 3
    assert cells(table, "gone") == {}


def test_cells_hold_means_over_seeds_and_their_errors(table):
    cell = cells(table, "good")["loss_auc"]
    values = [metric("loss_auc").measure(view).value for view in retrained(first=300)]
    assert cell["per_seed"] == pytest.approx(values) and cell["value"] == pytest.approx(np.mean(values))
    assert cell["standard_error"] == pytest.approx(np.std(values, ddof=1) / 2)
    assert cell["interval"]["low"] < cell["value"] < cell["interval"]["high"]


def test_pair_metrics_are_paired_by_seed(table):
    right = [metric("fidelity").compare(view, reference).value for view, reference in zip(originals(), retrained(), strict=True)]
    shifted = [metric("fidelity").compare(view, reference).value for view, reference in zip(originals(), retrained()[::-1], strict=True)]
    assert cells(table, "original")["fidelity"]["per_seed"] == pytest.approx(right)
    assert right != pytest.approx(shifted)


def test_gaps_are_those_of_the_seed_averages(table):
    row = next(row for row in table["rows"] if row["name"] == "damaged")
    assert row["gaps"]["RA"] == pytest.approx(
        row["cells"]["retain_accuracy"]["value"] - cells(table, "retrained")["retain_accuracy"]["value"]
    )
    parts = [abs(value) for name, value in row["gaps"].items() if name != "average"]
    assert len(parts) == 4 and row["gaps"]["average"] == pytest.approx(np.mean(parts))


def test_harmless_sides_never_fail(table):
    # The same retrained models again: distance 0 to the reference, far below two retrained models' distance.
    again = evaluate(originals(), retrained(), {"copy": retrained()}, default_metrics("random"), "random")
    for name in ("churn", "jensen_shannon", "activation_distance", "fidelity"):
        assert cells(again, "copy")[name]["p_value"] == 1 and cells(again, "copy")[name]["in_band"]


def test_control_row_is_not_circular():
    odd = [*retrained(7), model(900, forget=TRAINED, retain=TRAINED)]
    table = evaluate(odd, odd, {}, [metric("loss_auc")], "random")
    cell = cells(table, "retrained")["loss_auc"]
    assert not cell["in_band"] and "model 7 is the farthest" in cell["note"]
    assert "model 7 is unlike the other 7" in table["rows"][1]["verdict"]
    assert not cell["farthest"]["band"]["low"] <= cell["farthest"]["value"] <= cell["farthest"]["band"]["high"]
    # Judged against a band that holds the odd one itself, it would have passed.
    values = np.array(cell["per_seed"])
    assert statistics.prediction_band(values).p_value(values[7]) > 0.05


@pytest.mark.parametrize("count", [1, 2])
def test_thin_evidence_gives_no_band_and_says_why(count):
    table = evaluate(originals(count), retrained(count), {"good": retrained(count, first=300)}, default_metrics("random"), "random")
    json.dumps(table, allow_nan=False)
    cell = cells(table, "good")["churn"]
    assert (cell["band"], cell["in_band"], cell["p_value"]) == (None, None, None)
    assert "needs 3 retrained models" in cell["band_reason"]
    assert "needs 3" in table["metrics"]["churn"]["band_reason"]
    said = {row["name"]: row["verdict"] for row in table["rows"]}
    assert said["retrained"].startswith("no verdict: no test has a band (")
    assert said["good"].startswith("no verdict" if count == 1 else "no evidence of failure")


def test_a_false_alarm_is_rare_over_all_tests_of_a_row():
    made, failed = np.random.default_rng(0), 0
    chosen = [metric(name) for name in ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "loss_auc", "churn", "jensen_shannon")]
    for _ in range(30):
        seeds = made.integers(1000, 10**9, 8)
        views = [model(int(seed), forget=NEW, retain=TRAINED) for seed in seeds]
        table = evaluate(views[4:], views[:4], {}, chosen, "random")
        failed += table["rows"][0]["verdict"].startswith("fails")
    assert failed <= 4


def test_class_request():
    """Retrained models never name the class: every one misclassifies all of it, and the band still has a width."""
    never = dict(forget=-30.0, unseen=-30.0, test_forgotten=-30.0, retain=TRAINED)
    oracle = [model(100 + seed, **never) for seed in range(4)]
    before = [model(seed, forget=TRAINED, retain=TRAINED, test_forgotten=NEW) for seed in range(4)]
    ghost = [model(200 + seed, **{**never, "test_forgotten": 1.0}) for seed in range(4)]
    table = evaluate(before, oracle, {"head only": ghost}, default_metrics("class"), "class")
    cell = cells(table, "original")["unlearning_accuracy"]
    assert cell["band"]["low"] < 100 == cell["band"]["high"] and not cell["in_band"]
    assert cells(table, "retrained")["unlearning_accuracy"]["in_band"]
    assert "still recognises unseen images of the forgotten classes" in table["rows"][2]["verdict"]


def test_rows_must_match_the_seeds():
    some = [metric("loss_auc")]
    with pytest.raises(BadInput, match="3 outcomes for 4 seeds"):
        evaluate(originals(), retrained(), {"good": retrained(3)}, some, "random")
    with pytest.raises(BadInput, match="only 3 retrained"):
        evaluate(originals(), retrained(3), {}, some, "random")
    with pytest.raises(BadInput, match="reference row"):
        evaluate(originals(), retrained(), {"retrained": retrained()}, some, "random")
    with pytest.raises(BadInput, match="Train it first"):
        evaluate([], [], {}, some, "random")


def test_without_retrained_models_only_single_metrics_are_shown_and_nothing_is_judged():
    table = evaluate(originals(1), [], {"good": retrained(3)}, default_metrics("random"), "random")
    json.dumps(table, allow_nan=False)
    assert [row["name"] for row in table["rows"]] == ["original", "good"]
    assert "churn" not in table["metrics"] and "there are none" in table["skipped"]["churn"]
    for row in table["rows"]:
        assert row["gaps"] is None and row["verdict"].startswith("no verdict")
        assert all(cell["band"] is None and cell["in_band"] is None for cell in row["cells"].values())


def test_one_original_serves_all_seeds():
    table = evaluate(originals(1), retrained(4), {"good": retrained(4, first=300)}, default_metrics("random"), "random")
    assert [row["seeds"] for row in table["rows"]] == [1, 4, 4]
    with pytest.raises(BadInput, match="one for each seed, or one for all"):
        evaluate(originals(2), retrained(4), {"good": retrained(4)}, default_metrics("random"), "random")


@pytest.mark.parametrize(
    "start", [originals(1), originals(1) * 6, [*originals(1) * 3, *originals(2)[1:] * 3]], ids=["one", "six times", "two"]
)
def test_models_from_one_original_are_no_replicates(start):
    """A method that gives one retrained model again lies as far out as one of them may, whatever the number of its copies."""
    chosen = [metric(name) for name in ("unlearning_accuracy", "loss_auc", "churn", "fidelity")]
    oracle, copy = retrained(12), model(700, forget=NEW, retain=TRAINED)
    table = evaluate(start, oracle, {"copies": [copy] * 6}, chosen, "random")
    single = evaluate(originals(1), oracle, {"copies": [copy]}, chosen, "random")
    words = "6 seeds start from 2 originals" if table["originals"] == 2 else "all rows start from one original"
    for name in ("unlearning_accuracy", "loss_auc"):
        cell, alone = cells(table, "copies")[name], cells(single, "copies")[name]
        assert cell["p_value"] == pytest.approx(alone["p_value"]) and table["metrics"][name]["band"] == alone["band"]
    for cell in cells(table, "copies").values():
        assert (cell["standard_error"], cell["interval"], cell.get("completeness")) == (None, None, None)
        assert cell["note"] == f"an interval needs several training seeds: {words}" and cell["band"]["n"] == 12
    assert cells(table, "retrained")["loss_auc"]["interval"] and evaluate(originals(6), oracle, {}, chosen, "random")["originals"] == 6
    for held in (table, {key: value for key, value in table.items() if key != "originals" or len(start) > 1}):
        found = equivalence.judge({"table": held, "audits": {}}, held["rows"][2], "unlearning_accuracy", 50.0)
        assert not found.shown and found.reason == f"an equivalence test needs several training seeds: {words}"


@pytest.mark.parametrize("starts", [4, 1])
@pytest.mark.parametrize(("name", "height"), [("jensen_shannon", NEW - 0.4), ("fidelity", NEW - 0.4), ("loss_auc", NEW + 0.12)])
def test_the_power_of_a_dose_is_that_of_the_band_that_judges(name, height, starts):
    """Of a pair metric too, whose band is wider than the prediction band of as many values."""
    found, oracle = metric(name), retrained(6)
    left = [model(800 + seed, forget=height, retain=TRAINED) for seed in range(5)]
    answer = doses.responses([found], oracle, {0.5: left}, originals(starts), seeds=4, tests=20)[name]
    if found.is_pair():
        pairs = np.array([[found.compare(one, other).value for other in oracle] for one in oracle])
        values = np.array([found.compare(view, reference).value for view, reference in zip(left, oracle, strict=False)])
    else:
        pairs, values = (np.array([found.measure(view).value for view in views]) for views in (oracle, left))
    of_mean, resolution = starts, found.resolution(PARTS["forget"])
    for level, power in ((0.95, answer["power"]), (1 - 0.05 / 20, answer["adjusted"]["power"])):
        band = (statistics.pair_band if found.is_pair() else statistics.prediction_band)(pairs, of_mean, resolution, level)
        law = stats.norm(values.mean(), values.std(ddof=1) / np.sqrt(of_mean))
        below, above = float(law.cdf(band.low)), float(law.sf(band.high))
        wanted = {"jensen_shannon": above, "fidelity": below, "loss_auc": below + above}[name]
        assert power[1] == pytest.approx(wanted, abs=1e-9)
    assert 0.05 < answer["power"][1] < 0.9


def test_a_count_that_retrained_models_agree_on_has_a_power_too():
    """No retrained model names the class; the table judges it to one example, and so does the dose."""
    oracle, known = ([model(seed, forget=height) for seed in range(4)] for height in (-30.0, TRAINED))
    answer = doses.responses([metric("unlearning_accuracy")], oracle, {0.5: known[:2]}, known, seeds=4, tests=1)["unlearning_accuracy"]
    assert answer["power"] == [pytest.approx(0.05), 1, 1] and answer["detectable"] == 0.5


def test_metrics_that_do_not_apply_are_listed():
    table = evaluate(originals(), retrained(), {}, [metric("loss_auc"), metric("forgotten_class_test_accuracy")], "random")
    assert table["skipped"] == {"forgotten_class_test_accuracy": "does not apply to a random request"}


def test_the_standard_tier_adds_attacks_that_know_each_example():
    chosen = [found for found in default_metrics("random", tier="standard") if found.references]
    assert len(chosen) > 7 and not any(found.references for found in default_metrics("random"))
    half = {"half": [model(300 + seed, forget=(TRAINED + NEW) / 2, retain=TRAINED) for seed in range(4)]}
    table = evaluate(originals(), retrained(), half, chosen, "random")
    json.dumps(table, allow_nan=False)
    assert set(table["skipped"]) == {"lira_tpr_1", "lira_tpr_01", "rmia_tpr_1"}
    assert all("not measurable at n = 600" in reason for reason in table["skipped"].values())
    for name in ("lira_online", "rmia"):
        values = [cells(table, row)[name]["value"] for row in ("original", "half", "retrained")]
        assert values[0] > values[1] > values[2] == pytest.approx(0.5, abs=0.05)
        assert 0 < cells(table, "half")[name]["completeness"]["value"] < 1
    alone = evaluate([View(view.logits, view.labels) for view in originals()], retrained(), {}, chosen, "random")
    assert set(alone["skipped"].values()) == {"needs a base pool, and there is none"}


def test_verdict_never_claims_more_than_no_evidence():
    row = {"status": "finished", "cells": {}}
    assert verdict(row) == "no verdict: no test has a band"
