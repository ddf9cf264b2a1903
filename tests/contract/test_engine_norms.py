"""What BatchNorm's running statistics do: they are no parameters, and nothing but a stated policy may move them."""

import copy

import pytest
import torch
from torch import nn

from conftest import CLASSES, SOURCE, make_context, make_net, split
from expunge.engine.loop import run_phase
from expunge.engine.norms import recalibrate
from expunge.engine.parameters import leaves
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sam, sgd

FORGET, RETAIN = Term("forget", cross_entropy, weight=-0.1), Term("retain", cross_entropy)


def buffers(net):
    return {name: value.clone() for name, value in net.named_buffers()}


def moved_buffers(net, phase, context=None):
    before = buffers(net)
    run_phase(context or make_context(net=net), phase)
    return {name for name, value in net.named_buffers() if not torch.equal(value, before[name])}


def plain_net():
    """Return a flat net whose norm layers have no weights of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(),
            nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(),
            nn.Flatten(), nn.Linear(8 * 16, CLASSES),
        )  # fmt: skip


FIRST = {f"1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
SECOND = {f"4.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("make", [make_net, plain_net])
def test_statistics_of_frozen_layers_do_not_drift(make):
    last = Phase([RETAIN], trainable=frozenset({"7.weight", "7.bias"}), norm="train")
    assert moved_buffers(make(), last) == set()
    affine = {"4.weight", "4.bias"} if make is make_net else set()
    tail = last.but(trainable=frozenset({"3.weight", "7.weight"} | affine))
    assert moved_buffers(make(), tail) == SECOND
    assert moved_buffers(make(), last.but(trainable=None)) == FIRST | SECOND


def test_planted_train_mode_drifts_under_frozen_weights():
    """The published bug: only ``requires_grad`` is set, the model is left in train mode; the same check sees it."""
    net = make_net()
    before = buffers(net)
    net.requires_grad_(False)
    net[7].requires_grad_(True)
    net.train()
    for batch in make_context(net=net).stream("retain").batches(64):
        nn.functional.cross_entropy(net(batch.x), batch.y).backward()
    assert {name for name, value in net.named_buffers() if not torch.equal(value, before[name])} == FIRST | SECOND


@pytest.mark.parametrize("make", [make_net, plain_net])
def test_a_mask_that_freezes_a_layer_freezes_its_statistics(make):
    net = make()
    mask = {name: torch.zeros_like(value) for name, value in leaves(net).items() if name[0] in "01"}
    assert moved_buffers(net, Phase([RETAIN], mask=mask)) == SECOND


def test_norm_with_masked_weights_under_a_moving_convolution_is_frozen():
    net = make_net()
    mask = {"1.weight": torch.zeros(8), "1.bias": torch.zeros(8)}
    assert moved_buffers(net, Phase([RETAIN], mask=mask)) == SECOND


def test_an_affine_free_norm_goes_with_the_layer_before_it():
    net = plain_net()
    assert moved_buffers(net, Phase([RETAIN], trainable=frozenset({"0.weight", "7.weight"}))) == FIRST


def test_phases_over_forget_data_alone_default_to_frozen():
    context = make_context(net=make_net())
    part = context.stream("forget").subset(split("random")["forget"][:20], "part")
    assert moved_buffers(make_net(), Phase([FORGET])) == set()
    assert moved_buffers(context.model, Phase([Term(part, cross_entropy)]), context) == set()
    assert moved_buffers(make_net(), Phase([FORGET], norm="train")) == FIRST | SECOND
    assert moved_buffers(make_net(), Phase([FORGET, RETAIN])) == FIRST | SECOND
    assert moved_buffers(make_net(), Phase([FORGET, RETAIN], norm="frozen")) == set()


def statistics_by_hand(net, batches):
    """Return mean and variance per channel of the first norm layer's input, averaged over batches."""
    seen = [net[0](batch.x).transpose(0, 1).flatten(1) for batch in batches]
    return torch.stack([x.mean(1) for x in seen]).mean(0), torch.stack([x.var(1) for x in seen]).mean(0)


def test_recalibrate_equals_statistics_by_hand():
    net = make_net()
    net[1].running_mean.fill_(5.0)
    context = make_context(net=net)
    stream = context.stream("retain")
    recalibrate(context, [stream], size=50)
    mean, variance = statistics_by_hand(net, stream.batches(50, seed=0, shuffle=True))
    torch.testing.assert_close(net[1].running_mean, mean.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[1].running_var, variance.detach(), rtol=1e-5, atol=1e-6)
    assert net[1].momentum == 0.1 and net[1].training


def test_recalibrate_phase_reads_no_forget_data_and_leaves_frozen_layers():
    net = make_net()
    context = make_context(net=net)
    phase = Phase([FORGET, RETAIN], norm="recalibrate", batch_size=50, trainable=frozenset({"0.weight", "1.weight", "7.weight"}))
    before = buffers(net)
    run_phase(context, phase)
    mean, _ = statistics_by_hand(net, context.stream("retain").batches(50, seed=0, shuffle=True))
    torch.testing.assert_close(net[1].running_mean, mean.detach(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in net.named_buffers() if name in SECOND)


def test_recalibrate_puts_momentum_back_when_it_fails():
    net = make_net()
    context = make_context(net=net)
    broken = Stream("retain", SOURCE, torch.arange(10))
    broken.batches = lambda *a, **k: iter([1 / 0])
    with pytest.raises(ZeroDivisionError):
        recalibrate(context, [broken])
    assert net[1].momentum == 0.1


def careless_sam(context, parameters, compute):
    compute(False)
    return compute(False)


def test_second_forward_of_sam_leaves_running_statistics_alone():
    tracked = {}
    for name, perturb in {"none": None, "sam": sam(0.05), "careless": careless_sam}.items():
        net = make_net()
        run_phase(make_context(net=net), Phase([RETAIN], batch_size=64, steps=1, perturb=perturb, optimizer=sgd(0.01)))
        tracked[name] = (int(net[1].num_batches_tracked), net[1].running_mean.clone())
    assert tracked["sam"][0] == tracked["none"][0] == 1
    assert torch.equal(tracked["sam"][1], tracked["none"][1])
    assert tracked["careless"][0] == 2 and not torch.equal(tracked["careless"][1], tracked["none"][1])


def test_modes_are_put_back():
    net = make_net().eval()
    net[1].train()
    flags = [module.training for module in net.modules()]
    run_phase(make_context(net=net), Phase([FORGET]))
    assert [module.training for module in net.modules()] == flags


def test_rules_are_asked_in_eval_mode_and_the_phase_goes_on_in_its_own():
    net, seen = make_net(), []

    def rule(context, progress):
        seen.append([module.training for module in context.model.modules() if isinstance(module, nn.BatchNorm2d)])
        return False

    state = copy.deepcopy(net.state_dict())
    run_phase(make_context(net=net), Phase([RETAIN], epochs=2, batch_size=100, stop=rule, stop_every=2))
    assert seen == [[False, False]] * 4
    asked = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(state)
    run_phase(make_context(net=net), Phase([RETAIN], epochs=2, batch_size=100))
    assert all(torch.equal(value, asked[name]) for name, value in net.state_dict().items())
