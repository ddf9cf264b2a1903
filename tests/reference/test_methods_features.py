"""Methods on features, each against its formula written naively, and against the wrong version it is known for."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from test_methods_gradient import assert_same, batches, ce, method, plain_loop, plain_sgd
from torch import Tensor

from conftest import CLASSES, SOURCE, make_context, make_net, trained_net
from expunge.config import build, read, resolve
from expunge.engine import randomness
from expunge.engine.measure import accuracy, mean_loss
from expunge.engine.run import run
from expunge.engine.targets import random_label
from expunge.engine.terms import Forward, Progress
from expunge.methods.features.block_outputs import BlockOutputs, pooled
from expunge.methods.features.class_statistics import Gaussians, centroids, features_of, nearest_wrong, shrunk, tukey
from expunge.methods.features.contrastive_unlearning import against_retained, within_forgotten
from expunge.methods.features.duck import towards_wrong_centroid
from expunge.methods.features.forget_accuracy import fallen_to
from expunge.methods.features.mahalanobis import floored_original, to_the_nearest
from expunge.methods.features.published_names import PUBLISHED
from expunge.methods.features.relations import angles_apart, distances_apart, relational, similarity_preserving
from expunge.methods.features.two_phases import pseudo_label

BOTH = {"forget", "retain"}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(net, x: Tensor) -> Tensor:
    return net[:7](x)


# Relations of a batch


def naive_spkd(target: Tensor, own: Tensor) -> float:
    total = 0.0
    for i in range(len(own)):
        rows = [torch.tensor([float(f[i] @ f[j]) for j in range(len(f))]) for f in (own, target)]
        total += float(((rows[0] / rows[0].norm() - rows[1] / rows[1].norm()) ** 2).sum())
    return math.sqrt(total) / len(own) ** 2


def test_spkd_is_the_naive_formula_shared_evenly() -> None:
    target, own = drawn(6, 4), drawn(6, 4, seed=1)
    value = similarity_preserving(target, own)
    assert value.shape == (6,) and bool((value == value[0]).all())
    assert float(value.mean()) == pytest.approx(naive_spkd(target, own), rel=1e-5)


def test_spkd_of_identical_features_is_zero_with_a_finite_gradient() -> None:
    own = drawn(6, 4).requires_grad_(True)
    value = similarity_preserving(own.detach(), own).mean()
    value.backward()
    assert float(value.detach()) == 0 and bool(torch.isfinite(own.grad).all())
    rotation = torch.linalg.qr(drawn(4, 4, seed=2))[0]
    assert float(similarity_preserving(own.detach(), own.detach() @ rotation)[0]) < 1e-6
    assert float(similarity_preserving(own.detach(), own.detach() * torch.arange(1, 5))[0]) > 1e-3


def naive_rkd(target: Tensor, own: Tensor) -> tuple[float, float]:
    n, relative, cosine = len(own), [], []
    for f in (own, target):
        f = f / f.norm(dim=1, keepdim=True)
        d = [[float((f[i] - f[j]).norm()) for j in range(n)] for i in range(n)]
        mean = np.mean([value for row in d for value in row if value > 0])
        relative.append([value / mean for row in d for value in row])
        angle = []
        for i, j, k in itertools.product(range(n), repeat=3):
            u, v = f[j] - f[i], f[k] - f[i]
            angle.append(float(u @ v / (u.norm() * v.norm())) if i not in (j, k) else 0.0)
        cosine.append(angle)

    def smooth(pair: list[list[float]]) -> float:
        gaps = [abs(a - b) for a, b in zip(*pair, strict=True)]
        return float(np.mean([0.5 * g**2 if g < 1 else g - 0.5 for g in gaps]))

    return smooth(relative), smooth(cosine)


def test_rkd_is_the_naive_formula() -> None:
    target, own = drawn(5, 3), drawn(5, 3, seed=1)
    distance, angle = naive_rkd(target, own)
    unit = F.normalize(target, dim=1), F.normalize(own, dim=1)
    assert float(distances_apart(*unit).mean()) == pytest.approx(distance, rel=1e-4)
    assert float(angles_apart(*unit).mean()) == pytest.approx(angle, rel=1e-4)
    assert float(relational(target, own).mean()) == pytest.approx(distance + angle, rel=1e-4)
    assert relational(target, own).shape == (5,)


@pytest.mark.parametrize("kernel", [relational, distances_apart, angles_apart])
def test_rkd_is_blind_to_a_common_scale(kernel) -> None:
    target, own = drawn(6, 4), drawn(6, 4, seed=1)
    torch.testing.assert_close(kernel(target, 7 * own), kernel(target, own), atol=1e-6, rtol=1e-5)
    assert float(kernel(target, 3 * target).abs().max()) < 1e-6 < float(kernel(target, own).max())


def test_rkd_survives_equal_examples_and_a_batch_of_one() -> None:
    own = torch.cat([drawn(2, 4), drawn(2, 4)]).requires_grad_(True)
    relational(drawn(4, 4, seed=1), own).sum().backward()
    assert bool(torch.isfinite(own.grad).all()) and float(own.grad.abs().max()) < 1e3
    assert float(relational(drawn(1, 4), drawn(1, 4, seed=1))) == 0


# Unlearn and restore


def naive_restore(kind: str, target: Tensor, own: Tensor, logits_t: Tensor, logits: Tensor) -> Tensor:
    if kind == "kd":
        return 4 * F.kl_div(F.log_softmax(logits / 2, 1), F.softmax(logits_t / 2, 1), reduction="batchmean")
    if kind == "akd":
        return F.mse_loss(own, target)
    grams = [f @ f.T for f in (own, target)]
    rows = [gram / gram.norm(dim=1, keepdim=True) for gram in grams]
    return (rows[0] - rows[1]).norm() / len(own) ** 2


@pytest.mark.parametrize("name", ["SPKD", "PL_KD", "AKD"])
def test_unlearn_restore_is_a_forget_pass_and_a_retain_pass(name: str) -> None:
    chosen = method("unlearn_restore", published=name, lr=1e-3, epochs=2, batch_size=64)
    context = make_context("class", needs=BOTH)
    run(context, chosen)
    teacher, expected = trained_net().eval(), trained_net()

    def leave(batch):
        if chosen.unlearn == "gradient_ascent":
            return lambda net: -F.cross_entropy(net(batch.x), batch.y)
        logits = teacher(batch.x).detach()
        label = logits[:, [0, 1, 3, 4]].argmax(1)
        label = torch.tensor([0, 1, 3, 4])[label]
        return lambda net: F.cross_entropy(net(batch.x), label)

    def stay(batch):
        target, logits = features(teacher, batch.x).detach(), teacher(batch.x).detach()

        def loss(net):
            own = features(net, batch.x)
            out = net[7](own)
            labels = F.cross_entropy(out, batch.y)
            return chosen.label_weight * labels + chosen.restore_weight * naive_restore(chosen.restore, target, own, logits, out)

        return loss

    losses = []
    for epoch in (0, 1):
        losses += [leave(batch) for batch in batches(context, "forget", 64, epoch)]
        losses += [stay(batch) for batch in batches(context, "retain", 64, epoch)]
    plain_loop(expected, plain_sgd(expected, 1e-3), losses)
    assert_same(context.model, expected)


def test_interleaved_takes_both_in_one_step() -> None:
    context = make_context("class", needs=BOTH)
    outcome = run(context, method("unlearn_restore", published="SPKD_IL", lr=1e-3, epochs=1, batch_size=32))
    assert outcome.phases[0]["steps"] == 3
    teacher, expected = trained_net().eval(), trained_net()

    def both(forget, retain):
        target = features(teacher, retain.x).detach()

        def loss(net):
            ascent = -F.cross_entropy(net(forget.x), forget.y)
            own = features(net, retain.x)
            return ascent + 10 * F.cross_entropy(net[7](own), retain.y) + 10 * naive_restore("spkd", target, own, own, own)

        return loss

    pairs = zip(batches(context, "forget", 32), batches(context, "retain", 32), strict=False)
    plain_loop(expected, plain_sgd(expected, 1e-3), [both(*pair) for pair in pairs])
    assert_same(context.model, expected)


def test_all_layers_average_over_blocks_and_features() -> None:
    chosen = method("unlearn_restore", published="AKD_AL", lr=1e-3, epochs=1, batch_size=64)
    context = make_context("class", needs=BOTH)
    assert context.architecture.members == {"0": ("0", "1"), "3": ("3", "4"), "7": ("7",)}
    run(context, chosen)
    teacher, expected = trained_net().eval(), trained_net()

    def outputs(net, x):
        return [net[:2](x).mean((2, 3)), net[:5](x).mean((2, 3)), features(net, x)]

    def stay(batch):
        wanted = [value.detach() for value in outputs(teacher, batch.x)]

        def loss(net):
            one, two = net[:2](batch.x), None
            two = net[2:5](one)
            own = [one.mean((2, 3)), two.mean((2, 3)), net[5:7](two)]
            akd = sum(F.mse_loss(value, target) for value, target in zip(own, wanted, strict=True)) / 3
            return 10 * F.cross_entropy(net[7](own[2]), batch.y) + 10 * akd

        return loss

    losses = [lambda net, b=b: -F.cross_entropy(net(b.x), b.y) for b in batches(context, "forget", 64)]
    plain_loop(expected, plain_sgd(expected, 1e-3), losses + [stay(batch) for batch in batches(context, "retain", 64)])
    assert_same(context.model, expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in context.model.modules())


def test_outputs_of_blocks_are_those_of_this_batch_or_an_error() -> None:
    context, x = make_context(), drawn(4, 3, 8, 8)
    with BlockOutputs(context.architecture, context.model) as kept:
        context.model(x)
        assert [tuple(value.shape) for value in kept.of(x)] == [(4, 8), (4, 16)]
        with pytest.raises(RuntimeError, match="another batch"):
            kept.of(x.clone())
    assert pooled(torch.ones(2, 5, 3)).shape == (2, 3) and pooled(torch.ones(2, 3)).shape == (2, 3)


def test_published_names_decide_the_fields() -> None:
    assert len(PUBLISHED) == 21
    for name, fields in PUBLISHED.items():
        made = method("unlearn_restore", published=name)
        assert all(getattr(made, key) == value for key, value in fields.items())
        assert made.but(lr=1e-3).restore == made.restore
    assert build("methods", "unlearn_restore:PL_RKD", "method").unlearn == "pseudo_label"
    assert build("methods", "PL_RKD", "method") == build("methods", "unlearn_restore:PL_RKD", "method")
    assert build("methods", {"name": "RKD_IL", "lr": 1e-5}, "method").label_weight == 20
    assert build("methods", "UUEF", "method") == build("methods", "unlearn_restore", "method")
    resolved = resolve(read(None, ["method=unlearn_restore:PL_RKD", "forget=random"])).method
    assert (resolved.unlearn, resolved.restore, resolved.lr) == ("pseudo_label", "rkd", 1e-3)
    assert build("methods", "SPKD", "method").name == "unlearn_restore"
    for wrong in ({"published": "RKD", "restore": "akd"}, {"restore": "kd", "layers": "all"}, {"published": "XKD"}):
        with pytest.raises(ValidationError, match="published=RKD|layers=all|SPKD"):
            method("unlearn_restore", **wrong)


def test_a_pseudo_label_is_never_a_forgotten_class_nor_the_true_one(kind: str) -> None:
    context = make_context(kind)
    batch = next(context.stream("forget").batches(40))
    label = pseudo_label(context, batch)
    assert bool((label != batch.y).all())
    logits = trained_net().eval()(batch.x).detach()
    for row, chosen in enumerate(label.tolist()):
        allowed = [c for c in range(CLASSES) if c != (2 if kind == "class" else int(batch.y[row]))]
        assert chosen == max(allowed, key=lambda c: float(logits[row, c]))


@pytest.mark.parametrize(("unlearn", "target"), [("pseudo_label", pseudo_label), ("random_label", random_label("epoch"))])
def test_without_restoring_only_the_forget_set_is_read(unlearn: str, target) -> None:
    context = make_context("class", needs={"forget"})
    run(context, method("unlearn_restore", unlearn=unlearn, restore="none", lr=1e-2, epochs=1, batch_size=40))
    fresh, expected = make_context("class", needs={"forget"}), trained_net()
    losses = [lambda net, b=b: F.cross_entropy(net(b.x), target(fresh, b)) for b in batches(fresh, "forget", 40)]
    plain_loop(expected, plain_sgd(expected, 1e-2), losses, frozen_norm=True)
    assert_same(context.model, expected)


def test_the_oracle_variant_imitates_the_retrained_model() -> None:
    context = make_context(needs={*BOTH, "oracle"}, oracle=make_net(9))
    run(context, method("unlearn_restore_oracle", restore="akd", unlearn="random_label", lr=1e-3, epochs=1, batch_size=128))
    other = make_context(needs=BOTH)
    run(other, method("unlearn_restore", restore="akd", unlearn="random_label", lr=1e-3, epochs=1, batch_size=128))
    x = next(context.stream("retain").batches(128)).x
    with torch.no_grad():
        oracle = features(make_net(9).eval(), x)
        gaps = [float(F.mse_loss(features(c.model.eval(), x), oracle)) for c in (context, other)]
    assert gaps[0] < gaps[1]


def test_oracle_match_comes_nearer_to_the_oracle() -> None:
    context = make_context(needs={*BOTH, "oracle"}, oracle=make_net(9))
    batch = next(context.stream("retain").batches(300))
    wanted = F.softmax(make_net(9).eval()(batch.x), 1).detach()

    @torch.no_grad()
    def gap() -> float:
        return float(F.kl_div(F.log_softmax(context.model.eval()(batch.x), 1), wanted, reduction="batchmean"))

    before = gap()
    run(context, method("oracle_match", epochs=6, batch_size=64, lr=0.05))
    assert gap() < 0.2 * before


# DUCK


def test_duck_is_cosine_distance_plus_softened_cross_entropy() -> None:
    context = make_context("class")
    run(context, method("duck", epochs=1, batch_size=40, target=0.0, lr=1e-3))
    original, expected = trained_net().eval(), trained_net()
    retain = next(context.stream("retain").batches(1000))
    with torch.no_grad():
        f = features(original, retain.x)
        centre = {c: f[retain.y == c].mean(0) for c in (0, 1, 3, 4)}

    def loss(forget, kept):
        with torch.no_grad():
            own = features(original, forget.x)
            target = torch.stack([max(centre.values(), key=lambda c, v=v: float(F.cosine_similarity(v, c, dim=0))) for v in own])

        def value(net):
            distance = 1 - F.cosine_similarity(features(net, forget.x), target)
            return distance.mean() + 1.4 * F.cross_entropy(net(kept.x) / 2, kept.y)

        return value

    pairs = zip(batches(context, "forget", 40), batches(context, "retain", 40), strict=False)
    plain_loop(expected, torch.optim.Adam(expected.parameters(), lr=1e-3), [loss(*pair) for pair in pairs])
    assert_same(context.model, expected, but=("0.bias", "3.bias", "1.running_mean", "4.running_mean"))


def test_duck_keeps_the_target_of_an_example_whatever_batch_it_is_in() -> None:
    context = make_context("random")
    loss = towards_wrong_centroid(context)
    found = []
    for size in (40, 7):
        values = {}
        for batch in context.stream("forget").batches(size, seed=size, shuffle=True):
            student = Forward(context, batch, with_features=True)
            with torch.no_grad():
                context.model.eval()
                values |= dict(zip(batch.index.tolist(), loss(context, batch, student).tolist(), strict=True))
        found.append(values)
    assert found[0].keys() == found[1].keys() and len(found[0]) == 40
    assert all(found[0][key] == pytest.approx(found[1][key], abs=1e-5) for key in found[0])


def test_centroids_go_by_label_when_a_class_is_missing() -> None:
    x, y = torch.tensor([[1.0, 0], [0, 1.0], [-1.0, 0], [0.9, 0.1]]), torch.tensor([0, 3, 4, 0])
    centres, classes = centroids(x, y)
    assert classes.tolist() == [0, 3, 4] and torch.allclose(centres[0], torch.tensor([0.95, 0.05]))
    wrong = nearest_wrong(torch.tensor([[1.0, 0.2], [1.0, 0.2]]), torch.tensor([0, 2]), centres, classes)
    assert classes[wrong].tolist() == [3, 0]


def test_stop_rules_look_at_the_whole_forget_set(kind: str) -> None:
    context = make_context(kind)
    progress = Progress(0, 1, 0, 1)
    assert fallen_to(context, 1.0)(context, progress) and not fallen_to(context, 0.5)(context, progress)
    if kind == "random":
        rule = fallen_to(context, None)  # the goal is set by the original, and it has not fallen that far
        assert not rule(context, progress)
        context.model[7].weight.data.zero_()
        context.model[7].bias.data[0] = 1
        assert rule(context, progress) and accuracy(context, "forget") < 0.5


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("duck", {"lr": 5e-3, "epochs": 20}),
        ("scar", {"lr": 5e-3, "epochs": 60, "retain_weight": 1.0}),
        ("contrastive_unlearning", {"lr": 0.05, "epochs": 20}),
    ],
)
def test_a_class_is_forgotten_and_the_rest_kept(name: str, fields: dict[str, float]) -> None:
    context = make_context("class")
    run(context, method(name, batch_size=40, target=0.01, **fields))
    assert accuracy(context, "forget") <= 0.2 and accuracy(context, "retain") > 0.9


# SCAR


def test_gaussians_are_those_of_the_paper() -> None:
    x, y = drawn(60, 5).abs(), torch.arange(60) % 3
    found = Gaussians.fit(x, y, power=0.5, shrink=3.0)
    probe = drawn(4, 5, seed=3).abs()
    for place, label in enumerate((0, 1, 2)):
        t = np.sqrt(x[y == label].double().numpy())
        s = np.cov(t.T)
        for _ in range(2):
            on, off = np.mean(np.diag(s)), np.mean(s[~np.eye(5, dtype=bool)])
            s = s + 3 * on * np.eye(5) + 3 * off * (1 - np.eye(5))
        s = s / np.sqrt(np.outer(np.diag(s), np.diag(s)))
        mean = t.mean(0) / np.linalg.norm(t.mean(0))
        for row in range(4):
            v = np.sqrt(probe[row].double().numpy())
            gap = v / np.linalg.norm(v) - mean
            assert float(found.distances(probe)[row, place]) == pytest.approx(gap @ np.linalg.pinv(s) @ gap, rel=1e-2)


def test_shrinking_leaves_the_diagonal_share_and_moves_the_rest() -> None:
    s = torch.tensor([[2.0, 1.0], [1.0, 4.0]])
    assert shrunk(s, 3, 3).tolist() == [[11.0, 4.0], [4.0, 13.0]]


def test_the_power_has_a_finite_slope_at_zero() -> None:
    x = torch.zeros(3, requires_grad=True)
    tukey(x, 0.5).sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    torch.testing.assert_close(tukey(torch.tensor([4.0, -4.0, 0.0]), 0.5), torch.tensor([2.0, -2.0, 0.0]), atol=2e-3, rtol=0)
    assert not bool(torch.isfinite(torch.autograd.grad((y := torch.zeros(1, requires_grad=True)).pow(0.5).sum(), y)[0]).all())


def test_scar_draws_the_forget_images_to_another_class() -> None:
    context = make_context("random")
    gaussians = Gaussians.fit(*features_of(context, "retain"), power=0.5, shrink=3.0)
    batch = next(context.stream("forget").batches(40))

    def nearest() -> Tensor:
        context.model.eval()
        with torch.no_grad():
            return to_the_nearest(gaussians)(context, batch, Forward(context, batch, with_features=True))

    before = nearest()
    with torch.no_grad():
        every = gaussians.distances(features(trained_net().eval(), batch.x))
    expected = torch.tensor([min(float(every[row, c]) for c in range(CLASSES) if c != int(batch.y[row])) for row in range(40)])
    torch.testing.assert_close(before, expected, rtol=1e-4, atol=1e-5)
    run(context, method("scar", epochs=20, batch_size=10, lr=5e-3, target=0.0, retain_weight=1.0))
    assert float(nearest().mean()) < 0.8 * float(before.mean())


def test_forget_loss_of_scar_depends_on_forget_images() -> None:
    """The released code of arXiv 2503.06991 moves the retain batch's features: its forget loss has no gradient by forget images."""
    context = make_context("class")
    gaussians = Gaussians.fit(*features_of(context, "retain"), power=0.5, shrink=3.0)
    batch = next(context.stream("forget").batches(8))
    batch.x.requires_grad_(True)
    to_the_nearest(gaussians)(context, batch, Forward(context, batch, with_features=True)).sum().backward()
    assert float(batch.x.grad.abs().sum()) > 0


def test_forgotten_classes_are_floored_for_the_retain_set(kind: str) -> None:
    context = make_context(kind)
    batch = next(context.stream("retain").batches(16))
    wanted, logits = floored_original(context, batch), trained_net().eval()(batch.x).detach()
    if kind == "class":
        logits[:, 2] = logits.min(1).values
    torch.testing.assert_close(wanted, logits)


# Contrastive unlearning


def pair_of_batches(kind: str):
    context = make_context(kind)
    context.model.eval()
    forget, retain = next(context.stream("forget").batches(12)), next(context.stream("retain").batches(12, seed=1, shuffle=True))
    others: dict[str, Forward] = {}
    for name, batch in (("forget", forget), ("retain", retain)):
        others[name] = Forward(context, batch, others=others, with_features=True)
    return context, forget, retain, others


@pytest.mark.parametrize("temperature", [0.7, 0.2])
def test_contrast_with_the_retain_set_is_the_naive_formula(kind: str, temperature: float) -> None:
    context, forget, retain, others = pair_of_batches(kind)
    found = against_retained(temperature)(context, forget, others["forget"])
    net, pushed, values = context.model, 0, found.tolist()
    with torch.no_grad():
        own, kept = (F.normalize(features(net, batch.x), dim=1) for batch in (forget, retain))
    for row in range(12):
        s = [float(own[row] @ kept[j]) / temperature for j in range(12)]
        other = [v for v, y in zip(s, retain.y.tolist(), strict=True) if y != int(forget.y[row])]
        same = [v for v, y in zip(s, retain.y.tolist(), strict=True) if y == int(forget.y[row])]
        pushed += bool(same)
        expected = -np.mean(other) + (math.log(sum(map(math.exp, same))) if same else 0.0)
        assert values[row] == pytest.approx(expected, abs=1e-4)
    assert (pushed > 0) == (kind == "random")
    found.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net[:6].parameters())


def test_contrast_within_the_forget_set_is_the_naive_formula_and_zero_for_a_class(kind: str) -> None:
    context, forget, _, others = pair_of_batches(kind)
    found = within_forgotten(1.0)(context, forget, others["forget"])
    z = F.normalize(features(context.model, forget.x), dim=1).detach()
    for row in range(12):
        s = [float(z[row] @ z[j]) for j in range(12)]
        terms = [-math.log(math.exp(s[j]) / sum(map(math.exp, s))) for j in range(12) if forget.y[j] != forget.y[row]]
        assert float(found[row].detach()) == pytest.approx(np.mean(terms) if terms else 0.0, abs=1e-4)
    assert bool((found == 0).all()) == (kind == "class")


def test_the_form_of_the_source_warns_of_a_single_class() -> None:
    events = []
    context = make_context("class", report=events.append)
    run(context, method("contrastive_unlearning", form="source_004", temperature=1.0, target=0.1, epochs=1, batch_size=80))
    assert any("single class" in event.get("message", "") for event in events)
    pair = batches(context, "forget", 80)[0], batches(context, "retain", 80)[0]
    expected = trained_net()
    plain_loop(
        expected, plain_sgd(expected, 0.05), [lambda net: 0 * net(pair[0].x).sum() + 0.5 * F.cross_entropy(net(pair[1].x), pair[1].y)]
    )
    assert_same(context.model, expected)


# Amnesiac relabelling


def test_amnesiac_relabelling_mixes_fixed_wrong_labels_with_true_ones() -> None:
    context = make_context(needs=BOTH)
    run(context, method("amnesiac_relabeling", epochs=2, batch_size=500, lr=1e-3))
    forget, expected = next(context.stream("forget").batches(500)), trained_net()
    retain = next(context.stream("retain").batches(500))
    shift = 1 + randomness.integers(0, "random_label", 0, forget.index, CLASSES - 1)
    x, y = torch.cat([forget.x, retain.x]), torch.cat([(forget.y + shift) % CLASSES, retain.y])
    plain_loop(expected, torch.optim.Adam(expected.parameters(), lr=1e-3), [lambda net: F.cross_entropy(net(x), y)] * 2)
    assert_same(context.model, expected, but=("0.bias", "3.bias", "1.running_mean", "4.running_mean"), atol=1e-5)
    assert mean_loss(context, "forget") > 0 and ce(forget)(trained_net()) >= 0 and len(SOURCE) == 500


# SCRUB with short passes


def test_scrub_with_capped_steps_reads_other_examples_each_epoch() -> None:
    context = make_context(needs=BOTH)
    fields = {"batch_size": 32, "forget_batch_size": 8, "epochs": 2, "max_epochs": 2, "lr": 0.01, "alpha": 0.5, "decay_epochs": ()}
    outcome = run(context, method("scrub", max_steps=3, **fields))
    assert [phase["steps"] for phase in outcome.phases] == [12]
    teacher, expected = trained_net().eval(), trained_net()

    def divergence(net, x: Tensor) -> Tensor:
        p = F.softmax(teacher(x).detach() / 4, 1)
        return 16 * F.kl_div(F.log_softmax(net(x) / 4, 1), p, reduction="batchmean")

    def stay(batch):
        def loss(net):
            logits = net(batch.x)
            p = F.softmax(teacher(batch.x).detach() / 4, 1)
            return 0.99 * F.cross_entropy(logits, batch.y) + 8 * F.kl_div(F.log_softmax(logits / 4, 1), p, reduction="batchmean")

        return loss

    losses, seen = [], []
    for epoch in (0, 1):
        losses += [lambda net, b=b: -divergence(net, b.x) for b in batches(context, "forget", 8, epoch)[:3]]
        kept = batches(context, "retain", 32, epoch)[:3]
        losses += [stay(batch) for batch in kept]
        seen.append({i for batch in kept for i in batch.index.tolist()})
    assert seen[0] != seen[1]
    plain_loop(expected, plain_sgd(expected, 0.01), losses)
    assert_same(context.model, expected)
    whole, capped = (make_context(needs=BOTH) for _ in range(2))
    run(whole, method("scrub", **fields))
    run(capped, method("scrub", max_steps=1000, **fields))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), capped.model.parameters(), strict=True))
