"""Dampening without labels or with its own threshold, task vectors, JiT and boundary expanding against their formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import assert_same, batches, ce, changed, method, plain_loop
from torch import Tensor, nn

from conftest import CLASSES, make_context, trained_net
from expunge.engine.combine import Gradients
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.loop import run_phase
from expunge.engine.measure import logits_of
from expunge.engine.parameters import flat
from expunge.engine.run import run
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward
from expunge.errors import Diverged, NotApplicable
from expunge.methods.distillation.jit import lipschitz_ratio
from expunge.methods.distillation.noisy_inputs import pixel_noise
from expunge.methods.weight_edits.assd import adaptive_threshold
from expunge.methods.weight_edits.lfssd import sensitivity
from expunge.methods.weight_edits.task_arithmetic import agreed_mean

BOTH = {"forget", "retain"}


def apply(context: Context, edit: Edit) -> None:
    with torch.no_grad():
        edit.apply(context)


def per_example(stream: Stream, loss) -> Tensor:
    """Return one flat gradient per example of the trained net in eval mode, ``[n, P]``."""
    net, rows = trained_net().eval(), []
    batch = next(stream.batches(1000))
    for x, y in zip(batch.x, batch.y, strict=True):
        found: Gradients = list(torch.autograd.grad(loss(net(x[None]), y[None]), list(net.parameters())))
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def weights_of(net: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in net.parameters()])


# LFSSD


def squared(logits: Tensor, y: Tensor) -> Tensor:
    return logits.square().sum()


def test_sensitivity_is_the_mean_absolute_gradient_of_the_squared_logits() -> None:
    context = make_context(needs=BOTH)
    gradients = per_example(context.stream("forget"), squared)
    found = flat(sensitivity(context, context.stream("forget"), size=7))
    torch.testing.assert_close(found, gradients.abs().mean(0), rtol=1e-3, atol=1e-5)
    assert float((found - gradients.mean(0).abs()).norm() / found.norm()) > 0.05, "the gradient of the batch's mean is another"


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_lfssd_reads_no_label(fidelity: str) -> None:
    results = []
    for shift in (0, 1):
        context = make_context(needs=BOTH)
        for name in BOTH:
            stream = context._streams[name]
            context._streams[name] = stream.relabelled((stream.labels + shift) % CLASSES)
        run(context, method("lfssd", alpha=1.1, dampening=0.5, fidelity=fidelity))
        results.append(weights_of(context.model))
    assert torch.equal(*results) and not torch.equal(results[0], weights_of(trained_net()))


def test_lfssd_is_the_formula() -> None:
    context = make_context(needs=BOTH)
    forget, retain = (per_example(context.stream(name), squared).abs() for name in ("forget", "retain"))
    important, usual = forget.mean(0), torch.cat([forget, retain]).mean(0)
    old = weights_of(trained_net())
    wanted = torch.where(important > 1.1 * usual, old * (0.5 * usual / important).clamp_max(1), old)
    run(context, method("lfssd", alpha=1.1, dampening=0.5))
    found = weights_of(context.model)
    assert int((found != old).sum()) > 50
    assert float(((found - wanted).abs() < 1e-4 * wanted.abs() + 1e-7).double().mean()) > 0.999  # all but ties at the threshold


# ASSD


def test_the_threshold_is_a_percentile_of_the_ratios() -> None:
    made = np.random.default_rng(0)
    forget, retain = made.random(1000), made.random(1000)
    retain[:10] = 0
    found = adaptive_threshold({"a": torch.tensor(forget)}, {"a": torch.tensor(retain)}, 0.1)
    ratio = sorted(f / r for f, r in zip(forget[10:], retain[10:], strict=True))
    place = (100 - math.log(11)) / 100 * (len(ratio) - 1)
    wanted = ratio[int(place)] + (place - int(place)) * (ratio[int(place) + 1] - ratio[int(place)])
    assert found == pytest.approx(wanted)
    assert adaptive_threshold({"a": torch.zeros(3)}, {"a": torch.zeros(3)}, 0.1) == math.inf


@pytest.mark.parametrize("request_kind", ["random", "class"])
def test_assd_dampens_the_share_that_follows_from_the_request(request_kind: str) -> None:
    context = make_context(request_kind, needs=BOTH)
    forget, retain = (per_example(context.stream(name), F.cross_entropy).square().mean(0) for name in ("forget", "retain"))
    old = weights_of(trained_net())
    run(context, method("assd", dampening=0.1))
    found = weights_of(context.model)
    share = len(context.stream("forget")) / 400
    assert float((found != old).double().mean()) == pytest.approx(math.log1p(100 * share) / 100, abs=2e-3)
    dampened = found != old
    torch.testing.assert_close(found[dampened], (old * 0.1 * retain / forget)[dampened], rtol=1e-3, atol=1e-7)


def test_the_choice_is_the_same_over_retained_and_over_all_data() -> None:
    made = torch.Generator().manual_seed(0)
    forget, retain = torch.rand(2, 500, generator=made, dtype=torch.float64)
    everything = 0.1 * forget + 0.9 * retain
    chosen = [forget > adaptive_threshold({"a": forget}, {"a": usual}, 0.2) * usual for usual in (retain, everything)]
    assert torch.equal(*chosen) and chosen[0].any()


def test_the_floor_bounds_the_factor() -> None:
    ratios = []
    for floor in (0.0, 0.08):
        context = make_context(needs=BOTH)
        run(context, method("assd", floor=floor))
        ratio = weights_of(context.model) / weights_of(trained_net())
        ratios.append(float(ratio[torch.isfinite(ratio)].min()))
    assert ratios[0] < 0.08 and ratios[1] == pytest.approx(0.08, rel=1e-4)


# Task vectors


def test_a_task_vector_is_subtracted() -> None:
    context = make_context(needs={"forget"})
    run(context, method("task_vector", scale=0.7, lr=0.05, epochs=2, batch_size=16))
    tuned = trained_net()
    losses = [ce(batch) for epoch in (0, 1) for batch in batches(context, "forget", 16, epoch=epoch)]
    plain_loop(tuned, torch.optim.SGD(tuned.parameters(), lr=0.05, momentum=0.9), losses, frozen_norm=True)
    old = weights_of(trained_net())
    torch.testing.assert_close(weights_of(context.model), old - 0.7 * (weights_of(tuned) - old), atol=1e-5, rtol=1e-4)
    assert changed(context.model) == {name for name, _ in context.model.named_parameters()}, "statistics stay"
    before = F.cross_entropy(*logits_of(make_context(needs={"forget"}), "forget"))
    assert F.cross_entropy(*logits_of(context, "forget")) > before, "adding the vector would learn the forget set better"


def test_only_agreed_coordinates_are_merged() -> None:
    vectors = torch.tensor([[1.0, -2.0, 3.0, 0.0, -1.0], [3.0, -4.0, -1.0, 2.0, -2.0], [2.0, -3.0, 1.0, 1.0, -3.0]])
    merged = agreed_mean([{"a": row} for row in vectors])["a"]
    assert merged.tolist() == [2.0, -3.0, 0.0, 0.0, -2.0]
    assert not torch.equal(merged, vectors.mean(0))


def test_neg_merge_starts_every_run_from_the_original() -> None:
    context = make_context(needs={"forget"})
    run(context, method("neg_merge", runs=3, lr=0.02, spread=2.0, epochs=1, batch_size=16, scale=0.5))
    old, vectors = weights_of(trained_net()), []
    for number, lr in enumerate((0.01, 0.02, 0.04)):
        tuned = trained_net()
        losses = [ce(batch) for batch in batches(context, "forget", 16, phase=number)]
        plain_loop(tuned, torch.optim.SGD(tuned.parameters(), lr=lr, momentum=0.9), losses, frozen_norm=True)
        vectors.append(weights_of(tuned) - old)
    stacked = torch.stack(vectors)
    agreed = (stacked > 0).all(0) | (stacked < 0).all(0)
    wanted = old - 0.5 * torch.where(agreed, stacked.mean(0), 0.0)
    found = weights_of(context.model)
    assert float(((found - wanted).abs() < 1e-6).double().mean()) > 0.99  # all but signs that rounding decides
    assert 0.1 < float((found != old).double().mean()) < 0.95


# JiT


def naive_ratio(net: nn.Module, context: Context, batch: Batch, copies: int) -> Tensor:
    unit, total = batch.x.std(), 0
    for draw in range(copies):
        noisy = (batch.x + 0.5 * unit * pixel_noise(context, batch, draw)).clamp(batch.x.min(), batch.x.max())
        moved = ((batch.x - noisy) / unit).flatten(1).norm(dim=1)
        total = total + ((net(batch.x) - net(noisy).detach()).norm(dim=1) / moved).sum()
    return total / copies


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_jit_is_the_published_loop(fidelity: str) -> None:
    context = make_context(needs={"forget"})
    run(context, method("jit", copies=3, lr=1e-3, batch_size=16, fidelity=fidelity))
    expected = trained_net().eval()
    optimizer = torch.optim.SGD(expected.parameters(), lr=1e-3)
    found = batches(context, "forget", 16)
    assert len(found) == 3
    optimizer.zero_grad()
    for batch in found:
        if fidelity == "paper":
            optimizer.zero_grad()
        naive_ratio(expected, make_context(needs={"forget"}), batch, 3).backward()
        optimizer.step()
    assert_same(context.model, expected)


def test_the_noisy_branch_is_a_constant() -> None:
    context = make_context(needs={"forget"})
    batch = next(context.stream("forget").batches(8))
    context.model.eval()
    parameters = list(context.model.parameters())

    def gradient(value: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])

    found = gradient(lipschitz_ratio(0.5, 2)(context, batch, Forward(context, batch)).sum())
    torch.testing.assert_close(found, gradient(naive_ratio(context.model, context, batch, 2)), atol=1e-4, rtol=1e-3)
    noisy = (batch.x + 0.5 * batch.x.std() * pixel_noise(context, batch)).clamp(batch.x.min(), batch.x.max())
    moved = (batch.x - noisy).flatten(1).norm(dim=1) / batch.x.std()
    through = gradient(((context.model(batch.x) - context.model(noisy)).norm(dim=1) / moved).sum())
    assert float(torch.cosine_similarity(found, through, dim=0)) < 0.9


def test_it_makes_no_difference_where_inputs_are_normalised() -> None:
    results = []
    for scale in (1.0, 4.0):
        context = make_context(needs={"forget"})
        batch = next(context.stream("forget").batches(8))
        moved = Batch(batch.x * scale, batch.y, batch.index, "forget")
        with torch.no_grad():
            context.model[0].weight /= scale
        context.model.eval()
        results.append(lipschitz_ratio(0.5, 2)(context, moved, Forward(context, moved)))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


# Boundary expanding


def test_boundary_expand_trains_into_a_class_that_goes_again() -> None:
    context = make_context("class", needs={"forget"})
    wider, phase, narrow = method("BE", lr=1e-3, epochs=1, batch_size=16).steps(context)
    before = logits_of(context, "forget")[0]
    apply(context, wider)
    torch.testing.assert_close(logits_of(context, "forget")[0][:, :CLASSES], before, atol=1e-6, rtol=1e-5)
    assert torch.equal(context.model[7].weight[:CLASSES], context.original["7.weight"])
    expected = trained_net()
    expected[7] = nn.Linear(144, CLASSES + 1)
    expected.load_state_dict(context.model.state_dict())
    run_phase(context, phase)
    losses = [lambda net, b=b: F.cross_entropy(net(b.x), torch.full_like(b.y, CLASSES)) for b in batches(context, "forget", 16)]
    optimizer = torch.optim.SGD(expected.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    plain_loop(expected, optimizer, losses, frozen_norm=True)
    trained = {name: value.clone() for name, value in context.model.state_dict().items()}
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(trained[name], value, atol=1e-6, rtol=1e-5)
    apply(context, narrow)
    assert context.model[7].out_features == CLASSES and logits_of(context, "forget")[0].shape == (80, CLASSES)
    for name, value in context.model.state_dict().items():
        assert torch.equal(value, trained[name][:CLASSES] if name[0] == "7" else trained[name]), name


def test_with_the_extra_class_forgetting_looks_better_than_it_is() -> None:
    context = make_context("class", needs={"forget"})
    steps = method("boundary_expand", lr=1e-4, epochs=5, batch_size=16).steps(context)
    apply(context, next(steps))
    run_phase(context, next(steps))
    labels = context.stream("forget").labels
    wide = (logits_of(context, "forget")[0].argmax(1) != labels).double().mean()
    apply(context, next(steps))
    exported = (logits_of(context, "forget")[0].argmax(1) != labels).double().mean()
    assert float(wide) > float(exported) + 0.05


def test_a_run_that_diverges_leaves_the_old_head() -> None:
    context = make_context("class", needs={"forget"})
    with pytest.raises(Diverged):
        run(context, method("boundary_expand", lr=1e30, epochs=1, batch_size=16))
    assert context.model[7].weight.shape == (CLASSES, 144) and changed(context.model) == set()


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, CLASSES, 6), nn.Flatten())
    with pytest.raises(NotApplicable, match="Conv2d"):
        next(method("boundary_expand").steps(make_context(needs={"forget"}, net=net)))
