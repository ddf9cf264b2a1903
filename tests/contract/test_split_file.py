"""The split file: what it holds comes back, what was changed is noticed, and duplicates are counted."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge import config
from expunge.data.dataset import Data, from_tensors
from expunge.data.source import LoaderSource
from expunge.data.split import PARTS, Split, make_split, validation_split
from expunge.data.split_file import from_ranges, to_ranges
from expunge.errors import BadInput


def make_data(change: int = 0) -> Data:
    made = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (140, 1, 8, 8), dtype=torch.uint8, generator=made)
    x[3, 0, 0, 0] += change
    y = torch.arange(140) % 4
    return from_tensors(x[:100], y[:100], x[100:], y[100:])


DATA = make_data()
REQUESTS = [
    {"name": "random", "count": 9},
    {"name": "class", "classes": [1, 2]},
    {"name": "label_noise", "count": 12},
    {"name": "poisoned", "count": 8},
    {"name": "poisoned", "count": 10, "known_fraction": 0.4},
    {"name": "confusion", "count": 6},
    {"name": "canaries", "count": 30},
    {"name": "canaries", "count": 30, "what": "noise"},
]


def split(request, data: Data = DATA, seed: int = 0) -> Split:
    return make_split(data, config.build("scenarios", request, "forget"), seed)


@pytest.mark.parametrize("request_", REQUESTS, ids=[f"{number}-{r['name']}" for number, r in enumerate(REQUESTS)])
def test_file_gives_back_the_split(tmp_path, request_):
    made = split(request_)
    made.save(tmp_path / "split.json")
    found = Split.load(tmp_path / "split.json", DATA)
    for part in PARTS:
        assert found.index(part).tolist() == made.index(part).tolist() and found.index(part).dtype == np.int64
    for field in ("forget_classes", "kind", "scenario", "seed", "validation_fraction", "data_fingerprint", "duplicates", "notes"):
        assert getattr(found, field) == getattr(made, field)
    assert found.content_hash == made.content_hash and found.fingerprint == made.content_hash[:16]
    assert found.apply(DATA).fingerprint == made.apply(DATA).fingerprint
    assert torch.equal(found.apply(DATA).labels, made.apply(DATA).labels)
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


@pytest.mark.parametrize("request_", REQUESTS, ids=[f"{number}-{r['name']}" for number, r in enumerate(REQUESTS)])
def test_any_change_of_the_file_is_noticed(tmp_path, request_):
    path = tmp_path / "split.json"
    split(request_).save(path)
    tree = json.loads(path.read_text())
    looped = 0
    for key in tree:
        if key in ("format", "content_hash"):
            continue
        changed = {**tree, key: {"other": 1} if isinstance(tree[key], dict | None) else str(tree[key]) + "0"}
        path.write_text(json.dumps(changed))
        with pytest.raises(BadInput, match="changed or damaged"):
            Split.load(path)
        looped += 1
    assert looped >= 9
    path.write_text(json.dumps(tree)[:-40])
    with pytest.raises(BadInput, match="cannot be read"):
        Split.load(path)
    path.write_text("[]")
    with pytest.raises(BadInput, match="not a split file"):
        Split.load(path)
    with pytest.raises(BadInput, match="there is no such split file"):
        Split.load(tmp_path / "other.json")


def test_other_data_is_refused(tmp_path):
    made, other = split(REQUESTS[0]), make_data(change=1)
    made.save(tmp_path / "split.json")
    for use in (lambda: Split.load(tmp_path / "split.json", other), lambda: made.stream("forget", other), lambda: made.apply(other)):
        with pytest.raises(BadInput, match="the split is about data with the fingerprint"):
            use()


def test_data_altered_by_another_request_is_refused():
    altered = split(REQUESTS[2]).apply(DATA)
    with pytest.raises(BadInput, match="the split is about data"):
        split(REQUESTS[0]).stream("forget", altered)
    with pytest.raises(BadInput, match="the split is about data"):
        split(REQUESTS[2], seed=1).apply(altered)


@given(st.sets(st.integers(0, 400)))
def test_ranges_give_back_every_set(index):
    ordered = np.array(sorted(index), dtype=np.int64)
    assert from_ranges(to_ranges(ordered)).tolist() == ordered.tolist()


def test_ranges_are_short_and_readable():
    assert to_ranges(np.array([0, 1, 2, 3, 7, 9, 10])) == "0-3,7,9-10"


def test_requests_share_originals_exactly_when_they_train_on_the_same_examples():
    one, two = split(REQUESTS[0]), split(REQUESTS[1])
    assert one.training_fingerprint("train") == two.training_fingerprint("train")
    assert one.training_fingerprint("retain") != two.training_fingerprint("retain")
    prints = {split(request, seed=seed).training_fingerprint("train") for request in REQUESTS[:4] for seed in (0, 1)}
    assert len(prints) == 2 * 3
    noisy = split(REQUESTS[2])
    clean = split({"name": "ids", "ids": noisy.forget.tolist()})
    assert noisy.training_fingerprint("retain") == clean.training_fingerprint("retain")


def test_validation_split_is_what_every_split_uses():
    train, validation = validation_split(DATA, 3)
    made = split(REQUESTS[0], seed=3)
    assert made.train.tolist() == train.tolist() and made.validation.tolist() == validation.tolist()


def test_exact_duplicates_are_counted():
    x = torch.randint(0, 256, (140, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(140) % 4
    made = from_tensors(x[:100], y[:100], x[100:], y[100:])
    train = validation_split(made, 0)[0]
    first, second, third, fourth, fifth = train[:5].tolist()
    x[second], x[120], x[121], x[130] = x[first], x[first], x[third], x[fourth]
    data = from_tensors(x[:100], y[:100], x[100:], y[100:])
    found = split({"name": "ids", "ids": [first, third, fifth]}, data).duplicates
    assert found == {"forget_in_retain": 1, "forget_in_test": 2, "retain_in_test": 2}


def test_streamed_data_is_split_without_reading_it():
    class Unreadable(torch.utils.data.Dataset):
        reads = 0

        def __len__(self) -> int:
            return 140

        def __getitem__(self, position: int):
            Unreadable.reads += 1
            return torch.zeros(1, 8, 8, dtype=torch.uint8), position % 4

    source = LoaderSource(Unreadable(), torch.arange(140) % 4)
    data = Data("streamed", source, 100, tuple("abcd"), (0.5,), (0.5,), (1, 8, 8), "f" * 64)
    before = Unreadable.reads
    made = split(REQUESTS[2], data)
    assert made.duplicates == {} and Unreadable.reads == before
    assert made.forget.tolist() == split(REQUESTS[2]).forget.tolist()
    assert torch.equal(made.stream("forget", data).labels, split(REQUESTS[2]).stream("forget", DATA).labels)


def test_unknown_part_is_named():
    with pytest.raises(KeyError, match="no part is called 'holdout'"):
        split(REQUESTS[0]).index("holdout")
