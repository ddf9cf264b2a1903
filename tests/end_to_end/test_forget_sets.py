"""Forget sets that models choose, and those of which a part is unknown, from the configuration to trained models."""

import json

import numpy as np
import pytest

from expunge import config
from expunge.bench import compare
from expunge.errors import BadInput
from expunge.pools import rankings, stages
from expunge.pools import workplace as making
from expunge.pools.pool import Pool
from expunge.pools.workplace import Workplace

WORDS = ["data=digits", "model=mlp", "model.hidden=[16]", "train=tiny", "train.epochs=2", "evaluate.workers=1"]
FIELDS = {
    "memorized": ["forget.level=low", "forget.models=8"],
    "vulnerable": ["forget.models=8"],
    "entangled": [],
    "worst_case": ["forget.rounds=1", "forget.epochs=1"],
}


def workplace(out, *words: str) -> Workplace:
    return Workplace(config.resolve(config.read(None, [*WORDS, f"out={out}", *words])))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("rankings")


@pytest.mark.parametrize("name", FIELDS)
def test_a_ranking_is_made_once_by_models_that_nobody_judges(out, name):
    work = workplace(out, f"forget={name}", "forget.count=30", *FIELDS[name])
    events: list[dict] = []
    rankings.prepare([work], events.append)
    split, folders = work.split, sorted(out.glob("train-*"))
    assert len(split.forget) == 30 and split.notes["score"] and json.dumps(split.notes)
    (path,) = out.glob(f"rankings/{name}-*.npz")
    ranking = rankings.load(path)
    assert ranking.index.tolist() == split.train.tolist() and ranking.notes == split.notes
    assert all(np.isfinite(column).all() for column in ranking.scores.values())
    seeds = {json.loads((folder / "record.json").read_text())["identity"]["seed"] for folder in folders}
    judged = {Pool(work, kind).training_seed(number) for kind in ("base", "original", "shadow_original") for number in range(200)}
    assert len(seeds) >= 1 and not seeds & judged
    making._make_split.cache_clear()
    again = workplace(out, f"forget={name}", "forget.count=30", *FIELDS[name])
    assert again.split.content_hash == split.content_hash and sorted(out.glob("train-*")) == folders
    assert rankings.find_or_make(again) == path and len(list(out.glob(f"rankings/{name}-*.npz"))) == 1
    path.write_bytes(b"damaged")
    making._make_split.cache_clear()
    with pytest.raises(BadInput, match="cannot be read"):
        workplace(out, f"forget={name}", "forget.count=30", *FIELDS[name]).split  # noqa: B018


def test_the_halves_of_a_ranking_are_not_those_of_the_base_pool(out):
    work = workplace(out, "forget=random")
    mine, theirs = (Pool(work, "base", offset=offset).state(0) for offset in (rankings.OFFSET, 0))
    overlap = (mine == theirs)[work.split.train].mean()
    assert 0.4 < overlap < 0.6


def test_scores_of_a_pool_that_remembers(tmp_path):
    """What trained models get right only with training is memorised; the half that did not select confirms a part of it."""
    longer = ["train.epochs=15", "model.hidden=[64]", "forget.models=8", "forget.count=15"]
    high = workplace(tmp_path, "forget=memorized", "forget.level=high", *longer).split
    low = workplace(tmp_path, "forget=memorized", "forget.level=low", *longer).split
    assert high.notes["selected_mean"] > 0.7 and abs(low.notes["selected_mean"]) < 0.1
    assert high.notes["selected_mean"] > high.notes["described_mean"] > low.notes["described_mean"] + 0.2
    assert len(list(tmp_path.glob("train-*"))) == 8, "both levels share one pool"
    assert high.notes["standard_error_at_most"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "words, message",
    [
        (["forget=memorized", "forget.models=6", "method=finetune"], "forget.models"),
        (["forget=entangled", "forget.count=1000", "method=finetune"], "half of the training examples"),
        (["forget=vulnerable", "method=unsir"], "unsir"),
    ],
)
def test_what_cannot_work_is_refused_before_any_model_is_trained(tmp_path, words, message):
    experiment = config.resolve(config.read(None, [*WORDS, f"out={tmp_path}", *words]))
    with pytest.raises(BadInput, match=message):
        compare.compare([compare.request_of(experiment, "refused")], lambda event: None, "a test")
    assert not list(tmp_path.glob("train-*"))


def test_the_retrained_model_sees_no_manipulated_picture_and_the_method_sees_what_was_not_found(tmp_path):
    work = workplace(tmp_path, "forget=poisoned", "forget.size=2", "forget.known_fraction=0.3", "method=finetune", "method.epochs=1")
    split = work.split
    poisoned = len(split.forget) + len(split.unknown)
    streams = work.streams()
    assert len(split.unknown) > len(split.forget) > 0
    assert set(split.unknown) <= set(streams["retain"].index.tolist()) and streams["retain"].name == "retain"
    assert not set(split.forget) & set(streams["retain"].index.tolist())
    assert (streams["retain"].labels.numpy() == work.data.labels.numpy()[split.kept]).all()
    examples = {stage: getattr(stages, stage)(work, 0).record["examples"] for stage in ("original", "retrained")}
    assert examples == {"original": len(split.train), "retrained": len(split.train) - poisoned}
    for kind, inside in (("original", True), ("retrained", False)):
        assert (Pool(work, kind).state(0)[split.unknown] == inside).all()
    assert Pool(work, "unlearned").state(0)[split.unknown].tolist() == [1] * len(split.unknown)
    shadow = Pool(work, "shadow_unlearned")._split(0)
    assert not len(shadow.unknown) and not set(shadow.forget) & set(shadow.kept)


def test_confusion_is_counted(tmp_path):
    words = ["forget=confusion", "forget.first=3", "forget.second=8", "forget.fraction=0.6", "method=finetune", "method.epochs=1"]
    work = workplace(tmp_path, *words, "evaluate.seeds=3", "train.epochs=8", "model.hidden=[64]")
    records, _ = compare.compare([compare.request_of(work.experiment, "confusion")], lambda event: None, "a test")
    rows = {row["name"]: row["cells"]["confusion_count"] for row in records[0]["table"]["rows"]}
    assert rows["original"]["value"] > 3 * max(1, rows["retrained"]["value"]) and rows["original"]["in_band"] is False
    run = stages.original(work, 0)
    prediction, labels = run.logits().argmax(1), work.plain_data.labels.numpy()
    test = work.split.test
    counted = sum(int(((labels[test] == a) & (prediction[test] == b)).sum()) for a, b in ((3, 8), (8, 3)))
    assert counted in rows["original"]["per_seed"]
    assert rows["original"]["n"] == np.isin(labels[test], (3, 8)).sum()
