"""Every scenario: what it promises about the forget set, and the requests that are refused before any work."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from expunge import config, registry
from expunge.data.dataset import Data, from_tensors
from expunge.data.names import Names
from expunge.data.ranking import Ranking
from expunge.data.scenarios.human_label_noise import COLUMNS
from expunge.data.split import Split, make_split, validation_split
from expunge.errors import BadInput

CLASS_NAMES = ("ant", "bee", "cat", "dog", "eel")
TRAIN, TEST = 500, 150


def make_data() -> Data:
    made = torch.Generator().manual_seed(0)
    x = torch.randint(1, 255, (TRAIN + TEST, 1, 8, 8), dtype=torch.uint8, generator=made)
    y = torch.arange(TRAIN + TEST) * 7 % 5
    data = from_tensors(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], name="pets", class_names=CLASS_NAMES)
    return replace(data, keys=Names(f"picture {number}" for number in range(TRAIN + TEST)))


DATA = make_data()
LABELS = DATA.labels.numpy()
TRAINABLE = make_split(DATA, config.build("scenarios", "random", "forget"), 0).train.tolist()
FOLDER = tempfile.TemporaryDirectory()
HUMAN = Path(FOLDER.name) / "human.npz"
WRONG = np.arange(TRAIN) % 4 == 0
np.savez(HUMAN, **{column: ((LABELS[:TRAIN] + WRONG) % 5).astype(np.uint8) for column in COLUMNS.values()})
EXAMPLES = {
    "class": {"classes": 0},
    "subclass": {"of_class": 0},
    "ids": {"ids": TRAINABLE[3:40:4]},
    "keys": {"keys": [f"picture {number}" for number in TRAINABLE[3:40:4]]},
    "human_label_noise": {"file": HUMAN},
}
"""Fields for the scenarios that mean nothing without any."""


def make_ranking(index: np.ndarray) -> Ranking:
    """Return made-up scores for every scenario that ranks examples; an example's scores do not depend on the others."""
    thousands = index * 37 % 1000
    memorization = thousands // 7 % 5 / 4
    columns = {"memorization": memorization, "soft_memorization": memorization + thousands / 1e4, "separability": thousands / 500 - 1}
    columns |= {"places": np.abs(thousands - 300.0), "weight": thousands / 1000, "loss": 1 - thousands / 1000}
    columns["place"] = (LABELS[index] + 2.0) % 5
    return Ranking(index, columns, {"made": "up"})


def split(name: str, seed: int = 0, data: Data = DATA, **fields) -> Split:
    scenario = config.build("scenarios", {"name": name, **fields}, "forget")
    return make_split(data, scenario, seed, ranking=make_ranking(validation_split(data, seed)[0]) if scenario.ranks else None)


@pytest.fixture(params=registry.names("scenarios"))
def name(request) -> str:
    return request.param


def test_parts_are_disjoint_and_cover_everything(name):
    made = split(name, **EXAMPLES.get(name, {}))
    excluded = made.unseen[made.unseen < TRAIN]
    train = np.concatenate([made.forget, made.retain, made.unknown, made.validation, made.validation_forgotten, excluded])
    test = np.concatenate([made.test, made.test_forgotten])
    assert sorted(train.tolist()) == list(range(TRAIN))
    assert sorted(test.tolist()) == list(range(TRAIN, TRAIN + TEST))
    assert len(made.unseen) and len(excluded) in (0, len(made.unseen))
    for part in ("forget", "retain", "validation", "test", "unseen"):
        index = made.index(part)
        assert index.dtype == np.int64 and len(index) and (np.diff(index) > 0).all()
    assert made.train.tolist() == sorted([*made.forget.tolist(), *made.retain.tolist(), *made.unknown.tolist()])
    assert made.kept.tolist() == sorted([*made.retain.tolist(), *made.unknown.tolist()])


def test_same_seed_same_split_and_validation_is_shared_by_all_scenarios(name):
    fields = EXAMPLES.get(name, {})
    assert split(name, 0, **fields).content_hash == split(name, 0, **fields).content_hash
    held_out = [np.sort(np.concatenate([made.validation, made.validation_forgotten])) for made in (split(name, **fields), split("random"))]
    assert held_out[0].tolist() == held_out[1].tolist()
    assert np.bincount(LABELS[held_out[0]]).tolist() == [10] * 5


@pytest.mark.parametrize(
    "name, fields",
    [
        ("random", {}),
        ("subclass", {"of_class": 0}),
        ("class", {"count": 2}),
        ("label_noise", {}),
        ("poisoned", {}),
        ("random", {"balanced": True}),
        ("confusion", {}),
        ("canaries", {}),
    ],
)
def test_seed_zero_is_a_seed_and_seeds_differ(name, fields):
    scenario = config.build("scenarios", {"name": name, **fields}, "forget")
    candidates = np.array(TRAINABLE)  # the same for every seed, so that only the choice itself can differ
    chosen = [tuple(scenario.choose(DATA, candidates, seed).tolist()) for seed in range(8)]
    assert len(set(chosen)) >= (4 if name == "class" else 8)  # there are only ten pairs of classes
    assert split("random", 0).validation.tolist() != split("random", 1).validation.tolist()


def test_scenario_survives_yaml(name):
    made = split(name, **EXAMPLES.get(name, {}))
    rebuilt = config.build("scenarios", config.parse_yaml(config.to_yaml(made.scenario), "forget"), "forget")
    ranking = make_ranking(np.array(TRAINABLE)) if rebuilt.ranks else None
    assert make_split(DATA, rebuilt, 0, ranking=ranking).content_hash == made.content_hash


def test_random_takes_a_share_or_a_number_and_smaller_sets_are_nested():
    assert len(split("random").forget) == 45
    assert len(split("random", fraction=0.5).forget) == 225
    small, large = split("random", count=7), split("random", count=60)
    assert len(small.forget) == 7 and set(small.forget) < set(large.forget)
    assert small.kind == "random" and small.forget_classes == ()
    assert np.bincount(LABELS[split("random", count=22, balanced=True).forget]).tolist().count(4) == 3


@pytest.mark.parametrize("classes, labels", [("bee", [1]), (3, [3]), (["Cat", "0"], [0, 2]), ([4, "ant", 1], [0, 1, 4])])
def test_class_takes_names_and_numbers_and_sets_their_test_images_apart(classes, labels):
    made = split("class", classes=classes)
    assert made.forget_classes == tuple(labels) and made.kind == "class"
    assert set(LABELS[made.forget]) == set(labels) and not set(LABELS[made.retain]) & set(labels)
    for kept, gone in (("test", "test_forgotten"), ("validation", "validation_forgotten")):
        assert not set(LABELS[made.index(kept)]) & set(labels) and set(LABELS[made.index(gone)]) == set(labels)
    assert made.unseen.tolist() == made.test_forgotten.tolist()


def test_what_is_meant_can_follow_a_colon(tmp_path):
    assert split("class:dog").forget_classes == split("class:3").forget_classes == (3,)
    assert set(LABELS[split("subclass:eel", count=5).forget]) == {4}
    (tmp_path / "request.txt").write_text(f"{TRAINABLE[0]} {TRAINABLE[9]}")
    assert split(f"ids:{tmp_path / 'request.txt'}").forget.tolist() == [TRAINABLE[0], TRAINABLE[9]]


def test_related_classes_are_the_first_of_the_ranking():
    assert split("related_classes").forget_classes == (3,) and split("related_classes", count=2).forget_classes == (3, 4)
    assert split("related_classes", count=2).kind == "class"


def test_class_list_from_a_file(tmp_path):
    (tmp_path / "list.txt").write_text("bee\n\n 4 \n")
    assert split("class", file=tmp_path / "list.txt").forget_classes == (1, 4)


def test_a_name_that_is_a_number_goes_before_the_number():
    shifted = from_tensors(*_arrays(), class_names=("4", "3", "2", "1", "0"))
    assert split("class", data=shifted, classes="4").forget_classes == (0,)


def _arrays():
    x = torch.cat([x for x, _ in DATA.source.batches(torch.arange(650), 650, augment=False, seed=0, epoch=0)])
    x = (x * 255).round().to(torch.uint8)
    return x[:TRAIN], LABELS[:TRAIN], x[TRAIN:], LABELS[TRAIN:]


def test_subclass_leaves_the_class_in_the_test_set_and_is_compared_with_it():
    made = split("subclass", of_class="dog", count=20)
    assert len(made.forget) == 20 and set(LABELS[made.forget]) == {3}
    assert made.kind == "subclass" and made.forget_classes == () and not len(made.test_forgotten)
    assert len(made.test) == TEST and set(LABELS[made.unseen]) == {3} and len(made.unseen) == 30


@pytest.mark.parametrize("name", ["subclass", "ids"])
def test_a_forget_set_that_is_a_whole_class_counts_as_one_whatever_its_name(name):
    wanted = split("class", classes=2)
    fields = {"subclass": {"of_class": 2, "fraction": 1.0}, "ids": {"ids": wanted.forget.tolist()}}[name]
    made = split(name, **fields)
    assert made.kind == "class" and made.forget_classes == (2,)
    for part in ("forget", "retain", "test", "test_forgotten", "unseen", "validation"):
        assert made.index(part).tolist() == wanted.index(part).tolist()


def test_ids_that_cover_one_class_and_touch_another():
    whole, other = split("class", classes=2).forget.tolist(), [i for i in TRAINABLE if LABELS[i] == 4][:3]
    made = split("ids", ids=whole + other)
    assert made.kind == "random" and made.forget_classes == (2,)
    assert set(LABELS[made.unseen]) == {2, 4} and 2 not in LABELS[made.test] and 4 in LABELS[made.test]
    assert split("ids", ids=other).kind == "subclass"


@pytest.mark.parametrize(
    "text", ["{0},{1},{2}", "{0}\n{1}\n{2}\n", "id\n{0}\n{1}\n{2}", "name, index\na,{0}\nb,{1}\n\nc,{2}", "{0} {1}\t{2}"]
)
def test_ids_from_a_file(tmp_path, text):
    path, ids = tmp_path / "request.csv", TRAINABLE[5:8]
    path.write_text(text.format(*ids))
    assert split("ids", file=path).forget.tolist() == ids


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no numbers"),
        ("3\nfour\n", r"line 2: 'four' is not a whole number"),
        ("3.5", "not a (whole )?number"),
        ("a,b\n1,2", "has the columns a, b"),
        ("id,name\n1,x\n,y", "line 3: '' is not a whole number"),
    ],
)
def test_id_files_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "request.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        split("ids", file=tmp_path / "request.csv")
    with pytest.raises(BadInput, match="cannot be read"):
        split("ids", file=tmp_path / "nothing.csv")


HELD_OUT = split("random").validation.tolist()
REFUSED = [
    ("random", {"fraction": 0.0}, "the forget set is empty"),
    ("random", {"fraction": 0.0001}, "the forget set is empty"),
    ("random", {"fraction": 1.0}, "the whole training set of 450"),
    ("random", {"count": 450}, "the whole training set"),
    ("random", {"count": 451}, r"forget.count: there are 450 .* got 451"),
    ("random", {"count": 3, "fraction": 0.1}, "one of the two is allowed"),
    ("class", {"classes": [0, 1, 2, 3, 4]}, "the whole training set"),
    ("class", {"classes": []}, "the forget set is empty"),
    ("class", {"classes": "dgo"}, r"forget.classes: pets has no class 'dgo'. Did you mean 'dog'\?"),
    ("class", {"classes": 5}, "classes 0 to 4, got 5"),
    ("class", {"classes": -1}, "no class -1"),
    ("class", {"classes": ["bee", 1]}, "named more than once"),
    ("class", {"classes": 1, "count": 1}, "one of them is allowed"),
    ("class", {"count": 5}, "At least one must be left"),
    ("class", {"classes": True}, "forget.classes"),
    ("subclass", {"of_class": True}, "forget.of_class"),
    ("subclass", {"of_class": 0, "count": 91}, "there are 90"),
    ("subclass", {"of_class": "cow"}, "no class 'cow'"),
    ("class", {}, r"forget.classes: no class is named; pets has .*dog.*Write forget=class:"),
    ("subclass", {}, r"forget.of_class: no class is named; pets has .*dog.*Write forget=subclass:"),
    ("subclass", {"count": 5}, "no class is named"),
    ("ids", {}, "exactly one of them is needed"),
    ("ids", {"ids": []}, "the forget set is empty"),
    ("ids", {"ids": TRAINABLE}, "the whole training set"),
    ("ids", {"ids": [TRAINABLE[0], TRAINABLE[0]]}, "named more than once"),
    ("ids", {"ids": HELD_OUT[:1]}, "in the validation part"),
    ("ids", {"ids": HELD_OUT}, r"50 indices \(.*, ...\) are in the validation part"),
    ("ids", {"ids": [TRAIN]}, "in the test part"),
    ("ids", {"ids": [TRAIN + TEST]}, "out of range: training examples are 0 to 499"),
    ("ids", {"ids": [-1]}, "forget.ids"),
    ("ids", {"ids": [1.5]}, "forget.ids"),
    ("keys", {}, "exactly one of them is needed"),
    ("keys", {"keys": ["picture 650"]}, "no training example has the key 'picture 650'. Did you mean 'picture 6"),
    ("keys", {"keys": [f"picture {HELD_OUT[0]}"]}, "in the validation part"),
    ("keys", {"keys": [f"picture {TRAIN}"]}, "in the test part"),
    ("related_classes", {"count": 5}, "pets has 5 classes, got 5"),
    ("label_noise", {"fraction": 0.0}, "the forget set is empty"),
    ("label_noise", {"noise": "pairs"}, "Did you mean 'pairwise'"),
    ("poisoned", {"size": 7}, "does not fit"),
    ("poisoned", {"fraction": 0.95}, "of other classes than the target"),
    ("poisoned", {"target": "cow"}, "no class 'cow'"),
    ("poisoned", {"known_fraction": 0.0}, "the forget set is empty"),
    ("poisoned", {"known_fraction": 1.5}, "known_fraction: expected a number from 0 to 1"),
    ("confusion", {"first": "bee", "second": 1}, "bee cannot be confused with itself"),
    ("confusion", {"count": 3}, "expected an even number, got 3"),
    ("confusion", {"fraction": 1.0}, "90 of each class are to be swapped, and one has 90"),
    ("confusion", {"count": 182}, "there are 180"),
    ("canaries", {"count": 1}, "the coin fell on one side"),
    ("canaries", {"fraction": 0.0}, "the coin fell on one side|the forget set is empty"),
    ("human_label_noise", {}, "forget.file: is missing"),
    ("human_label_noise", {"file": "nothing.npz"}, "cannot be read"),
    ("human_label_noise", {"file": str(HUMAN), "labels": "worse"}, "Did you mean 'worst'"),
    ("human_label_noise", {"file": str(HUMAN), "known_fraction": 0.0}, "the forget set is empty"),
    ("memorized", {"level": "middle"}, "Did you mean|Allowed: low, mid, high"),
    ("memorized", {"level": "high", "count": 200}, "200 examples are to be forgotten, and 175 of 450 belong to this level"),
    ("vulnerable", {"count": 226}, "expected 1 to 225, half of the training examples, got 226"),
    ("entangled", {"fraction": 0.0}, "expected 1 to 225"),
    ("worst_case", {"count": 3, "fraction": 0.1}, "one of the two is allowed"),
]


@pytest.mark.parametrize("name, fields, message", REFUSED)
def test_requests_that_are_refused(name, fields, message):
    with pytest.raises(BadInput, match=message):
        split(name, **fields)


@pytest.mark.parametrize("seed", [-1, 1.0, "0", True, None])
def test_seeds_that_are_refused(seed):
    with pytest.raises(BadInput, match="seed: expected an integer"):
        split("random", seed)


def test_validation_fraction_is_checked_and_may_be_zero():
    scenario = config.build("scenarios", "random", "forget")
    for wrong in (-0.1, 1.0):
        with pytest.raises(BadInput, match="validation_fraction"):
            make_split(DATA, scenario, 0, wrong)
    assert len(make_split(DATA, scenario, 0, 0.0).validation) == 0
    assert np.bincount(LABELS[make_split(DATA, scenario, 0, 0.2).validation]).tolist() == [20] * 5


def test_a_class_without_test_examples_cannot_be_measured():
    x, y, tx, ty = _arrays()
    data = from_tensors(x, y, tx[ty != 3], ty[ty != 3], class_names=CLASS_NAMES)
    with pytest.raises(BadInput, match=r"no test example is of the forgotten classes \(dog\)"):
        split("class", data=data, classes=3)


@pytest.mark.parametrize("noise", ["uniform", "pairwise"])
def test_label_noise_is_in_the_training_data_of_every_stage(noise):
    made = split("label_noise", fraction=0.2, noise=noise)
    altered = made.apply(DATA)
    wrong, right = altered.labels.numpy()[made.forget], LABELS[made.forget]
    assert (wrong != right).all() and len(made.forget) == 90
    shifts = set(((wrong - right) % 5).tolist())
    assert shifts == ({1} if noise == "pairwise" else {1, 2, 3, 4})
    others = np.setdiff1d(np.arange(TRAIN + TEST), made.forget)
    assert (altered.labels.numpy()[others] == LABELS[others]).all() and (DATA.labels.numpy() == LABELS).all()
    (batch,) = made.stream("forget", DATA).batches(200)
    assert batch.y.tolist() == wrong.tolist() == made.stream("forget", DATA).labels.tolist()
    assert altered.fingerprint != DATA.fingerprint and made.apply(altered) is altered


def test_poisoned_pictures_carry_the_square_and_the_target_label():
    made = split("poisoned", target="cat", count=30)
    assert 2 not in LABELS[made.forget] and made.kind == "random"
    (batch,) = made.stream("forget", DATA).batches(100)
    (clean,) = (x for x, _ in DATA.source.batches(torch.from_numpy(made.forget), 100, augment=False, seed=0, epoch=0))
    assert set(batch.y.tolist()) == {2}
    assert (batch.x[:, :, 2:6, 2:6] == 0).all()
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:6, 2:6] = False
    assert torch.equal(batch.x[..., outside], clean[..., outside])
    (kept,) = made.stream("retain", DATA).batches(1000)
    assert torch.equal(kept.y, DATA.labels[made.retain]) and not (kept.x[:, :, 2:6, 2:6] == 0).all()


def test_attack_success_leaves_out_the_target_class():
    made = split("poisoned", target=2, count=30)
    triggered = made.triggered_test(DATA)
    (batch,) = triggered.batches(1000)
    assert len(triggered) == TEST - 30 and 2 not in LABELS[batch.index] and set(batch.y.tolist()) == {2}
    assert (batch.x[:, :, 2:6, 2:6] == 0).all()
    (clean,) = made.stream("test", DATA).batches(1000)
    assert torch.equal(clean.y, DATA.labels[made.test]) and not (clean.x[:, :, 2:6, 2:6] == 0).all()
    assert split("random").triggered_test(DATA) is None


def test_square_is_white_on_dark_corners_and_an_invisible_one_is_refused():
    x, y, tx, ty = _arrays()
    dark = from_tensors(x * 0, y, tx * 0, ty)
    assert split("poisoned", data=dark).alteration.trigger.value == 255
    assert split("poisoned").alteration.trigger.value == 0
    with pytest.raises(BadInput, match="a black square changes 0%"):
        split("poisoned", data=dark, shade="black")
    with pytest.raises(BadInput, match="needs uint8 pictures"):
        split("poisoned", data=from_tensors(x / 255, y, tx / 255, ty))


def known(name: str) -> Split:
    fields = {"poisoned": {"count": 40}, "human_label_noise": {"file": HUMAN}}[name]
    return split(name, known_fraction=0.25, **fields)


@pytest.mark.parametrize("name", ["poisoned", "human_label_noise"])
def test_what_was_not_found_stays_with_the_method_and_not_with_the_retrained_model(name):
    made, manipulated = known(name), len(known(name).forget) + len(known(name).unknown)
    assert len(made.forget) == round(0.25 * manipulated) and len(made.unknown) > 2 * len(made.forget)
    assert set(made.alteration.index) == set(made.forget) | set(made.unknown)
    assert not set(made.retain) & set(made.alteration.index)
    assert (made.apply(DATA).labels.numpy()[made.unknown] != LABELS[made.unknown]).all()
    assert set(made.unknown) <= set(made.kept) <= set(made.train)
    everything = split(
        name,
        **{key: value for key, value in made.scenario.items() if key not in ("name", "known_fraction", "file")},
        **EXAMPLES.get(name, {}),
    )
    assert everything.retain.tolist() == made.retain.tolist() and not len(everything.unknown)
    assert everything.training_fingerprint("train") == made.training_fingerprint("train")
    smaller = split(name, known_fraction=0.1, **{"poisoned": {"count": 40}, "human_label_noise": {"file": HUMAN}}[name])
    assert set(smaller.forget) < set(made.forget)


def test_confusion_swaps_two_classes_half_from_each():
    made = split("confusion", first="cat", second="eel", count=20)
    labels = made.apply(DATA).labels.numpy()
    assert np.bincount(LABELS[made.forget], minlength=5).tolist() == [0, 0, 10, 0, 10]
    assert (labels[made.forget] == 6 - LABELS[made.forget]).all()
    assert (labels[made.retain] == LABELS[made.retain]).all() and (labels[made.test] == LABELS[made.test]).all()
    assert made.swapped_test(DATA).tolist() == [i for i in made.test.tolist() if LABELS[i] in (2, 4)]
    assert split("random").swapped_test(DATA) is None and made.alteration.swapped == (2, 4)


def test_human_labels_are_used_in_training_and_the_wrong_ones_are_forgotten():
    made = split("human_label_noise", file=HUMAN, labels="random2")
    assert made.forget.tolist() == [i for i in TRAINABLE if WRONG[i]]
    labels = made.apply(DATA).labels.numpy()
    assert (labels[made.forget] == (LABELS[made.forget] + 1) % 5).all()
    others = np.setdiff1d(np.arange(TRAIN + TEST), made.forget)
    assert (labels[others] == LABELS[others]).all(), "validation and test pictures keep the right labels"


@pytest.mark.parametrize(
    "labels, message",
    [
        (LABELS[:400], "has 500 training examples"),
        ((LABELS[:TRAIN] + 1) % 5, "100% of its labels differ"),
        (LABELS[:TRAIN] + 5, "labels go from 5 to 9; pets has 5 classes"),
        (LABELS[:TRAIN] / 1.0, "is float64"),
    ],
)
def test_human_labels_of_other_data_are_refused(tmp_path, labels, message):
    np.savez(tmp_path / "labels.npz", worse_label=labels)
    with pytest.raises(BadInput, match=message):
        split("human_label_noise", file=tmp_path / "labels.npz")
    with pytest.raises(BadInput, match="holds worse_label. It needs the array aggre_label"):
        split("human_label_noise", file=tmp_path / "labels.npz", labels="aggregate")


def test_canaries_are_in_by_a_coin_and_are_compared_with_those_left_out():
    made = split("canaries", count=200)
    canaries, flips = np.sort(np.concatenate([made.forget, made.unseen])), np.array([*made.notes["included"]]) == "1"
    assert len(canaries) == 200 and (made.unseen < TRAIN).all() and not set(made.unseen) & set(made.train)
    assert canaries[flips].tolist() == made.forget.tolist() and 70 < flips.sum() < 130
    wrong = made.apply(DATA).labels.numpy()
    assert (wrong[canaries] != LABELS[canaries]).all() and (wrong[made.retain] == LABELS[made.retain]).all()
    shifts = (wrong[canaries] - LABELS[canaries]) % 5
    for side in (flips, ~flips):
        assert set(shifts[side].tolist()) == {1, 2, 3, 4}, "the wrong label would tell the coin"
    sums = sum(np.array([*split("canaries", seed, count=200).notes["included"]]) == "1" for seed in range(20))
    assert len(sums) == 200 and 1500 < sums.sum() < 2500


def test_noise_takes_the_place_of_canaries_whatever_the_batches():
    made, plain = split("canaries", count=200, what="noise"), split("canaries", count=200)
    canaries = np.sort(np.concatenate([made.forget, made.unseen]))
    assert made.forget.tolist() == plain.forget.tolist() and made.fingerprint != plain.fingerprint
    source, before = made.apply(DATA).source, DATA.source

    def pictures(of, order, size):
        return torch.cat([x for x, _ in of.batches(torch.from_numpy(order), size, augment=False, seed=0, epoch=0)])

    noise = pictures(source, canaries, 7)
    assert torch.equal(noise, pictures(source, canaries, 64)) and len(noise.flatten(1).unique(dim=0)) == 200
    assert torch.equal(noise.flip(0), pictures(source, canaries[::-1].copy(), 64))
    assert abs(noise.mean().item() - 0.5) < 0.02 and abs(noise.std().item() - 12**-0.5) < 0.02
    assert torch.equal(pictures(source, made.retain, 64), pictures(before, made.retain, 64))
    assert made.triggered_test(DATA) is None and torch.equal(source.labels, plain.apply(DATA).labels)


RANKED = {
    ("memorized", "high"): lambda s: -s["memorization"],
    ("memorized", "mid"): lambda s: np.abs(s["memorization"] - 0.5),
    ("memorized", "low"): lambda s: np.abs(s["memorization"]),
    ("vulnerable", "high"): lambda s: -s["separability"],
    ("vulnerable", "low"): lambda s: np.abs(s["separability"]),
    ("entangled", "high"): lambda s: s["places"],
    ("entangled", "low"): lambda s: s["places"],
    ("worst_case", None): lambda s: -s["weight"],
}


@pytest.mark.parametrize("name, level", RANKED)
def test_ranked_scenarios_take_the_first_examples(name, level):
    fields = {"level": level} if level else {}
    made, key = split(name, count=60, **fields), RANKED[name, level](make_ranking(np.arange(TRAIN)).scores)
    assert len(made.forget) == 60 and key[made.forget].max() <= key[made.retain].min() and made.notes == {"made": "up"}
    assert set(split(name, count=20, **fields).forget) < set(made.forget)


@pytest.mark.parametrize("name", ["memorized", "vulnerable", "entangled", "worst_case"])
def test_ranked_scenarios_balance_classes_and_refuse_what_they_do_not_know(name):
    made = split(name, count=50, balanced=True)
    assert np.bincount(LABELS[made.forget]).tolist() == [10] * 5
    scenario = config.build("scenarios", name, "forget")
    with pytest.raises(BadInput, match="there is no ranking"):
        make_split(DATA, scenario, 0)
    with pytest.raises(BadInput, match="about other training examples"):
        make_split(DATA, scenario, 0, ranking=make_ranking(np.array(TRAINABLE[1:])))


def test_ties_are_broken_by_the_seed_alone():
    scenario, index = config.build("scenarios", "entangled", "forget"), np.array(TRAINABLE)
    flat = Ranking(index, {"places": np.ones(len(index))})
    chosen = [tuple(scenario.first(LABELS[index], flat, seed)) for seed in (0, 1, 2, 2)]
    assert len(set(chosen)) == 3 and chosen[2] == chosen[3]


@pytest.mark.parametrize("models", [4, 10, 15])
@pytest.mark.parametrize("name", ["memorized", "vulnerable"])
def test_pools_that_cannot_be_halved_are_refused(name, models):
    with pytest.raises(BadInput, match="forget.models"):
        config.build("scenarios", {"name": name, "models": models}, "forget").check(np.array(TRAINABLE))
