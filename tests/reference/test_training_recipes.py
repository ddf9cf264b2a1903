"""Schedules, losses and rates of the recipes, written naively."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import CLASSES, SIZE, SOURCE, make_net
from expunge.config import build
from expunge.data.source import TensorSource
from expunge.engine.architecture import Architecture
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Progress
from expunge.errors import BadInput
from expunge.models.model import Normalized
from expunge.models.whitened_cnn import WhitenedNet
from expunge.training.precision import has_fast_bfloat16, resolve_precision
from expunge.training.recipes.fast import average_decay
from expunge.training.train import train


def context_of(net=None, source=SOURCE, index=None):
    index = torch.arange(SIZE) if index is None else index
    return Context(net or make_net(), {"train": Stream("train", source, index)}, needs={"train"}, seed=0, num_classes=CLASSES)


def phase_of(name, **fields) -> Phase:
    (phase,) = [step for step in build("recipes", {"name": name, **fields}, "train").steps(context_of()) if isinstance(step, Phase)]
    return phase


def rates(phase, steps_per_epoch=4):
    total = phase.epochs * steps_per_epoch
    return [phase.schedule(Progress(step, total, step // steps_per_epoch, phase.epochs)) for step in range(total)]


class TestStandardSchedule:
    def test_published_milestones(self):
        found = rates(phase_of("standard"))
        expected = [1.0 if step // 4 < 91 else 0.1 if step // 4 < 136 else 0.01 for step in range(182 * 4)]
        assert found == pytest.approx(expected)

    def test_milestones_move_with_the_horizon(self):
        found = rates(phase_of("standard", epochs=8))
        assert found == pytest.approx([1.0] * 16 + [0.1] * 8 + [0.01] * 8)

    def test_cosine(self):
        found = rates(phase_of("standard", schedule="cosine", epochs=10))
        assert found == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 40)) for step in range(40)])

    def test_constant(self):
        assert set(rates(phase_of("standard", schedule="constant", epochs=3))) == {1.0}

    def test_warm_up_rises_from_zero_and_the_rest_follows(self):
        found = rates(phase_of("standard", epochs=6, warm_up_epochs=2, schedule="cosine"))
        assert found[:8] == pytest.approx([(step + 1) / 8 for step in range(8)])
        assert found[8:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 16)) for step in range(16)])

    @pytest.mark.parametrize("epochs", [1, 2, 3])
    def test_short_runs(self, epochs):
        assert rates(phase_of("standard", epochs=epochs))[0] == 1.0

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"epochs": 100, "milestones": [91, 136]}, "136 lies beyond the 100 epochs"),
            ({"epochs": 91, "milestones": [91]}, "91 lies beyond the 91 epochs"),
            ({"milestones": [136, 91]}, "rising"),
            ({"milestones": []}, "schedule=constant"),
            ({"schedule": "cosine", "milestones": [91]}, "schedule=cosine has none"),
            ({"epochs": 5, "warm_up_epochs": 5}, "fewer than the 5 epochs"),
            ({"label_smoothing": 1.0}, "label_smoothing"),
            ({"epochs": 2.5}, "positive integer"),
        ],
    )
    def test_refuses_what_would_do_nothing(self, fields, words):
        with pytest.raises(BadInput, match=words):
            build("recipes", {"name": "standard", **fields}, "train")


def test_label_smoothing_is_the_mixture_of_label_and_uniform_distribution():
    phase = phase_of("standard", label_smoothing=0.1)
    net = make_net()
    net.eval()
    batch = next(Stream("train", SOURCE, torch.arange(20)).batches(20))

    class Student:
        logits = net(batch.x).detach()

    target = torch.full((20, CLASSES), 0.1 / CLASSES)
    for row, label in enumerate(batch.y):
        target[row, label] += 0.9
    naive = -(target * Student.logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(phase.terms[0].loss(None, batch, Student), naive)


def test_sharpness_aware_training_is_an_option_and_differs():
    assert phase_of("standard").perturb is None
    plain, sharp = make_net(), make_net()
    for net, radius in ((plain, 0.0), (sharp, 2.0)):
        recipe = build("recipes", {"name": "standard", "epochs": 1, "sam_radius": radius, "precision": "float32"}, "train")
        outcome = train(net, Stream("train", SOURCE, torch.arange(64)), recipe, seed=0, num_classes=CLASSES)
        assert outcome.cost["forward"] == (128 if radius else 64)
    assert not torch.equal(plain[0].weight, sharp[0].weight)


class TestFastRates:
    def test_published_rates_for_the_whitened_net(self):
        recipe = build("recipes", "fast", "train")
        net = Normalized(WhitenedNet(10), (0.5,) * 3, (0.25,) * 3)
        moving = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        made = recipe.optimizer(True, 1024).make(moving)
        found = {id(parameter): group for group in made.param_groups for parameter in group["params"]}
        scale = 1024 * (1 + 1 / (1 - 0.85))
        lr, decay = 11.5 / scale, 0.0153 * 1024 / scale
        assert len(moving) == 14
        for name, parameter in moving.items():
            own = 64 * lr if ".norm" in name else lr
            group = found[id(parameter)]
            assert (group["lr"], group["weight_decay"]) == pytest.approx((own, decay / own)), name
            assert group["momentum"] == 0.85 and group["nesterov"]
        assert not any("whitening.weight" in name or ("norm" in name and name.endswith("weight")) for name in moving)

    def test_the_rate_of_an_example_does_not_depend_on_the_batch_size(self):
        small, large = (build("recipes", "fast", "train").optimizer(True, size) for size in (256, 1024))
        assert small.lr == large.lr
        parameter = nn.Parameter(torch.zeros(2, 2))
        assert small.scale("w", parameter)["weight_decay"] == pytest.approx(large.scale("w", parameter)["weight_decay"] / 4)

    def test_triangle(self):
        found = rates(phase_of("fast"), 25)
        assert found[0] == pytest.approx(0.2) and found[23] == pytest.approx(1.0)
        assert found[12] == pytest.approx(0.2 + 0.8 * 12 / 23)
        assert found[99] == pytest.approx(1 - 0.93 * 76 / 77)

    def test_average_decay_is_cubic(self):
        assert average_decay(Progress(50, 100, 0, 1)) == pytest.approx(0.95**5 / 8)


def pictures(count=60):
    made = torch.Generator().manual_seed(3)
    smooth = F.interpolate(torch.rand(count, 3, 8, 8, generator=made), size=28, mode="bilinear")
    return TensorSource((smooth * 255).to(torch.uint8), torch.arange(count) % CLASSES)


def whitened_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Normalized(WhitenedNet(CLASSES, widths=(8, 8, 8)), (0.5,) * 3, (0.25,) * 3)


class TestWhitening:
    def test_outputs_of_the_first_layer_are_uncorrelated(self):
        source, model = pictures(), whitened_model()
        edit = next(build("recipes", "fast", "train").steps(context_of(model, source, torch.arange(60))))
        assert isinstance(edit, Edit)
        edit.apply(context_of(model, source, torch.arange(60)))
        x = next(source.batches(torch.arange(60), 60, augment=False, seed=0, epoch=0))[0]
        outputs = model.net.whitening(model.normalize(x)).transpose(0, 1).flatten(1)[:12].detach()
        variances = torch.cov(outputs.double()).diagonal()
        correlation = torch.corrcoef(outputs.double()) - torch.eye(12)
        assert correlation.abs().max() < 1e-2
        assert variances.max() < 1.001 and variances.median() > 0.5

    def test_it_sees_the_given_stream_only(self):
        source, kept = pictures(), torch.arange(60)[torch.arange(60) % 3 != 0]
        seen = []

        class Spy:
            labels = source.labels

            def __len__(self):
                return 60

            def batches(self, order, size, **rest):
                seen.extend(order.tolist())
                return source.batches(order, size, **rest)

        model = whitened_model()
        context = context_of(model, Spy(), kept)
        next(build("recipes", {"name": "fast", "whitening_examples": 20}, "train").steps(context)).apply(context)
        assert len(seen) == 20 and set(seen) <= set(kept.tolist())

    def test_the_bias_learns_for_its_epochs_and_then_stays(self):
        found = {}
        for epochs in (1, 2, 4):
            model = whitened_model()
            recipe = build(
                "recipes",
                {"name": "fast", "epochs": 4, "batch_size": 20, "whitening_bias_epochs": epochs, "precision": "float32"},
                "train",
            )
            history = []

            def note(event, model=model, history=history):
                if event["event"] == "epoch":
                    history.append(model.net.whitening.bias.detach().clone())

            train(model, Stream("train", pictures(), torch.arange(60)), recipe, seed=0, num_classes=CLASSES, report=note)
            found[epochs] = [not torch.equal(a, b) for a, b in zip(history, history[1:], strict=False)]
            assert history[0].abs().max() > 0
        assert found == {1: [False] * 3, 2: [True, False, False], 4: [True] * 3}

    def test_new_random_weights_start_as_identities_like_the_first_ones(self):
        fresh = context_of(whitened_model(), pictures(), torch.arange(60)).fresh_state("again")
        first = whitened_model().state_dict()
        assert fresh["net.whitening.bias"].abs().max() == 0
        for name in ("net.groups.0.conv2.weight", "net.groups.2.conv1.weight"):
            assert torch.equal(fresh[name][:8], first[name][:8])
        assert not torch.equal(fresh["net.whitening.weight"], first["net.whitening.weight"])

    def test_averaging_over_the_mirror_image_is_part_of_the_model_in_evaluation_only(self):
        plain = whitened_model().net
        averaged = WhitenedNet(CLASSES, widths=(8, 8, 8), flip_average=True)
        averaged.load_state_dict(plain.state_dict())
        x = torch.rand(4, 3, 28, 28)
        plain.eval(), averaged.eval()
        torch.testing.assert_close(averaged(x), (plain(x) + plain(x.flip(3))) / 2)
        assert Architecture(averaged, x).head_name == "head"
        plain.train(), averaged.train()
        assert torch.equal(averaged(x), plain(x))


class TestPrecision:
    def test_a_choice_is_taken_and_auto_follows_the_device(self):
        cpu = torch.device("cpu")
        assert resolve_precision("float32", cpu) == "float32"
        assert resolve_precision("bfloat16", cpu) == "bfloat16"
        assert resolve_precision("auto", cpu) == ("bfloat16" if has_fast_bfloat16(cpu) else "float32")
        assert resolve_precision("auto", torch.device("meta")) == "float32"
