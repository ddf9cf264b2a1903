"""Metrics of what is inside a model, on views that were made so that the value is known."""

import numpy as np
import pytest

from expunge import registry
from expunge.errors import BadInput
from expunge.metrics import default_metrics, evaluate
from expunge.metrics.inside import layer_alignment, weight_distance_to_original
from expunge.metrics.metric import Target
from expunge.metrics.view import View
from expunge.report import equivalence
from expunge.representation import cka, frechet, inside
from expunge.representation.features import Reading
from expunge.statistics import NotEnoughEvidence

CLASSES, WIDTH = 3, 6
SIZES = {"forget": 60, "retain": 120, "validation": 30, "unseen": 60, "test": 30}
INSIDE = [name for name, (module, _) in registry.modules("metrics").items() if module.startswith("expunge.metrics.inside.")]


def metric(name: str, **fields):
    return registry.find("metrics", name)(**fields)


def labels_of(part: str, forgotten: int | None = None) -> np.ndarray:
    labels = np.arange(SIZES[part]) % CLASSES
    if forgotten is None:
        return labels
    others = np.array([label for label in range(CLASSES) if label != forgotten])
    return np.full(SIZES[part], forgotten) if part in ("forget", "unseen") else others[np.arange(SIZES[part]) % len(others)]


def made_view(seed: int = 0, apart: float = 6.0, shift: float = 0.0, forgotten: int | None = None, **found) -> View:
    """Return a view with features around class means; ``shift`` moves those of the forget set along their last column."""
    drawn, means = np.random.default_rng(seed), np.eye(CLASSES, WIDTH)
    labels = {part: labels_of(part, forgotten) for part in SIZES}
    inspection = {}
    for part, y in labels.items():
        x = apart * means[y] + drawn.normal(size=(len(y), WIDTH))
        x[:, -1] += shift * (part == "forget")
        inspection |= {f"features_{part}": x.astype(np.float32), f"rows_{part}": np.arange(len(y))}
    inspection["taught"] = np.arange(SIZES["forget"]) < 15
    logits = {part: drawn.normal(size=(len(y), CLASSES)).astype(np.float32) for part, y in labels.items()}
    inspection |= found
    readings = {part: Reading(inspection[f"features_{part}"], logits[part], labels[part]) for part in SIZES}
    probed = inside.label_probe(readings, None if forgotten is None else inspection["taught"], 200)
    return View(logits, labels, inspection={**probed, **inspection})


def curve(*values: float, finite: bool = True) -> View:
    return made_view(retain_only=np.array(values), retain_only_rows=np.arange(40), retain_only_finite=np.array(finite))


def test_each_says_what_it_means():
    assert len(INSIDE) == 16
    for name in INSIDE:
        known = metric(name)
        assert known.inspection and known.label and known.tier == ("fast" if name == "retain_only_relearning" else "standard")
        assert known.source and (known.target is Target.REPORT or known.above or known.below)
    for name in ("alignment", "membership_probe", "retain_only_relearning", "retain_only_area", "relearn_time", "neighborhood_knowledge"):
        assert "head alone" in type(metric(name)).__doc__ or "edited head" in type(metric(name)).__doc__, (
            f"{name} misses the head-only edit"
        )


def test_regain_is_the_first_epoch_alone():
    found = metric("retain_only_relearning").measure(curve(0.5, 0.8, 0.1))
    assert found.value == pytest.approx(30) and found.n == 40
    assert metric("retain_only_relearning").resolution(40) == 2.5


def test_area_under_the_curve_is_trapezoidal():
    assert metric("retain_only_area").measure(curve(0.5, 0.8, 0.1)).value == pytest.approx(100 * (0.65 + 0.45) / 2)
    assert metric("retain_only_area").measure(curve(1, 1, 1)).value == 100


@pytest.mark.parametrize("name", ["retain_only_relearning", "retain_only_area"])
def test_a_training_that_diverged_is_no_training_that_brings_nothing_back(name):
    with pytest.raises(NotEnoughEvidence, match="training on retain examples alone diverged"):
        metric(name).measure(curve(0.3, 0.3, 0.3, finite=False))
    views = [[curve(0.3, 0.3 + 0.01 * gain, 0.4) for gain in range(at, at + 4)] for at in (0, 1, 2)]
    lost = [*views[2][:3], curve(0.3, 0.3, 0.3, finite=False)]
    table = evaluate(views[0], views[1], {"lost": lost}, [metric(name)], "random")
    row = table["rows"][2]
    assert not row["cells"] and "training on retain examples alone diverged" in row["unmeasured"][name]
    found = equivalence.judge({"table": table, "audits": {}}, row, name, 50.0)
    assert not found.shown and found.reason.startswith("not measured: ") and "diverged" in found.reason


def relearned(steps: int, censored: bool = False) -> View:
    return made_view(relearn_steps=np.array(steps), relearn_censored=np.array(censored))


def test_relearn_time_doubles():
    time = metric("relearn_time")
    assert [time.measure(relearned(steps)).value for steps in (0, 1, 7)] == [0, 1, 3]


@pytest.mark.parametrize("ours,theirs,expected", [((3,), (7,), -1), ((7,), (3,), 1), ((7, True), (3,), 1), ((9, True), (9, True), 0)])
def test_anamnesis_index_is_the_logarithm_of_the_ratio(ours, theirs, expected):
    assert metric("anamnesis_index").compare(relearned(*ours), relearned(*theirs)).value == pytest.approx(expected)


def test_few_shots_name_what_is_apart_and_not_what_is_not():
    there, gone = made_view(apart=8, forgotten=2), made_view(apart=0, forgotten=2)
    few = metric("few_shot_relearning")
    assert few.measure(there).value == 100 and few.measure(there).n == 45
    assert few.measure(gone).value < 70
    steps = metric("few_shot_relearning", head="steps").measure(made_view(few_shot=np.array(0.4)))
    assert steps.value == pytest.approx(40) and steps.standard_error == pytest.approx(100 * np.sqrt(0.24 / 45))


@pytest.mark.parametrize("forgotten", [None, 2])
def test_the_probe_reads_labels_that_features_hold(forgotten):
    assert metric("linear_probe").measure(made_view(apart=8, forgotten=forgotten)).value == 100
    assert metric("linear_probe").measure(made_view(apart=0, forgotten=forgotten)).value < 70


def test_the_probe_does_not_look_at_the_models_own_head():
    one, two = made_view(seed=1), made_view(seed=1)
    two = View({part: -logits for part, logits in two.logits.items()}, two.labels, inspection=two.inspection)
    for name in ("linear_probe", "few_shot_relearning", "membership_probe", "refitted_membership"):
        assert metric(name).measure(one) == metric(name).measure(two), name


def test_membership_probe_sees_a_shift_of_the_features():
    probe = metric("membership_probe")
    assert probe.measure(made_view(shift=5.0)).value > 0.95
    assert np.mean([probe.measure(made_view(seed)).value for seed in range(8)]) == pytest.approx(0.5, abs=0.1)


def test_refitted_membership_leaves_out_what_has_no_retain_example():
    view = made_view()
    keep = view.labels["retain"] != 2
    only = dict(view.inspection, features_retain=view.inspection["features_retain"][keep], rows_retain=np.flatnonzero(keep))
    found = metric("refitted_membership").measure(View(view.logits, view.labels, inspection=only))
    assert found.n == 40 and 0.3 < found.value < 0.7
    sharper = dict(view.inspection, features_forget=view.inspection["features_forget"] * 3)
    assert metric("refitted_membership").measure(View(view.logits, view.labels, inspection=sharper)).value > 0.9


def test_alignment_is_unbiased_cka_and_needs_no_alignment_of_axes():
    ours, theirs = made_view(1), made_view(2)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    turned = {name: value @ turn + 3 if name.startswith("features") else value for name, value in ours.inspection.items()}
    alignment = metric("alignment")
    assert alignment.compare(View(ours.logits, ours.labels, inspection=turned), ours).value == pytest.approx(1, abs=1e-5)
    joined = [np.concatenate([view.inspection["features_forget"], view.inspection["features_retain"]]) for view in (ours, theirs)]
    assert alignment.compare(ours, theirs).value == pytest.approx(cka.unbiased(*joined), rel=1e-9)
    assert alignment.compare(ours, theirs).value == pytest.approx(alignment.compare(theirs, ours).value, rel=1e-9)
    unrelated = made_view(3, apart=0), made_view(4, apart=0)
    assert alignment.compare(*unrelated).value == pytest.approx(0, abs=0.05)


def test_a_dead_network_has_no_alignment():
    dead = made_view(**{f"features_{part}": np.zeros((size, WIDTH), np.float32) for part, size in SIZES.items()})
    assert metric("alignment").compare(dead, made_view()).value == 0 == metric("alignment").compare(made_view(), dead).value
    assert metric("membership_probe").measure(dead).value == 0.5
    assert metric("linear_probe").measure(dead).value <= 50 and metric("few_shot_relearning").measure(dead).value <= 50


def test_blocks_are_compared_pair_by_pair():
    drawn = np.random.default_rng(0)
    blocks = [{name: drawn.normal(size=(30, width)) for name, width in (("stem", 5), ("middle", 9), ("head", 3))} for _ in range(2)]
    views = [made_view(block_names=np.array(list(part)), block_grams=cka.grams(part.values())) for part in blocks]
    names, table = layer_alignment.layers(*views)
    expected = cka.all_layers([tuple(blocks)])
    assert names == expected[0] and table == pytest.approx(expected[2], abs=1e-5)
    assert metric("layer_alignment").compare(*views).value == pytest.approx(np.trace(table) / 3)
    assert metric("layer_alignment").compare(views[0], views[0]).value == pytest.approx(1)


def test_transfer_weighs_every_set_the_same():
    view = made_view(transfer_features=np.array([0.2, 0.6]), transfer_logits=np.array([0.1, 0.3]), transfer_size=np.array([10, 90]))
    assert metric("nearest_neighbor_transfer").measure(view).value == pytest.approx(40)
    assert metric("nearest_neighbor_transfer", level="logits").measure(view).value == pytest.approx(20)
    error = metric("nearest_neighbor_transfer").measure(view).standard_error
    assert error == pytest.approx(100 * np.sqrt(0.16 / 10 + 0.24 / 90) / 2)


def test_neighbourhood_is_a_signed_gap():
    ours, theirs = (made_view(neighborhood=np.array(values)) for values in ([1, 0.5, 0.5], [0, 0.5, 0]))
    assert metric("neighborhood_knowledge").compare(ours, theirs).value == pytest.approx(50)
    assert metric("neighborhood_knowledge").compare(theirs, ours).value == pytest.approx(-50)
    with pytest.raises(BadInput, match="3 and 2 examples"):
        metric("neighborhood_knowledge").compare(ours, made_view(neighborhood=np.zeros(2)))


def test_distances_are_read_whole_and_layer_by_layer():
    found = {"weight_names": np.array(["a", "b"]), "weight_distances": np.array([0.5, np.inf])}
    view = made_view(weight_distance=np.array(0.7), encoder_distance=np.array(0.0), frechet_to_original=np.array(2.5), **found)
    view.inspection["alignment_with_original"] = np.array(0.9)
    assert metric("weight_distance_to_original").measure(view).value == 0.7
    assert metric("weight_distance_to_original", of="encoder").measure(view).value == 0
    assert weight_distance_to_original.layers(view) == {"a": 0.5, "b": np.inf}
    assert metric("feature_frechet").measure(view).value == 2.5 and metric("alignment_with_original").measure(view).n == 180


def test_zrf_is_one_for_the_random_net_itself_and_known_for_a_sure_one():
    view = made_view()
    said = view.logits["forget"]
    view.inspection["untrained_logits"] = said
    assert metric("zero_retrain_forgetting").measure(view).value == pytest.approx(1)
    sure = np.array([0, 40, 0], np.float32) + 0 * said
    other = View({**view.logits, "forget": np.array([40, 0, 0], np.float32) + 0 * said}, view.labels, inspection=dict(view.inspection))
    other.inspection["untrained_logits"] = sure
    assert metric("zero_retrain_forgetting").measure(other).value == pytest.approx(0, abs=1e-6)  # two sure, different answers
    other.inspection["untrained_logits"] = 0 * said
    middle = np.array([2 / 3, 1 / 6, 1 / 6])
    divergence = (np.log2(1 / middle[0]) + (np.array([1, 1, 1]) / 3 * np.log2((1 / 3) / middle)).sum()) / 2
    assert metric("zero_retrain_forgetting").measure(other).value == pytest.approx(1 - divergence, abs=1e-6)


def test_frechet_of_few_examples_agrees_with_that_of_moments():
    drawn = np.random.default_rng(0)
    x, y = drawn.normal(size=(12, 20)), 2 * drawn.normal(size=(15, 20)) + 1
    moments = [value for part in (x, y) for value in (part.mean(0), np.cov(part, rowvar=False))]
    assert frechet.frechet(x, y) == pytest.approx(frechet.frechet_of_moments(*moments), rel=1e-6)
    assert frechet.frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_what_nobody_looked_at_is_left_out_with_the_reason():
    views = [made_view(seed) for seed in range(5)]
    bare = [View(view.logits, view.labels) for view in views]
    table = evaluate(bare[:1], bare[1:], {}, default_metrics("random", tier="fast"), "random")
    assert "nobody looked" in table["skipped"]["retain_only_relearning"]
    chosen = [metric(name) for name in INSIDE]
    table = evaluate(views[:1], views[1:], {"again": views[:1]}, chosen, "random")
    assert {"alignment", "linear_probe", "membership_probe", "refitted_membership"} == set(table["metrics"])
    assert "transfer_features" in table["skipped"]["nearest_neighbor_transfer"]
    whole = evaluate(views[:1], views[1:], {}, [metric("refitted_membership")], "class")
    assert "class" in whole["skipped"]["refitted_membership"]
