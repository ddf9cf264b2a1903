"""Sensitivities, contrasts, projections and Spotter: each against its formula in plain torch, and against the version that is wrong."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import assert_same, batches, ce, changed, method, plain_loop, plain_sgd
from torch import Tensor, nn

from conftest import CLASSES, SIZE, SOURCE, make_context, split, trained_net
from expunge import registry
from expunge.addons import spotter
from expunge.data.augmentation import Augmentation
from expunge.data.source import TensorSource
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.run import check, run
from expunge.engine.stream import Batch, Stream
from expunge.engine.targets import random_label
from expunge.engine.terms import Forward, Progress
from expunge.errors import BadInput, NotApplicable
from expunge.methods.features import mu_mis
from expunge.methods.features.cola_plus import with_pseudo_labels
from expunge.methods.features.collapse_and_align import supervised_contrast
from expunge.methods.features.coun import contrast_with
from expunge.methods.features.input_sensitivity import squared_sensitivities
from expunge.methods.features.pour_d import distance_to_projected
from expunge.methods.features.two_views import SecondView
from expunge.methods.weight_edits import damp, input_subspaces
from expunge.methods.weight_edits.class_directions import orthonormal, peculiar_directions, probe_accuracy, without_forgotten_rows
from expunge.methods.weight_edits.damp import after_stages
from expunge.methods.weight_edits.input_subspaces import condensed, soft_projector
from expunge.methods.weight_edits.operator_inputs import first_readers, on_input_side
from expunge.methods.weight_edits.subspace_projection import balanced, without_own

BOTH = {"forget", "retain"}
HEAD = {"7.weight", "7.bias"}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(net: nn.Module, x: Tensor) -> Tensor:
    return net[:7](x)


def whole(context: Context, stream: str = "forget") -> Batch:
    return next(context.stream(stream).batches(1000))


class Says(Forward):
    """A forward whose features are given."""

    def __init__(self, given: Tensor, other: "Says | None" = None):
        self.given, self.partner = given, other

    features = property(lambda self: self.given)

    def other(self, stream: str) -> "Says":
        return self.partner


def batch_of(y: Tensor) -> Batch:
    return Batch(torch.zeros(len(y), 1), y, torch.arange(len(y)), "retain")


# MU-Mis


def sensitivity(net: nn.Module, x: Tensor, label: int, graph: bool = False) -> Tensor:
    """Square of the norm of one logit's gradient with respect to one picture."""
    x = x[None].clone().requires_grad_(True)
    return torch.autograd.grad(net(x)[0, label], x, create_graph=graph)[0].square().sum()


def test_sensitivities_are_those_of_single_examples() -> None:
    net, batch = trained_net().eval(), whole(make_context(needs={"forget"}))
    other = (batch.y + 1) % CLASSES
    found = squared_sensitivities(net, batch.x[:6], batch.y[:6], other[:6])
    for row, labels in zip(found, (batch.y, other), strict=True):
        naive = [float(sensitivity(net, x, int(label))) for x, label in zip(batch.x[:6], labels[:6], strict=True)]
        assert row.tolist() == pytest.approx(naive, rel=1e-4)
    assert not found[0].requires_grad


def test_mu_mis_lowers_the_gap_of_the_sensitivities() -> None:
    context = make_context("class", needs={"forget"})
    run(context, method("mu_mis", epochs=1, batch_size=40, lr=1e-3, check_every=100))

    def gap(batch: Batch):
        others = random_label()(make_context("class", needs={"forget"}), batch)
        assert bool((others != batch.y).all())

        def loss(net: nn.Module) -> Tensor:
            each = [
                sensitivity(net, x, int(y), True) - sensitivity(net, x, int(c), True)
                for x, y, c in zip(batch.x, batch.y, others, strict=True)
            ]
            return torch.stack(each).mean()

        return loss

    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 1e-3, 0.0), [gap(batch) for batch in batches(context, "forget", 40)], frozen_norm=True)
    assert_same(context.model, expected)
    own, other = (squared_sensitivities(net.eval(), whole(context).x, *labels(context)) for net in (context.model, trained_net()))
    assert float(own[0].mean()) < float(other[0].mean())
    constant = squared_sensitivities(trained_net().eval(), whole(context).x, whole(context).y)[0]
    assert not constant.requires_grad  # what a single backward pass would give has no gradient at all


def labels(context: Context) -> tuple[Tensor, Tensor]:
    batch = whole(context)
    return batch.y, (batch.y + 1) % CLASSES


def test_mu_mis_stops_when_other_classes_are_well_above_their_lowest(monkeypatch) -> None:
    seen = iter([10.0, 10.4, 8.0, 8.3, 8.8, 8.9])
    monkeypatch.setattr(mu_mis, "other_sensitivity", lambda context: next(seen))
    context, progress = make_context(needs={"forget"}), Progress(0, 1, 0, 1)
    rule = mu_mis.risen(context, 0.1)
    values = [rule(context, progress) for _ in range(5)]
    assert values == [False, False, False, False, True]  # a rule without the share would end at 10.4, one from the first value never


def test_mu_mis_ends_a_run_that_would_go_on() -> None:
    context = make_context("class", needs={"forget"})
    outcome = run(context, method("mu_mis", epochs=30, batch_size=20, lr=2e-3, check_every=2))
    assert outcome.phases[0]["stopped"] and outcome.phases[0]["epochs"] < 30
    assert outcome.cost["backward"] >= 4 * 20 * outcome.phases[0]["steps"]


def test_attention_is_differentiated_twice() -> None:
    weight = drawn(4, 4).requires_grad_(True)

    def attend(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x @ weight, x, x).mean(2)

    (square,) = squared_sensitivities(lambda x: attend(x).mean(1), drawn(2, 1, 3, 4, seed=1), torch.tensor([0, 1]), graph=True)
    assert bool(torch.autograd.grad(square.sum(), weight)[0].any())


# COLA


def naive_supervised_contrast(z: Tensor, y: Tensor, temperature: float) -> Tensor:
    z = z / z.norm(dim=1, keepdim=True)
    result = []
    for i in range(len(z)):
        others = torch.tensor([j for j in range(len(z)) if j != i])
        partners = torch.tensor([j for j in others.tolist() if y[j] == y[i]], dtype=torch.int64)
        below = (z[others] @ z[i] / temperature).exp().sum()
        values = -((z[partners] @ z[i] / temperature).exp() / below).log()
        result.append(values.mean() if len(partners) else torch.zeros(()))
    return torch.stack(result)


def test_supervised_contrast_is_the_naive_formula() -> None:
    z, y = drawn(8, 5), torch.tensor([0, 1, 0, 2, 1, 0, 3, 2])
    found = supervised_contrast(0.2)(None, batch_of(y), Says(z))
    torch.testing.assert_close(found, naive_supervised_contrast(z, y, 0.2), atol=1e-5, rtol=1e-5)
    assert float(found[6]) == 0  # a class of one
    torch.testing.assert_close(supervised_contrast(0.2)(None, batch_of(y), Says(7 * z)), found)
    scaled = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / 0.2
    with_itself = -scaled.log_softmax(1).diagonal()  # an example as its own partner
    assert float((with_itself - found).abs().max()) > 0.1
    assert float(supervised_contrast(0.2)(None, batch_of(y[:1]), Says(z[:1]))) == 0


def test_supervised_contrast_of_equal_features_is_finite() -> None:
    z = torch.ones(4, 3).requires_grad_(True)
    supervised_contrast(0.1)(None, batch_of(torch.tensor([0, 0, 1, 1])), Says(z)).sum().backward()
    assert bool(torch.isfinite(z.grad).all())


def test_cola_moves_the_encoder_and_then_everything() -> None:
    context = make_context("class", needs={"retain"})
    run(context, method("cola", collapse_epochs=1, epochs=1, batch_size=160, collapse_lr=0.02, lr=0.01))
    expected = trained_net()
    encoder = [parameter for name, parameter in expected.named_parameters() if name not in HEAD]
    contrasts = [
        lambda net, batch=batch: naive_supervised_contrast(features(net, batch.x), batch.y, 0.1).mean()
        for batch in batches(context, "retain", 160)
    ]
    plain_loop(expected, torch.optim.SGD(encoder, lr=0.02, momentum=0.9, weight_decay=5e-4), contrasts)
    assert HEAD.isdisjoint(changed(expected))
    plain_loop(expected, plain_sgd(expected, 0.01), [ce(batch) for batch in batches(context, "retain", 160, phase=1)])
    assert_same(context.model, expected, atol=1e-5)


def test_the_head_rests_while_the_encoder_collapses() -> None:
    context = make_context("class", needs={"retain"})
    collapse = next(method("cola", collapse_epochs=1).steps(context))
    run(context, Steps([collapse]))
    assert HEAD.isdisjoint(changed(context.model))
    everything = make_context("class", needs={"retain"})
    run(everything, Steps([collapse.but(trainable=None)]))
    assert "7.weight" in changed(everything.model)  # weight decay alone would shrink it


class Steps:
    """A method that takes given steps."""

    name, needs = "steps", {"retain"}

    def __init__(self, steps: list):
        self.given = steps

    def steps(self, ctx: Context):
        yield from self.given


@pytest.mark.parametrize("kind", ["random", "class"])
def test_cola_plus_gathers_forgotten_examples_in_their_second_class(kind: str) -> None:
    context = make_context(kind, needs=BOTH)
    stream = with_pseudo_labels(context)
    place = dict(zip(stream.index.tolist(), stream.labels.tolist(), strict=True))
    assert len(place) == len(stream) == SIZE
    with torch.no_grad():
        logits = trained_net().eval()(whole(context).x)
    for i, y, z in zip(whole(context).index.tolist(), whole(context).y.tolist(), logits, strict=True):
        z[y] = -math.inf
        assert place[i] == int(z.argmax()) != y
    retained = whole(context, "retain")
    assert [place[i] for i in retained.index.tolist()] == retained.y.tolist()
    phases = list(method("cola_plus").steps(context))
    assert [phase.terms[0].stream_name for phase in phases] == ["everything", "retain"]


# CoUn


def test_the_contrast_of_two_views_is_the_naive_formula() -> None:
    first, second, t = drawn(5, 4), drawn(5, 4, seed=1), 0.3
    found = contrast_with("retain", t)(None, batch_of(torch.zeros(5, dtype=torch.int64)), Says(second, Says(first)))
    a, b = first / first.norm(dim=1, keepdim=True), second / second.norm(dim=1, keepdim=True)
    for n in range(5):
        there = -math.log(math.exp(a[n] @ b[n] / t) / sum(math.exp(a[n] @ b[j] / t) for j in range(5)))
        back = -math.log(math.exp(b[n] @ a[n] / t) / sum(math.exp(b[n] @ a[j] / t) for j in range(5)))
        assert float(found[n]) == pytest.approx(there + back, rel=1e-4)
    shifted = contrast_with("retain", t)(None, batch_of(torch.zeros(5, dtype=torch.int64)), Says(a.roll(1, 0), Says(a)))
    assert float(shifted.mean()) > float(contrast_with("retain", t)(None, batch_of(torch.zeros(5).long()), Says(a, Says(a))).mean()) + 1


def augmented() -> TensorSource:
    stored = SOURCE._stored.permute(0, 3, 1, 2)
    return TensorSource(stored, SOURCE.labels, augmentation=Augmentation(pad=2))


def test_the_second_view_holds_the_same_pictures_moved_otherwise() -> None:
    first = Stream("retain", augmented(), split("random")["retain"])
    how = {"seed": 3, "epoch": 1, "shuffle": True, "augment": True}
    pairs = list(zip(first.batches(100, **how), SecondView(first).batches(100, **how), strict=True))
    assert len(pairs) == 4
    for one, two in pairs:
        assert torch.equal(one.index, two.index) and torch.equal(one.y, two.y) and one.name != two.name
        assert float((one.x != two.x).flatten(1).any(1).double().mean()) > 0.9
    own = Stream("retain again", first.source, first.index)  # a stream of its own has an order of its own
    assert not torch.equal(next(own.batches(100, **how)).index, pairs[0][0].index)


def test_coun_trains_on_both_views() -> None:
    source = augmented()
    streams = {"retain": Stream("retain", source, split("random")["retain"])}
    context = Context(trained_net(), streams, needs={"retain"}, seed=0, num_classes=CLASSES)
    run(context, method("coun", epochs=2, batch_size=180, contrast_weight=0.5, lr=0.01))
    losses = []
    for epoch in (0, 1):
        pairs = zip(batches(context, "retain", 180, epoch), second_views(context, 180, epoch), strict=True)
        losses += [both_views(one, two, 0.5, 0.1) for one, two in pairs]
    expected, steps = trained_net(), len(losses)
    optimizer = plain_sgd(expected, 0.01)

    def after(_net: nn.Module, done: int) -> None:
        share = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done + 1) / steps))
        optimizer.param_groups[0]["lr"] = 0.01 * share

    plain_loop(expected, optimizer, losses, after=after)
    assert_same(context.model, expected, atol=1e-5)


def second_views(context: Context, size: int, epoch: int) -> list[Batch]:
    seed = randomness.derive(context.seed, "batches", 0)
    return list(SecondView(context.stream("retain")).batches(size, seed=seed, epoch=epoch, shuffle=True, augment=True))


def both_views(one: Batch, two: Batch, weight: float, temperature: float):
    def loss(net: nn.Module) -> Tensor:
        logits = net(one.x)
        tracked = [(module.running_mean.clone(), module.running_var.clone()) for module in net if isinstance(module, nn.BatchNorm2d)]
        first, second = features(again(net, tracked), one.x), features(net, two.x)
        a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
        cosines = a @ b.T / temperature
        found = -(cosines.log_softmax(1).diagonal().mean() + cosines.T.log_softmax(1).diagonal().mean())
        return F.cross_entropy(logits, one.y) + weight * found

    return loss


def again(net: nn.Module, tracked: list) -> nn.Module:
    """A second pass over the same pictures, which is to leave no trace in the statistics."""
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return Restoring(net)


class Restoring:
    """Runs a part of a net whose statistics rest, and lets them move again."""

    def __init__(self, net: nn.Module):
        self.net = net

    def __getitem__(self, part: slice):
        def forward(x: Tensor) -> Tensor:
            value = self.net[part](x)
            for module in self.net:
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.1
                    module.num_batches_tracked -= 1
            return value

        return forward


def test_coun_says_when_there_are_no_two_views() -> None:
    heard: list[dict] = []
    list(method("coun").steps(make_context(needs={"retain"}, report=heard.append)))
    assert [event["event"] for event in heard] == ["warning"] and "not augmented" in heard[0]["message"]


# POUR


def simplex(classes: int) -> Tensor:
    """Rows of length one with pairwise cosines of -1 / (classes - 1)."""
    frame = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return frame / frame.norm(dim=1, keepdim=True)


def test_pour_p_projects_the_input_of_the_head() -> None:
    context = make_context("class", needs=set())
    run(context, method("pour_p"))
    assert changed(context.model) == {"7.weight"}  # the encoder is the original's
    before, x = trained_net().eval(), SOURCE._stored[:50].permute(0, 3, 1, 2).float() / 255
    w, z = before[7].weight[2], features(before, x)
    projected = z - (z @ w)[:, None] * w / (w @ w)
    with torch.no_grad():
        torch.testing.assert_close(context.model(x), before[7](projected), atol=1e-4, rtol=1e-4)
    assert float(context.model[7].weight[2].detach().abs().max()) < 1e-6


def test_a_projected_simplex_is_a_simplex() -> None:
    frame = simplex(CLASSES)
    context = headed(frame)
    run(context, method("pour_p"))
    rows = context.model[1].weight.double()[[0, 1, 3, 4]]
    cosines = F.normalize(rows, dim=1) @ F.normalize(rows, dim=1).T
    off = cosines[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full_like(off, -1 / (CLASSES - 2)), atol=1e-6, rtol=1e-5)
    silenced = frame[[0, 1, 3, 4]] @ frame[[0, 1, 3, 4]].T  # a row of zeros leaves the others where they were
    assert float(silenced[0, 1]) == pytest.approx(-1 / (CLASSES - 1))


def headed(rows: Tensor, forgotten: tuple[int, ...] = (2,)) -> Context:
    net = nn.Sequential(nn.Flatten(), nn.Linear(rows.shape[1], len(rows)))
    net[1].weight.data.copy_(rows)
    inputs = TensorSource(drawn(20, rows.shape[1]), torch.arange(20) % len(rows))
    streams = {"forget": Stream("forget", inputs, torch.arange(20))}
    return Context(net, streams, needs={"forget"}, seed=0, num_classes=len(rows), forget_classes=forgotten, kind="class")


def test_two_classes_go_together() -> None:
    rows = drawn(5, 4)
    projection = without_forgotten_rows(headed(rows, (1, 3))).double()
    gone = rows[[1, 3]].double()
    assert float((gone @ projection).abs().max()) < 1e-5
    torch.testing.assert_close(projection @ projection, projection, atol=1e-6, rtol=1e-5)

    def single(w: Tensor) -> Tensor:
        return torch.eye(4, dtype=torch.float64) - torch.outer(w, w) / (w @ w)

    assert float((gone @ (single(gone[0]) @ single(gone[1]))).abs().max()) > 0.1  # one after the other brings the first back


def test_pour_d_distils_the_projection_into_the_encoder() -> None:
    context = make_context("class", needs={"forget"})
    run(context, method("pour_d", epochs=2, batch_size=40, lr=1e-3))
    before, expected = trained_net().eval(), trained_net()
    w = before[7].weight[2].detach()

    def distance(batch: Batch):
        with torch.no_grad():
            z = features(before, batch.x)
        wanted = z - (z @ w)[:, None] * w / (w @ w)
        return lambda net: (features(net, batch.x) - wanted).square().sum(1).mean()

    optimizer = torch.optim.Adam([parameter for name, parameter in expected.named_parameters() if name not in HEAD], lr=1e-3)
    losses = [distance(batch) for epoch in (0, 1) for batch in batches(context, "forget", 40, epoch)]
    plain_loop(expected, optimizer, losses, frozen_norm=True)
    assert_same(context.model, expected, atol=1e-4)
    assert HEAD.isdisjoint(changed(context.model))
    with torch.no_grad():
        own, z = Says(features(before, whole(context).x)), features(context.model.eval(), whole(context).x)
        first = distance_to_projected(without_forgotten_rows(context))(context, whole(context), own)
        last = distance_to_projected(without_forgotten_rows(context))(context, whole(context), Says(z))
        unprojected = distance_to_projected(torch.eye(144))(context, whole(context), own)
    assert float(last.mean()) < float(first.mean())
    assert float(unprojected.max()) == 0  # against the original itself there would be nothing to learn


@pytest.mark.parametrize("name", ["pour_p", "pour_d", "damp", "subspace_projection"])
def test_methods_for_classes_refuse_the_rest(name: str) -> None:
    assert registry.find("methods", name).scenarios == {"class"}


# DAMP


def test_damp_is_the_closed_form() -> None:
    context = make_context("class", needs=BOTH)
    run(context, method("damp"))
    net, forget, retain = trained_net().eval(), whole(context), whole(context, "retain")
    with torch.no_grad():
        read = {"3": lambda x: net[:3](x).mean((2, 3)), "7": lambda x: net[:7](x)}
        seen = {name: (see(forget.x).double().numpy(), see(retain.x).double().numpy()) for name, see in read.items()}
    for stage, (name, (own, kept)) in enumerate(seen.items(), 1):
        span = np.stack([kept[retain.y.numpy() == c].mean(0) for c in (0, 1, 3, 4)], axis=1)
        mean = own.mean(0)
        rest = mean - span @ np.linalg.lstsq(span, mean, rcond=None)[0]
        q = rest / np.linalg.norm(rest)
        strength = stage / 2 * max(0.0, 2 * probe_accuracy(torch.tensor(own), torch.tensor(kept)) - 1)
        old = net.get_parameter(f"{name}.weight").detach().double().numpy()
        expected = old - strength * np.einsum("oc...,c,d->od...", old, q, q)
        assert strength > 0.05
        np.testing.assert_allclose(context.model.get_parameter(f"{name}.weight").detach().numpy(), expected, atol=1e-5)
    assert changed(context.model) == {"3.weight", "7.weight"}


def test_damp_keeps_the_answers_to_retained_prototypes() -> None:
    own, kept, y = drawn(20, 9) + 1, drawn(60, 9, seed=1), torch.arange(60) % 4
    basis = peculiar_directions(own, torch.full((20,), 7), kept, y)
    weight, means = drawn(3, 9, 2, 2, seed=2), torch.stack([kept[y == c].mean(0) for c in range(4)], dim=1)

    def answers(direction: Tensor) -> Tensor:
        edited = on_input_side(weight, torch.eye(9) - direction.float() @ direction.float().T)
        return torch.einsum("oc...,ck->ok...", edited - weight, means).abs().max()

    assert basis.shape == (9, 1) and float(answers(basis)) < 1e-5
    naive = F.normalize(own.mean(0), dim=0)[:, None]
    difference = F.normalize(own.mean(0) - kept.mean(0), dim=0)[:, None]
    assert float(answers(naive)) > 0.05 and float(answers(difference)) > 0.05  # without the residual the others suffer


def test_damp_leaves_alone_what_retained_classes_span() -> None:
    own, kept = drawn(20, 3), drawn(40, 3, seed=1)
    assert peculiar_directions(own, torch.zeros(20), kept, torch.arange(40) % 4).shape == (3, 0)
    two = peculiar_directions(drawn(20, 9), torch.arange(20) % 2, drawn(40, 9, seed=1), torch.arange(40) % 4)
    torch.testing.assert_close(two.T @ two, torch.eye(2, dtype=torch.float64))
    assert orthonormal(torch.zeros(4, 2)).shape == (4, 0)


def test_a_probe_counts_both_sets_the_same() -> None:
    few, many = drawn(40, 5), drawn(4000, 5, seed=1)
    assert 0.3 < probe_accuracy(few, many) < 0.7
    majority = 4000 / 4040  # what an answer that is always the same would be called right
    assert majority > 0.98
    assert probe_accuracy(few + 9, many) == 1 == probe_accuracy(drawn(30, 200), drawn(30, 200, seed=1) + 3)
    with pytest.raises(BadInput, match="two"):
        probe_accuracy(few[:1], many)


def test_stages_of_a_residual_net_end_where_its_layers_end() -> None:
    blocks = ("stem", "1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b", "head")
    assert after_stages(blocks, 5) == ["1a", "2a", "3a", "4a", "head"]
    assert after_stages(("0", "3", "7"), 5) == ["3", "7"] and after_stages(("head",), 5) == ["head"]


class Unit(nn.Module):
    """Two convolutions and a shortcut that reads the same tensor."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, out, 3, 2, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels, out, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def test_a_shortcut_is_edited_with_the_convolution_beside_it(monkeypatch) -> None:
    monkeypatch.setattr(damp, "probe_accuracy", lambda first, second: 1.0)  # an untrained net has nothing to tell apart
    units = nn.Sequential(Unit(8, 16), Unit(16, 16))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    context = make_context("class", needs=BOTH, net=net)
    assert first_readers(context, context.architecture.blocks[1]) == ["1.0.first", "1.0.shortcut"]
    before = copy.deepcopy(net)
    run(context, method("damp"))
    assert changed(net, before) == {f"1.{unit}.{name}.weight" for unit in (0, 1) for name in ("first", "shortcut")} | {"4.weight"}


# Subspaces


def naive_projector(rows: np.ndarray, alpha: float) -> np.ndarray:
    u, s, _ = np.linalg.svd(rows.T, full_matrices=False)
    share = s**2 / (s**2).sum()
    return u @ np.diag(alpha * share / ((alpha - 1) * share + 1)) @ u.T


def test_subspace_projection_is_the_naive_formula(monkeypatch) -> None:
    monkeypatch.setattr(input_subspaces, "_WINDOW", 10)
    context = make_context("class", needs=BOTH)
    run(context, method("subspace_projection", examples=120, patches=10**9))
    net = trained_net().eval()
    rows = {name: [] for name in ("0", "3", "7")}
    for stream in ("retain", "forget"):
        x = torch.cat([batch.x for batch in balanced(context, stream, 120).batches(1000)])
        with torch.no_grad():
            second = net[:3](x)
            rows["0"].append(F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1))
            rows["3"].append(F.unfold(second, 3, stride=2).transpose(1, 2).flatten(0, 1))
            rows["7"].append(net[:7](x))
    for name, (retained, forgotten) in rows.items():
        r, f = naive_projector(retained.double().numpy(), 100), naive_projector(forgotten.double().numpy(), 3)
        old = net.get_parameter(f"{name}.weight").detach().double().numpy()
        expected = (old.reshape(len(old), -1) @ (np.eye(len(r)) - (f - f @ r)).T).reshape(old.shape)
        np.testing.assert_allclose(context.model.get_parameter(f"{name}.weight").detach().numpy(), expected, atol=2e-4)
    assert changed(context.model) == {"0.weight", "3.weight", "7.weight"}


def test_shared_directions_stay_and_own_ones_go() -> None:
    shared, own, weight = torch.eye(6)[0], torch.eye(6)[1], drawn(4, 6)
    forgotten = soft_projector(torch.stack([shared, own, shared - own]), 1e7)
    retained = soft_projector(torch.stack([shared, torch.eye(6)[2]]), 1e7)
    new = without_own(weight, forgotten, retained)
    torch.testing.assert_close(new @ shared, weight @ shared, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(new @ torch.eye(6)[2], weight[:, 2])
    assert float((new @ own).abs().max()) < 1e-4
    assert float((weight @ (torch.eye(6) - forgotten) @ shared).abs().max()) < 1e-4  # all of the forgotten space: shared ones go too
    torch.testing.assert_close(without_own(weight, retained, retained), weight, atol=1e-5, rtol=1e-4)


def test_condensed_rows_span_the_same() -> None:
    rows = drawn(50, 6)
    parts = condensed(torch.cat([condensed(rows[:30]), rows[30:]]))
    assert parts.shape == (6, 6)
    torch.testing.assert_close(soft_projector(parts, 3.0), soft_projector(rows, 3.0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(soft_projector(rows, 3.0), torch.tensor(naive_projector(rows.numpy(), 3.0)), atol=1e-5, rtol=1e-4)
    alone = soft_projector(torch.eye(3)[:1], 3.0)
    torch.testing.assert_close(alone, torch.diag(torch.tensor([1.0, 0.0, 0.0])))  # not the singular value but its square, and its share


def test_every_retained_class_counts_the_same() -> None:
    stream = balanced(make_context("class", needs=BOTH), "retain", 40)
    assert stream.labels.bincount().tolist() == [10, 10, 0, 10, 10]


# Spotter


def test_spotter_moves_pictures_to_the_nearest_other_class() -> None:
    context = make_context("class", needs={"forget"})
    batch, net = whole(context), trained_net().eval()
    start, moved = (spotter.towards_others(context, batch, 0.03, 0.01, moves) for moves in (0, 3))
    assert float((moved - batch.x).abs().max()) <= 0.03 + 1e-6 and float(moved.min()) >= 0 and float(moved.max()) <= 1
    assert float((start - batch.x).abs().mean()) > 0.01
    with torch.no_grad():
        logits = net(batch.x)
        logits[:, 2] = -math.inf
        target = logits.argmax(1)
        away = spotter.towards_others(context, batch, 0.03, -0.01, 3)  # the released code climbs this loss
        first, last, climbed = (F.cross_entropy(net(x), target, reduction="none") for x in (start, moved, away))
    assert bool((last < first).all()) and bool((climbed > first).all())
    again = spotter.towards_others(context, Batch(batch.x[5:9], batch.y[5:9], batch.index[5:9], "forget"), 0.03, 0.01, 3)
    torch.testing.assert_close(again, moved[5:9], atol=1e-6, rtol=0)


def test_likeness_is_the_mean_cosine_over_pairs_of_a_class() -> None:
    z, y = drawn(6, 4), torch.tensor([0, 1, 0, 0, 1, 2])
    found = spotter.alike(y)(None, batch_of(torch.zeros(6, dtype=torch.int64)), Says(z))
    values = [float(F.cosine_similarity(z[i], z[j], dim=0)) for i in range(6) for j in range(6) if i != j and y[i] == y[j]]
    assert float(found.mean()) == pytest.approx(np.mean(values), rel=1e-5)
    everything = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T
    assert abs(float(everything.mean()) - np.mean(values)) > 0.05  # with an example beside itself and other classes
    assert not spotter.alike(torch.arange(6))(None, batch_of(y), Says(z)).any()


def test_spotter_beside_delete_is_the_published_loss() -> None:
    context = make_context("class", needs={"forget"})
    addon = registry.find("addons", "spotter")(own_share=0.6, dispersion=0.3)
    run(context, method("delete", epochs=1, batch_size=40, lr=0.01), [addon])
    teacher = trained_net().eval()

    def divergence(net: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            q = teacher(x).softmax(1)
        q = torch.cat([q[:, :2], q[:, 3:]], dim=1)
        q = q / q.sum(1, keepdim=True)
        log_p = net(x).log_softmax(1)
        return (q * (q.log() - torch.cat([log_p[:, :2], log_p[:, 3:]], dim=1))).sum(1).mean()

    def loss(batch: Batch):
        near = spotter.towards_others(make_context("class", needs={"forget"}), batch, 0.03, 0.01, 3)

        def value(net: nn.Module) -> Tensor:
            z = F.normalize(features(net, batch.x), dim=1)
            count = len(z)
            cosines = ((z @ z.T).sum() - count) / (count * (count - 1))
            return 0.6 * divergence(net, batch.x) + 0.4 * divergence(net, near) + 0.3 * cosines

        return value

    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 0.01, 0.0), [loss(batch) for batch in batches(context, "forget", 40)], frozen_norm=True)
    assert_same(context.model, expected, atol=1e-5)


def test_spotter_scatters_the_class() -> None:
    scattered = []
    for addons in ([], [registry.find("addons", "spotter")(dispersion=3.0)]):
        context = make_context("class", needs={"forget"})
        run(context, method("delete", epochs=5, batch_size=40, lr=0.01), addons)
        z = F.normalize(features(context.model.eval(), whole(context).x), dim=1)
        scattered.append(float((z @ z.T).mean().detach()))
    assert scattered[1] < scattered[0] - 0.05


def test_spotter_needs_a_class_and_a_loss_on_it() -> None:
    addon = registry.find("addons", "spotter")()
    with pytest.raises(NotApplicable, match="whole class"):
        check(method("delete"), [addon], kind="random", streams=["forget", "retain"])
    assert addon.refuse(method("finetune")) and addon.refuse(method("pour_p")) and not addon.refuse(method("delete"))


def test_spotter_scales_weights_that_change() -> None:
    context = make_context("class", needs=BOTH)
    phase = next(method("sfron", iterations=2).steps(context))
    changed_phase = registry.find("addons", "spotter")(own_share=0.5).protected(context, phase)
    now = Progress(1, 10, 0, 1)
    for old, new in zip(phase.terms, changed_phase.terms[: len(phase.terms)], strict=True):
        before, after = (term.weight(now) if callable(term.weight) else term.weight for term in (old, new))
        assert after == pytest.approx(0.5 * before)
