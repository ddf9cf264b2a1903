"""The experiments of source 004, each against its formula in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import assert_same, batches, method, plain_loop, plain_sgd

from conftest import make_context, trained_net
from expunge.config import build
from expunge.engine.context import Context
from expunge.engine.run import run
from expunge.engine.stream import Batch
from expunge.methods.ascent.gradient_ascent_by_depth import block_rates, parts_by_depth
from expunge.methods.ascent.moved_pictures import away_in_features, discrepancy, mahalanobis, random_crop
from expunge.methods.distillation.noisy_inputs import pixel_noise
from expunge.methods.features.proxy_contrast import Proxies
from expunge.methods.features.relations import misaligned, misaligned_and_dissimilar, similarity_preserving
from expunge.representation import cka

BOTH = {"forget", "retain"}


def features(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net[:7](x)


def ascent(batch: Batch):
    return lambda net: -F.cross_entropy(net(batch.x), batch.y)


def test_ascent_with_the_originals_labels() -> None:
    context = make_context(needs={"forget"})
    run(context, build("methods", {"name": "GA_softlabel", "lr": 1e-2, "epochs": 2, "batch_size": 16}, "method"))
    teacher, expected = trained_net().eval(), trained_net()

    def leave(batch: Batch):
        soft = teacher(batch.x).softmax(1).detach()
        return lambda net: (soft * net(batch.x).log_softmax(1)).sum(1).mean()

    losses = [leave(batch) for epoch in (0, 1) for batch in batches(context, "forget", 16, epoch)]
    plain_loop(expected, plain_sgd(expected, 1e-2), losses, frozen_norm=True)
    assert_same(context.model, expected)


def test_ascent_on_noisy_pictures() -> None:
    context = make_context(needs=BOTH)
    run(context, build("methods", {"name": "GA_noise", "lr": 1e-2, "epochs": 1, "batch_size": 40}, "method"))
    fresh, expected = make_context(needs=BOTH), trained_net()
    (batch,) = batches(fresh, "forget", 40)
    noisy = batch.x + 0.1 * pixel_noise(fresh, batch)
    assert 0.09 < float((noisy - batch.x).std()) < 0.11
    plain_loop(expected, plain_sgd(expected, 1e-2), [lambda net: -F.cross_entropy(net(noisy), batch.y)], frozen_norm=True)
    assert_same(context.model, expected)


@pytest.mark.parametrize("measure", ["mahalanobis", "discrepancy"])
def test_pictures_move_away_from_retained_features_by_small_steps(measure: str) -> None:
    context = make_context(needs=BOTH)
    (batch,) = batches(context, "forget", 40)
    net = context.teacher("original")
    distance = (mahalanobis if measure == "mahalanobis" else discrepancy)(context)
    before = float(distance(features(net, batch.x)))
    for step, sign in ((1e-3, 1), (-1e-3, -1)):
        moved = away_in_features(context, measure, step, 10)(context, batch)
        assert sign * (float(distance(features(net, moved))) - before) > (0 if measure == "mahalanobis" else -1e-5)  # its kernel is flat
        assert 0 < float((moved - batch.x).abs().max()) <= 0.01 + 1e-6 and 0 <= float(moved.min()) <= float(moved.max()) <= 1


def test_distances_to_retained_features_are_those_of_the_formula() -> None:
    context = make_context(needs=BOTH)
    net = context.teacher("original")
    retained = features(net, next(context.stream("retain").batches(400)).x).double()
    own = features(net, next(context.stream("forget").batches(7)).x)
    inverse = (torch.cov(retained.T) + 1e-6 * torch.eye(retained.shape[1])).inverse()
    centred = own.double() - retained.mean(0)
    wanted = torch.stack([(row @ inverse @ row).sqrt() for row in centred]).mean()
    assert float(mahalanobis(context)(own)) == pytest.approx(float(wanted), rel=1e-2)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (-(torch.cdist(x.double(), y.double()) ** 2) / 2).exp()

    naive = kernel(own, own).mean() - 2 * kernel(own, retained).mean()
    assert float(discrepancy(context)(own)) == pytest.approx(float(naive), rel=1e-3, abs=1e-6)


def test_rates_by_depth() -> None:
    context = make_context(needs={"forget"})
    rates = block_rates(context)
    assert {name: round(rate, 3) for name, rate in rates.items()} == {
        "3.weight": 0.476, "3.bias": 0.476, "4.weight": 0.476, "4.bias": 0.476, "7.weight": 1.14, "7.bias": 1.14
    }  # fmt: skip
    run(context, build("methods", {"name": "GA_layerwise", "lr": 1e-2, "epochs": 2, "batch_size": 40}, "method"))
    expected = trained_net()
    groups = [{"params": [expected.get_parameter(name)], "lr": 1e-2 * rates[name]} for name in rates]
    losses = [ascent(batch) for epoch in (0, 1) for batch in batches(context, "forget", 40, epoch)]
    plain_loop(expected, torch.optim.SGD(groups, lr=1e-2, momentum=0.9, weight_decay=5e-4), losses, frozen_norm=True)
    assert_same(context.model, expected)


def test_parts_by_depth_follow_one_another() -> None:
    context = make_context(needs={"forget"})
    assert [sorted({name[0] for name in part}) for part in parts_by_depth(context).values()] == [["3", "4"], ["7"], ["0", "1"]]
    outcome = run(context, build("methods", {"name": "GA_sequential", "lr": 1e-2, "epochs": 3, "batch_size": 40}, "method"))
    assert [(phase["name"], phase["epochs"]) for phase in outcome.phases] == [
        ("ascend in the last blocks", 1), ("ascend in the middle and the head", 1), ("ascend in the first half", 1)
    ]  # fmt: skip
    original = trained_net().state_dict()
    assert all(not torch.equal(context.model.state_dict()[name], original[name]) for name in ("0.weight", "3.weight", "7.weight"))


@pytest.mark.parametrize(("name", "zeros"), [("GA_prune", [0.5]), ("GA_prune_bi", [1 - 0.5**0.5, 0.5])])
def test_ascent_and_pruning_in_turn(name: str, zeros: list[float]) -> None:
    seen: list[float] = []
    context = make_context(needs={"forget"}, report=lambda event: seen.append(event["sparsity"]) if event["event"] == "pruned" else None)
    run(context, build("methods", {"name": name, "sparsity": 0.5, "lr": 1e-2, "epochs": 2, "batch_size": 40}, "method"))
    weights = torch.cat([context.model.get_parameter(key).flatten() for key in ("0.weight", "3.weight")])
    assert seen == pytest.approx(zeros, abs=1e-3) and float((weights == 0).double().mean()) == pytest.approx(0.5, abs=1e-3)
    expected = trained_net()
    losses = [ascent(batch) for batch in batches(context, "forget", 40)]
    if name == "GA_prune":
        losses += [ascent(batch) for batch in batches(context, "forget", 40, 1)]
        plain_loop(expected, plain_sgd(expected, 1e-2), losses, frozen_norm=True)
        sizes = torch.cat([expected.get_parameter(key).abs().flatten() for key in ("0.weight", "3.weight")])
        smallest = sizes.argsort(stable=True)[: int(0.5 * len(sizes))]
        assert bool((weights[smallest] == 0).all())


# Restoring


def test_cka_loss_is_one_minus_biased_cka() -> None:
    made = torch.Generator().manual_seed(0)
    target, own = torch.randn(9, 5, generator=made), torch.randn(9, 5, generator=made)
    assert float(misaligned(target, own).mean()) == pytest.approx(1 - cka.biased(target.numpy(), own.numpy()), abs=1e-5)
    assert float(misaligned(target, 3 * target + 1).abs().max()) < 1e-5
    both = misaligned_and_dissimilar(target, own)
    torch.testing.assert_close(100 * both, 100 * misaligned(target, own) + 10 * similarity_preserving(target, own))
    still = torch.ones(4, 3, requires_grad=True)
    misaligned(torch.randn(4, 3, generator=made), still).sum().backward()
    assert bool(torch.isfinite(still.grad).all())


def test_a_crop_is_one_square_for_the_batch() -> None:
    context = make_context()
    (batch,) = batches(context, "forget", 40)
    cropped = random_crop(0.5)(context, batch)
    assert cropped.shape == batch.x.shape
    windows = [batch.x[..., row : row + 4, column : column + 4] for row in range(5) for column in range(5)]
    grown = [F.interpolate(window, size=(8, 8), mode="bilinear", antialias=True) for window in windows]
    assert sum(torch.allclose(part, cropped, atol=1e-6) for part in grown) == 1
    assert torch.allclose(random_crop(1.0)(context, batch), batch.x, atol=1e-6)


def test_restoring_on_the_forget_set_reads_nothing_else() -> None:
    for name, steps in (("AKD_aug", 4), ("PL_SPKD_df", 2)):
        context = make_context("class", needs={"forget"})
        outcome = run(context, build("methods", {"name": name, "lr": 1e-4, "epochs": 1, "batch_size": 40}, "method"))
        assert outcome.phases[0]["steps"] == steps
    fresh, expected, teacher = make_context("class", needs={"forget"}), trained_net(), trained_net().eval()

    def both(batch: Batch):
        logits = teacher(batch.x).detach()
        label = torch.tensor([0, 1, 3, 4])[logits[:, [0, 1, 3, 4]].argmax(1)]
        target = features(teacher, batch.x).detach()
        return lambda net: 10 * F.cross_entropy(net(batch.x), label) + 10 * similarity_preserving(target, features(net, batch.x)).mean()

    plain_loop(expected, plain_sgd(expected, 1e-4), [both(batch) for batch in batches(fresh, "forget", 40)], frozen_norm=True)
    assert_same(context.model, expected)


def test_the_oracle_gives_the_pseudo_labels_of_its_variant() -> None:
    oracle = trained_net(1)
    context = make_context("class", needs={*BOTH, "oracle"}, oracle=oracle)
    run(context, build("methods", {"name": "unlearn_restore_oracle", "unlearn": "pseudo_label", "restore": "none", "lr": 1e-2, "epochs": 1,
                                   "batch_size": 80}, "method"))  # fmt: skip
    expected, teacher = trained_net(), trained_net(1).eval()

    def leave(batch: Batch):
        label = torch.tensor([0, 1, 3, 4])[teacher(batch.x).detach()[:, [0, 1, 3, 4]].argmax(1)]
        return lambda net: F.cross_entropy(net(batch.x), label)

    plain_loop(
        expected, plain_sgd(expected, 1e-2), [leave(batch) for batch in batches(make_context("class"), "forget", 80)], frozen_norm=True
    )
    assert_same(context.model, expected)


# Proxies


def proxies_of(context: Context) -> Proxies:
    return Proxies(context, 1e-3)


def test_proxies_start_as_the_heads_rows_and_learn_to_confuse() -> None:
    context = make_context()
    proxies, batch = proxies_of(context), batches(context, "forget", 40)[0]
    torch.testing.assert_close(proxies.proxies.detach(), F.normalize(trained_net()[7].weight.detach(), dim=1))
    own = features(context.model, batch.x).detach()
    before = float(F.cross_entropy(proxies.cosines(own), batch.y).detach())
    for _ in range(20):
        proxies.learn(own, batch.y)
    assert float(F.cross_entropy(proxies.cosines(own), batch.y).detach()) > before
    torch.testing.assert_close(proxies.proxies.detach().norm(dim=1), torch.ones(5))
    assert float(proxies.cosines(own).detach().abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize("hold", ["retain", "nothing"])
def test_proxy_contrast_follows_its_loss(hold: str) -> None:
    context = make_context(needs=BOTH)
    run(context, method("proxy_contrast", hold=hold, lr=1e-2, epochs=1, batch_size=40))
    fresh = make_context(needs=BOTH)
    proxies, expected = proxies_of(fresh), trained_net()
    forget, retain = batches(fresh, "forget", 40)[0], batches(fresh, "retain", 40)[0]

    def loss(net: torch.nn.Module) -> torch.Tensor:
        held = F.cross_entropy(net(retain.x), retain.y) if hold == "retain" else 0.0
        own = features(net, forget.x)
        logits = net[7](own)
        proxies.learn(own, forget.y)
        unit = F.normalize(own, dim=1)
        shares = (unit @ unit.T).log_softmax(1)
        others = (forget.y[:, None] != forget.y).float()
        contrast = (-(shares * others).sum(1) / others.sum(1)).mean()
        return (
            (held if hold == "retain" else -F.cross_entropy(logits, forget.y)) - F.cross_entropy(proxies.cosines(own), forget.y) + contrast
        )

    plain_loop(expected, plain_sgd(expected, 1e-2), [loss], frozen_norm=hold == "nothing")
    for key in ("3.weight", "7.weight"):
        torch.testing.assert_close(context.model.get_parameter(key), expected.get_parameter(key), atol=1e-5, rtol=1e-4)
