"""KDE, FCS, RNI, UNSIR and RELOAD against their formulas in plain torch, and against the wrong version they are known for."""

import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import assert_same, batches, ce, changed, method, plain_loop, plain_sgd
from torch import Tensor, nn

from conftest import CLASSES, make_context, trained_net
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.loop import run_phase
from expunge.engine.measure import logits_of
from expunge.engine.parameters import flat
from expunge.engine.phase import Phase
from expunge.engine.run import check, run
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward, Progress
from expunge.errors import NotApplicable
from expunge.methods.reset_and_repair.fcs import contrast, cosine_over_rounds
from expunge.methods.reset_and_repair.learned_noise import RepeatedNoise, learn_noise
from expunge.methods.reset_and_repair.reload import knowledge_value, summed_gradients
from expunge.methods.reset_and_repair.unsir import some_of_each_class

BOTH = {"forget", "retain"}


def apply(context: Context, edit: Edit) -> None:
    with torch.no_grad():
        edit.apply(context)


def copy_of(context: Context) -> nn.Module:
    net = trained_net()
    net.load_state_dict(context.model.state_dict())
    return net


# KDE


def test_kde_resets_both_ends_and_learns_from_the_original() -> None:
    context = make_context(needs={"retain", "validation"})
    chosen = method("kde", lr=0.01, warm_up_lr=0.02, warm_up_epochs=1, epochs=2, batch_size=50)
    apply(context, next(chosen.steps(context)))
    expected = copy_of(context)
    assert changed(expected) == {"0.weight", "0.bias", "7.weight", "7.bias"}
    context.original.restore(context.model)
    run(context, chosen)
    teacher = trained_net().eval()

    def kl(net: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            q = torch.softmax(teacher(x) / 5, dim=1)
        return F.kl_div(torch.log_softmax(net(x) / 5, dim=1), q, reduction="batchmean")

    def three(net: nn.Module, batch: Batch) -> Tensor:
        logits = net(batch.x)
        with torch.no_grad():
            q = torch.softmax(teacher(batch.x) / 5, dim=1)
        log_p = torch.log_softmax(logits / 5, dim=1)
        return -(q * log_p).sum(1).mean() + F.cross_entropy(logits, batch.y) + F.kl_div(log_p, q, reduction="batchmean")

    plain_loop(expected, plain_sgd(expected, 0.02), [lambda net, b=b: kl(net, b.x) for b in batches(context, "validation", 50)])
    optimizer = plain_sgd(expected, 0.01)
    for epoch, lr in enumerate((0.01, 0.005)):
        optimizer.param_groups[0]["lr"] = lr
        found = batches(context, "retain", 50, epoch=epoch, phase=1)
        plain_loop(expected, optimizer, [lambda net, b=b: three(net, b) for b in found])
    assert_same(context.model, expected)


# FCS


def test_contrast_is_least_when_all_similarities_are_equal() -> None:
    context = make_context(needs=BOTH)
    batch, other = (next(context.stream(name).batches(6)) for name in ("forget", "retain"))
    z, r = torch.randn(6, CLASSES, requires_grad=True), torch.randn(6, CLASSES, requires_grad=True)
    student, retain = Forward(context, batch), Forward(context, other)
    student._logits, retain._logits, student.others = z, r, {"retain": retain}
    found = contrast(1.15)(context, batch, student)
    for i in range(6):
        similarity = torch.stack([z[i] @ r[j] / 1.15 for j in range(6)])
        wanted = -sum(similarity[j] - torch.logsumexp(similarity, 0) for j in range(6)) / 6
        torch.testing.assert_close(found[i], wanted)
    gz, gr = torch.autograd.grad(found.sum(), [z, r], allow_unused=True)
    assert gr is None and gz.any(), "retained logits are constants"
    student._logits = torch.zeros(6, CLASSES)
    torch.testing.assert_close(contrast(1.15)(context, batch, student), torch.full((6,), 6.0).log())


def test_a_round_of_fcs_is_the_published_loop() -> None:
    context = make_context(needs=BOTH)
    chosen = method("fcs", epochs=1, batch_size=32, flatten_lr=0.01, forget_lr=0.01, lr=0.01)
    run(context, chosen)
    expected = trained_net()
    flatten = [lambda net, b=b: -torch.log_softmax(net(b.x), 1).mean(1).mean() for b in batches(context, "forget", 32)]
    plain_loop(expected, plain_sgd(expected, 0.01, 0.0), flatten, frozen_norm=True)
    optimizer = plain_sgd(expected, 0.01, 0.0)
    pairs = list(zip(batches(context, "forget", 32, phase=1), batches(context, "retain", 32, phase=1), strict=False))
    assert len(pairs) == 2
    for number, (f, r) in enumerate(pairs):
        optimizer.param_groups[0]["lr"] = 0.01 * (1e-4 + (1 - 1e-4) * (1.0, 0.5)[number])

        def loss(net: nn.Module, f: Batch = f, r: Batch = r) -> Tensor:
            z = net(f.x)
            return -torch.log_softmax(z @ net(r.x).detach().T / 1.15, dim=1).mean()

        plain_loop(expected, optimizer, [loss])
    plain_loop(expected, plain_sgd(expected, 0.005, 1e-2), map(ce, batches(context, "retain", 32, phase=2)))
    assert_same(context.model, expected)


def test_the_contrast_cools_over_all_rounds() -> None:
    whole = [cosine_over_rounds(0, 1, 0.1)(Progress(step, 8, 0, 1)) for step in range(8)]
    parts = [cosine_over_rounds(number, 4, 0.1)(Progress(step, 2, 0, 1)) for number in range(4) for step in range(2)]
    assert parts == pytest.approx(whole) and whole[0] == 1


# RNI


def test_rni_moves_picked_tensors_and_norms_then_everything() -> None:
    context = make_context(needs={"retain"})
    chosen = method("rni", epochs=5, tensors=2, noisy=1.0, final_lrs=(0.01, 0.02), batch_size=64, lr=0.05)
    norms, seen, noises, lrs = {"1.weight", "1.bias", "4.weight", "4.bias"}, set(), 0, []
    for number, step in enumerate(chosen.steps(context)):
        before = {name: value.detach().clone() for name, value in context.model.named_parameters()}
        if isinstance(step, Phase):
            run_phase(context, step)
            context.phase += 1
            lrs.append(step.optimizer.lr)
        else:
            apply(context, step)
        moved = {name for name, value in context.model.named_parameters() if not torch.equal(value, before[name])}
        if number == 0:
            assert moved == {"7.weight", "7.bias"}
        elif isinstance(step, Edit):
            noises += 1
            assert moved and not moved & (norms | seen) and len(moved) <= 2
            for name in moved:
                change = dict(context.model.named_parameters())[name].detach() - before[name]
                assert 0.01 < float(change.norm()) / change.numel() ** 0.5 < 0.08
        elif step.trainable is not None:
            assert step.trainable - norms == moved - norms and len(moved - norms) == 2 and norms <= moved
            seen |= moved - norms
        else:
            assert len(moved) == 10
    assert lrs == [0.05, 0.05, 0.05, 0.01, 0.02] and noises >= 1


def test_short_runs_of_rni_take_the_last_learning_rates() -> None:
    steps = [step for step in method("rni", epochs=1).steps(make_context(needs={"retain"})) if isinstance(step, Phase)]
    assert [step.optimizer.lr for step in steps] == [1e-3] and steps[0].trainable is None


# UNSIR


def test_noise_is_what_the_model_is_most_wrong_about() -> None:
    context = make_context("class", needs={"retain"})
    like = next(context.stream("retain").batches(200)).x
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    first, last = (learn_noise(context, 2, like, 8, steps=steps, lr=0.1, decay=0.1) for steps in (0, 3))
    assert all(torch.equal(value, before[name]) for name, value in context.model.state_dict().items())
    mean, deviation = like.mean((0, 2, 3), keepdim=True), like.std((0, 2, 3), keepdim=True)
    net, n = trained_net().eval(), ((first - mean) / deviation).requires_grad_()
    optimizer = torch.optim.Adam([n], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = -F.cross_entropy(net(mean + deviation * n), torch.full((8,), 2)) + 0.1 * n.square().sum((1, 2, 3)).mean()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(last, (mean + deviation * n).detach(), atol=1e-5, rtol=1e-4)


def test_learning_makes_the_model_wrong() -> None:
    context = make_context("class", needs={"retain"})
    like = next(context.stream("retain").batches(200)).x
    losses = []
    for steps in (0, 20):
        x = learn_noise(context, 2, like, 16, steps=steps, lr=0.1, decay=0.0)
        losses.append(float(F.cross_entropy(context.model.eval()(x), torch.full((16,), 2)).detach()))
    assert losses[1] > losses[0] + 3


def test_unsir_mixes_noise_of_each_class_with_retained_examples() -> None:
    context = make_context("class", needs={"retain"})
    context.forget_classes = (2, 4)
    chosen = method("unsir", noise_examples=4, copies=3, noise_steps=1, retain_per_class=10)
    impair, repair = chosen.steps(context)
    noise, retain = (term.stream for term in impair.terms)
    assert isinstance(noise, Stream) and len(noise) == 2 * 4 * 3 and impair.order == "mixed"
    assert noise.labels.bincount().tolist() == [0, 0, 12, 0, 12], "the code labels all noise with one class"
    assert retain.labels.bincount().tolist() == [10, 10, 0, 10, 10] and repair.terms[0].stream is retain
    run_phase(context, impair)
    assert changed(context.model)


def test_copies_of_noise_share_inputs_and_labels() -> None:
    source = RepeatedNoise(torch.arange(6.0).view(3, 2), torch.tensor([5, 6, 7]), 4)
    ((x, y),) = source.batches(torch.tensor([1, 4, 11]), 3, augment=True, seed=0, epoch=0)
    assert len(source) == 12 and x.tolist() == [[2, 3], [2, 3], [4, 5]] and y.tolist() == [6, 6, 7]


def test_unsir_reads_no_forgotten_example_and_wants_whole_classes() -> None:
    assert method("unsir").needs == {"retain"}
    with pytest.raises(NotApplicable, match="stands for a whole class"):
        check(method("unsir"), kind="random", streams=["retain"])
    few = some_of_each_class(make_context(needs={"retain"}), "retain", 3)
    assert few.labels.bincount().tolist() == [3] * CLASSES


# RELOAD


def test_the_cached_gradient_less_the_retained_one_is_the_forgotten_datas() -> None:
    context = make_context(needs=BOTH)
    everything, retain = summed_gradients(context)
    net, batch = trained_net().eval(), next(context.stream("forget").batches(100))
    loss = F.cross_entropy(net(batch.x), batch.y, reduction="sum") / 400
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])
    found = flat({name: everything[name] - retain[name] for name in retain})
    torch.testing.assert_close(found, wanted, atol=1e-7, rtol=1e-3)


def test_reload_steps_against_the_forgotten_data_and_resets_the_least_value() -> None:
    context = make_context(needs=BOTH)
    everything, retain = summed_gradients(context)
    steps = method("reload", eta=0.5, reset=0.2).steps(context)
    before = F.cross_entropy(*logits_of(context, "forget"))
    apply(context, next(steps))
    assert F.cross_entropy(*logits_of(context, "forget")) > before, "the opposite sign would learn the forget set better"
    for name, value in context.model.named_parameters():
        torch.testing.assert_close(value.detach(), context.original[name] + 0.5 * (everything[name] - retain[name]))
    stepped = {name: value.detach().clone() for name, value in context.model.named_parameters()}
    apply(context, next(steps))
    g_d, g_r = flat(everything), flat(retain)
    value = ((g_d - g_r).abs() + 1e-8) / (g_d.abs() + 1e-8)
    wanted = set(value.argsort(stable=True)[: int(0.2 * value.numel())].tolist())
    moved = flat({name: value.detach() for name, value in context.model.named_parameters()}) != flat(stepped)
    assert set(moved.nonzero().flatten().tolist()) <= wanted
    assert int(moved.sum()) > 0.9 * len(wanted)  # norm layers are at their initial values already
    torch.testing.assert_close(flat(knowledge_value(everything, retain, 1e-8)), value)
    phase = next(steps)
    assert [term.stream_name for term in phase.terms] == ["retain"] and next(steps, None) is None
