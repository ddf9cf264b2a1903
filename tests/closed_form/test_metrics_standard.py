"""Output metrics and published attacks of the longer tables, and what the table does with thin evidence and completeness."""

import json

import numpy as np
import pytest

from expunge import registry
from expunge.attacks.completeness import completeness
from expunge.metrics import Target, View, evaluate
from expunge.metrics.attacks.answers import answers, learned_area
from expunge.metrics.closeness import histogram_divergence, kullback_leibler
from expunge.metrics.metric import Estimate, Metric
from expunge.statistics import NotEnoughEvidence

CLASSES = 7
SIZES = {"forget": 250, "retain": 700, "test": 400, "unseen": 400, "test_forgotten": 200}


def metric(name: str, **fields) -> Metric:
    return registry.find("metrics", name)(**fields)


def model(seed: int, **height: float) -> View:
    """Return a model whose true-class logit is raised by ``height[part]`` (3 if not given) over normal noise."""
    made, logits, labels = np.random.default_rng(seed), {}, {}
    for position, (part, count) in enumerate(SIZES.items()):
        labels[part] = np.random.default_rng(position).integers(0, CLASSES, count)
        z = made.normal(size=(count, CLASSES))
        z[np.arange(count), labels[part]] += height.get(part, 3)
        logits[part] = z.astype(np.float32)
    return View(logits, labels)


def swap(view: View, one: str, other: str) -> View:
    """Return the view with two parts exchanged."""
    names = {one: other, other: one}
    return View(*({names.get(part, part): held[part] for part in held} for held in (view.logits, view.labels)))


ZERO = ("margin_gap", "confusion_distance", "confusion_redistribution", "forgotten_class_output_distance", "nearest_class_gap",
        "accuracy_deviation", "retrained_divergence", "privacy_leak")  # fmt: skip
ONE = ("tug_of_war_membership", "logit_agreement")


@pytest.mark.parametrize("name", [*ZERO, *ONE])
def test_a_model_against_itself(name):
    assert metric(name).compare(model(3), model(3)).value == pytest.approx(1 if name in ONE else 0, abs=1e-9)


@pytest.mark.parametrize("name", ["margin_gap", "nearest_class_gap", "privacy_leak"])
def test_signed_metrics_change_sign_with_the_models(name):
    one, other = model(0, forget=5, test_forgotten=5), model(1)
    forth, back = (metric(name).compare(*pair).value for pair in ((one, other), (other, one)))
    assert forth * back < 0 and (name == "nearest_class_gap" or forth > 0)


def test_margin_gap_is_the_mean_of_clipped_differences():
    view, reference = model(0, forget=1000), model(1)
    assert metric("margin_gap").compare(view, reference).value == pytest.approx(50 - reference.margin("forget").mean())


def test_calibration_error_in_a_world_of_two_confidences():
    """300 answers with confidence 0.9 of which 240 are right, 100 with 0.6 of which 80 are: |.9 - .8| * 3/4 + |.6 - .8| / 4."""
    confidence = np.repeat([0.9, 0.6], [300, 100])
    logits = np.stack([np.log(confidence / (1 - confidence)), np.zeros(400)], axis=1).astype(np.float32)
    labels = (np.arange(400) % 5 == 0).astype(np.int64)
    found = metric("calibration_error").measure(View({"test": logits}, {"test": labels}))
    assert found.value == pytest.approx(100 * (0.75 * 0.1 + 0.25 * 0.2), abs=1e-4)
    sharp = View({"test": 10 * logits}, {"test": labels})
    assert metric("calibration_error").measure(sharp).value > 15
    assert metric("test_loss").measure(sharp).value > metric("test_loss").measure(View({"test": logits}, {"test": labels})).value


def test_divergence_points_from_the_retrained_model():
    p, q = np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])
    assert kullback_leibler(np.log(p), np.log(q))[0] == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2))
    view, reference = (View({"forget": np.log(x).astype(np.float32)}, {"forget": np.zeros(1, dtype=np.int64)}) for x in (q, p))
    assert metric("retrained_divergence").compare(view, reference).value == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2), abs=1e-6)


def test_uniformity_is_one_for_guessing_and_known_for_certainty():
    labels = {"forget": np.zeros(3, dtype=np.int64)}
    guess, sure = np.zeros((3, 2), dtype=np.float32), np.float32([[999, 0]] * 3)
    assert metric("forget_uniformity").measure(View({"forget": guess}, labels)).value == pytest.approx(1)
    assert metric("forget_uniformity").measure(View({"forget": sure}, labels)).value == pytest.approx(1 - 0.2158 / np.log(2), abs=1e-4)


def test_deviation_and_tug_of_war_by_hand():
    view, reference = model(0, forget=9, retain=1), model(1)
    rates = [
        [np.mean(np.argmax(seen.logits[part], axis=1) == seen.labels[part]) for part in ("forget", "retain", "test")]
        for seen in (view, reference)
    ]
    wanted = sum(abs(u / r - 1) for u, r in zip(*rates, strict=True))
    assert metric("accuracy_deviation").compare(view, reference).value == pytest.approx(wanted)
    shares = [metric("svc_membership").measure(seen).value / 100 for seen in (view, reference)]
    wanted = (1 - abs(shares[0] - shares[1])) * np.prod([1 - abs(rates[0][part] - rates[1][part]) for part in (1, 2)])
    assert metric("tug_of_war_membership").compare(view, reference).value == pytest.approx(wanted)
    with pytest.raises(NotEnoughEvidence, match="forget set is 0"):
        metric("accuracy_deviation").compare(view, model(1, forget=-99))


def test_agreement_by_hand():
    view, reference = model(0, forget=9, test=1), model(1)
    parts = ("forget", "retain", "test_forgotten", "test")
    gaps = [abs(np.mean(view.correct(part)) - np.mean(reference.correct(part))) for part in parts]
    assert metric("logit_agreement").compare(view, reference).value == pytest.approx(np.prod(1 - np.array(gaps)))


def test_a_suppressed_class_is_told_from_a_class_never_seen():
    """The retrained model sends a forgotten class to class 1; a suppressed logit sends it to the second choice, class 2."""
    labels = {"test_forgotten": np.zeros(100, dtype=np.int64)}
    to = {name: View({"test_forgotten": np.float32([row] * 100)}, labels) for name, row in (("one", [0, 9, 0]), ("two", [0, 0, 9]))}
    assert metric("confusion_redistribution").compare(to["two"], to["one"]).value == 1
    assert metric("forgotten_class_output_distance").compare(to["two"], to["one"]).value == pytest.approx(1, abs=1e-3)
    assert metric("nearest_class_gap").compare(to["two"], to["one"]).value == -100


@pytest.mark.parametrize("part", ["forget", "retain", "test"])
def test_top_five_by_sorting(part):
    view = model(0, **{part: 0.5})
    places = [list(np.argsort(-row)).index(label) for row, label in zip(view.logits[part], view.labels[part], strict=True)]
    assert metric(f"{part}_top_5_accuracy").measure(view).value == pytest.approx(100 * np.mean(np.array(places) < 5))


@pytest.mark.parametrize("name", ["energy_auc", "correctness_advantage"])
def test_exchanging_members_and_nonmembers_mirrors_the_attack(name):
    view = model(0, forget=5)
    one, other = metric(name).measure(view).value, metric(name).measure(swap(view, "forget", "unseen")).value
    assert other == pytest.approx(1 - one if name == "energy_auc" else -one) and one > (0.6 if name == "energy_auc" else 5)


def test_areas_of_kept_data():
    view = model(0, retain=6, forget=6)
    assert metric("retain_loss_auc").measure(view).value > 0.9
    assert metric("forget_retain_auc").measure(view).value == pytest.approx(0.5, abs=0.05)
    assert metric("retain_loss_auc").measure(swap(view, "retain", "test")).value < 0.1
    assert metric("training_privacy").measure(view).value > 75 and metric("training_privacy").measure(model(0)).value == pytest.approx(
        50, abs=5
    )


SHARES = ("svc_membership_entropy", "svc_membership_modified_entropy", "svc_membership_probabilities", "class_threshold_membership",
          "median_loss_membership", "yeom_membership")  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
def test_shares_called_nonmember(name):
    known, unknown = (metric(name).measure(model(0, forget=height, retain=8)).value for height in (8, 2))
    assert known < 50 < 75 < unknown


@pytest.mark.parametrize("name", [*SHARES, "logistic_membership", "output_membership", "loss_divergence"])
def test_the_order_of_examples_hardly_matters_and_repetition_gives_the_same(name):
    view, made = model(0, forget=4, retain=6), np.random.default_rng(0)
    orders = {part: made.permutation(view.size(part)) for part in view.logits}
    mixed = View(*({part: held[part][orders[part]] for part in held} for held in (view.logits, view.labels)))
    first, again, other = (metric(name).measure(seen).value for seen in (view, model(0, forget=4, retain=6), mixed))
    drawn = name.startswith("svc")  # the member sample is drawn by position
    assert first == again and other == pytest.approx(first, abs=6 if drawn else 1e-9)


def test_one_threshold_a_class_takes_the_class_difficulty_out():
    """Class 0 is easy and class 1 hard: one threshold for both is blind where two are perfect."""
    labels = np.repeat([0, 1], 200)

    def part(shift: float) -> np.ndarray:
        margins = np.where(labels == 0, 3, -3) + shift + np.linspace(-0.1, 0.1, 400)
        return np.stack([np.where(labels == 0, margins, 0), np.where(labels == 1, margins, 0)], axis=1).astype(np.float32)

    view = View({"retain": part(0.5), "test": part(-0.5), "forget": part(0.5)}, dict.fromkeys(("retain", "test", "forget"), labels))
    assert metric("class_threshold_membership").measure(view).value == 0
    unseen = View({**view.logits, "forget": part(-0.5)}, view.labels)
    assert metric("class_threshold_membership").measure(unseen).value == 100
    assert metric("threshold_membership").measure(unseen).value < 60


def test_learned_attack_finds_what_the_loss_cannot_and_nothing_where_nothing_is():
    null = [metric("output_membership").measure(model(seed)).value for seed in range(10)]
    assert np.mean(null) == pytest.approx(0.5, abs=0.03)
    assert (
        metric("output_membership").measure(model(0, forget=6)).value > 0.8 < metric("output_membership").measure(model(0, forget=-2)).value
    )
    with pytest.raises(NotEnoughEvidence, match="n = 9"):
        learned_area(answers(model(0), "forget")[:9], answers(model(0), "unseen"))


def test_told_from_a_retrained_model():
    same = [metric("output_distinguishability").compare(model(seed), model(seed + 50)).value for seed in range(8)]
    assert np.mean(same) == pytest.approx(0.5, abs=0.04)
    assert metric("output_distinguishability").compare(model(0, forget=6), model(1)).value > 0.8
    assert metric("output_distinguishability").compare(model(0), model(0)).value == pytest.approx(0.5, abs=1e-9)


def test_histogram_divergence():
    grid = np.linspace(0, 1, 5000)
    assert histogram_divergence(grid, grid, 50) == 0 == histogram_divergence(np.zeros(3), np.zeros(4), 50)
    assert histogram_divergence(grid**2, grid, 50) > histogram_divergence(grid**1.1, grid, 50) > 0


class Thin(Metric):
    """Measured where the forget set is well known only."""

    label = "thin"
    target = Target.RETRAINED
    parts = ("forget",)
    above = below = "differs"

    def measure(self, view: View) -> Estimate:
        value = float(view.margin("forget").mean())
        if value < self.floor:
            raise NotEnoughEvidence("not measurable: too low")
        return Estimate(value, None, 10)

    floor: float = 0.0


def table(floor: float, seeds: int = 4) -> dict:
    Thin.name = "thin"
    before, after = [model(seed, forget=6) for seed in range(seeds)], [model(50 + seed) for seed in range(seeds)]
    rows = {"half": [model(90 + seed, forget=4.5) for seed in range(seeds)], "gone": [model(70 + seed, forget=-3) for seed in range(seeds)]}
    found = evaluate(before, after, rows, [Thin(floor=floor), metric("loss_auc"), metric("privacy_leak"), metric("churn")], "random")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def test_a_row_without_evidence_has_no_cell_and_a_reason():
    found = table(0.0)
    assert "thin" in found["metrics"] and ["thin" in row["cells"] for row in found["rows"]] == [True, True, True, False]
    assert found["rows"][3]["unmeasured"] == {"thin": "not measurable: too low"} and found["rows"][3]["verdict"].startswith("fails")
    assert [row["unmeasured"] for row in found["rows"][:3]] == [{}, {}, {}]


def test_a_metric_that_the_retrained_models_cannot_carry_has_no_band():
    found = table(3.0)
    assert found["metrics"]["thin"]["band"] is None and found["metrics"]["thin"]["band_reason"] == "not measurable: too low"
    assert found["rows"][0]["cells"]["thin"]["band_reason"] == "not measurable: too low"
    assert found["rows"][1]["unmeasured"] == {"thin": "not measurable: too low"}


def test_a_metric_that_no_row_can_carry_is_skipped():
    found = table(1e9)
    assert "thin" not in found["metrics"] and found["skipped"] == {"thin": "not measurable: too low"}
    assert not any("thin" in row["cells"] for row in found["rows"])


def test_completeness_of_every_test_of_an_unlearned_row():
    found = table(-99.0)
    original, retrained, half, gone = (row["cells"] for row in found["rows"])
    for name in ("thin", "loss_auc", "churn"):
        assert "completeness" not in original[name] and "completeness" not in retrained[name]
    wanted = completeness(*(np.array(cells["thin"]["per_seed"]) for cells in (half, original, retrained)))
    assert half["thin"]["completeness"] == {"value": wanted.mean, "low": wanted.low, "high": wanted.high}
    assert 0 < half["thin"]["completeness"]["low"] < 0.5 < half["thin"]["completeness"]["high"] < 1
    assert half["loss_auc"]["completeness"]["value"] > 0 > gone["loss_auc"]["completeness"]["value"]
    assert half["churn"]["completeness"] is None  # originals and retrained models differ by no more than chance
    assert "completeness" not in half["privacy_leak"]  # not a test


def test_completeness_takes_three_seeds_with_an_original_each():
    assert table(-99.0, seeds=2)["rows"][2]["cells"]["thin"]["completeness"] is None
    after, half = [model(50 + seed) for seed in range(4)], [model(90 + seed, forget=4.5) for seed in range(4)]
    before = [model(seed, forget=6) for seed in range(4)]
    found, alone = (evaluate(each, after, {"half": half}, [metric("loss_auc")], "random") for each in (before, before[:1]))
    assert 0 < found["rows"][2]["cells"]["loss_auc"]["completeness"]["value"] < 1
    assert alone["rows"][2]["cells"]["loss_auc"]["completeness"] is None  # its interval would take one training for four


def looked_into(seed: int, transfer: list[float], **height: float) -> View:
    """Return a model with features of all forget and retain examples, and its transfer to two downstream sets."""
    view, made, found = model(seed, **height), np.random.default_rng([seed, 7]), {}
    for part in ("forget", "retain"):
        found |= {f"rows_{part}": np.arange(SIZES[part]), f"features_{part}": made.normal(size=(SIZES[part], 12)).astype(np.float32)}
    return View(view.logits, view.labels, {}, found | {"transfer_features": np.array(transfer)})


def test_reconstructed_scores_of_source_004():
    one, other = looked_into(0, [0.5, 0.9]), looked_into(1, [0.6, 0.6], forget=6)
    logits, features, unified = (metric(name) for name in ("logit_agreement", "representation_agreement", "unified_agreement"))
    assert [found.compare(one, one).value for found in (logits, features, unified)] == pytest.approx([1, 1, 1])
    turned = View(
        one.logits,
        one.labels,
        {},
        one.inspection | {f"features_{part}": -2 * one.inspection[f"features_{part}"] for part in ("forget", "retain")},
    )
    worse = View(turned.logits, turned.labels, {}, turned.inspection | {"transfer_features": np.array([0.6, 0.6])})
    assert features.compare(turned, one).value == pytest.approx(1)
    assert features.compare(worse, one).value == pytest.approx(1 - (0.1 + 0.3) / 2)
    assert features.compare(other, one).value < 0.1  # independent features
    values = [found.compare(worse, one).value for found in (logits, features)]
    assert unified.compare(worse, one).value == pytest.approx(2 * np.prod(values) / sum(values))
    assert all("reconstruction" in (found.source + found.deviations[0]) and "ours" in found.label for found in (logits, features, unified))
