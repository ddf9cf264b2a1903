"""Classes that a downstream set names most: from a folder of pictures to the request, and the whole pipeline of source 004 in small."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from expunge import config
from expunge.bench import request
from expunge.data.datasets.digits import Digits
from expunge.errors import BadInput
from expunge.pools import rankings, stages
from expunge.pools.workplace import Workplace
from expunge.representation import downstream, related

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
import layouts

WORDS = ["data=digits", "model=mlp", "model.hidden=[32]", "train=tiny", "train.epochs=4", "evaluate.workers=1"]


def write_digits(root: Path, domain: str, counts: dict[int, int]) -> None:
    """Write some of the real digits as a domain, sorted into two classes of no consequence."""
    data = Digits().load()
    for label, count in counts.items():
        chosen = torch.nonzero(data.labels == label).squeeze(1)[:count]
        (x, _), *_ = data.source.batches(chosen, count, augment=False, seed=0, epoch=0)
        for number, picture in enumerate((x * 255).to(torch.uint8)):
            folder = root / domain / f"odd{label % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[0].numpy()).save(folder / f"{label}-{number}.png")


@pytest.fixture
def folder(tmp_path):
    write_digits(tmp_path / "set", "plain", {7: 12, 3: 6, 1: 2})
    write_digits(tmp_path / "set", "other", {4: 5})
    return tmp_path / "set"


def workplace(out: Path, *words: str) -> Workplace:
    return Workplace(config.resolve(config.read(None, [*WORDS, f"out={out}", *words])))


def test_the_classes_that_are_seen_most_are_forgotten(folder, tmp_path):
    words = [f"forget=related_classes:{folder}", "forget.count=2"]
    split = workplace(tmp_path / "runs", *words).split
    assert split.forget_classes == (3, 7) and split.kind == "class"
    assert split.notes["pictures"] == 25 and [entry["class"] for entry in split.notes["classes"]] == ["7", "3"]
    assert split.notes["classes"][0]["predictions"] >= 9 and split.notes["share_of_predictions"] > 0.5
    (path,) = (tmp_path / "runs").glob("rankings/related_classes-*.npz")
    assert workplace(tmp_path / "runs", *words, "forget.domain=other", "forget.count=1").split.forget_classes == (4,)
    assert workplace(tmp_path / "runs", *words, "forget.by=probability").split.forget_classes == (3, 7)
    assert len(list((tmp_path / "runs").glob("rankings/*.npz"))) == 3 and path.is_file()
    assert len(list((tmp_path / "runs").glob("train-*"))) == 1, "one original answers all of them"


def test_a_given_weights_file_is_asked_and_nothing_is_trained(folder, tmp_path):
    weights = stages.original(workplace(tmp_path / "trained"), 0).folder / "weights.safetensors"
    for words in ([f"forget=related_classes:{folder}", "forget.domain=other"], ["forget=entangled", "forget.count=20"]):
        split = workplace(tmp_path / "runs", f"model.weights={weights}", *words).split
        assert len(split.forget) >= 20 and not list((tmp_path / "runs").glob("train-*"))


def test_a_changed_picture_makes_another_ranking(folder, tmp_path):
    words = [f"forget=related_classes:{folder}", "forget.domain=other"]
    first = rankings.find_or_make(workplace(tmp_path / "runs", *words))
    write_digits(folder, "other", {9: 9})
    second = rankings.find_or_make(workplace(tmp_path / "runs", *words))
    assert first != second and rankings.load(second).notes["classes"][0]["class"] == "9"


def test_what_is_wrong_is_said_before_any_model_is_trained(folder, tmp_path):
    for words, message in (
        (["forget=related_classes"], "no downstream set is given"),
        (["forget=related_classes:nowhere"], "there is no folder nowhere"),
        ([f"forget=related_classes:{folder}", "forget.domain=plane"], "has no domain 'plane'. Did you mean 'plain'"),
        ([f"forget=related_classes:{folder}", "forget.count=10"], "has 10 classes, got 10"),
    ):
        with pytest.raises(BadInput, match=message):
            rankings.prepare([workplace(tmp_path / "runs", *words)], lambda event: None)
        assert not list((tmp_path / "runs").glob("train-*"))
    for downstream_words, message in (
        ([f"evaluate.downstream={folder}"], "the domain other of .* has 4 pictures to remember and 1 to ask about"),
        (["evaluate.downstream=nowhere"], "there is no folder nowhere"),
    ):
        words = ["forget=random", "method=finetune", "evaluate.tier=standard", *downstream_words]
        with pytest.raises(BadInput, match=message):
            request.check_sizes(workplace(tmp_path / "runs", *words))


def test_predictions_are_counted_and_ties_are_broken():
    class Told(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * 10

    x = torch.zeros(5, 1, 2, 2)
    x[0, 0, 0, 0] = x[1, 0, 0, 1] = x[2, 0, 1, 0] = x[3, 0, 1, 0] = x[4, 0, 0, 0] = 1.0
    x[1, 0, 0, 1] = 2.0
    weights, pictures = related.class_weights(Told(), x.split(2), 3)
    assert pictures == 5 and weights["predictions"].tolist() == [2, 1, 2]
    np.testing.assert_allclose(weights["probability"], (x.flatten(1)[:, :3] * 10).double().softmax(1).mean(0))
    assert weights["probability"][0] == pytest.approx(weights["probability"][2]) and related.order(weights).tolist() == [0, 2, 1]
    weights["probability"][2] += 0.1
    assert related.order(weights).tolist() == [2, 0, 1] and related.order(weights, "probability").tolist()[0] == 2


def test_pictures_come_in_batches_as_they_would_at_once(folder):
    sets = {part.name: part.x for part in downstream.read(folder, (1, 8, 8))}
    for domain, wanted in ((None, torch.cat([sets["other"], sets["plain"]])), ("plain", sets["plain"])):
        found = list(downstream.pictures(folder, (1, 8, 8), domain, size=7))
        assert max(map(len, found)) == 7 and torch.equal(torch.cat(found), wanted)


@pytest.mark.slow
def test_the_pipeline_of_source_004_on_a_small_folder(tmp_path):
    """A weights file, the classes that a downstream set names, unlearning, and transfer, on folders laid out like ImageNet."""
    from expunge.bench import compare

    layouts.write_imagenet(tmp_path / "imagenet", each=30)
    layouts.write_domains(tmp_path / "home", each=20)
    words = [
        "data=imagenet", f"data.root={tmp_path / 'imagenet'}", "data.size=32", "data.workers=0", f"data.cache={tmp_path / 'cache'}",
        "model=resnet20", "train=tiny", "train.epochs=1", f"out={tmp_path / 'runs'}", "evaluate.workers=1",
    ]  # fmt: skip
    weights = stages.original(Workplace(config.resolve(config.read(None, words))), 0).folder / "weights.safetensors"
    words += [
        f"model.weights={weights}", f"forget=related_classes:{tmp_path / 'home'}", "forget.domain=Real World", "forget.count=1",
        "method=SPKD", "method.epochs=1", "method.batch_size=32", "evaluate.tier=standard", "evaluate.seeds=4",
        "evaluate.retrained=8", "evaluate.base_models=8",
        f"evaluate.downstream={tmp_path / 'home'}",
    ]  # fmt: skip
    experiment = config.resolve(config.read(None, words))
    records, _ = compare.compare([compare.request_of(experiment, "related classes")], lambda event: None, "a test")
    record = json.loads(json.dumps(records[0]))
    rows = {row["name"]: row["cells"] for row in record["table"]["rows"]}
    assert {"original", "retrained"} < rows.keys()
    for cells in rows.values():
        assert np.isfinite(cells["nearest_neighbor_transfer"]["value"])
