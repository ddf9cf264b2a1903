"""Masks act on the realised update, whatever the optimiser, the noise or the perturbation does."""

import copy

import pytest
import torch

from conftest import make_context, make_net
from expunge.engine.loop import run_phase
from expunge.engine.parameters import leaves
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import Optimizer, adam, adamw, enforce, lookahead, noise, sam, sgd

WAYS = {
    "sgd": {"optimizer": sgd(0.05, momentum=0.9, weight_decay=0.1)},
    "nesterov": {"optimizer": sgd(0.05, momentum=0.9, weight_decay=0.1, nesterov=True)},
    "adam": {"optimizer": adam(0.01, weight_decay=0.1)},
    "adamw": {"optimizer": adamw(0.01, weight_decay=0.5)},
    "decoupled": {"optimizer": sgd(0.05, decoupled_weight_decay=0.1)},
    "noise": {"after_step": (noise(0.01),)},
    "lookahead": {"after_step": (lookahead(2, lambda progress: 0.5),)},
    "sam": {"perturb": sam(0.1)},
    "asam": {"perturb": sam(0.1, adaptive=True)},
    "clip": {"clip": 0.1},
}


def half_mask(net, share=0.5):
    made = torch.Generator().manual_seed(3)
    return {name: (torch.rand(value.shape, generator=made) < share).float() for name, value in leaves(net).items()}


def phase(**changes):
    return Phase([Term("retain", cross_entropy), Term("forget", cross_entropy, weight=-0.1)], epochs=2, batch_size=64).but(**changes)


def frozen_entries_move(before, after, mask):
    return [name for name in mask if not torch.equal(before[name][mask[name] == 0], after[name][mask[name] == 0])]


def trained(**changes):
    """Return the parameters before and after a phase on a fresh, untrained net."""
    net = make_net()
    before = {name: value.detach().clone() for name, value in leaves(net).items()}
    result = run_phase(make_context(net=net), phase(**changes))
    assert result.steps == 12
    return before, {name: value.detach().clone() for name, value in leaves(net).items()}


@pytest.mark.parametrize("way", WAYS)
def test_frozen_entries_stay_bit_for_bit(way):
    mask = half_mask(make_net())
    before, after = trained(mask=mask, **WAYS[way])
    assert frozen_entries_move(before, after, mask) == []
    assert all(not torch.equal(before[name], after[name]) for name in mask)


@pytest.mark.parametrize("way", ["sgd", "adam", "adamw", "decoupled", "noise"])
def test_masking_the_gradient_alone_leaks(way):
    """The same check sees the published bug: the gradient is masked, but decay, momentum and noise still move the weights."""
    mask = half_mask(make_net())

    def mask_gradient_only(context, parameters, compute):
        return [gradient * mask[name] for name, gradient in zip(leaves(context.model), compute(False), strict=True)]

    before, after = trained(perturb=mask_gradient_only, **WAYS[way])
    assert frozen_entries_move(before, after, mask)


def test_momentum_built_before_a_mask_would_leak_without_clearing():
    """Two optimiser steps by hand: with state left in place, the next unmasked step moves the frozen entry by old momentum."""

    def second_step(clear):
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        mask = {"w": torch.tensor([1.0, 0.0])}
        for gradient in (torch.ones(2), torch.zeros(2)):
            weight.grad, before = gradient, weight.detach().clone()
            optimizer.step()
            if gradient.any() and clear:
                enforce(mask, {"w": before}, {"w": weight}, optimizer)
            elif gradient.any():
                with torch.no_grad():
                    weight.copy_(before + mask["w"] * (weight - before))
        return float(weight.detach()[1])

    assert second_step(clear=True) == 1.0
    assert second_step(clear=False) != 1.0


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 0.1, amsgrad=True)])
def test_state_of_frozen_entries_is_cleared(make):
    weight = torch.nn.Parameter(torch.arange(4.0))
    optimizer, mask = make([weight]), torch.tensor([1.0, 0.0, 0.5, 0.0])
    before = weight.detach().clone()
    weight.grad = torch.ones(4)
    optimizer.step()
    enforce({"w": mask}, {"w": before}, {"w": weight}, optimizer)
    states = [value for value in optimizer.state[weight].values() if value.shape == weight.shape]
    assert states
    for value in states:
        assert torch.equal(value == 0, mask == 0)


def test_fractional_mask_is_exactly_interpolation():
    made = torch.Generator().manual_seed(0)
    old, new = torch.randn(1000, generator=made), torch.randn(1000, generator=made)
    mask = torch.rand(1000, generator=made)
    mask[:100], mask[100:200] = 0, 1
    parameter = torch.nn.Parameter(new.clone())
    enforce({"w": mask}, {"w": old}, {"w": parameter}, torch.optim.SGD([parameter], 0.1))
    assert torch.equal(parameter[:100], old[:100])
    assert torch.equal(parameter[100:200], new[100:200])
    assert torch.equal(parameter[200:], (old + mask * (new - old))[200:])
    naive = old + mask * (new - old)
    assert not torch.equal(naive[100:200], new[100:200]), "interpolating at 1 rounds, and the check above sees it"


def test_a_step_that_is_not_finite_cannot_reach_frozen_entries():
    """Zero times NaN is NaN: interpolation alone would let it through."""
    old, mask = torch.ones(3), torch.tensor([0.0, 1.0, 0.0])
    parameter = torch.nn.Parameter(torch.tensor([float("nan"), 2.0, float("inf")]))
    assert bool((old + mask * (parameter.detach() - old)).isnan().any())
    enforce({"w": mask}, {"w": old}, {"w": parameter}, torch.optim.SGD([parameter], 0.1))
    assert parameter.tolist() == [1.0, 2.0, 1.0]


def test_fractional_mask_through_a_phase():
    """One step of plain SGD: the masked update is the mask times the free one."""
    mask = {name: torch.full_like(value, 0.1) for name, value in leaves(make_net()).items()}
    free_before, free = trained_one_step(None)
    before, masked = trained_one_step(mask)
    for name, old in before.items():
        assert torch.equal(old, free_before[name])
        assert torch.equal(masked[name], old + mask[name] * (free[name] - old))


def trained_one_step(mask):
    net = make_net()
    before = {name: value.detach().clone() for name, value in leaves(net).items()}
    run_phase(make_context(net=net), phase(mask=mask, steps=1))
    return before, {name: value.detach().clone() for name, value in leaves(net).items()}


def test_mask_of_ones_and_mask_of_zeros():
    net = make_net()
    ones = {name: torch.ones_like(value) for name, value in leaves(net).items()}
    assert all(torch.equal(a, b) for a, b in zip(trained(mask=ones)[1].values(), trained()[1].values(), strict=True))
    partly = copy.deepcopy(ones)
    partly["0.bias"][0] = 0  # the other entries of the tensor go through the arithmetic and must not round
    a, b = one_step_pair(partly["0.bias"])
    assert torch.equal(a[1:], b[1:])
    before, after = trained(mask={name: torch.zeros_like(value) for name, value in ones.items()})
    assert all(torch.equal(before[name], after[name]) for name in before)


def one_step_pair(bias_mask):
    return trained_one_step({"0.bias": bias_mask})[1]["0.bias"], trained_one_step(None)[1]["0.bias"]


def test_a_mask_that_names_nothing_is_refused():
    with pytest.raises(ValueError, match="which is no parameter"):
        run_phase(make_context(net=make_net()), phase(mask={"0.weihgt": torch.zeros(1)}))


def test_trainable_freezes_the_rest_and_leaves_flags_as_they_were():
    net = make_net()
    net[0].weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    run_phase(make_context(net=net), phase(trainable=frozenset({"7.weight", "7.bias"})))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"7.weight", "7.bias"}
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["0.weight"]


def test_optimizer_groups_follow_the_schedule():
    """A group with its own rate keeps its ratio: twice the rate, twice the first update."""
    plain = Optimizer("sgd", 0.1)
    double = Optimizer("sgd", 0.1, scale=lambda name, parameter: {"lr": 0.2} if name == "7.bias" else {})
    changes = {}
    for key, optimizer in {"plain": plain, "double": double}.items():
        net = make_net()
        before = net[7].bias.detach().clone()
        run_phase(make_context(net=net), phase(optimizer=optimizer, schedule=lambda progress: 0.5, steps=1))
        changes[key] = net[7].bias.detach() - before
    torch.testing.assert_close(changes["double"], 2 * changes["plain"], rtol=1e-4, atol=1e-7)
