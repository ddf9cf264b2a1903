"""Three seeds beside ``seed``: of training, of unlearning, and of the forget set. Each draws its own part anew and leaves the rest."""

import numpy as np
import pytest

from expunge import config
from expunge.bench import grid as grids
from expunge.bench.request import jobs_of
from expunge.errors import BadInput
from expunge.pools import stages, store
from expunge.pools.pool import Pool
from expunge.pools.workplace import Workplace

TREE = {
    "data": {"name": "digits", "train_limit": 200, "test_limit": 100},
    "model": "mlp",
    "train": {"name": "tiny", "epochs": 1},
    "forget": {"name": "random", "fraction": 0.2},
    "method": {"name": "random_label", "epochs": 1},
}


def work(tmp_path, **more):
    return Workplace(config.resolve({**TREE, "out": str(tmp_path), **more}))


def weights(made):
    """Return hashes of original 0, retrained 0 and unlearned 0."""
    first = stages.original(made, 0)
    second = stages.run_job("unlearned", made.experiment.tree(), 0, {"original": str(first.folder)}, lambda event: None)
    return [first.record["weights"], stages.retrained(made, 0).record["weights"], store.find(second).record["weights"]]


def test_each_seed_draws_its_own_part(tmp_path):
    plain = weights(work(tmp_path))
    trained = weights(work(tmp_path, training_seed=7))
    unlearned = weights(work(tmp_path, unlearning_seed=7))
    forgotten = weights(work(tmp_path, forget_seed=7))
    assert all(a != b for a, b in zip(plain, trained, strict=True))
    assert unlearned[:2] == plain[:2] and unlearned[2] != plain[2]
    assert forgotten[0] == plain[0] and forgotten[1] != plain[1] and forgotten[2] != plain[2]
    splits = {name: work(tmp_path, **{name: 7}).split for name in config.SEEDS} | {"seed": work(tmp_path).split}
    assert splits["training_seed"].fingerprint == splits["unlearning_seed"].fingerprint == splits["seed"].fingerprint
    assert np.array_equal(splits["forget_seed"].validation, splits["seed"].validation)
    assert not np.array_equal(splits["forget_seed"].forget, splits["seed"].forget)


def test_what_is_not_given_is_as_before_in_tree_names_and_seeds(tmp_path):
    plain = work(tmp_path)
    assert not set(config.SEEDS) & set(plain.experiment.tree())
    same = work(tmp_path, training_seed=0, forget_seed=0)
    assert [same.seed_of(k) for k in range(3)] == [plain.seed_of(k) for k in range(3)] and same.split.fingerprint == plain.split.fingerprint
    assert stages.unlearn_identity(plain, "w", 5, plain.split) == stages.unlearn_identity(plain, "w", 5, plain.split, 5)
    assert config.resolve(work(tmp_path, training_seed=3).experiment.tree()).training_seed == 3


def test_pools_follow_the_seeds(tmp_path):
    plain, other, drawn = (Pool(work(tmp_path, **more), "shadow_unlearned") for more in ({}, {"training_seed": 7}, {"unlearning_seed": 7}))
    assert plain.training_seed(0) != other.training_seed(0) and plain.training_seed(0) == drawn.training_seed(0)
    assert len({str(pool.cache().folder) for pool in (plain, other, drawn)}) == 3
    assert np.array_equal(plain.targets, other.targets)


def test_a_grid_over_the_three(tmp_path):
    tree = {**TREE, "out": str(tmp_path), "evaluate": {"seeds": 2}}
    found = grids.expand({**tree, "grid": [{"training_seed": [0, 1], "forget_seed": [0, 1], "unlearning_seed": [0, 1, 2]}]})
    assert [request.title for request in found.requests] == [
        f"random fraction=0.2 training_seed={training} forget_seed={forget}" for training in (0, 1) for forget in (0, 1)
    ]
    assert [row.label for row in found.requests[0].rows] == [f"random_label unlearning_seed={seed}" for seed in (0, 1, 2)]
    keys = [job.key for job in jobs_of(found.requests)]
    assert sum(key.startswith("original/") for key in keys) == 2 * 2
    assert sum(key.startswith("unlearned/") for key in keys) == 4 * 3 * 2
    assert found.requests[0].workplace(found.requests[0].rows[1]).experiment.unlearning_seed == 1


def test_wrong_seeds_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"forget_seed: expected an integer of at least 0, got -1"):
        work(tmp_path, forget_seed=-1)
    with pytest.raises(BadInput, match=r"grid.trainings_seed: no such key .*training_seed"):
        grids.expand({**TREE, "grid": [{"trainings_seed": [0]}]})
