"""Pools: balanced plans that grow, rows that are made once, seeds that decide everything."""

import numpy as np
import pytest

from expunge import config
from expunge.errors import BadInput
from expunge.pools.cache import FORGET, IN, OUT
from expunge.pools.pool import Pool
from expunge.pools.workplace import Workplace

WORDS = [
    "data=digits",
    "model=mlp",
    "train=tiny",
    "train.epochs=2",
    "forget=random",
    "method=finetune",
    "method.epochs=1",
    "evaluate.workers=1",
]


def workplace(tmp_path, *words: str) -> Workplace:
    return Workplace(config.resolve(config.read(None, [*WORDS, *words, f"out={tmp_path}"])))


def states(pool: Pool, size: int) -> np.ndarray:
    return np.stack([pool.state(number) for number in range(size)])


def test_base_models_come_in_complementary_halves(tmp_path):
    pool = Pool(workplace(tmp_path), "base")
    plan = states(pool, 8)
    assert (plan[0::2][:, pool.candidates] + plan[1::2][:, pool.candidates] == IN).all()
    assert (plan[:, pool.candidates].sum(0) == 4).all()
    outside = np.setdiff1d(np.arange(plan.shape[1]), pool.candidates)
    assert (plan[:, outside] == OUT).all() and len(outside) > len(pool.work.split.test)
    assert not np.array_equal(plan[0], plan[2])


def test_shadow_targets_are_in_out_and_forgotten_equally_often(tmp_path):
    before, after = (Pool(workplace(tmp_path), kind) for kind in ("shadow_original", "shadow_unlearned"))
    assert np.array_equal(before.targets, after.targets)
    plan, trained = states(after, 6), states(before, 6)
    for value in (OUT, IN, FORGET):
        assert ((plan[:, after.targets] == value).sum(0) == 2).all()
    assert np.array_equal(trained == OUT, plan == OUT), "a shadow model was trained on what it forgets"
    others = np.setdiff1d(after.candidates, after.targets)
    assert (plan[:, others] == IN).all()


@pytest.mark.parametrize("kind", ["original", "retrained", "unlearned"])
def test_states_of_a_request(kind, tmp_path):
    pool = Pool(workplace(tmp_path), kind)
    state, split = pool.state(3), pool.work.split
    assert (state[split.retain] == IN).all() and (state[split.validation] == OUT).all() and (state[split.test] == OUT).all()
    assert (state[split.forget] == {"original": IN, "retrained": OUT, "unlearned": FORGET}[kind]).all()


def test_a_pool_grows_without_computing_anything_again(tmp_path):
    work = workplace(tmp_path)
    made: list[str] = []
    pool = Pool(work, "base")
    pool.fill(2, lambda event: made.append(event["event"]))
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("train-*/record.json")}
    margins = pool.cache().margins([0, 1]).copy()
    cache = pool.fill(4, lambda event: None)
    assert cache.rows() == [0, 1, 2, 3] and len(first) == 2
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert np.array_equal(cache.margins([0, 1]), margins)
    assert np.array_equal(cache.states([2])[0], pool.state(2))
    again: list[dict] = []
    pool.fill(4, again.append)
    assert again == [{"event": "plan", "jobs": []}]


def test_a_run_whose_weights_are_cut_off_is_made_again(tmp_path):
    pool = Pool(workplace(tmp_path), "base")
    weights = pool.run(0).folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert pool.run(0).folder == weights.parent and weights.read_bytes() == whole


def test_members_are_remembered_in_the_base_pool(tmp_path):
    work = workplace(tmp_path, "train.epochs=20")
    cache = Pool(work, "base").fill(2, lambda event: None)
    margins, plan = cache.margins([0, 1]), cache.states([0, 1])
    assert margins[plan == IN].mean() > margins[:, work.split.test].mean() + 0.5


def test_unlearned_pool_starts_from_the_originals_of_the_same_seeds(tmp_path):
    work = workplace(tmp_path)
    Pool(work, "original").fill(2, lambda event: None)
    trained = len(list(tmp_path.glob("train-*")))
    cache = Pool(work, "unlearned").fill(2, lambda event: None)
    assert len(list(tmp_path.glob("train-*"))) == trained == 2
    assert cache.rows() == [0, 1] and (cache.states([0])[0, work.split.forget] == FORGET).all()
    shadow = Pool(work, "shadow_unlearned").fill(3, lambda event: None)
    assert shadow.rows() == [0, 1, 2]


def test_pools_of_different_recipes_never_share_a_cache(tmp_path):
    folders = {
        Pool(workplace(tmp_path, word), "base").cache().folder for word in ("seed=0", "seed=1", "train.epochs=3", "model.hidden=[8]")
    }
    assert len(folders) == 4


def test_a_swap_exchanges_the_requests_of_two_models_and_nothing_else(tmp_path):
    before, after = (Pool(workplace(tmp_path), kind) for kind in ("swap_original", "swap_unlearned"))
    assert np.array_equal(before.targets, after.targets)
    plan, trained = states(after, 4), states(before, 4)
    assert np.array_equal(trained == OUT, plan == OUT) and set(plan[:, after.targets].ravel()) == {OUT, FORGET}
    for first, second in (plan[:2], plan[2:]):
        assert (first[after.targets] + second[after.targets] == FORGET).all()
        assert abs(int((first == FORGET).sum()) - int((second == FORGET).sum())) <= 1
    others = np.setdiff1d(after.candidates, after.targets)
    assert (plan[:, others] == IN).all() and not np.array_equal(plan[0], plan[2])
    seeds = [after.training_seed(number) for number in range(4)]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]


def test_retraining_knows_nothing_of_a_swap(tmp_path):
    work = workplace(tmp_path, "method=retrain")
    pool = Pool(work, "swap_unlearned")
    margins = pool.fill(2, lambda event: None).margins([0, 1])
    assert np.array_equal(margins[0], margins[1])


def test_a_dose_is_a_share_of_the_forget_set(tmp_path):
    work = workplace(tmp_path)
    forget, retain = work.split.forget, work.split.retain
    doses = [states(Pool(work, "dose", dose=share), 2) for share in (0.0, 0.25, 0.5, 1.0)]
    for share, plan in zip((0.0, 0.25, 0.5, 1.0), doses, strict=True):
        assert ((plan[:, forget] == IN).sum(axis=1) == round(share * len(forget))).all() and (plan[:, retain] == IN).all()
    assert (doses[1] <= doses[2]).all() and not np.array_equal(doses[1][0], doses[1][1])
    assert Pool(work, "dose", dose=0.25).cache().folder != Pool(work, "dose", dose=0.5).cache().folder
    assert Pool(work, "dose", dose=0.5).fill(1, lambda event: None).rows() == [0]
    with pytest.raises(BadInput, match="share"):
        Pool(work, "dose", dose=1.5).check(1)


@pytest.mark.parametrize(
    ("kind", "size", "message"), [("base", 3, "multiple of 2"), ("shadow_unlearned", 4, "multiple of 3"), ("base", 0, "got 0")]
)
def test_unbalanced_pools_are_refused(kind, size, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        Pool(workplace(tmp_path), kind).fill(size, lambda event: None)


def test_an_unlearned_pool_needs_a_method(tmp_path):
    work = Workplace(config.resolve(config.read(None, [*WORDS[:5], f"out={tmp_path}"])))
    with pytest.raises(BadInput, match="method"):
        Pool(work, "unlearned").fill(1, lambda event: None)


@pytest.mark.parametrize("words", [["data.augment=true"], ["data.validation_fraction=0.3"], ["evaluate.threads=2"], ["train.lr=0.05"]])
def test_whatever_decides_the_weights_decides_the_cache(words, tmp_path):
    plain, other = (Pool(workplace(tmp_path, *more), "base").cache().folder for more in ((), words))
    assert plain != other
