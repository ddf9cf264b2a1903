"""Probes, neighbours, relearning, controls and the battery's bands where the answer is known."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from conftest import CLASSES, SOURCE, make_net, split, trained_net
from expunge.engine.architecture import Architecture
from expunge.engine.stream import Stream
from expunge.engine.update import sgd
from expunge.errors import BadInput
from expunge.representation import battery, controls, features, neighbors, probe, relearn
from expunge.representation.features import Reading
from expunge.statistics import NotEnoughEvidence

NET = trained_net().eval()
ARCHITECTURE = Architecture(NET, torch.rand(4, 3, 8, 8))
PARTS = {name: Stream(name, SOURCE, index) for name, index in split("random").items()}
CLASS_PARTS = {name: Stream(name, SOURCE, index) for name, index in split("class").items()}


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def clusters(count: int, seed: int, spread: float = 0.3, labels: np.ndarray | None = None) -> Reading:
    made = np.random.default_rng(seed)
    y = np.arange(count) % 4 if labels is None else labels
    x = np.eye(4, 8)[y] * 3 + spread * made.normal(size=(len(y), 8))
    return Reading(x.astype(np.float32), np.zeros((len(y), 4), dtype=np.float32), y)


# Probes


def test_probe_reads_what_is_linearly_there_and_nothing_else():
    found = probe.linear_probe(clusters(80, 0), clusters(40, 1), clusters(40, 2))
    assert found.accuracy == 1 and found.n == 40 and found.validation_accuracy == 1
    assert found.strength == probe.STRENGTHS[0]  # the smallest of equally good ones
    noise = clusters(400, 3)._replace(labels=np.random.default_rng(0).integers(0, 4, 400))
    assert probe.linear_probe(noise, noise, clusters(400, 4, labels=np.random.default_rng(1).integers(0, 4, 400))).accuracy < 0.5


def test_probe_does_not_change_with_scale_shift_or_order():
    fit, held, asked = clusters(60, 0, 1.2), clusters(60, 1, 1.2), clusters(60, 2, 1.2)
    moved = [part._replace(features=part.features * np.float32(50) + np.float32(3)) for part in (fit, held, asked)]
    order = np.random.default_rng(0).permutation(60)
    reference = probe.linear_probe(fit, held, asked)
    assert 0.4 < reference.accuracy < 1
    assert probe.linear_probe(*moved) == reference
    assert probe.linear_probe(fit.take(order), held, asked) == reference


def test_probe_needs_examples_and_classes():
    one = clusters(20, 0, labels=np.zeros(20, dtype=np.int64))
    with pytest.raises(NotEnoughEvidence, match="two classes"):
        probe.linear_probe(one, one, one)
    with pytest.raises(NotEnoughEvidence, match="validation"):
        probe.linear_probe(clusters(20, 0), one.take(np.arange(0)), one)


def test_membership_probe_is_one_half_in_the_mean_for_equal_laws():
    found = []
    for seed in range(40):
        made = np.random.default_rng(seed)
        found.append(probe.membership_probe(made.normal(size=(30, 5)), made.normal(size=(40, 5)), seed=seed).value)
    assert np.mean(found) == pytest.approx(0.5, abs=0.04)


def test_membership_probe_finds_a_shift_in_one_feature():
    made = np.random.default_rng(0)
    inside, outside = made.normal(size=(300, 5)), made.normal(size=(300, 5))
    inside[:, 2] += 2
    found = probe.membership_probe(inside, outside)
    assert found.value == pytest.approx(0.921, abs=0.03)  # Phi(2 / sqrt 2)
    with pytest.raises(NotEnoughEvidence):
        probe.membership_probe(inside[:3], outside)


def test_refitted_membership_sees_through_any_head():
    retain, forget = clusters(200, 0, 0.3), clusters(60, 1, 0.3)
    unseen = clusters(60, 2, 4.0)
    assert probe.refitted_membership(retain, forget, unseen).value > 0.7
    assert probe.refitted_membership(retain, forget, clusters(60, 3, 0.3)).value == pytest.approx(0.5, abs=0.12)
    with pytest.raises(NotEnoughEvidence, match="class 3"):
        probe.refitted_membership(retain.take(retain.labels != 3), forget, unseen)


# Neighbours


def test_neighbours_of_clusters_and_ties():
    known, asked = clusters(40, 0), clusters(20, 1)
    assert neighbors.accuracy(known.features, known.labels, asked.features, asked.labels, k=5) == 1
    line = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert neighbors.predict(line, np.array([7, 3, 5, 5]), np.array([[1.0, 0]]), k=1).tolist() == [7]  # the first of equals
    assert neighbors.predict(line, np.array([7, 3, 5, 5]), np.array([[1.0, 0.2]]), k=4).tolist() == [5]  # the commonest
    assert neighbors.predict(line, np.array([7, 3, 5, 5]), np.array([[0.0, 0.0]]), k=1).tolist() == [7]
    with pytest.raises(NotEnoughEvidence):
        neighbors.predict(line, np.arange(4), line, k=5)


def test_fixed_split_takes_a_share_of_each_class_and_is_always_the_same():
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    known, asked = neighbors.fixed_split(labels)
    assert sorted([*known, *asked]) == list(range(61))
    assert np.bincount(labels[asked], minlength=3).tolist() == [10, 2, 0]
    assert np.array_equal(asked, neighbors.fixed_split(labels)[1])
    assert not np.array_equal(asked, neighbors.fixed_split(labels, seed=3)[1])


def test_transfer_of_pictures_at_both_levels():
    made = np.random.default_rng(0)
    labels = np.arange(60) % 3
    pictures = np.zeros((60, 16, 16, 3), dtype=np.uint8)
    pictures[np.arange(60), :, :, labels] = made.integers(150, 256, (60, 16, 16))
    downstream = neighbors.Downstream.of_pictures("colours", pictures, labels, (8, 8))
    assert downstream.x.shape == (60, 3, 8, 8) and 0 <= float(downstream.x.min()) and float(downstream.x.max()) <= 1
    before = state_of(NET)
    assert neighbors.transfer(ARCHITECTURE, NET, downstream, k=3) == 1
    silenced = controls.tempered(NET, ARCHITECTURE, 1e9)
    with torch.no_grad():
        silenced[7].weight.zero_()
    assert neighbors.transfer(ARCHITECTURE, silenced, downstream, k=3) == 1
    assert neighbors.transfer(ARCHITECTURE, silenced, downstream, k=3, level="logits") < 0.6
    assert same(before, state_of(NET))


# Features


def test_features_make_the_logits_and_leave_the_model_alone():
    net = trained_net().train()
    before = state_of(net)
    reading = features.read(ARCHITECTURE, net, PARTS["forget"], size=7)
    assert net.training and same(before, state_of(net))
    assert reading.features.shape == (40, 144) and reading.logits.shape == (40, CLASSES)
    made = ARCHITECTURE.logits(torch.from_numpy(reading.features)).detach().numpy()
    assert np.allclose(made, reading.logits, atol=1e-4)
    assert np.array_equal(reading.labels, SOURCE.labels[PARTS["forget"].index].numpy())
    whole = features.read(ARCHITECTURE, net, PARTS["forget"], size=40)
    assert np.allclose(whole.features, reading.features, atol=1e-5)


def test_block_batches_give_every_block_of_both_models_on_the_same_examples():
    other = make_net(3)
    batches = list(features.block_batches(ARCHITECTURE, [NET, other, NET], PARTS["retain"], size=90))
    assert len(batches) == 4
    one, two, again = batches[0]
    assert list(one) == list(ARCHITECTURE.blocks) and one["0"].shape == (90, 8 * 64) and one["7"].shape == (90, CLASSES)
    assert all(np.array_equal(one[name], again[name]) for name in one) and not np.array_equal(one["0"], two["0"])
    classes = [len(np.unique(part["7"].argmax(1))) for part, _, _ in batches]
    assert min(classes) == CLASSES
    assert len(list(features.block_batches(ARCHITECTURE, [NET], PARTS["retain"].subset(torch.arange(1, 4))))) == 0


# Relearning


def test_area_between_curves():
    epochs = np.arange(6)
    flat, rising = relearn.Curve(epochs, np.full(6, 0.4)), relearn.Curve(epochs, np.linspace(0.4, 0.9, 6))
    assert relearn.area_between(flat, flat) == 0
    assert relearn.area_between(rising, flat) == pytest.approx(0.25) == pytest.approx(rising.recovered)
    assert relearn.area_between(flat, rising) == pytest.approx(-0.25) and flat.recovered == 0
    assert rising.at() == pytest.approx({1: 0.5, 2: 0.6, 5: 0.9})
    with pytest.raises(ValueError, match="equal length"):
        relearn.area_between(flat, relearn.Curve(epochs[:3], flat.accuracy[:3]))


def test_retain_only_trains_on_retain_examples_alone():
    net = trained_net()
    trained_on, looked_at = [], []

    def note(module, inputs, _output):
        (trained_on if module.training else looked_at).append(inputs[0].detach().clone())

    net.register_forward_hook(note)
    before = state_of(net)
    curve = relearn.retain_only(net, PARTS["retain"], PARTS["forget"], epochs=2)
    assert same(before, state_of(net)) and curve.accuracy.shape == (3,) and curve.accuracy[0] == 1
    forget = torch.cat([batch.x for batch in PARTS["forget"].batches(40)]).flatten(1)
    seen, watched = torch.cat(trained_on).flatten(1), torch.cat(looked_at).flatten(1)
    assert len(seen) == 2 * len(PARTS["retain"]) and len(watched) == 3 * len(forget)
    assert float(torch.cdist(seen, forget).min()) > 0.1 and float(torch.cdist(watched, forget).min(1).values.max()) < 0.01


def test_retain_only_is_repeatable_and_refuses_shared_examples():
    one = relearn.retain_only(NET, PARTS["retain"], PARTS["forget"], epochs=1)
    two = relearn.retain_only(NET, PARTS["retain"], PARTS["forget"], epochs=1)
    assert np.array_equal(one.accuracy, two.accuracy)
    with pytest.raises(BadInput, match="retain set"):
        relearn.retain_only(NET, PARTS["retain"], PARTS["retain"], epochs=1)


def test_relearn_time_is_zero_for_the_original_and_censored_at_the_budget():
    assert relearn.relearn_time(NET, PARTS["forget"], 0.95) == (0, False, 1.0)
    fresh = make_net(1)
    stuck = relearn.relearn_time(fresh, PARTS["forget"], 0.95, budget=3, training=relearn.Training(optimizer=sgd(1e-6, weight_decay=0.0)))
    assert stuck.censored and stuck.steps == 3 and stuck.accuracy < 0.95
    quick = relearn.Training(optimizer=sgd(0.01, weight_decay=0.0))
    found = relearn.relearn_time(fresh, PARTS["forget"], 0.95, budget=200, every=4, training=quick)
    assert not found.censored and found.steps % 4 == 0 and found.accuracy >= 0.95
    assert found == relearn.relearn_time(fresh, PARTS["forget"], 0.95, budget=200, every=4, training=quick)


def test_relearning_a_class_beside_retain_takes_longer_than_alone():
    slow = relearn.Training(optimizer=sgd(0.001, weight_decay=0.0))
    silenced = copy.deepcopy(NET)
    with torch.no_grad():
        silenced[7].bias[2] -= 20
    alone, beside = (
        relearn.relearn_time(silenced, CLASS_PARTS["forget"], 0.95, retain=part, training=slow) for part in (None, CLASS_PARTS["retain"])
    )
    assert 0 < alone.steps < beside.steps


def test_anamnesis_index_and_its_censoring():
    def time(steps: int, censored: bool = False) -> relearn.RelearnTime:
        return relearn.RelearnTime(steps, censored, 0.9)

    assert relearn.anamnesis_index(time(9), time(9)) == (1, "exact")
    assert relearn.anamnesis_index(time(0), time(19)) == (0.05, "exact")
    assert relearn.anamnesis_index(time(99, True), time(9)) == (10, "at_least")
    assert relearn.anamnesis_index(time(9), time(99, True)) == (0.1, "at_most")
    with pytest.raises(NotEnoughEvidence):
        relearn.anamnesis_index(time(99, True), time(99, True))
    found = relearn.log_ratio_interval([(time(9), time(19)), (time(19), time(9)), (time(4), time(4))])
    assert found.mean == pytest.approx(0) and found.low < 0 < found.high
    with pytest.raises(NotEnoughEvidence, match="1 of 2"):
        relearn.log_ratio_interval([(time(9), time(9)), (time(99, True), time(9))])
    assert relearn.relearn_target(0.9, 0.1) == pytest.approx(0.81)


def test_shots_are_a_few_of_each_class_and_the_rest_is_asked_about():
    taught, asked = relearn.split_shots(PARTS["forget"], 3)
    assert torch.bincount(taught.labels, minlength=CLASSES).tolist() == [3] * CLASSES
    assert sorted([*taught.index.tolist(), *asked.index.tolist()]) == sorted(PARTS["forget"].index.tolist())
    with pytest.raises(NotEnoughEvidence):
        relearn.split_shots(PARTS["forget"], 40)


def test_few_shot_relearning_of_a_model_that_knows_and_of_one_that_does_not():
    quick = relearn.Training(optimizer=sgd(0.01, weight_decay=0.0))
    knows = relearn.few_shot(NET, PARTS["forget"], shots=3, steps=3, training=quick)
    does_not = relearn.few_shot(make_net(1), PARTS["forget"], shots=3, steps=3, training=quick)
    assert knows > 0.9 and does_not < 0.6


def test_prototypes_of_clusters_and_of_noise():
    known = clusters(60, 0, labels=np.arange(60) % 3)
    shots, asked = clusters(5, 1, labels=np.full(5, 3)), clusters(40, 2, labels=np.full(40, 3))
    assert relearn.prototype_accuracy(known, shots, asked) == 1
    made = np.random.default_rng(0)
    blind = [part._replace(features=made.normal(size=part.features.shape)) for part in (known, shots, asked)]
    assert relearn.prototype_accuracy(*blind) < 0.6


# Controls


def test_head_only_edit_keeps_the_encoder_and_takes_over_the_answers():
    retrained = make_net(4)
    edited = controls.head_only_edit(NET, retrained, ARCHITECTURE, [PARTS["forget"], PARTS["retain"]])
    before, after = state_of(NET), state_of(edited)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"7.weight", "7.bias"}
    ours, theirs = (features.read(ARCHITECTURE, model, PARTS["forget"]) for model in (edited, retrained))
    original = features.read(ARCHITECTURE, NET, PARTS["forget"])
    assert np.array_equal(ours.features, original.features)
    assert np.mean(ours.logits.argmax(1) == theirs.logits.argmax(1)) > 0.8 > np.mean(original.logits.argmax(1) == theirs.logits.argmax(1))


def test_fresh_heads_are_equal_for_models_with_one_encoder():
    edited = controls.head_only_edit(NET, make_net(4), ARCHITECTURE, [PARTS["forget"]])
    one, two = (relearn.with_fresh_head(model, ARCHITECTURE) for model in (NET, edited))
    assert same(state_of(one), state_of(two)) and not same(state_of(one), state_of(NET))
    assert not same(state_of(one), state_of(relearn.with_fresh_head(NET, ARCHITECTURE, seed=1)))


def test_temperature_noise_and_reinitialisation():
    x = next(PARTS["forget"].batches(20)).x
    with torch.no_grad():
        plain, cooler = NET(x), controls.tempered(NET, ARCHITECTURE, 2.0)(x)
        noisy = controls.noisy(NET, 1.5)
        first, alone, other = noisy(x), noisy(x[3:4]), controls.noisy(NET, 1.5, seed=1)(x)
    assert torch.allclose(cooler, plain / 2, atol=1e-5)
    assert torch.allclose(first[3:4], alone, atol=1e-5) and not torch.allclose(first, other)
    assert float((first - plain).std()) == pytest.approx(1.5, rel=0.25) and float((first - plain).mean()) == pytest.approx(0, abs=0.4)
    fresh = controls.reinitialised(NET, 3)
    assert same(state_of(fresh), state_of(controls.reinitialised(NET, 3))) and not same(state_of(fresh), state_of(NET))
    given = controls.reinitialised(NET, 3, lambda seed: make_net(seed).state_dict())
    assert same(state_of(given), state_of(make_net(3)))
    assert same(state_of(controls.identity(NET)), state_of(NET))


# Battery


def test_band_of_pairs_has_the_stated_rate_of_false_alarms():
    made, alarms = np.random.default_rng(0), 0
    for _ in range(1500):
        parts = made.normal(size=8)
        pairs = parts[:, None] + parts[None, :] + 0.3 * made.normal(size=(8, 8))
        band, means = battery.mean_pair_band(pairs[:7, :7])
        alarms += band.p_value(pairs[7, :7].mean()) < 0.05
    assert len(means) == 7 and 0.03 < alarms / 1500 < 0.065
    with pytest.raises(NotEnoughEvidence):
        battery.mean_pair_band(np.zeros((2, 2)))


def test_table_says_what_is_caught_missed_and_without_numbers():
    values = iter([1.0, 1.1, 0.9, 1.02, 0.98, 5.0, 1.0])
    tests = {
        "number": battery.Test(lambda world, model: next(values), frozenset({"identity", "head_only_edit"}), None),
        "shown": battery.Test(lambda world, model: 3.0, frozenset(), None, judged=False),
        "classes": battery.Test(lambda world, model: 3.0, None, frozenset()),
        "without": battery.TESTS["transfer"],
    }
    world = battery.World(
        ARCHITECTURE, NET, [NET] * 5, **{name: PARTS["retain"] for name in ("retain", "forget", "unseen", "validation", "test")}
    )
    table = battery.run(world, {"identity": NET, "head_only_edit": NET}, tests)
    assert list(table["tests"]) == ["number", "shown", "without"]
    cells = table["tests"]["number"]["models"]
    assert cells["identity"]["caught"] is True and cells["head_only_edit"]["caught"] is False
    assert battery.missed(table) == [("number", "head_only_edit")]
    assert battery.catches(table, "identity") == ["number"] and battery.catches(table, "unknown") == []
    assert table["tests"]["shown"]["models"]["identity"]["caught"] is None
    assert "downstream" in table["tests"]["without"]["reason"]
    shown = battery.text(table).splitlines()
    assert len(shown) == 4 and "[5.000*]" in shown[1] and "[1.000 ]" in shown[1] and "there is no downstream set" in shown[3]
    few = copy.copy(world)
    few.retrained = [NET] * 2
    with pytest.raises(NotEnoughEvidence, match="3 retrained"):
        battery.run(few, {})
