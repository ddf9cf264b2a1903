"""Controls through every representation and recovery test: what is caught, what is claimed, and that retraining is left alone.

What the tables show. The head-only edit answers as a retrained model does, so tests of outputs let it pass; a new head on its encoder
(probe, refitted membership, prototypes, relearning from a fresh head) brings the forgotten examples back, exactly as for the identity,
whose encoder it has. Alignment with the original gives both away; alignment with retrained models does not, for nets of different seeds are
as far from each other as from the original. Where retraining changes nothing, as for random digits, there is nothing to catch.
"""

import numpy as np
import pytest
import torch
from torch import nn

from conftest import CLASSES, SOURCE, make_net, split, trained_net
from expunge.data.datasets.digits import Digits
from expunge.data.scenarios.class_ import Class
from expunge.data.split import make_split
from expunge.engine.architecture import Architecture
from expunge.engine.context import Context
from expunge.engine.loop import run_phase
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd
from expunge.models.model import create
from expunge.models.small_cnn import SmallCnn
from expunge.representation import battery
from expunge.representation.neighbors import Downstream
from expunge.training.recipes.tiny import Tiny
from expunge.training.train import train

OUTPUTS = {"forget_accuracy", "retain_accuracy", "test_accuracy", "signed_margin", "neighbourhood"}
"""Tests of outputs that the head-only edit is made to pass."""


def retrained_net(seed: int, retain: Stream) -> nn.Module:
    net = make_net(seed)
    context = Context(net, {"train": retain.subset(retain.index, "train")}, needs={"train"}, seed=seed, num_classes=CLASSES)
    run_phase(context, Phase([Term("train", cross_entropy)], epochs=15, optimizer=sgd(0.05), batch_size=64))
    return net.eval()


def other_pictures() -> Downstream:
    made = np.random.default_rng(3)
    labels = np.arange(90) % 3
    pattern = made.random((3, 8, 8, 3))
    pictures = 255 * (0.3 * pattern[labels] + 0.7 * made.random((90, 8, 8, 3)))
    return Downstream.of_pictures("other pictures", pictures.astype(np.uint8), labels, (8, 8))


def small_world() -> battery.World:
    parts = {name: Stream(name, SOURCE, index) for name, index in split("random").items()}
    original = trained_net().eval()
    return battery.World(
        architecture=Architecture(original, torch.rand(4, 3, 8, 8)),
        original=original,
        retrained=[retrained_net(seed, parts["retain"]) for seed in range(1, 7)],
        **parts,
        unseen=Stream("unseen", SOURCE, torch.arange(450, 500)),
        test=Stream("test", SOURCE, torch.arange(450, 500)),
        downstream=[other_pictures()],
    )


def check(table: dict) -> None:
    assert battery.missed(table) == [], battery.text(table)
    assert len(battery.catches(table, battery.RETRAINED)) <= 1, battery.text(table)
    assert not OUTPUTS & set(battery.catches(table, battery.HEAD)), battery.text(table)
    claimed = {model for column in table["tests"].values() for model in column["claims"]}
    assert claimed == {battery.IDENTITY, battery.HEAD, battery.FRESH}
    same_encoder = ("label_probe", "membership_probe", "alignment", "alignment_with_original", "prototype", "encoder_distance")
    for name in same_encoder:
        cells = table["tests"][name]["models"]
        assert cells[battery.IDENTITY]["value"] == pytest.approx(cells[battery.HEAD]["value"], abs=1e-6)
    assert table["tests"]["encoder_distance"]["models"][battery.HEAD]["value"] == 0


def test_every_claim_holds_on_the_small_world():
    world = small_world()
    fresh = retrained_net(100, world.retain)
    table = battery.run(world, battery.control_models(world, fresh))
    check(table)
    inside = {"label_probe", "refitted_membership", "alignment_with_original", "prototype", "retain_only_fresh_head"}
    assert inside <= set(battery.catches(table, battery.HEAD))
    assert table["tests"]["transfer"]["reason"] is None
    assert "forget_accuracy" in battery.catches(table, battery.TEMPERATURE)
    assert len(battery.text(table).splitlines()) == 1 + len(table["tests"])


@pytest.mark.slow
def test_every_claim_holds_for_a_class_of_digits():
    data = Digits(augment=False).load()
    parts = make_split(data, Class(classes=(3,)), 0)
    names = ("retain", "forget", "unseen", "validation", "test")
    streams = {name: Stream(name, data.source, torch.from_numpy(getattr(parts, name))) for name in names}

    def model(index: np.ndarray, seed: int) -> nn.Module:
        net = create(SmallCnn(width=8), data, seed)
        train(net, Stream("train", data.source, torch.from_numpy(index)), Tiny(lr=0.05), seed=seed, num_classes=10)
        return net.eval()

    original = model(parts.train, 0)
    world = battery.World(
        architecture=Architecture(original, next(streams["test"].batches(8)).x),
        original=original,
        retrained=[model(parts.retain, seed) for seed in range(1, 11)],
        **streams,
        kind="class",
    )
    table = battery.run(world, battery.control_models(world, model(parts.retain, 100)))
    check(table)
    assert {"label_probe", "alignment_with_original", "prototype", "relearn_steps"} <= set(battery.catches(table, battery.HEAD))
