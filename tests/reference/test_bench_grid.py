"""The grid of a bench against nested loops written by hand, and what it refuses."""

import itertools

import pytest

from expunge.bench import grid, shards
from expunge.bench.request import jobs_of
from expunge.errors import BadInput

BASE = {"data": "digits", "model": "mlp", "train": {"name": "tiny", "epochs": 2}, "evaluate": {"seeds": 2, "workers": 1}}


def expand(axes, **base):
    return grid.expand({**BASE, **base, "grid": axes})


def asked(found):
    """Return what a grid asks for as a set of plain tuples."""
    rows = set()
    for request in found.requests:
        tree = request.tree
        for row in request.rows:
            addons = tuple(addon["name"] for addon in row.addons)
            fraction, limit = tree["forget"]["fraction"], tree["data"]["train_limit"]
            rows.add((fraction, limit, tree["seed"], row.method["name"], row.method.get("lr"), row.method.get("epochs"), addons))
    return rows


def test_grid_equals_nested_loops():
    fractions, limits, seeds, rates, epochs, addons = [0.1, 0.2], [400, 500], [0, 7], [0.01, 0.02, 0.03], [1, 2], [(), ("sam",)]
    found = expand(
        {
            "forget": [{"name": "random", "fraction": fractions}],
            "data.train_limit": limits,
            "seed": seeds,
            "method": ["original", {"name": "finetune", "lr": rates, "epochs": epochs}],
            "addons": [list(put) for put in addons],
        }
    )
    expected = set()
    for fraction, limit, seed in itertools.product(fractions, limits, seeds):
        for lr, epoch, put in itertools.product(rates, epochs, addons):
            expected.add((fraction, limit, seed, "finetune", lr, epoch, put))
        expected.add((fraction, limit, seed, "original", None, None, ()))
    refused = {(out.request, out.row) for out in found.left_out}
    there = asked(found)
    assert there | {(*key, "original", None, None, ("sam",)) for key in itertools.product(fractions, limits, seeds)} >= expected
    assert {row for row in there if row[3] == "finetune"} == {row for row in expected if row[3] == "finetune"}
    assert found.rows + len(refused) == 8 * (12 + 2)
    assert len({request.title for request in found.requests}) == 8
    for request in found.requests:
        assert len({row.label for row in request.rows}) == len(request.rows)


def test_lists_that_a_field_takes_are_values_and_lists_of_lists_are_choices():
    found = expand({"forget": [{"name": "class", "classes": [1, 2]}], "method": ["finetune"]})
    assert [request.tree["forget"]["classes"] for request in found.requests] == [[1, 2]]
    found = expand({"forget": [{"name": "class", "classes": [[1], [2, 3]]}], "method": ["finetune"]})
    assert [request.tree["forget"]["classes"] for request in found.requests] == [[1], [2, 3]]
    found = expand({"forget.classes": [[1], [2, 3]], "method": ["finetune"]}, forget={"name": "class"})
    assert [request.title for request in found.requests] == ["class classes=1", "class classes=2,3"]


def test_mappings_in_a_list_give_requests_their_own_rows_and_join_where_the_request_is_one():
    random, whole = {"name": "random", "fraction": 0.1}, {"name": "class", "classes": [3]}
    axes = [
        {"forget": [random, whole], "method": [{"name": "finetune", "epochs": 1}]},
        {"forget": [whole], "method": [{"name": "finetune", "epochs": 2}, "unsir"]},
    ]
    found = expand(axes)
    assert [[row.label for row in request.rows] for request in found.requests] == [
        ["finetune"],
        ["finetune epochs=1", "finetune epochs=2", "unsir"],
    ]


def test_fields_of_an_addon_vary_only_where_it_is_chosen():
    found = expand({"method": ["finetune"], "addons": [[], ["sam"]], "addons.sam.rho": [0.05, 0.1]}, forget="random")
    assert [row.label for row in found.requests[0].rows] == ["finetune", "finetune+sam sam.rho=0.05", "finetune+sam sam.rho=0.1"]


def test_what_a_method_does_not_serve_is_left_out_with_its_reason():
    found = expand({"forget": ["random", "class:3"], "method": ["finetune", "unsir"]})
    assert [[row.label for row in request.rows] for request in found.requests] == [["finetune"], ["finetune", "unsir"]]
    assert [(out.request, out.row) for out in found.left_out] == [("random", "unsir")] and "random request" in found.left_out[0].reason


@pytest.mark.parametrize(
    ("axes", "base", "part"),
    [
        ({"metod": ["finetune"]}, {"forget": "random"}, "Did you mean 'method'"),
        ({"method": ["finetun"]}, {"forget": "random"}, "Did you mean 'finetune'"),
        ({"method": [{"name": "salun", "kep": [0.1, 0.2]}]}, {"forget": "random"}, "Did you mean 'keep'"),
        ({"method": ["finetune"], "method.lrr": [1.0]}, {"forget": "random"}, "Did you mean 'lr'"),
        ({"method": ["finetune", "finetune"]}, {"forget": "random"}, "there twice"),
        ({"method": ["finetune", {"name": "finetune", "lr": 0.01}]}, {"forget": "random"}, "come out the same"),
        ({"method": ["finetune"], "forget": ["random", "random"]}, {}, "there twice"),
        ({"method": [{"name": "finetune", "lr": 0.1}], "method.lr": [0.2]}, {"forget": "random"}, "already"),
        ({"method": ["finetune"], "seed": [1]}, {"forget": "random", "seed": 0}, "also given beside grid"),
        ({"method": "finetune"}, {"forget": "random"}, "expected a list"),
        ({"method": []}, {"forget": "random"}, "expected a list"),
        ({"method": [{"name": "finetune", "lr": []}]}, {"forget": "random"}, "no choice in an empty list"),
        ({"method": ["finetune"], "addons": ["sam"]}, {"forget": "random"}, "lists of add-ons"),
        ({"method": ["finetune"], "addons.sam.rho": [0.1]}, {"forget": "random"}, "not chosen"),
        ({"method": ["finetune"], "evaluate.tier": ["fast"]}, {"forget": "random"}, "same for a whole bench"),
        ({"method": ["finetune"]}, {}, "forget: is missing"),
        ({"forget": ["random"]}, {}, "method: is missing"),
        ({"method": ["unsir"]}, {"forget": "random"}, "does not fit a random request"),
        ({"method": ["finetune"]}, {"forget": "random", "sede": 1}, "Did you mean 'seed'"),
        ({"method": ["finetune"], "seed": list(range(10_001))}, {"forget": "random"}, "10001 seed = 10001 rows"),
        ({"method": ["finetune"], "seed": [-1]}, {"forget": "random"}, "seed"),
    ],
)
def test_wrong_grids_are_refused_in_words(axes, base, part):
    with pytest.raises(BadInput) as refused:
        expand(axes, **base)
    assert part in str(refused.value)


def test_overrides_take_the_place_of_axes(tmp_path):
    file = tmp_path / "bench.yaml"
    file.write_text("data: digits\nmodel: mlp\ngrid:\n  forget: [random]\n  method: [finetune, salun]\n  method.epochs: [1, 2]\n")
    assert grid.expand(grid.read(file)).rows == 4
    assert grid.expand(grid.read(file, ["method.epochs=3"])).rows == 2
    assert grid.expand(grid.read(file, ["method=finetune"])).rows == 1
    assert grid.expand(grid.read(file, ["grid.seed=[0, 1, 2]", "evaluate.seeds=2"])).rows == 12
    with pytest.raises(BadInput, match="no `grid:`"):
        file.write_text("data: digits\n")
        grid.read(file)


@pytest.fixture
def small(tmp_path):
    """Return a grid whose requests share their data."""
    axes = {"forget": [{"name": "random", "fraction": [0.1, 0.2]}, "class:3"], "method": ["finetune", "salun", "oracle_match"]}
    return expand(axes, out=str(tmp_path / "runs"))


def test_what_was_asked_is_kept_as_it_was(small):
    assert grid.expand(small.asked) == small and small.asked["grid"]["method"] == ["finetune", "salun", "oracle_match"]


def test_only_and_limit(small):
    assert [row.label for request in grid.select(small, ["sal*"]).requests for row in request.rows] == ["salun"] * 3
    assert grid.select(small, ["class:3"]).rows == 3 and grid.select(small, ["class*/finetune"]).rows == 1
    assert grid.select(small, limit=4).rows == 4
    with pytest.raises(BadInput, match="Did you mean 'salun'"):
        grid.select(small, ["saln"])


def test_originals_are_shared_by_requests_and_retrained_models_by_rows(small):
    keys = [job.key for job in jobs_of(small.requests)]
    assert len(keys) == len(set(keys))
    count = {stage: sum(key.startswith(stage) for key in keys) for stage in ("original/", "retrained/", "unlearned/")}
    assert count == {"original/": 2, "retrained/": 6, "unlearned/": 18}


def test_requests_that_differ_in_model_recipe_or_seed_share_no_original(tmp_path):
    axes = {"model.hidden": [[8], [16]], "train.epochs": [1, 2], "seed": [0, 1], "method": ["finetune"]}
    found = expand(axes, train="tiny", forget="random", data={"name": "digits", "validation_fraction": 0.0})
    assert sum(job.key.startswith("original/") for job in jobs_of(found.requests)) == 8 * 2


@pytest.mark.parametrize("machines", [1, 2, 3, 7])
def test_shards_are_disjoint_and_together_the_whole(small, machines):
    owner = shards.owners(small.requests)
    whole = {job.key for job in jobs_of(small.requests)}
    assert whole == owner.keys()
    parts = [shards.Shard(number, machines) for number in range(1, machines + 1)]
    owned = [{key for key in whole if part.owns(owner[key])} for part in parts]
    assert sum(map(len, owned)) == len(whole) and set().union(*owned) == whole
    for part, mine in zip(parts, owned, strict=True):
        jobs = shards.share(small.requests, part)
        keys = {job.key for job in jobs}
        assert keys >= mine and all(set(job.after) <= keys for job in jobs)
        assert not any(key.startswith(("unlearned/", "inspected/")) for key in keys - mine)


def test_another_folder_or_number_of_workers_moves_nothing_to_another_shard(small, tmp_path):
    tree = {**small.asked, "out": str(tmp_path / "elsewhere"), "evaluate": {"seeds": 2, "workers": 2}}
    assert shards.owners(grid.expand(tree).requests) == shards.owners(small.requests)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_wrong_shards_are_refused(text):
    with pytest.raises(BadInput, match="i/n"):
        shards.parse(text)
