"""What every recipe promises, over the whole registry."""

import pytest
import torch

from conftest import CLASSES, SIZE, SOURCE, make_net
from expunge import registry
from expunge.config import build
from expunge.engine.context import Context
from expunge.engine.run import run
from expunge.engine.stream import Stream
from expunge.errors import UndeclaredAccess
from expunge.methods.references.retrain import Retrain
from expunge.models.checkpoint import weights_hash
from expunge.training.checkpoints import DiskCheckpoints
from expunge.training.recipe import Recipe
from expunge.training.train import train

NAMES = registry.names("recipes")
EVERYTHING = torch.arange(SIZE)
KEPT = EVERYTHING[EVERYTHING % 10 != 0]


class Recorded:
    """A source that notes the order of the examples of every epoch."""

    def __init__(self):
        self.labels, self.orders = SOURCE.labels, []

    def __len__(self):
        return len(SOURCE)

    def batches(self, order, size, *, augment, seed, epoch):
        if augment or size != len(order):
            self.orders.append(order)
        return SOURCE.batches(order, size, augment=augment, seed=seed, epoch=epoch)


class Killed(Exception):
    pass


def recipe_of(name, **fields) -> Recipe:
    return build("recipes", {"name": name, "epochs": 3, "batch_size": 64, **fields}, "train")


def trained(name, seed=0, stream=None, initial=0, **fields):
    net = make_net(initial)
    outcome = train(net, stream or Stream("train", SOURCE, EVERYTHING), recipe_of(name, **fields), seed=seed, num_classes=CLASSES)
    return net, outcome


def orders_of(name, index, stream_name):
    source = Recorded()
    trained(name, stream=Stream(stream_name, source, index))
    return [order for order in source.orders if len(order) == len(index)]


def test_the_registry_has_recipes():
    assert {"standard", "tiny", "fast"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestRecipe:
    def test_defaults_build_and_round_trip(self, name):
        recipe = build("recipes", name, "train")
        assert isinstance(recipe, Recipe)
        assert build("recipes", recipe.tree(), "train") == recipe

    def test_the_loss_falls_and_the_weights_stay_finite(self, name):
        net, outcome = trained(name)
        losses = [next(iter(epoch.values())) for epoch in outcome.phases[-1]["losses"]]
        assert len(losses) == 3 and losses[-1] < losses[0]
        assert all(value.isfinite().all() for value in net.state_dict().values())
        assert not net.training

    def test_one_seed_one_model_and_another_seed_another(self, name):
        first, again, other = (trained(name, seed=seed, epochs=1)[0] for seed in (0, 0, 1))
        assert weights_hash(first) == weights_hash(again) != weights_hash(other)

    def test_random_numbers_of_the_caller_change_nothing_and_are_left_alone(self, name):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first = trained(name, epochs=1)[0]
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(6)
        assert weights_hash(trained(name, epochs=1)[0]) == weights_hash(first)

    def test_leaving_examples_out_keeps_the_order_of_the_others(self, name):
        whole, part = orders_of(name, EVERYTHING, "train"), orders_of(name, KEPT, "retain")
        assert len(whole) == len(part) == 3
        for full, reduced in zip(whole, part, strict=True):
            assert torch.equal(full[full % 10 != 0], reduced)

    def test_the_name_of_the_stream_changes_nothing(self, name):
        one, two = (trained(name, stream=Stream(called, SOURCE, KEPT), epochs=1)[0] for called in ("train", "retain"))
        assert weights_hash(one) == weights_hash(two)

    def test_the_method_retrain_gives_what_training_on_the_retain_set_gives(self, name):
        initial = make_net(3).state_dict()
        streams = {"retain": Stream("retain", SOURCE, KEPT), "forget": Stream("forget", SOURCE, EVERYTHING[::10])}
        net = make_net(0)
        context = Context(
            net,
            streams,
            needs=Retrain.needs,
            seed=0,
            num_classes=CLASSES,
            initialise=lambda seed: initial,
            recipe=recipe_of(name, epochs=1),
        )
        run(context, Retrain())
        direct, _ = trained(name, stream=Stream("train", SOURCE, KEPT), initial=3, epochs=1)
        assert weights_hash(net) == weights_hash(direct)

    def test_it_reads_no_other_stream(self, name):
        context = Context(make_net(), {"train": Stream("train", SOURCE, KEPT)}, needs={"retain"}, seed=0, num_classes=CLASSES)
        with pytest.raises(UndeclaredAccess):
            list(recipe_of(name).steps(context, "train"))

    def test_every_example_is_counted(self, name):
        _, outcome = trained(name, epochs=2)
        assert outcome.cost["forward"] == outcome.cost["backward"] == 2 * SIZE

    @pytest.mark.parametrize("epoch", [1, 2, 3])
    def test_killed_after_an_epoch_it_goes_on_as_if_nothing_had_happened(self, name, epoch, tmp_path):
        undisturbed, whole = trained(name)

        def attempt(report):
            net = make_net()
            stream, checkpoints = Stream("train", SOURCE, EVERYTHING), DiskCheckpoints(tmp_path / "checkpoint.safetensors")
            outcome = train(net, stream, recipe_of(name), seed=0, num_classes=CLASSES, checkpoints=checkpoints, report=report)
            return net, outcome

        def kill(event):
            if event["event"] == "epoch" and event["epoch"] == epoch:
                raise Killed

        with pytest.raises(Killed):
            attempt(kill)
        events = []
        resumed, outcome = attempt(events.append)
        assert weights_hash(resumed) == weights_hash(undisturbed)
        assert outcome.phases == whole.phases
        assert outcome.cost["backward"] == whole.cost["backward"]
        assert [event["epoch"] for event in events if event["event"] == "resumed"] == ([epoch - 1] if epoch > 1 else [])
