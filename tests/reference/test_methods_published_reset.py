"""Resets that need no forget data: each against its formula in plain torch, and against the wrong version it is known for."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import assert_same, batches, ce, method, plain_loop, plain_sgd
from torch import Tensor, nn

from conftest import CLASSES, make_context, trained_net
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.loop import run_phase
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Progress
from expunge.errors import NotApplicable
from expunge.methods.distillation.noisy_inputs import pixel_noise
from expunge.methods.reset_and_repair.fsf import random_layers
from expunge.methods.reset_and_repair.prmq import pruned_and_redrawn
from expunge.methods.reset_and_repair.repair import cosine_by_epoch
from expunge.methods.reset_and_repair.weighted_classes import class_weights, factor_of_the_mean, weighted_cross_entropy

Loss = Callable[[nn.Module], Tensor]


def apply(context: Context, edit: Edit) -> None:
    with torch.no_grad():
        edit.apply(context)


def edited(name: str, context: Context, **fields: object) -> nn.Module:
    """Return a copy of the model after the method's first edit, for a plain loop to go on from."""
    apply(context, next(method(name, **fields).steps(context)))
    start = trained_net()
    start.load_state_dict(context.model.state_dict())
    context.original.restore(context.model)
    return start


def everything(context: Context, stream: str) -> Batch:
    return next(context.stream(stream).batches(1000))


def test_the_cosine_falls_when_an_epoch_begins() -> None:
    factor = cosine_by_epoch(4)
    assert [round(factor(Progress(0, 40, epoch, 4)), 4) for epoch in range(4)] == [1.0, 0.8536, 0.5, 0.1464]
    assert factor(Progress(9, 40, 0, 4)) == 1.0
    assert cosine_by_epoch(4, done=3)(Progress(0, 10, 0, 1)) == factor(Progress(0, 40, 3, 4))


# CT


def pooled_net(*kernels: object) -> nn.Module:
    """Return a net whose head sees no positions."""
    first, second = kernels or (3, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 6, first, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, second, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
        )  # fmt: skip
    return net.eval()


def test_turning_the_kernels_is_turning_the_picture() -> None:
    context = make_context(needs={"retain"}, net=pooled_net())
    x = everything(context, "retain").x
    with torch.no_grad():
        before, wanted = context.model(x), context.model(x.transpose(2, 3))
        apply(context, next(method("ct").steps(context)))
        after = context.model(x)
    assert float((after - before).abs().max()) > 1e-3, "the edit does something"
    torch.testing.assert_close(after, wanted, atol=1e-6, rtol=1e-4)


def test_kernels_that_cannot_turn_stay_or_are_refused() -> None:
    context = make_context(needs={"retain"}, net=pooled_net((3, 1), 3))
    apply(context, next(method("ct").steps(context)))
    assert {name for name, value in context.model.named_parameters() if not torch.equal(value, context.original[name])} == {"3.weight"}
    with pytest.raises(NotApplicable, match="larger than 1 x 1"):
        next(method("CT").steps(make_context(needs={"retain"}, net=pooled_net(1, 1))))


def test_ct_is_the_edit_and_fine_tuning() -> None:
    context = make_context(needs={"retain"})
    run(context, method("convolution_transpose", lr=0.01, epochs=2, batch_size=64))
    expected = trained_net()
    with torch.no_grad():
        for layer in (expected[0], expected[3]):
            layer.weight.copy_(layer.weight.clone().transpose(2, 3))
    optimizer = plain_sgd(expected, 0.01)
    plain_loop(expected, optimizer, map(ce, batches(context, "retain", 64)))
    optimizer.param_groups[0]["lr"] = 0.005
    plain_loop(expected, optimizer, map(ce, batches(context, "retain", 64, epoch=1)))
    assert_same(context.model, expected)


# PRMQ


def test_the_smallest_weights_of_all_layers_are_drawn_anew() -> None:
    context = make_context(needs={"retain"})
    names = ("0.weight", "0.bias", "3.weight", "3.bias", "7.weight", "7.bias")
    values = pruned_and_redrawn(context, 0.6)
    size = torch.cat([context.original[name].abs().flatten() for name in names])
    limit = size.sort().values[int(0.6 * size.numel()) - 1]
    assert set(values) == set(names)
    for name in names:
        old, new, pruned = context.original[name], values[name], context.original[name].abs() <= limit
        assert torch.equal(new[~pruned], old[~pruned]) and pruned.any()
        if old.dim() == 1:
            assert not new[pruned].any(), "biases stay zero"
            continue
        bound = old[0].numel() ** -0.5
        assert new[pruned].all() and float(new[pruned].abs().max()) <= bound
        assert float(new[pruned].std()) == pytest.approx(bound / 3**0.5, rel=0.15)


@pytest.mark.parametrize("power", [1.0, 0.1])
def test_class_weights_have_mean_one_over_the_examples(power: float) -> None:
    context = make_context("subclass", needs={"retain"})
    labels = context.stream("retain").labels
    count = torch.bincount(labels, minlength=CLASSES).double()
    weights = class_weights(context, "retain", power)
    raw = count**-power
    torch.testing.assert_close(weights, (raw / raw[labels].mean()).float())
    if power == 1.0:
        torch.testing.assert_close(weights, (len(labels) / (CLASSES * count)).float())  # known as balanced
    gone = class_weights(make_context("class", needs={"retain"}), "retain", power)
    assert gone[2] == 0 and torch.isfinite(gone).all()


def entropy(logits: Tensor) -> Tensor:
    p = torch.softmax(logits, dim=1)
    return -(p * p.log()).sum(1)


def test_prmq_minimises_weighted_cross_entropy_and_the_entropy_gap() -> None:
    context = make_context("subclass", needs={"retain"})
    start = edited("prmq", context)
    outcome = run(context, method("prmq", lr=0.01, epochs=1.5, batch_size=64, half_precision=False))
    teacher = trained_net().eval()
    labels = context.stream("retain").labels
    raw = torch.bincount(labels, minlength=CLASSES).float() ** -0.1
    weights = raw / raw[labels].mean()
    found = [*batches(context, "retain", 64), *batches(context, "retain", 64, epoch=1)][: int(1.5 * 6)]
    assert outcome.phases[0]["steps"] == len(found) == 9
    optimizer = plain_sgd(start, 0.01)
    for batch in found:
        start.train()
        optimizer.zero_grad()
        logits = start(batch.x)
        with torch.no_grad():
            wanted = entropy(teacher(batch.x))
        value = (weights[batch.y] * F.cross_entropy(logits, batch.y, reduction="none")).mean() + F.mse_loss(entropy(logits), wanted)
        value.backward()
        optimizer.step()
    assert_same(context.model, start)


@pytest.mark.parametrize("half", [True, False])
def test_prmq_ends_in_half_precision(half: bool) -> None:
    context = make_context(needs={"retain"})
    run(context, method("prmq", epochs=1, half_precision=half))
    values = [value for value in context.model.state_dict().values() if value.is_floating_point()]
    assert all(torch.equal(value, value.half().float()) for value in values) == half


# CFW


@pytest.mark.parametrize(("fidelity", "moved"), [("paper", {"0.weight", "3.weight"}), ("reference", {"0.weight"})])
def test_noise_reaches_every_convolution(fidelity: str, moved: set[str]) -> None:
    context = make_context(needs={"retain"})
    apply(context, next(method("cfw", fidelity=fidelity).steps(context)))
    change = {name: value.detach() - context.original[name] for name, value in context.model.named_parameters()}
    assert {name for name, value in change.items() if value.any()} == moved
    assert all(float(change[name].std()) == pytest.approx(0.6, rel=0.15) for name in moved)


def test_class_weights_inside_the_mean_turn_the_gradient() -> None:
    context, weights = make_context(needs={"retain"}), torch.tensor([4.0, 1.0, 1.0, 1.0, 0.2])
    batch = next(context.stream("retain").batches(60))
    context.model.eval()

    def direction(loss) -> Tensor:
        value = loss(context, batch, Forward(context, batch)).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(context.model.parameters()))])

    plain = direction(lambda c, b, s: F.cross_entropy(s.logits, b.y, reduction="none"))
    inside, outside = direction(weighted_cross_entropy(weights)), direction(factor_of_the_mean(weights))
    assert float(torch.cosine_similarity(outside, plain, dim=0)) > 0.99999, "behind the mean they only change the length"
    assert float(torch.cosine_similarity(inside, plain, dim=0)) < 0.99
    own = F.cross_entropy(context.model(batch.x), batch.y, weight=weights, reduction="sum") / len(batch)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(own, list(context.model.parameters()))])
    torch.testing.assert_close(inside, expected, atol=1e-6, rtol=1e-4)


def test_cfw_adds_a_little_noise_before_the_last_epoch() -> None:
    context = make_context(needs={"retain"})
    steps = method("cfw", lr=0.01, epochs=2, batch_size=64, deviation=0.05).steps(context)
    start = edited("cfw", context, deviation=0.05)
    apply(context, next(steps))
    for number, lr in enumerate((0.01, 0.005)):
        if number:
            before = {name: value.detach().clone() for name, value in context.model.named_parameters()}
            apply(context, next(steps))
            noise = {name: value.detach() - before[name] for name, value in context.model.named_parameters()}
            assert {name for name, value in noise.items() if value.any()} == {"0.weight", "3.weight"}
            assert float(noise["3.weight"].std()) == pytest.approx(0.005, rel=0.1)
            start.load_state_dict(context.model.state_dict())
        run_phase(context, next(steps))
        plain_loop(start, plain_sgd(start, lr), [weighted(context, batch) for batch in batches(context, "retain", 64, phase=number)])
        assert_same(context.model, start)
        context.phase += 1
    assert next(steps, None) is None


def weighted(context: Context, batch: Batch) -> Loss:
    labels = context.stream("retain").labels
    weights = len(labels) / (CLASSES * torch.bincount(labels, minlength=CLASSES).float())
    return lambda net: (weights[batch.y] * F.cross_entropy(net(batch.x), batch.y, reduction="none")).mean()


# FSF


def test_layers_of_shortcuts_and_the_head_are_not_reset() -> None:
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.downsample = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.Conv2d(3, 4, 3))

        def forward(self, x):
            return self.b(self.a(x)) + self.downsample(x)

    net = nn.Sequential(Block(), nn.Flatten(), nn.Linear(144, 10), nn.ReLU(), nn.Linear(10, CLASSES))
    context = make_context(needs={"retain"}, net=net)
    assert sorted(random_layers(context, 6, 0)) == ["0.a", "0.b", "2"]
    drawn = [tuple(random_layers(context, 1, number)) for number in range(12)]
    assert len(set(drawn)) == 3


def test_fsf_imitates_logits_on_noisy_pictures_in_cycles() -> None:
    context, resets = make_context(needs={"retain"}), 0
    steps = method("fsf", cycles=(1, 2), layers=1, lr=0.01, batch_size=64).steps(context)
    for number, epochs in enumerate((1, 2)):
        before = {name: value.detach().clone() for name, value in context.model.named_parameters()}
        apply(context, next(steps))
        moved = {name for name, value in context.model.named_parameters() if not torch.equal(value, before[name])}
        assert moved in ({"0.weight", "0.bias"}, {"3.weight", "3.bias"})
        resets += 1
        phase = next(steps)
        assert isinstance(phase, Phase) and phase.epochs == epochs
        expected = trained_net()
        expected.load_state_dict(context.model.state_dict())
        run_phase(context, phase.but(steps=1))
        batch = batches(context, "retain", 64, phase=number)[0]
        noisy = batch.x + 0.1 * pixel_noise(context, batch)
        with torch.no_grad():
            wanted = trained_net().eval()(noisy)
        plain_loop(expected, plain_sgd(expected, 0.01), [lambda net, x=noisy, z=wanted: F.mse_loss(net(x), z)])
        assert_same(context.model, expected)
        context.phase += 1
    assert resets == 2 and next(steps, None) is None


def test_noise_on_pictures_is_keyed_by_example_epoch_and_draw() -> None:
    context = make_context(needs={"retain"})
    whole = everything(context, "retain")
    noise = pixel_noise(context, whole)
    part = next(context.stream("retain").subset(whole.index[7:19]).batches(5))
    assert torch.equal(pixel_noise(context, part), noise[7:12])
    assert float(noise.std()) == pytest.approx(1, abs=0.02) and abs(float(noise.mean())) < 0.02
    assert len({tuple(row[:8].tolist()) for row in noise.flatten(1)}) == len(noise)
    for other in (pixel_noise(context, whole, draw=1), pixel_noise(context, Batch(whole.x, whole.y, whole.index, "retain", epoch=1))):
        assert abs(float((other * noise).mean())) < 0.02
