"""Relabelling, surgery, pruning, entropy, streams, gentle ascents: each against its formula in plain torch and its wrong version."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import assert_same, batches, ce, changed, divergence, method, plain_loop, plain_sgd
from torch import Tensor, nn

from conftest import CLASSES, make_context, trained_net
from expunge import registry
from expunge.engine.combine import orthogonal, pcgrad
from expunge.engine.context import Context
from expunge.engine.derivatives import fisher_diagonal, gradient
from expunge.engine.edits import Edit
from expunge.engine.kernels import kl
from expunge.engine.loop import run_phase
from expunge.engine.measure import mean_loss
from expunge.engine.parameters import dot, norm
from expunge.engine.run import run
from expunge.engine.stream import Batch
from expunge.engine.targets import uniform
from expunge.engine.terms import Forward, Progress, cross_entropy, match, smoothed_cross_entropy
from expunge.errors import NotApplicable
from expunge.methods.ascent.entropy_matching import match_quantiles, statistics
from expunge.methods.ascent.npo import negative_preference
from expunge.methods.ascent.sfron import add_masked, preferring_small_losses, salient
from expunge.methods.ascent.streaming import portions
from expunge.methods.ascent.unsmoothing import unsmoothed_cross_entropy
from expunge.methods.features.activation_pruning import QUANTILES, cosine_from, quantiles_by_depth
from expunge.methods.features.channel_activations import layers_and_norms, mean_activations
from expunge.methods.relabeling.nearest_neighbor_label import neighbor_labels
from expunge.methods.relabeling.random_label_flip import permuted_labels

BOTH = {"forget", "retain"}
Loss = Callable[[nn.Module], Tensor]


def whole(context: Context, stream: str = "forget") -> Batch:
    return next(context.stream(stream).batches(1000))


def original(x: Tensor) -> Tensor:
    with torch.no_grad():
        return trained_net().eval()(x)


def cosine_factor(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def scheduled_loop(net: nn.Module, optimizer: torch.optim.Optimizer, losses: list[Loss], factors: list[float]) -> None:
    """One step for each loss, the learning rate times a factor of its own."""
    first = optimizer.param_groups[0]["lr"]
    optimizer.param_groups[0]["lr"] = first * factors[0]

    def after(_net: nn.Module, number: int) -> None:
        optimizer.param_groups[0]["lr"] = first * factors[min(number + 1, len(factors) - 1)]

    plain_loop(net, optimizer, losses, after=after)


# Relabelling


def test_permuted_labels_are_the_same_labels() -> None:
    context = make_context(needs=BOTH)
    moved = 0
    for batch in batches(context, "forget", 16):
        found = permuted_labels(context, batch)
        assert torch.equal(found.sort().values, batch.y.sort().values) and torch.equal(found, permuted_labels(context, batch))
        moved += int((found != batch.y).sum())
    assert 20 < moved < 40
    first, second = (batches(context, "forget", 40, epoch)[0] for epoch in (0, 1))
    by_index = [dict(zip(b.index.tolist(), permuted_labels(context, b).tolist(), strict=True)) for b in (first, second)]
    assert by_index[0] != by_index[1]


def test_random_label_flip_trains_on_permuted_and_then_on_true_labels() -> None:
    context, losses = make_context(needs=BOTH), []
    run(context, method("random_label_flip", epochs=2, batch_size=90, smoothing=0.2))

    def smoothed(x: Tensor, y: Tensor) -> Loss:
        target = 0.8 * F.one_hot(y, CLASSES) + 0.2 / CLASSES
        return lambda net: -(target * net(x).log_softmax(1)).sum(1).mean()

    for epoch in (0, 1):
        losses += [smoothed(b.x, permuted_labels(make_context(needs=BOTH), b)) for b in batches(context, "forget", 90, epoch)]
        losses += [smoothed(b.x, b.y) for b in batches(context, "retain", 90, epoch)]
    expected = trained_net()
    scheduled_loop(expected, plain_sgd(expected, 0.01), losses, [cosine_factor(step / 10) for step in range(10)])
    assert_same(context.model, expected)


def test_neighbors_vote_by_distance() -> None:
    made = torch.Generator().manual_seed(3)
    z, known, y = torch.randn(4, CLASSES, generator=made), torch.randn(9, CLASSES, generator=made), torch.arange(9) % 4
    found = neighbor_labels(z, known, y)
    for row in range(4):
        votes = torch.zeros(CLASSES)
        for other in range(9):
            votes[y[other]] += math.exp(-math.dist(z[row].tolist(), known[other].tolist()))
        torch.testing.assert_close(found[row], votes / votes.sum())
    assert (found[:, 4] == 0).all()  # a class that the retained data do not have


def test_nearest_neighbor_label_trains_on_soft_labels_and_then_repairs() -> None:
    context = make_context("class", needs=BOTH)
    run(context, method("nearest_neighbor_label", epochs=1, batch_size=40, repair_epochs=1))

    def loss(f: Batch, r: Batch) -> Loss:
        q = neighbor_labels(original(f.x), original(r.x), r.y)
        assert (q[:, 2] == 0).all()
        return lambda net: -(q * net(f.x).log_softmax(1)).sum(1).mean() + F.cross_entropy(net(r.x), r.y)

    pairs = list(zip(batches(context, "forget", 40), batches(context, "retain", 40)[:2], strict=True))
    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 0.01), [loss(*pair) for pair in pairs])
    repair = [ce(batch) for batch in batches(context, "retain", 40, phase=1)]
    scheduled_loop(expected, plain_sgd(expected, 1e-3), repair, [cosine_factor(step / len(repair)) for step in range(len(repair))])
    assert_same(context.model, expected)


# Gradient surgery


def test_surgery_is_orthogonal_whatever_the_sign() -> None:
    """Removing conflicts alone, the wrong version, leaves a component wherever the two gradients agree."""
    context = make_context(needs=BOTH)
    f, r = (list(gradient(context, name, reduction="mean").values()) for name in ("forget", "retain"))
    agreed = 0
    for sign in (1.0, -1.0):
        own = [sign * part for part in f]
        result = orthogonal("forget", to="retain")({"forget": own, "retain": r}, {})
        assert abs(float(dot(result, r))) < 1e-5 * float(norm(result) * norm(r))
        assert float(dot(result, own)) > 0
        wrong = pcgrad(only="forget")({"forget": own, "retain": r}, {})
        kept = [w - part for w, part in zip(wrong, r, strict=True)]
        agreed += abs(float(dot(kept, r))) > 1e-2 * float(norm(kept) * norm(r))
    assert agreed == 1


def test_gradient_surgery_climbs_beside_the_retain_gradient_and_repairs() -> None:
    context = make_context(needs=BOTH)
    run(context, method("gradient_surgery", epochs=2, batch_size=20, repair_epochs=2, repair_batch_size=90, lr=0.02))
    expected = trained_net()
    optimizer = plain_sgd(expected, 0.02, 0.0)
    optimizer.param_groups[0]["momentum"] = 0.95
    expected.train()
    for epoch in (0, 1):
        for f, r in zip(batches(context, "forget", 20, epoch), batches(context, "retain", 20, epoch)[:2], strict=True):
            weights = list(expected.parameters())
            g_f = torch.autograd.grad(F.cross_entropy(expected(f.x), f.y), weights)
            g_r = torch.autograd.grad(F.cross_entropy(expected(r.x), r.y), weights)
            a, b = (torch.cat([part.flatten() for part in g]).double() for g in (g_f, g_r))
            share = float(a @ b / (b @ b))
            for p, pf, pr in zip(weights, g_f, g_r, strict=True):
                p.grad = -(pf - share * pr)
            optimizer.step()
    losses = [
        lambda net, x=x: F.cross_entropy(net(x.x), x.y) + 1e-3 * sum(p.abs().mean() for p in net.parameters())
        for epoch in (0, 1)
        for x in batches(context, "retain", 90, epoch, phase=1)
    ]
    adamw = torch.optim.AdamW(expected.parameters(), lr=2e-3, weight_decay=5e-4)
    scheduled_loop(expected, adamw, losses, [1.0] * 4 + [0.5] * 4)
    for key, value in context.model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key], atol=2e-4, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


# Activation pruning


def test_layers_are_paired_with_their_norm_layers() -> None:
    assert layers_and_norms(make_context(needs=BOTH)) == {"0": "1", "3": "4"}
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, CLASSES))
    assert layers_and_norms(make_context(needs=BOTH, net=net)) == {"1": ""}


def test_quantiles_follow_the_published_stages() -> None:
    assert quantiles_by_depth(5, 1.0) == pytest.approx(QUANTILES)
    assert quantiles_by_depth(2, 1.0) == pytest.approx([0.99, 0.9]) and quantiles_by_depth(1, 2.0) == pytest.approx([0.98])
    assert [cosine_from(2, 4)(Progress(step, 4, 0, 2)) for step in (0, 2, 4)] == pytest.approx([0.5, cosine_factor(0.75), 0.0])


def test_activations_are_positive_parts_behind_the_norm_layer() -> None:
    context = make_context(needs=BOTH)
    found = mean_activations(context, layers_and_norms(context))
    net, x = trained_net().eval(), whole(context).x
    with torch.no_grad():
        torch.testing.assert_close(found["0"], net[:3](x).mean((0, 2, 3)))
        torch.testing.assert_close(found["3"], net[:6](x).mean((0, 2, 3)))


def test_activation_pruning_silences_the_most_excited_channels_for_good() -> None:
    context = make_context(needs=BOTH)
    net, x, silent, seen = trained_net().eval(), whole(context).x, {}, []
    for step in method("activation_pruning", epochs=3, prune_epochs=2).steps(context):
        if isinstance(step, Edit):
            layers = {"0": (context.model[:3], 0.99), "3": (context.model[:6], 0.9)}
            context.model.eval()
            with torch.no_grad():
                for name, (part, quantile) in layers.items():
                    level = part(x).mean((0, 2, 3))
                    silent.setdefault(name, set()).update((level > torch.quantile(level, quantile)).nonzero().flatten().tolist())
                step.apply(context)
        else:
            run_phase(context, step)
            context.phase += 1
            seen.append((step.epochs, {name: len(channels) for name, channels in silent.items()}))
        for name, norm_name in (("0", "1"), ("3", "4")):
            for channel in silent[name]:
                for key in (f"{name}.weight", f"{name}.bias", f"{norm_name}.weight", f"{norm_name}.bias"):
                    assert not context.model.state_dict()[key][channel].any(), key
    assert seen == [(1, {"0": 1, "3": 2}), (2, {"0": 2, "3": 4})]
    context.model.eval()
    with torch.no_grad():
        output = context.model[:6](x)
        assert not output[:, sorted(silent["3"])].any() and output.any() and net(x).any()


# Entropy


def test_maximal_entropy_is_the_divergence_from_uniform() -> None:
    """`F.kl_div` takes logarithms of the student's probabilities; fed probabilities it gives something else."""
    context = make_context(needs=BOTH)
    batch = whole(context)
    student = Forward(context, batch)
    found = match(uniform, kl())(context, batch, student).detach()
    p = student.logits.detach().softmax(1)
    torch.testing.assert_close(found, (1 / CLASSES * (math.log(1 / CLASSES) - p.log())).sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean(), F.kl_div(p.log(), torch.full_like(p, 1 / CLASSES), reduction="batchmean"))
    assert (found.mean() - F.kl_div(p, torch.full_like(p, 1 / CLASSES), reduction="batchmean")).abs() > 0.1


def test_entropy_maximization_is_a_weighted_sum() -> None:
    context = make_context(needs=BOTH)
    run(context, method("entropy_maximization", epochs=1, batch_size=90, weight=0.4, retain_weight=0.8))
    retain = batches(context, "retain", 90)
    forget = [batches(context, "forget", 90, turn)[0] for turn in range(4)]

    def loss(r: Batch, f: Batch) -> Loss:
        u = torch.full((len(f), CLASSES), 1 / CLASSES)
        return lambda net: 0.8 * F.cross_entropy(net(r.x), r.y) + 0.4 * divergence(u, net(f.x))

    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 0.01), [loss(*pair) for pair in zip(retain, forget, strict=True)])
    assert_same(context.model, expected)


def test_quantile_matching_moves_every_rank_to_its_quantile() -> None:
    context = make_context(needs=BOTH)
    batch = whole(context)
    student = Forward(context, batch)
    logits = student.logits.detach()
    own = statistics(logits, batch.y)
    p = logits.softmax(1)
    torch.testing.assert_close(own[0], -p[torch.arange(40), batch.y].log(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(own[1], -(p * p.log()).sum(1), atol=1e-5, rtol=1e-4)
    wanted = torch.rand(2, 30, generator=torch.Generator().manual_seed(0))
    found, expected = match_quantiles(wanted)(context, batch, student).detach(), torch.zeros(40)
    for row in (0, 1):
        for place, example in enumerate(own[row].argsort().tolist()):
            expected[example] += 0.5 * (own[row, example] - torch.quantile(wanted[row], (place + 0.5) / 40)) ** 2
    torch.testing.assert_close(found, expected)
    fine = own.repeat_interleave(25, dim=1)  # the batch's own distribution is where it wants to be
    assert match_quantiles(fine)(context, batch, student).detach().max() < 1e-5


def test_entropy_matching_brings_the_forget_set_to_unseen_losses() -> None:
    context = make_context(needs=BOTH | {"validation"})
    wanted = mean_loss(context, "validation")
    before = mean_loss(context, "forget")
    run(context, method("entropy_matching"))
    after = mean_loss(context, "forget")
    assert abs(after - wanted) < 0.4 * abs(before - wanted)


# Streaming


@pytest.mark.parametrize("count", [1, 3, 100])
def test_requests_are_portions_of_the_forget_set(count: int) -> None:
    context = make_context(needs={"forget", "validation"})
    parts = list(portions(context, count))
    assert len(parts) == min(count, 40) and len({part.name for part in parts}) == len(parts)
    assert torch.equal(torch.cat([part.index for part in parts]).sort().values, context.stream("forget").index)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("anchor", ["kl", "l2", "ewc"])
def test_streaming_is_a_forget_loss_and_an_anchor(anchor: str) -> None:
    context = make_context(needs={"forget", "validation"})
    fields = {"requests": 2, "epochs": 1, "batch_size": 10, "until": "never", "forget": "ascent", "strength": 2.0, "lr": 1e-3}
    run(context, method("streaming", anchor=anchor, **fields))
    fresh, expected, start = make_context(needs={"forget", "validation"}), trained_net(), dict(trained_net().named_parameters())
    importance = fisher_diagonal(fresh, "validation", "sampled") if anchor == "ewc" else {name: torch.ones(1) for name in start}

    def loss(f: Batch, v: Batch) -> Loss:
        def value(net: nn.Module) -> Tensor:
            away = sum((importance[name] * (p - start[name].detach()) ** 2).sum() for name, p in net.named_parameters())
            held = divergence(original(v.x).softmax(1), net(v.x)) if anchor == "kl" else away / 2
            return -F.cross_entropy(net(f.x), f.y) + 2.0 * held

        return value

    for number, part in enumerate(portions(fresh, 2)):
        fresh._streams["part"], fresh.needs = part, frozenset({"forget", "validation", "part"})
        pairs = zip(batches(fresh, "part", 10, phase=number), batches(fresh, "validation", 10, phase=number)[:2], strict=True)
        plain_loop(expected, plain_sgd(expected, 1e-3, 0.0), [loss(*pair) for pair in pairs], frozen_norm=True)
    assert_same(context.model, expected)
    assert not any("running" in name for name in changed(context.model))


@pytest.mark.parametrize("until", ["unseen", "guessing"])
def test_streaming_ends_each_request_in_time(until: str) -> None:
    context = make_context("class", needs={"forget", "validation"})
    outcome = run(context, method("streaming", requests=2, until=until, forget="ascent", lr=5e-3, epochs=30))
    assert len(outcome.phases) == 2 and all(phase["stopped"] and phase["epochs"] < 30 for phase in outcome.phases)
    level = math.log(CLASSES) if until == "guessing" else mean_loss(context, "validation")
    assert mean_loss(context, list(portions(context, 2))[-1]) >= level


# Gentle and masked ascents


def npo_gradient(beta: float, net: nn.Module | None = None) -> dict[str, Tensor]:
    return gradient(make_context(needs=BOTH, net=net), "forget", negative_preference(beta))


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_npo_is_plain_ascent_at_the_original(beta: float) -> None:
    climbing = gradient(make_context(needs=BOTH), "forget", cross_entropy)
    found = npo_gradient(beta)
    for name, value in climbing.items():
        torch.testing.assert_close(found[name], -value, atol=1e-4, rtol=1e-3)


def test_npo_follows_its_formula_and_is_bounded() -> None:
    context = make_context(needs=BOTH)
    with torch.no_grad():
        context.model[7].weight.mul_(-3)
    batch = whole(context)
    found = negative_preference(0.7)(context, batch, Forward(context, batch)).detach()
    p = context.model.eval()(batch.x).detach().double().softmax(1)[torch.arange(40), batch.y]
    p0 = original(batch.x).double().softmax(1)[torch.arange(40), batch.y]
    torch.testing.assert_close(found.double(), 2 / 0.7 * torch.log(1 + (p / p0) ** 0.7), atol=5e-5, rtol=1e-4)
    assert (found >= 0).all() and found.mean() < 2 / 0.7 * math.log(2)


def test_npo_is_a_weighted_sum_over_the_retain_set() -> None:
    context = make_context(needs=BOTH)
    run(context, method("npo", epochs=1, batch_size=90, beta=0.5, weight=0.3))

    def loss(r: Batch, f: Batch) -> Loss:
        p0 = original(f.x).softmax(1)[torch.arange(len(f)), f.y]

        def value(net: nn.Module) -> Tensor:
            keep = F.cross_entropy(net(r.x), r.y)
            p = net(f.x).softmax(1)[torch.arange(len(f)), f.y]
            return keep + 0.3 * (2 / 0.5 * torch.log(1 + (p / p0) ** 0.5)).mean()

        return value

    forget = [batches(context, "forget", 90, turn)[0] for turn in range(4)]
    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 0.01), [loss(*pair) for pair in zip(batches(context, "retain", 90), forget, strict=True)])
    assert_same(context.model, expected)


def test_negative_smoothing_is_not_ignored() -> None:
    """torch's own label smoothing silently takes a negative rate for none."""
    context = make_context(needs=BOTH)
    batch = whole(context)
    student = Forward(context, batch)
    found = unsmoothed_cross_entropy(-0.5)(context, batch, student).detach()
    target = 1.5 * F.one_hot(batch.y, CLASSES) - 0.5 / CLASSES
    torch.testing.assert_close(found, -(target * student.logits.detach().log_softmax(1)).sum(1))
    plain = cross_entropy(context, batch, student).detach()
    torch.testing.assert_close(smoothed_cross_entropy(-0.5)(context, batch, student).detach(), plain)
    assert (found - plain).abs().mean() > 0.1


@pytest.mark.parametrize(("name", "turns"), [("ugradsl", 1), ("ugradsl_plus", 4)])
def test_ugradsl_climbs_on_unsmoothed_labels(name: str, turns: int) -> None:
    context = make_context(needs=BOTH)
    run(context, method(name, epochs=1, batch_size=90, retain_share=0.8, smoothing=-0.7))

    def loss(r: Batch, f: Batch) -> Loss:
        y = 1.7 * F.one_hot(f.y, CLASSES) - 0.7 / CLASSES
        return lambda net: 0.8 * F.cross_entropy(net(r.x), r.y) + 0.2 * (y * net(f.x).log_softmax(1)).sum(1).mean()

    pairs = [(r, batches(context, "forget", 90, turn)[0]) for turn, r in enumerate(batches(context, "retain", 90)[:turns])]
    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 0.01), [loss(*pair) for pair in pairs])
    assert_same(context.model, expected)


def test_sfron_adds_a_masked_and_clipped_ascent_every_few_steps() -> None:
    context = make_context(needs=BOTH)
    run(context, method("sfron", iterations=6, every=3, batch_size=90, alpha=4.0, forget_clip=0.05, lr=0.02))
    fresh = make_context(needs=BOTH)
    important, usual = fisher_diagonal(fresh, "forget"), fisher_diagonal(fresh, "retain")
    retain = [*batches(context, "retain", 90), *batches(context, "retain", 90, 1)][:6]
    forget = [batches(context, "forget", 90, turn)[0] for turn in (0, 1)]  # a pass is one batch
    expected = trained_net()
    optimizer, clipped = plain_sgd(expected, 0.02), 0
    expected.train()
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.02 * cosine_factor(step / 6)
        optimizer.zero_grad()
        F.cross_entropy(expected(retain[step].x), retain[step].y).backward()
        if step % 3 == 0:
            f = forget[step // 3]
            each = F.cross_entropy(expected(f.x), f.y, reduction="none")
            coefficient = 1 / each.detach().sqrt()
            loss = -4.0 * cosine_factor(step / 6) * (coefficient / coefficient.sum() * each).sum()
            parts = torch.autograd.grad(loss, list(expected.parameters()))
            parts = [g * (important[n] >= usual[n]) for g, n in zip(parts, important, strict=True)]
            length = float(torch.cat([g.flatten() for g in parts]).norm())
            clipped += length > 0.05
            for p, g in zip(expected.parameters(), parts, strict=True):
                p.grad += g * min(1.0, 0.05 / length)
        optimizer.step()
    assert clipped
    for key, value in context.model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key], atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_sfron_parts() -> None:
    mask = salient({"weight": torch.tensor([[1.0, 2.0, 0.0]])}, {"weight": torch.tensor([[2.0, 2.0, 0.0]])}, 1.0)
    assert mask["weight"].tolist() == [[0.0, 1.0, 1.0]]
    tiny = make_context(needs=BOTH, net=nn.Linear(3, 1, bias=False))
    join = add_masked(tiny, mask, 1.0)
    (found,) = join({"retain": [torch.ones(1, 3)], "forget": [torch.tensor([[9.0, 3.0, 4.0]])]}, {})
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.6, 1.8]]), atol=1e-5, rtol=0)
    assert join({"retain": [torch.ones(1, 3)]}, {})[0].tolist() == [[1, 1, 1]]
    with pytest.raises(NotApplicable, match="moves adapters"):
        add_masked(tiny, {}, 1.0)({"retain": [torch.ones(1, 3)], "forget": [torch.ones(1, 3)]}, {})
    context = make_context(needs=BOTH)
    batch = whole(context)
    with torch.no_grad():
        plain, weighted = (loss(context, batch, Forward(context, batch)) for loss in (cross_entropy, preferring_small_losses(0.5)))
    weight = weighted / plain
    assert float(weight.mean()) == pytest.approx(1.0, abs=1e-4) and (weight[plain.argsort()].diff() <= 1e-6).all()


# Steps taken apart


def test_scrub_interleaved_takes_three_steps_for_a_pair() -> None:
    context = make_context(needs=BOTH)
    run(context, method("scrub_interleaved", lr=0.02, epochs=2, max_epochs=1, batch_size=20, retain_weight=0.5, forget_weight=0.7))
    fresh = make_context(needs=BOTH)
    fresh._streams["retain again"] = fresh.stream("retain").subset(fresh.stream("retain").index, name="retain again")
    fresh.needs = frozenset({*BOTH, "retain again"})

    def drawn(batch: Batch, weight: float) -> Loss:
        p = original(batch.x).softmax(1)
        return lambda net: weight * divergence(p, net(batch.x))

    def steps(phase: int, ascend: bool) -> list[Loss]:
        losses = []
        parts = (batches(fresh, part, 20, phase=phase)[:2] for part in ("retain", "retain again", "forget"))
        for r, again, f in zip(*parts, strict=True):
            losses += [ce(r), drawn(again, 0.5), *([drawn(f, -0.7)] if ascend else [])]
        return losses

    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 0.02, 0.0), steps(0, ascend=True))
    plain_loop(expected, plain_sgd(expected, 0.02, 0.0), steps(1, ascend=False))
    assert_same(context.model, expected)


def test_scrub_interleaved_takes_all_its_steps_where_more_is_forgotten_than_kept() -> None:
    context = make_context(needs=BOTH)
    forget, retain = context._streams["forget"], context._streams["retain"]
    context._streams |= {"forget": retain.subset(retain.index, "forget"), "retain": forget.subset(forget.index, "retain")}
    outcome = run(context, method("scrub_interleaved", lr=1e-4, epochs=3, max_epochs=1, batch_size=40))
    pairs = 360 // 40  # in a pass over the forget set; the retain set is a single batch
    assert [phase["steps"] for phase in outcome.phases] == [3 * pairs, 2 * 2 * pairs]


def test_neggrad_plus_in_two_steps() -> None:
    context = make_context(needs=BOTH)
    run(context, method("neggrad_plus", order="interleave", alpha=0.6, epochs=1, batch_size=20, epoch_of="forget"))
    losses = []
    for r, f in zip(batches(context, "retain", 20)[:2], batches(context, "forget", 20), strict=True):
        losses += [
            lambda net, r=r: 0.6 * F.cross_entropy(net(r.x), r.y),
            lambda net, f=f: -0.4 * F.cross_entropy(net(f.x), f.y),
        ]
    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 0.01, 0.0), losses)
    assert_same(context.model, expected)


def test_the_sources_names_find_their_methods() -> None:
    expected = {
        "RLF": "random_label_flip", "NN": "nearest_neighbor_label", "surgery": "gradient_surgery", "act_prune": "activation_pruning",
        "entropy": "entropy_maximization", "NPO": "npo", "UGradSL+": "ugradsl_plus", "SFRon": "sfron",
        "interleaved_scrub": "scrub_interleaved", "streaming_forget": "streaming",
    }  # fmt: skip
    assert {alias: registry.find("methods", alias).name for alias in expected} == expected
