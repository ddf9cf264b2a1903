"""Update rules and resets of 2024 to 2026: each against its formula in plain torch, and against the wrong version it is known for."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import ADAM_NOISE, assert_same, batches, ce, changed, method, plain_loop, plain_sgd
from torch import Tensor, nn

from conftest import CLASSES, make_context, trained_net
from expunge.engine.combine import conflict_averse, minimum_norm, pcgrad, total
from expunge.engine.context import Context
from expunge.engine.measure import accuracy
from expunge.engine.run import run
from expunge.engine.stream import Batch
from expunge.engine.targets import random_label
from expunge.engine.terms import Forward
from expunge.errors import BadInput
from expunge.methods.ascent.example_gradients import off_span
from expunge.methods.ascent.input_span import across, input_spans, main_directions
from expunge.methods.ascent.projected_ascent import unlikely
from expunge.methods.constrained.even_weights import EvenProgress
from expunge.methods.constrained.hamu import at_least, within_ball
from expunge.methods.constrained.rectification import RectifiedAscent, rectified
from expunge.methods.finetuning.noisy_finetune import clip_weights, deviation, noisy_steps
from expunge.methods.reset_and_repair.scissorhands import keep_forgetting
from expunge.methods.reset_and_repair.sensitive_weights import most_sensitive
from expunge.methods.weight_edits.slug import front

BOTH = {"forget", "retain"}
NORMS = ("1.weight", "1.bias", "4.weight", "4.bias")
Step = tuple[Batch, Batch]
"""A forget batch and a retain batch."""


def made(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def steps_of(context: Context, size: int, epochs: int = 1, leader: str = "retain", phase: int = 0, retain_size: int = 0) -> Iterator[Step]:
    """Yield the pairs of batches of a phase; the set that does not lead is passed again and again."""
    sizes = {"forget": size, "retain": retain_size or size}
    other = "forget" if leader == "retain" else "retain"
    for epoch in range(epochs):
        led = batches(context, leader, sizes[leader], epoch, phase)
        passes = math.ceil(len(led) / context.stream(other).steps(sizes[other]))
        rest = itertools.chain.from_iterable(batches(context, other, sizes[other], epoch * passes + n, phase) for n in range(passes))
        for one, two in zip(led, rest, strict=False):
            yield (two, one) if leader == "retain" else (one, two)


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters()), retain_graph=True))


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def set_gradients(net: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(net.parameters(), values, strict=True):
        parameter.grad = value.clone()


def joined_loop(
    net: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterator[Step], join: Callable[[nn.Module, Batch, Batch, int], list[Tensor]],
    clip: float | None = None, frozen: bool = False,
) -> None:  # fmt: skip
    """Take optimiser steps along what ``join`` makes of each pair of batches."""
    net.train(not frozen)
    for number, (f, r) in enumerate(steps):
        set_gradients(net, join(net, f, r, number))
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()


def whole_forget_gradient(net: nn.Module, context: Context, reduction: str = "mean") -> list[Tensor]:
    """The gradient of the cross entropy on the forget set in eval mode."""
    batch = next(context.stream("forget").batches(1000))
    was = net.training
    net.eval()
    found = gradients(F.cross_entropy(net(batch.x), batch.y, reduction=reduction), net)
    net.train(was)
    return found


def reset_net(context: Context, share: float, purpose: str) -> nn.Module:
    """Return the original with the largest ``|w g|`` of all weights drawn anew, norm layers left as they are."""
    net, fresh = trained_net(), context.fresh_state(purpose)
    score = {n: (p * g).abs() for (n, p), g in zip(net.named_parameters(), whole_forget_gradient(net, context, "sum"), strict=True)}
    ranked = flat(list(score.values())).sort(descending=True).values
    least = ranked[int(share * len(ranked)) - 1]
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name not in NORMS:
                parameter.copy_(torch.where(score[name] >= least, fresh[name], parameter))
    return net


# Scissorhands


def test_scissorhands_resets_and_repairs_without_remembering() -> None:
    context, plain = make_context(needs=BOTH), make_context(needs=BOTH)
    run(context, method("scissorhands", epochs=2, batch_size=30, reset=0.05, weight=0.2))
    net, projected, ascent = reset_net(plain, 0.05, "scissorhands"), [], []
    led, once = ([batch for epoch in (0, 1) for batch in batches(plain, name, 30, epoch)] for name in ("retain", "forget"))
    assert (len(led), len(once)) == (24, 4)

    def join(net: nn.Module, f: Batch, r: Batch, number: int) -> list[Tensor]:
        g = gradients(F.cross_entropy(net(r.x), r.y), net)
        if number % 6 == 0:
            g = [own - 0.2 * part for own, part in zip(g, gradients(F.cross_entropy(net(f.x), f.y), net), strict=True)]
        if number % 12 == 0:
            ascent[:] = [-part for part in whole_forget_gradient(net, plain)]
        product = float(flat(g) @ flat(ascent))
        projected.append(product < 0)
        factor = max(0.0, -product / float(flat(ascent) @ flat(ascent)))
        return [part + factor * m for part, m in zip(g, ascent, strict=True)]

    joined_loop(net, plain_sgd(net, 5e-3), ((once[place // 6], batch) for place, batch in enumerate(led)), join)
    assert any(projected)
    assert_same(context.model, net, atol=2e-6)


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_scissorhands_never_takes_forgetting_back(fidelity: str) -> None:
    """The plain sum, the wrong version, lowers the forget loss; the released margin goes further than is needed."""
    context = make_context(needs=BOTH)
    steps = method("scissorhands", epochs=1, batch_size=40, fidelity=fidelity).steps(context)
    with torch.no_grad():
        next(steps).apply(context)
    combine = next(steps).combine
    descent = whole_forget_gradient(context.model, context)
    groups = {"retain": [3 * part for part in descent], "forget": [-0.05 * part for part in descent]}
    product = flat(combine(groups, {})) @ -flat(descent)
    assert flat(total(groups)) @ -flat(descent) < -1e-3
    assert abs(float(product)) < 1e-6 * float(flat(descent).square().sum()) + 1e-7 if fidelity == "paper" else product > -1e-7
    alone = flat(combine({"retain": descent}, {}))  # a step without a forget batch
    assert float(alone.norm()) < 1e-5 * float(flat(descent).norm()) if fidelity == "paper" else torch.equal(alone, flat(descent))


def test_surgery_on_batches_takes_forgetting_back() -> None:
    """PCGrad against the batch's forget gradient, which is noise beside that of the whole set, is no substitute for the projection."""
    context = make_context(needs=BOTH)
    descent = whole_forget_gradient(context.model, context)
    batch = [part + torch.randn(part.shape, generator=made(3)) * part.abs().max() for part in descent]
    groups = {"retain": [2 * part for part in descent], "forget": [-0.1 * part for part in batch]}
    assert flat(pcgrad()(groups, {})) @ -flat(descent) < -1e-4
    assert flat(keep_forgetting(context, 1)(groups, {})) @ -flat(descent) > -1e-7


def test_the_reset_leaves_norms_and_keeps_to_the_share() -> None:
    context = make_context(needs=BOTH)
    everywhere, late = (most_sensitive(context, 0.1, where) for where in ("everywhere", "later_half"))
    assert all(not everywhere[name].any() for name in NORMS) and everywhere["0.weight"].any()
    assert not late["0.weight"].any() and torch.equal(late["7.weight"], everywhere["7.weight"]) and late["7.weight"].any()
    count = sum(int(value.sum()) for value in everywhere.values())
    assert 0 < count <= int(0.1 * sum(value.numel() for value in everywhere.values()))


# LUR


def ahead_gradient(net: nn.Module, f: Batch, r: Batch, length: float, hessian: bool = True) -> list[Tensor]:
    """``(I - length H_r) grad L_f`` at the weights a step ahead, with the Hessian from a second backward pass."""
    net = copy.deepcopy(net)
    slopes = torch.autograd.grad(F.cross_entropy(net(r.x), r.y), list(net.parameters()), create_graph=True)
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for parameter, slope in zip(moved.parameters(), slopes, strict=True):
            parameter.sub_(length * slope)
    g = gradients(F.cross_entropy(moved(f.x), f.y), moved)
    if not hessian:
        return g
    bent = torch.autograd.grad(sum((s * v).sum() for s, v in zip(slopes, g, strict=True)), list(net.parameters()))
    return [v - length * h for v, h in zip(g, bent, strict=True)]


def test_lur_forgets_where_a_step_of_retaining_leads() -> None:
    context, plain = make_context(needs=BOTH), make_context(needs=BOTH)
    run(context, method("lur", epochs=1, batch_size=180, ahead=0.3, weight=0.5))
    net, distances = reset_net(plain, 0.03, "lur"), []

    def join(net: nn.Module, f: Batch, r: Batch, number: int) -> list[Tensor]:
        own = gradients(F.cross_entropy(net(r.x), r.y), net)
        if number % 2:
            return own
        forget, short = ahead_gradient(net, f, r, 0.3), ahead_gradient(net, f, r, 0.3, hessian=False)
        distances.append(float((flat(forget) - flat(short)).norm() / flat(forget).norm()))
        return [a - 0.5 * b for a, b in zip(own, forget, strict=True)]

    joined_loop(net, plain_sgd(net, 5e-3), steps_of(plain, 180), join)
    running = [name for name in net.state_dict() if "running" in name or "num_batches" in name]
    assert_same(context.model, net, but=tuple(running), atol=2e-6)
    assert min(distances) > 0.05  # without the Hessian, the wrong version, it is another gradient


def test_lur_can_forget_by_random_labels() -> None:
    context = make_context(needs=BOTH)
    (term, _) = list(method("lur", forget="random_label").steps(context))[1].terms
    assert term.weight == 0.05 and term.uses == ("retain",)


# NoT


def test_weight_negation_turns_the_first_layer_over_and_repairs() -> None:
    context = make_context(needs={"retain"})
    edit, _ = method("weight_negation").steps(context)
    with torch.no_grad():
        edit.apply(context)
    assert changed(context.model) == {"0.weight", "0.bias"}
    x = next(context.stream("retain").batches(8)).x
    original, wrong = trained_net(), trained_net()
    with torch.no_grad():
        wrong[0].weight.neg_()  # the weights alone
        torch.testing.assert_close(context.model[0](x), -original[0](x))
        assert (wrong[0](x) + original[0](x)).abs().max() > 1e-2
        edit.apply(context)
    assert not changed(context.model)
    context = make_context(needs={"retain"})
    run(context, method("weight_negation", epochs=1, batch_size=90))
    expected = trained_net()
    with torch.no_grad():
        expected[0].weight.neg_()
        expected[0].bias.neg_()
    plain_loop(expected, plain_sgd(expected, 0.01), [ce(batch) for batch in batches(context, "retain", 90)])
    assert_same(context.model, expected)


# Projected ascent


def naive_spans(net: nn.Module, context: Context, share: float) -> dict[str, Tensor]:
    """The projections from an explicit list of patches, by a singular value decomposition of it."""
    seen: dict[str, list[Tensor]] = {"0": [], "3": [], "7": []}
    net = copy.deepcopy(net).eval()
    x = next(context.stream("retain").batches(1000)).x
    with torch.no_grad():
        padded = F.pad(x, (1, 1, 1, 1))
        for row, column in itertools.product(range(8), range(8)):
            seen["0"].append(padded[:, :, row : row + 3, column : column + 3].flatten(1))
        h = net[:3](x)
        for row, column in itertools.product(range(0, 6, 2), range(0, 6, 2)):
            seen["3"].append(h[:, :, row : row + 3, column : column + 3].flatten(1))
        seen["7"].append(net[:7](x))
    found = {}
    for name, parts in seen.items():
        _, s, vh = torch.linalg.svd(torch.cat(parts).double(), full_matrices=False)
        basis = vh[: int((s.cumsum(0) <= share * s.sum()).sum())]
        found[f"{name}.weight"] = (basis.T @ basis).float()
    return found


def test_projected_ascent_steps_beside_the_retained_inputs() -> None:
    needs = {"forget", "retain", "validation"}
    context, plain = make_context(needs=needs), make_context(needs=needs)
    chosen = method("projected_ascent", epochs=2, batch_size=20, share=0.7)
    run(context, chosen)
    net = trained_net()
    spans = naive_spans(net, plain, 0.7)
    net.eval()
    for epoch in range(2):
        seed_batches = list(
            plain.stream("forget").batches(20, seed=_seed(plain), epoch=epoch, shuffle=True)
        )  # without augmentation  # fmt: skip
        for batch in seed_batches:
            p = net(batch.x).softmax(1)
            true = p[torch.arange(len(batch)), batch.y]
            loss = (-torch.log(1 - (true - 0.05)) - 0.2 * (p * p.log()).sum(1)).mean()
            found = gradients(loss, net)
            with torch.no_grad():
                for (name, parameter), g in zip(net.named_parameters(), found, strict=True):
                    if name in spans:
                        rows = g.flatten(1)
                        parameter.sub_(0.05 * 0.2 ** (epoch / 2) * (rows - rows @ spans[name]).view_as(g))
    assert_same(context.model, net, atol=2e-5)
    assert changed(context.model) == set(spans)


def _seed(context: Context) -> int:
    from expunge.engine import randomness

    return randomness.derive(context.seed, "batches", 0)


def test_what_lies_across_the_inputs_leaves_the_outputs_alone() -> None:
    """Projecting the outputs' side, the wrong version, changes what the layer says about the inputs that are to be kept."""
    x = torch.randn(50, 3, generator=made(0)) @ torch.randn(3, 6, generator=made(1))
    g = torch.randn(6, 6, generator=made(2))
    q, _ = torch.linalg.qr(x[:3].double().T)
    full, some = q @ q.T, main_directions((x.T @ x).double(), 0.8)
    assert 0 < torch.linalg.matrix_rank(some, atol=1e-6) < 3
    torch.testing.assert_close(full @ some, some)
    kept = across(g.double(), full)
    assert (x.double() @ kept.T).abs().max() < 1e-6 < (x @ g.T).abs().max()
    wrong = g.double() - full @ g.double()
    assert (x.double() @ wrong.T).abs().max() > 0.1


def test_input_spans_know_grouped_convolutions_and_tokens() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 2, groups=3), nn.Flatten(2), nn.Linear(49, 4), nn.Flatten(), nn.Linear(24, CLASSES))
    context = make_context(needs=BOTH, net=net)
    spans = input_spans(context, "retain", 0.9)
    assert {name: tuple(value.shape) for name, value in spans.items()} == {"0.weight": (4, 4), "2.weight": (49, 49), "4.weight": (24, 24)}
    for value in spans.values():
        torch.testing.assert_close(value @ value, value, atol=1e-5, rtol=0)


def test_the_bounded_loss_is_bounded() -> None:
    logits = torch.tensor([[40.0, 0.0], [-40.0, 0.0], [0.0, 0.0]])
    batch = Batch(torch.zeros(3), torch.zeros(3, dtype=torch.int64), torch.arange(3), "forget")
    student = type("Said", (), {"logits": logits})()
    expected = torch.tensor([-math.log(0.05), -math.log(1.05), -math.log(0.55) + 0.2 * math.log(2)])
    torch.testing.assert_close(unlikely(0.05, 0.2)(None, batch, student), expected)


def test_projected_ascent_of_a_class_ends_when_the_retain_set_suffers() -> None:
    context = make_context("class", needs={"forget", "retain", "validation"})
    fields = method("projected_ascent").scenario_defaults["class"]
    outcome = run(context, method("projected_ascent", **fields, epochs=100, tolerance=0.02))
    assert outcome.phases[0]["stopped"] and 0.8 < accuracy(context, "retain") < 0.98
    assert accuracy(context, "forget") < 0.9


# OrthoGrad


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_orthograd_ascends_across_every_retained_example(fidelity: str) -> None:
    context, plain = make_context(needs=BOTH), make_context(needs=BOTH)
    run(context, method("orthograd", epochs=1, batch_size=20, retain_batch_size=8, lr=0.1, clip=None, fidelity=fidelity))
    net = trained_net()

    def join(net: nn.Module, f: Batch, r: Batch, number: int) -> list[Tensor]:
        each = [gradients(F.cross_entropy(net(x[None]), y[None]), net) for x, y in zip(r.x, r.y, strict=True)]
        forget = gradients(F.cross_entropy(net(f.x), f.y), net)
        mean = [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]
        if fidelity == "paper":
            kept = projected(flat(forget), torch.stack([flat(one) for one in each]))
            kept = [p.view_as(g) for p, g in zip(kept.split([g.numel() for g in forget]), forget, strict=True)]
        else:
            kept = [projected(g.flatten(), torch.stack([one[i].flatten() for one in each])).view_as(g) for i, g in enumerate(forget)]
        return [0.5 * m - 0.5 * k for m, k in zip(mean, kept, strict=True)]

    def projected(v: Tensor, rows: Tensor) -> Tensor:
        left, s, _ = torch.linalg.svd(rows.double().T / rows.double().norm(dim=1), full_matrices=False)
        q = left[:, s > 1e-5]
        return (v.double() - q @ (q.T @ v.double())).float()

    joined_loop(net, plain_sgd_without(net, 0.1), steps_of(plain, 20, leader="forget", retain_size=8), join, frozen=True)
    assert_same(context.model, net, atol=2e-5)


def plain_sgd_without(net: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr)


def test_off_span_is_orthogonal_to_each_and_not_to_the_mean_alone() -> None:
    rows = torch.randn(6, 40, generator=made(0))
    rows[4], rows[5] = 2 * rows[1] - rows[0], 0  # dependent, and none at all
    vector = torch.randn(40, generator=made(1))
    parts = off_span([vector[:15], vector[15:]], [rows[:, :15], rows[:, 15:]])
    kept = torch.cat(parts)
    assert (rows @ kept).abs().max() < 1e-4 < kept.norm()
    mean = rows.mean(0)
    wrong = vector - (vector @ mean) / (mean @ mean) * mean  # across the mean alone
    assert abs(float(mean @ wrong)) < 1e-4 and (rows @ wrong).abs().max() > 0.5
    torch.testing.assert_close(torch.cat(off_span(parts, [rows[:, :15], rows[:, 15:]])), kept, atol=1e-5, rtol=1e-4)


# GDR-GMA


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_gdr_gma_rectifies_and_weighs(fidelity: str) -> None:
    context, plain = make_context(needs=BOTH), make_context(needs=BOTH)
    run(context, method("gdr_gma", epochs=4, batch_size=20, steepness=5.0, bound=0.1, lr=1e-3, fidelity=fidelity))
    net, past, used, shares = trained_net(), [], [], []

    def join(net: nn.Module, f: Batch, r: Batch, number: int) -> list[Tensor]:
        loss = F.cross_entropy(net(r.x), r.y)
        retain, forget = gradients(loss, net), gradients(-F.cross_entropy(net(f.x), f.y), net)
        past.append(forget[-1].clone())
        for i, (a, b) in enumerate(zip(retain, forget, strict=True)):
            product = (a * b).sum()
            if product < 0:
                retain[i] = a - product / b.square().sum() * b
                forget[i] = b - product / a.square().sum() * (a if fidelity == "paper" else retain[i])
        against = [p for p in past[-2:] if p @ forget[-1] < 0]
        if number >= 2 and against:
            mean = sum(against) / len(against)
            used.append(float(mean @ forget[-1]))
            forget[-1] = forget[-1] - (mean @ forget[-1]) / (mean @ mean) * mean
        share = 1 / (1 + math.exp(5.0 * (loss.item() - 0.1)))
        shares.append(share)
        return [(1 - share) * a + share * b for a, b in zip(retain, forget, strict=True)]

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    joined_loop(net, optimizer, steps_of(plain, 20, 4, leader="forget"), join)
    assert len(past) == 8 and used and all(product < 0 for product in used) and max(shares) - min(shares) > 0.01
    assert_same(context.model, net, but=ADAM_NOISE, atol=2e-5)


def test_rectified_gradients_do_not_conflict() -> None:
    """The released order leaves the forget gradient in conflict with the retain gradient."""
    a, b = torch.randn(9, generator=made(0)), torch.randn(9, generator=made(1))
    b = b - 2 * a if float(a @ b) > 0 else b
    first, second = rectified(a, b)
    assert abs(float(first @ b)) < 1e-5 and abs(float(second @ a)) < 1e-5
    assert float(rectified(a, b, one_after_the_other=True)[1] @ a) < -1e-3
    assert all(torch.equal(x, y) for x, y in zip(rectified(a, -b), (a, -b), strict=True))


def test_the_memory_of_ascents_takes_part_from_the_second_epoch_on() -> None:
    rule = RectifiedAscent(100.0, 10.0, remembered=2)
    rule.losses.watch("retain", lambda *_: torch.zeros(3))(None, None, Forward(None, None))
    state: dict[str, Tensor] = {}
    found = []
    for f in ([1.0, 0.0], [-1.0, 1.0], [1.0, 1.0]):
        (update,) = rule.combine({"retain": [torch.zeros(2)], "forget": [torch.tensor(f)]}, state)
        found.append(update)
    torch.testing.assert_close(found[1], torch.tensor([-1.0, 1.0]))  # in conflict with the first, but within the first epoch
    assert state["ascents"].shape == (2, 2)
    rule.combine({"retain": [torch.zeros(2)], "forget": [torch.tensor([-2.0, 0.5])]}, state)
    (update,) = rule.combine({"retain": [torch.zeros(2)], "forget": [torch.tensor([1.0, 0.0])]}, state)
    assert abs(float(update @ torch.tensor([-2.0, 0.5]))) < 1e-6


# HAMU


def test_hamu_takes_the_best_step_of_the_ball() -> None:
    """No feasible step lowers the retain loss more; without the projection of the retain gradient the step leaves the ball."""
    outside = feasible = 0
    for seed in range(60):
        r, f = torch.randn(5, generator=made(seed)).double(), torch.randn(5, generator=made(100 + seed)).double()
        quota = 0.8 * r.norm() * f.norm() * torch.rand((), generator=made(seed)).double()
        u = within_ball(r, f, quota)
        assert u.norm() <= r.norm() * (1 + 1e-9) and f @ u >= quota - 1e-9
        others = torch.randn(4000, 5, generator=made(seed + 7)).double()
        others *= (r.norm() / others.norm(dim=1) * torch.rand(4000, generator=made(seed)).double() ** 0.2)[:, None]
        allowed = others[others @ f >= quota]
        feasible += len(allowed)
        assert not len(allowed) or (allowed @ r).max() <= u @ r + 1e-9
        rest = (r @ r - quota**2 / (f @ f)).sqrt()
        wrong = quota / (f @ f) * f + rest * r / r.norm()
        outside += bool(f @ r < quota) and bool(wrong.norm() > r.norm() * 1.001 or f @ wrong < quota - 1e-6)
    assert feasible > 1000 and outside > 10


def test_hamu_where_gradients_oppose_or_vanish() -> None:
    r = torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(within_ball(r, -r, r.square().sum() / 2), -0.5 * r)
    torch.testing.assert_close(within_ball(r, 0 * r, torch.zeros((), dtype=torch.float64)), r)
    (nearest,) = at_least(0.5, None)({"retain": [0.1 * r], "forget": [-0.1 * r]}, {})  # the ball cannot hold so much
    torch.testing.assert_close(nearest, -0.1 * r)


def test_hamu_shares_the_quota_among_tensors() -> None:
    context, plain = make_context(needs=BOTH), make_context(needs=BOTH)
    run(context, method("hamu", epochs=2, batch_size=120, quota=0.3, lr=0.2))
    net, infeasible = trained_net(), []

    def join(net: nn.Module, f: Batch, r: Batch, number: int) -> list[Tensor]:
        retain = clipped(gradients(F.cross_entropy(net(r.x), r.y), net))
        ascent = clipped(gradients(F.cross_entropy(net(f.x), f.y), net))
        room = sum(float(a.norm() * b.norm()) for a, b in zip(retain, ascent, strict=True))
        infeasible.append(room < 0.3)
        update = []
        for a, b in zip(retain, ascent, strict=True):
            a, b = a.double(), b.double()
            q = min(0.3 / room, 1.0) * a.norm() * b.norm()
            if (a * b).sum() <= -q:
                update.append(a.float())
                continue
            beside = a - (a * b).sum() / b.square().sum() * b
            rest = (a.square().sum() - q**2 / b.square().sum()).clamp_min(0).sqrt()
            update.append((-q / b.square().sum() * b + rest * beside / beside.norm()).float())
        return update

    def clipped(parts: list[Tensor]) -> list[Tensor]:
        return [part / max(1.0, float(flat(parts).norm())) for part in parts]

    joined_loop(net, plain_sgd_without(net, 0.2), steps_of(plain, 120, 2), join, frozen=True)
    assert_same(context.model, net, atol=5e-6)
    assert any(infeasible)


# CAGrad


def test_conflict_averse_direction_minimises_its_dual() -> None:
    grid = torch.linspace(0, 1, 2001).double()
    inner = 0
    for seed in range(40):
        a, b = (
            torch.randn(4, generator=made(seed)).double(),
            3 * torch.rand((), generator=made(seed)).double() * torch.randn(4, generator=made(seed + 50)).double(),
        )
        c = 0.2 + float(torch.rand((), generator=made(seed + 9)))
        average = (a + b) / 2
        mixed = grid[:, None] * a + (1 - grid[:, None]) * b
        values = mixed @ average + c * average.norm() * mixed.norm(dim=1)
        w = grid[values.argmin()]
        inner += 0 < float(w) < 1
        best = w * a + (1 - w) * b
        (found,) = conflict_averse(c)({"retain": [a], "forget": [b]}, {})
        torch.testing.assert_close(found, average + c * average.norm() / best.norm() * best, atol=5e-3, rtol=5e-3)
        assert min(float(found @ a), float(found @ b)) >= float(values.min()) - 1e-6
    assert inner > 10


def test_conflict_averse_is_the_average_at_zero_and_not_the_shortest_vector() -> None:
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(conflict_averse(0.0)({"r": [a], "f": [b]}, {})[0], (a + b) / 2)
    wrong, found = minimum_norm({"r": [a], "f": [b]}, {})[0], conflict_averse(0.4)({"r": [a], "f": [b]}, {})[0]
    assert F.cosine_similarity(wrong, found, 0) < 0.9
    torch.testing.assert_close(conflict_averse(0.4)({"r": [a], "f": [a]}, {})[0], 1.4 * a)
    assert torch.equal(conflict_averse(0.4)({"r": [a]}, {})[0], a)


@pytest.mark.parametrize("rule", ["cagrad", "famo"])
def test_joined_gradients_follow_their_rule(rule: str) -> None:
    context, plain = make_context(needs=BOTH), make_context(needs=BOTH)
    fields = {"c": 0.4} if rule == "cagrad" else {"floor": 1e-3, "decay": 0.1, "weight_lr": 0.1}
    run(context, method(rule, epochs=2, batch_size=120, **fields))
    net, labels = trained_net(), random_label("epoch")
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.1, weight_decay=0.1)
    seen: list[tuple[Tensor, Batch, Batch]] = []

    def both(net: nn.Module, f: Batch, r: Batch) -> Tensor:
        return torch.stack([F.cross_entropy(net(r.x), r.y), F.cross_entropy(net(f.x), labels(plain, f))])

    def after(net: nn.Module) -> None:
        """Move the weights by what the last step has done to both losses."""
        before, f, r = seen[-1]
        copied = copy.deepcopy(net)
        with torch.no_grad():
            gain = (before + 1e-3).log() - (both(copied, f, r).double() + 1e-3).log()
        w.grad = torch.autograd.grad(torch.softmax(w, 0) @ gain, w)[0]
        adam.step()

    def join(net: nn.Module, f: Batch, r: Batch, number: int) -> list[Tensor]:
        if rule == "famo" and seen:
            after(net)
        losses = both(net, f, r)
        seen.append((losses.detach().double(), f, r))
        if rule == "famo":
            z = torch.softmax(w.detach(), 0)
            scale = float((z / (losses.detach() + 1e-3)).sum())
            return gradients((z * (losses + 1e-3).log()).sum() / scale, net)
        first, second = gradients(losses[0], net), gradients(losses[1], net)
        grid = torch.linspace(0, 1, 200001).double()
        a, b = flat(first).double(), flat(second).double()
        average = (a + b) / 2
        size = (grid**2 * (a @ a) + 2 * grid * (1 - grid) * (a @ b) + (1 - grid) ** 2 * (b @ b)).sqrt()
        k = int((grid * (a @ average) + (1 - grid) * (b @ average) + 0.4 * average.norm() * size).argmin())
        mixed = grid[k] * a + (1 - grid[k]) * b
        found = (average + 0.4 * average.norm() / mixed.norm() * mixed).float()
        return [part.view_as(g) for part, g in zip(found.split([g.numel() for g in first]), first, strict=True)]

    joined_loop(net, plain_sgd(net, 0.01), steps_of(plain, 120, 2), join, clip=1.0)
    assert len(seen) == 6
    assert_same(context.model, net, atol=1e-5)


def test_famo_follows_logarithms_and_favours_who_gains_less() -> None:
    """Weights without the losses, the wrong version, follow the sum of losses and not that of their logarithms."""
    rule, state = EvenProgress(lr=0.1, decay=0.0, floor=0.0), {}
    for goal, value in (("retain", 0.5), ("forget", 4.0)):
        rule.losses.watch(goal, lambda *_, value=value: torch.full((2,), value))(None, None, Forward(None, None))
    groups = {"retain": [torch.tensor([1.0, 0.0])], "forget": [torch.tensor([0.0, 1.0])]}
    (found,) = rule.combine(groups, state)
    torch.testing.assert_close(found, torch.tensor([8.0, 1.0]) / 9)
    assert not torch.allclose(found, total(groups)[0] / 2)
    rule.losses.remeasured = lambda goal, context: rule.losses.mean(goal) * (0.5 if goal == "retain" else 0.9)
    rule.update(type("Taken", (), {"state": state, "context": None})())
    assert state["famo w"][1] > 0 > state["famo w"][0]  # the forget set has gained less


# SLUG


def test_slug_moves_one_layer_just_far_enough() -> None:
    context, net = make_context("class", needs=BOTH), trained_net().eval()
    run(context, method("slug"))
    f, r = (next(context.stream(name).batches(1000)) for name in ("forget", "retain"))
    g_f, g_r = (gradients(F.cross_entropy(net(b.x), b.y), net) for b in (f, r))
    rows = [
        (name, p, a, float(a.norm() / p.detach().norm()), abs(float(F.cosine_similarity(a.flatten(), b.flatten(), 0))))
        for (name, p), a, b in zip(net.named_parameters(), g_f, g_r, strict=True)
        if "bias" not in name
    ]
    best = None
    for name, p, a, up, down in rows:
        if any(i > up and j < down for _, _, _, i, j in rows):
            continue
        start, low, high, length = p.detach().clone(), 0.0, math.inf, 0.1 * float(p.detach().norm() / a.norm())
        for _ in range(10):
            forgotten = _share_right(net, p, start + length * a, f)
            low, high = (low, length) if forgotten == 0 else (length, high)
            length = 2 * low if high == math.inf else (low + high) / 2
        length = low if high == math.inf else high
        reached = _share_right(net, p, start + length * a, f) == 0
        entry = ((reached, _share_right(net, p, start + length * a, r)), name, start + length * a)
        with torch.no_grad():
            p.copy_(start)
        best = entry if best is None or entry[0] > best[0] else best
    assert best is not None and changed(context.model) == {best[1]} and best[0][0]
    torch.testing.assert_close(context.model.state_dict()[best[1]], best[2], atol=1e-4, rtol=1e-4)
    assert accuracy(context, "forget") == 0


@torch.no_grad()
def _share_right(net: nn.Module, parameter: nn.Parameter, value: Tensor, batch: Batch) -> float:
    parameter.copy_(value)
    return float((net(batch.x).argmax(1) == batch.y).double().mean())


def test_the_front_wants_importance_without_alignment() -> None:
    """With both to be large, the wrong version, the layer that the retain set needs most would be the first choice."""
    importance, alignment = [1.0, 5.0, 3.0, 0.5], [0.1, 0.9, 0.2, 0.4]
    assert front(importance, alignment) == [0, 1, 2]
    wrong = [i for i in range(4) if not any(importance[j] > importance[i] and alignment[j] > alignment[i] for j in range(4))]
    assert wrong == [1]


# Noisy fine-tuning


def test_noise_is_what_amplification_by_iteration_asks_for() -> None:
    """The released rule for no decay, half the variance, is beyond the bound that the released rule with decay meets."""
    for steps, radius, clip, lr, decay, renyi in [
        (11, 20.0, 10.0, 0.01, 50.0, 1.0),
        (7, 3.0, 1.0, 0.1, 0.0, 0.5),
        (5, 1.0, 2.0, 0.05, 3.0, 2.0),
    ]:
        s, r = deviation(steps, radius, clip, lr, decay, renyi), 1 - lr * decay
        apart, spread = 2 * radius, 0.0
        for _ in range(steps):
            apart, spread = r * apart + 2 * lr * clip, r**2 * spread + s**2
        assert apart**2 / (2 * spread) == pytest.approx(renyi)
        if decay:
            moved = 2 * radius * r**steps + 2 * clip / decay * (1 - r**steps)
            released = moved**2 * lr * decay * (2 - lr * decay) / (2 * renyi * (1 - r ** (2 * steps)))
            assert s**2 == pytest.approx(released)
            continue
        released = (2 * radius + 2 * clip * lr * steps) ** 2 / (4 * renyi * steps)
        assert s**2 == pytest.approx(2 * released)
        assert apart**2 / (2 * steps * released) > 1.9 * renyi
    assert (noisy_steps(20, 10, 0.01, 50), noisy_steps(20, 10, 0.01, 0)) == (11, 200)


def test_noisy_finetune_clips_and_takes_noisy_steps() -> None:
    context, plain = make_context(needs={"retain"}), make_context(needs={"retain"})
    fields = {"radius": 2.0, "clip": 0.5, "decay": 5.0, "lr": 0.1, "renyi": 50.0}
    chosen = method("noisy_finetune", epochs=1, batch_size=120, **fields)
    edit, noisy, repair = list(chosen.steps(context))
    run(context, chosen)
    net = trained_net()
    length = flat(list(net.parameters())).norm()
    assert length > 2.0
    count, s = noisy_steps(2.0, 0.5, 0.1, 5.0), deviation(noisy_steps(2.0, 0.5, 0.1, 5.0), **fields)
    assert noisy.steps == count and repair.norm == "recalibrate"
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0 / length)
    net.train()
    taken = itertools.islice((b for epoch in range(9) for b in batches(plain, "retain", 120, epoch)), count)
    for number, batch in enumerate(taken):
        found = gradients(F.cross_entropy(net(batch.x), batch.y), net)
        drawn = plain.generator("step noise", 0, number)
        with torch.no_grad():
            for parameter, g in zip(net.parameters(), found, strict=True):
                step = min(1.0, 0.5 / float(flat(found).norm())) * g + 5.0 * parameter
                parameter.sub_(0.1 * step).add_(torch.randn(parameter.shape, generator=drawn), alpha=s)
    rise = [0.04 + 0.96 * n / 3 / 0.3 if n == 0 else 1 - (n / 3 - 0.3) / 0.7 for n in range(3)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=5e-4)
    for factor, batch in zip(rise, batches(plain, "retain", 120, phase=1), strict=True):
        optimizer.param_groups[0]["lr"] = 0.1 * factor
        plain_loop(net, optimizer, [ce(batch)])
    running = tuple(name for name in net.state_dict() if "running" in name or "num_batches" in name)
    assert_same(context.model, net, but=running, atol=2e-5)


def test_weights_within_the_ball_stay_and_too_much_decay_is_refused() -> None:
    context = make_context(needs={"retain"})
    with torch.no_grad():
        clip_weights(context, 1e3)
    assert not changed(context.model)
    with pytest.raises(BadInput, match="decay"):
        next(method("noisy_finetune", lr=0.1, decay=20.0).steps(context))
