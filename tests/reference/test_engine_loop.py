"""The engine's loop against one written out by hand, bit for bit, and its parts against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from conftest import make_context, make_net
from expunge.engine import kernels, select, update
from expunge.engine.derivatives import gradient
from expunge.engine.loop import run_phase
from expunge.engine.parameters import leaves
from expunge.engine.phase import Phase
from expunge.engine.randomness import derive
from expunge.engine.terms import Penalty, Progress, Term, cross_entropy, distance_to, l1, smoothed_cross_entropy


def read(context, name, epoch, size):
    return list(context.stream(name).batches(size, seed=derive(context.seed, "batches", 0), epoch=epoch, shuffle=True, augment=True))


def by_hand(net, context, epochs=3, size=64):
    """Ascend on forget and descend on retain: cosine schedule, clipping, momentum and weight decay, three epochs."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    step, steps = 0, epochs * 6
    for epoch in range(epochs):
        forget = [batch for number in range(6) for batch in read(context, "forget", epoch * 6 + number, size)]
        for f, r in zip(forget, read(context, "retain", epoch, size), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (0.5 * (1 + math.cos(math.pi * (step / steps))))
            optimizer.zero_grad()
            loss = -0.2 * F.cross_entropy(net(f.x), f.y) + 0.8 * F.cross_entropy(net(r.x), r.y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            step += 1
    assert step == steps
    return net


TERMS = [Term("forget", cross_entropy, weight=-0.2), Term("retain", cross_entropy, weight=0.8)]
PHASE = Phase(TERMS, epochs=3, batch_size=64, optimizer=update.sgd(0.1), schedule=update.cosine(), clip=1.0)


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_three_epochs_equal_a_bare_loop_bit_for_bit():
    ours, theirs = make_net(), make_net()
    run_phase(make_context(net=ours), PHASE)
    by_hand(theirs, make_context())
    assert same(ours, theirs)


@pytest.mark.parametrize("change", [{"clip": None}, {"schedule": update.constant}, {"optimizer": update.sgd(0.1, weight_decay=0)}])
def test_the_comparison_sees_each_part(change):
    ours, theirs = make_net(), make_net()
    run_phase(make_context(net=ours), PHASE.but(**change))
    by_hand(theirs, make_context())
    assert not same(ours, theirs)


def test_adamw_and_decoupled_decay_by_hand():
    ours, theirs = make_net(), make_net().train()
    run_phase(
        make_context(net=ours), Phase([TERMS[1]], batch_size=64, optimizer=update.sgd(0.1, weight_decay=0, decoupled_weight_decay=0.3))
    )
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for batch in read(make_context(), "retain", 0, 64):
        optimizer.zero_grad()
        (0.8 * F.cross_entropy(theirs(batch.x), batch.y)).backward()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.mul_(1 - 0.1 * 0.3)
        optimizer.step()
    assert same(ours, theirs)


def test_sam_by_hand():
    ours, theirs = make_net(), make_net().train()
    plain = update.sgd(0.1, momentum=0, weight_decay=0)
    run_phase(make_context(net=ours), Phase([TERMS[1]], batch_size=64, steps=1, optimizer=plain, perturb=update.sam(0.1)))
    batch = read(make_context(), "retain", 0, 64)[0]
    parameters = list(theirs.parameters())
    first = torch.autograd.grad(0.8 * F.cross_entropy(theirs(batch.x), batch.y), parameters)
    length = torch.cat([g.reshape(-1) for g in first]).double().norm()
    shifted = make_net().train()
    with torch.no_grad():
        for parameter, g in zip(shifted.parameters(), first, strict=True):
            parameter.add_((0.1 * g / length).float())
    second = torch.autograd.grad(0.8 * F.cross_entropy(shifted(batch.x), batch.y), list(shifted.parameters()))
    for parameter, start, g in zip(ours.parameters(), make_net().parameters(), second, strict=True):
        torch.testing.assert_close(parameter, start - 0.1 * g, rtol=1e-5, atol=1e-7)


def l1_by_hand(parameters, start):
    return 0.01 * sum(p.abs().sum() for p in parameters)


def distance_by_hand(parameters, start):
    return 1.5 * sum(((p - s) ** 2).sum() for p, s in zip(parameters, start, strict=True))


@pytest.mark.parametrize("formula", [l1_by_hand, distance_by_hand])
def test_penalties_by_hand(formula):
    ours, theirs = make_net(), make_net().train()
    context = make_context(net=ours)
    start = [p.detach().clone() for p in theirs.parameters()]
    penalty = Penalty(l1, weight=0.01) if formula is l1_by_hand else Penalty(distance_to(context.original), weight=3.0)
    run_phase(context, Phase([TERMS[1], penalty], batch_size=64, optimizer=update.sgd(0.1)))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for batch in read(make_context(), "retain", 0, 64):
        optimizer.zero_grad()
        (0.8 * F.cross_entropy(theirs(batch.x), batch.y) + formula(list(theirs.parameters()), start)).backward()
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_lookahead_by_hand():
    def positions(rules):
        net, seen = make_net(), []
        seen.append(net[7].bias.detach().clone())
        keep = lambda step: seen.append(net[7].bias.detach().clone())  # noqa: E731
        run_phase(make_context(net=net), Phase([TERMS[1]], batch_size=64, optimizer=update.sgd(0.1), after_step=(*rules, keep)))
        return seen

    every_second = positions((update.lookahead(2, lambda progress: 0.75),))
    free = positions(())
    assert torch.equal(every_second[2], free[2]), "the first average is the weights themselves"
    assert not torch.equal(every_second[4], free[4])
    assert (every_second[4] - every_second[2]).norm() < 0.5 * (every_second[3] - every_second[2]).norm() + (free[4] - free[2]).norm()


# Schedules


def at(step, total=100, epoch=0):
    return Progress(step, total, epoch, 10)


def test_schedules():
    assert (
        update.cosine()(at(0)) == 1 and update.cosine()(at(50)) == pytest.approx(0.5) and update.cosine(0.1)(at(100)) == pytest.approx(0.1)
    )
    assert update.linear(0.2)(at(0)) == 1 and update.linear(0.2)(at(50)) == pytest.approx(0.6)
    steps = update.milestones((3, 6), gamma=0.1)
    assert [round(steps(at(0, epoch=e)), 6) for e in (0, 2, 3, 5, 6, 9)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    warm = update.warm_up(0.1, update.linear(0.0))
    assert [warm(at(s)) for s in (0, 4, 9)] == [0.1, 0.5, 1.0] and warm(at(10)) == 1 and warm(at(55)) == pytest.approx(0.5)
    tri = update.triangle(peak=0.25, final=0.0, start=0.2)
    assert tri(at(0)) == pytest.approx(0.2) and tri(at(25)) == 1 and tri(at(100)) == pytest.approx(0)


# Kernels: labels or logits, per example, against sums written out


def logits(rows=6, classes=4, seed=0, scale=3.0):
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_kl(p, q):
    return torch.stack([sum(a * torch.log(a / b) for a, b in zip(x, y, strict=True) if a > 0) for x, y in zip(p, q, strict=True)])


def test_kernels_equal_naive_sums():
    target, student = logits(seed=1), logits(seed=2)
    q, p = target.softmax(1), student.softmax(1)
    torch.testing.assert_close(kernels.kl()(target, student), naive_kl(q, p))
    torch.testing.assert_close(
        kernels.kl(4.0, scale=True)(target, student), 16 * naive_kl((target / 4).softmax(1), (student / 4).softmax(1))
    )
    torch.testing.assert_close(kernels.reverse_kl(target, student), naive_kl(p, q))
    torch.testing.assert_close(kernels.soft_cross_entropy(target, student), naive_kl(q, p) - (q * q.log()).sum(1))
    torch.testing.assert_close(kernels.jensen_shannon(target, student), 0.5 * naive_kl(p, (p + q) / 2) + 0.5 * naive_kl(q, (p + q) / 2))
    torch.testing.assert_close(kernels.mean_squared_logits(target, student), ((target - student) ** 2).sum(1) / 4)
    published = (q * (q.log() - p.log())).mean()  # also divides by the number of classes
    assert not math.isclose(float(published), float(kernels.kl()(target, student).mean()))


def test_kernels_take_labels_and_masked_logits():
    student, labels = logits(), torch.tensor([0, 1, 2, 3, 0, 1])
    masked = logits(seed=3).scatter(1, labels[:, None], float("-inf"))
    torch.testing.assert_close(kernels.soft_cross_entropy(labels, student), F.cross_entropy(student, labels, reduction="none"))
    torch.testing.assert_close(kernels.kl()(labels, student), F.cross_entropy(student, labels, reduction="none"))
    torch.testing.assert_close(kernels.kl()(masked, student), naive_kl(masked.softmax(1), student.softmax(1)))
    for kernel in (kernels.mean_squared_logits, kernels.reverse_kl):
        with pytest.raises(TypeError, match="the target is labels"):
            kernel(labels, student)


@pytest.mark.parametrize("kernel", [kernels.soft_cross_entropy, kernels.kl(), kernels.reverse_kl, kernels.jensen_shannon])
def test_gradients_stay_finite_for_a_student_that_is_certain(kernel):
    """exp(-300) is zero in float32: p log p has no gradient there unless it is taken in logarithms."""
    student = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    kernel(torch.tensor([[0.0, 1.0, 2.0]]), student).sum().backward()
    assert bool(torch.isfinite(student.grad).all())


def test_smoothed_cross_entropy():
    net = make_net().eval()
    context = make_context(net=net)
    batch = next(context.stream("retain").batches(9))

    class Student:
        logits = net(batch.x)

    target = 0.9 * F.one_hot(batch.y, 5) + 0.1 / 5
    expected = -(target * Student.logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(smoothed_cross_entropy(0.1)(context, batch, Student), expected)


# Selection


@pytest.mark.parametrize("share,count,expected", [(0.29, 100, 29), (0.3, 10, 3), (0.5, 7, 3), (0.0, 5, 0), (1.0, 5, 5), (0.57, 100, 57)])
def test_selection_counts_exactly(share, count, expected):
    score = {"a": torch.rand(count // 2), "b": torch.rand(count - count // 2)}
    for side in ("top", "bottom"):
        mask = select.select(score, **{side: share})
        assert sum(int(value.sum()) for value in mask.values()) == expected
        chosen, rest = (torch.cat([score[n][mask[n] == keep] for n in score]) for keep in (1, 0))
        if len(chosen) and len(rest):
            assert (chosen.min() >= rest.max()) if side == "top" else (chosen.max() <= rest.min())


def test_selection_breaks_ties_by_position_and_ranks_within_tensors():
    flat = {"a": torch.zeros(4), "b": torch.zeros(4)}
    assert select.select(flat, top=0.5)["a"].tolist() == [1, 1, 1, 1]
    within = select.select({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([30.0, 20.0])}, top=0.5, per_tensor=True)
    assert within["a"].tolist() == [0, 1] and within["b"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="exactly one of top and bottom"):
        select.select(flat, top=0.5, bottom=0.5)


def test_masks_combine():
    a, b = {"w": torch.tensor([1.0, 0.5])}, {"w": torch.tensor([0.0, 0.5]), "v": torch.tensor([0.0])}
    assert select.multiply(a, b)["w"].tolist() == [0.0, 0.25] and select.multiply(a, b)["v"].tolist() == [0.0]
    assert select.multiply(None, a) is a and select.multiply(a, None) is a and select.multiply(None, None) is None
    assert select.invert(a)["w"].tolist() == [0.0, 0.5]
    assert select.density(b) == pytest.approx(0.5 / 3)
    assert select.frozen_names(b) == {"v"}


# Scores


def test_gradient_of_a_stream_does_not_depend_on_the_batch_size():
    context = make_context(net=make_net())
    sums = [gradient(context, "retain", size=size) for size in (7, 360)]
    mean = gradient(context, "retain", reduction="mean")
    for name in leaves(context.model):
        torch.testing.assert_close(sums[0][name], sums[1][name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mean[name] * 360, sums[1][name], rtol=1e-4, atol=1e-4)
