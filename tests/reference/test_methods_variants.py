"""Variants of published methods that the released code of Unlearn-Sparse has, each against its formula in plain torch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import CLASSES, make_context, make_net, trained_net
from expunge import registry
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.measure import mean_loss
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.stream import Batch
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd

PRUNABLE = ("0.weight", "3.weight")


def method(name: str, **fields: object) -> Method:
    return registry.find("methods", name)(**fields)


def batches(context: Context, stream: str, size: int, epoch: int = 0, phase: int = 0) -> list[Batch]:
    """Return the batches that the engine takes from a stream."""
    seed = randomness.derive(context.seed, "batches", phase)
    return list(context.stream(stream).batches(size, seed=seed, epoch=epoch, shuffle=True, augment=True))


def plain_sgd(net: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


def assert_same(net: nn.Module, expected: nn.Module) -> None:
    state = expected.state_dict()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=1e-6, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def prune_of_the_rest(net: nn.Module, alive: dict[str, torch.Tensor], rate: float) -> int:
    """Zero a share of the weights that are still alive, the smallest of all layers first, and return how many that are."""
    weights = {name: net.get_parameter(name) for name in PRUNABLE}
    left = torch.cat([weights[name][alive[name]].abs() for name in PRUNABLE])
    count = round(rate * len(left))
    limit = left.sort().values[count - 1]
    for name in PRUNABLE:
        alive[name] &= weights[name].abs() > limit
        weights[name].mul_(alive[name])
    return count


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_interleaved_pruning_prunes_the_same_share_before_every_second_epoch(epochs: int) -> None:
    events: list[dict] = []
    context = make_context(needs={"retain"}, report=events.append)
    run(context, method("interleaved_pruning", sparsity=0.9, epochs=epochs, batch_size=128))
    net = trained_net().train()
    alive = {name: torch.ones_like(net.get_parameter(name), dtype=torch.bool) for name in PRUNABLE}
    rate = 1 - (1 - 0.9) ** (1 / ((epochs - 1) // 2 + 1))
    for epoch in range(epochs):
        if epoch % 2 == 0:
            assert prune_of_the_rest(net, alive, rate) > 10
            optimizer = plain_sgd(net, 0.01)
        for batch in batches(context, "retain", 128, epoch % 2, epoch // 2):
            optimizer.zero_grad()
            F.cross_entropy(net(batch.x), batch.y).backward()
            optimizer.step()
            with torch.no_grad():
                for name, kept in alive.items():
                    net.get_parameter(name).mul_(kept)
    for name, kept in alive.items():
        assert int((kept != (context.model.get_parameter(name) != 0)).sum()) <= 2, name  # counts are rounded down, of the whole
    sparsity = [event["sparsity"] for event in events if event["event"] == "pruned"]
    assert sparsity == pytest.approx([1 - (1 - rate) ** (number + 1) for number in range(len(range(0, epochs, 2)))], abs=2e-3)
    assert sum(event["event"] == "epoch" for event in events) == epochs
    close = [torch.isclose(value, context.model.get_parameter(name), atol=2e-3).float().mean() for name, value in net.named_parameters()]
    assert min(close) > 0.95


def test_interleaved_pruning_is_one_shot_pruning_when_there_is_one_round() -> None:
    context = make_context(needs={"retain"})
    run(context, method("interleaved_pruning", sparsity=0.5, epochs=2, batch_size=128))
    pruned = make_context(needs={"retain"})
    run(pruned, method("finetune", epochs=2, batch_size=128), [registry.find("addons", "prune")(sparsity=0.5, repair_epochs=0)])
    assert_same(context.model, pruned.model)


@pytest.mark.parametrize("alpha", [1e-4, 1e-2])
def test_ascent_with_l1_is_descent_on_the_negative_loss_plus_the_norm(alpha: float) -> None:
    context = make_context(needs={"forget"})
    run(context, method("GA_l1", lr=1e-3, epochs=2, batch_size=16, alpha=alpha))
    net = trained_net().eval()
    optimizer = plain_sgd(net, 1e-3)
    for epoch in (0, 1):
        for batch in batches(context, "forget", 16, epoch):
            optimizer.zero_grad()
            (-F.cross_entropy(net(batch.x), batch.y) + alpha * sum(p.abs().sum() for p in net.parameters())).backward()
            optimizer.step()
    assert_same(context.model, net)
    plain = make_context(needs={"forget"})
    run(plain, method("GA", lr=1e-3, epochs=2, batch_size=16))
    size = [sum(float(p.detach().abs().sum()) for p in found.model.parameters()) for found in (context, plain)]
    assert size[0] < size[1]


def test_ascent_with_l1_stops_at_its_ceiling() -> None:
    found = {}
    for ceiling in (None, 0.5):
        context = make_context("class", needs={"forget"})
        found[ceiling] = run(context, method("gradient_ascent_l1", lr=2e-3, epochs=8, ceiling=ceiling)).phases[0]["epochs"]
        assert mean_loss(context, "forget") > 0.5 * math.log(CLASSES)
    assert found[0.5] < found[None] == 8


class Recipe:
    """Two epochs of SGD: how the original was trained."""

    def steps(self, ctx: Context, stream: str = "train"):
        yield Phase([Term(stream, cross_entropy)], epochs=2, optimizer=sgd(0.05), batch_size=128, name="train")


def retrained(name: str, **fields: object) -> tuple[Context, nn.Module]:
    """Return the outcome of a method that trains anew, and a net with its initial weights."""
    fresh = make_net(5).state_dict()
    context = make_context(needs={"retain", "recipe"}, recipe=Recipe(), initialise=lambda number: copy.deepcopy(fresh))
    run(context, method(name, **fields))
    net = make_net(5).train()
    return context, net


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_retraining_with_smoothed_labels(smoothing: float) -> None:
    context, net = retrained("retrain_ls", label_smoothing=smoothing)
    optimizer = plain_sgd(net, 0.05)
    for epoch in (0, 1):
        for batch in batches(context, "retain", 128, epoch):
            optimizer.zero_grad()
            soft = (1 - smoothing) * F.one_hot(batch.y, CLASSES) + smoothing / CLASSES
            (-(soft * net(batch.x).log_softmax(1)).sum(1).mean()).backward()
            optimizer.step()
    assert_same(context.model, net)


@pytest.mark.parametrize("adaptive", [True, False])
def test_retraining_with_sharpness_aware_minimisation_keeps_its_momentum(adaptive: bool) -> None:
    context, net = retrained("retrain_sam", radius=0.5, adaptive=adaptive)
    optimizer, parameters = plain_sgd(net, 0.05), list(net.parameters())
    for epoch in (0, 1):
        for batch in batches(context, "retain", 128, epoch):
            slope = torch.autograd.grad(F.cross_entropy(net(batch.x), batch.y), parameters)
            statistics = copy.deepcopy(dict(net.named_buffers()))
            size = [p.detach().abs() if adaptive else torch.ones_like(p) for p in parameters]
            norm = torch.stack([(t * g).norm() for t, g in zip(size, slope, strict=True)]).norm()
            moved = [0.5 * t**2 * g / norm for t, g in zip(size, slope, strict=True)]
            with torch.no_grad():
                before = [p.clone() for p in parameters]
                [p.add_(step) for p, step in zip(parameters, moved, strict=True)]
            optimizer.zero_grad()
            F.cross_entropy(net(batch.x), batch.y).backward()
            with torch.no_grad():
                [p.copy_(old) for p, old in zip(parameters, before, strict=True)]
                [buffer.copy_(statistics[name]) for name, buffer in net.named_buffers()]
            optimizer.step()
    assert_same(context.model, net)


@pytest.mark.parametrize("name", ["retrain_smoothed", "retrain_sam"])
def test_retraining_in_another_way_is_another_model_that_owes_nothing_to_the_original(name: str) -> None:
    context, _ = retrained(name)
    plain, _ = retrained("retrain")
    other = make_context(
        needs={"retain", "recipe"}, recipe=Recipe(), initialise=lambda number: make_net(5).state_dict(), net=trained_net(3)
    )
    run(other, method(name))
    assert_same(context.model, other.model)
    assert not torch.equal(context.model.get_parameter("0.weight"), plain.model.get_parameter("0.weight"))


def test_the_names_of_the_released_code() -> None:
    expected = {"FT_prune_bi": "interleaved_pruning", "GA_l1": "gradient_ascent_l1", "retrain_ls": "retrain_smoothed"}
    assert {alias: registry.find("methods", alias).name for alias in expected} == expected
    assert registry.find("methods", "retrain_sam").name == "retrain_sam"
