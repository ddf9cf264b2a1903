"""Add-ons that change how a step is taken, against their formulas and against known wrong versions."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import CLASSES, SIZE, SOURCE, make_context, make_net, split, trained_net
from expunge import registry
from expunge.addons.asam import Asam
from expunge.addons.clip import Clip
from expunge.addons.ema import Ema
from expunge.addons.last_k import LastK
from expunge.addons.lora import Lora
from expunge.addons.mixed_precision import MixedPrecision
from expunge.addons.noise import Noise
from expunge.addons.optimizer import Optimizer
from expunge.addons.prune import Prune
from expunge.addons.random_mask import RandomMask
from expunge.addons.reweight import Reweight, class_weights
from expunge.addons.saliency_mask import SaliencyMask
from expunge.addons.sam import Sam
from expunge.addons.second_order_sam import SecondOrderSam
from expunge.engine.context import Context
from expunge.engine.edits import recalibrate, reinitialise
from expunge.engine.loop import run_phase
from expunge.engine.method import Method
from expunge.engine.parameters import flat, leaves, norm
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.select import density
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward, Term, cross_entropy
from expunge.engine.update import Optimizer as Recipe
from expunge.engine.update import adam, second_order_sam, sgd
from expunge.errors import NotApplicable
from expunge.methods.ascent.gradient_ascent_by_depth import block_rates

PLAIN = sgd(0.1, momentum=0, weight_decay=0)
FORGET = Phase([Term("forget", cross_entropy)], optimizer=PLAIN, norm="frozen", augment=False)
DESCENT = Phase([Term("retain", cross_entropy)], epochs=1, optimizer=sgd(0.05), batch_size=64)


class Given(Method):
    """Yields given steps."""

    needs = {"forget", "retain"}
    given: tuple = ()

    def steps(self, ctx):
        yield from self.given


def forget_batch(context: Context) -> Batch:
    return next(context.stream("forget").batches(SIZE))


def after(addons, *steps, **more):
    context = make_context(**more)
    run(context, Given(given=steps), addons)
    return context


# Sharpness-aware minimisation


def naive_sam(net: nn.Module, x, y, rho: float, lr: float, eta: float | None) -> dict[str, torch.Tensor]:
    parameters = list(net.parameters())
    g = torch.autograd.grad(F.cross_entropy(net(x), y), parameters)
    sizes = [torch.ones_like(p) if eta is None else p.detach().abs() + eta for p in parameters]
    length = sum((t * part).square().sum() for t, part in zip(sizes, g, strict=True)).sqrt()
    moved = [t * t * part * rho / length for t, part in zip(sizes, g, strict=True)]
    with torch.no_grad():
        for p, part in zip(parameters, moved, strict=True):
            p.add_(part)
    second = torch.autograd.grad(F.cross_entropy(net(x), y), parameters)
    with torch.no_grad():
        for p, part, g2 in zip(parameters, moved, second, strict=True):
            p.sub_(part).sub_(lr * g2)
    return {name: value.detach() for name, value in net.named_parameters()}


@pytest.mark.parametrize(("addon", "eta"), [(Sam(rho=0.5), None), (Asam(rho=0.5, eta=0.0), 0.0), (Asam(rho=0.5, eta=0.1), 0.1)])
def test_sam_is_the_gradient_at_the_worst_point_nearby(addon, eta):
    context = make_context("random", needs={"forget"})
    batch = forget_batch(context)
    (step,) = addon.rewrite(iter([FORGET]), context)
    wanted = naive_sam(trained_net().eval(), batch.x, batch.y, 0.5, 0.1, eta)
    run_phase(context, step)
    plain = make_context("random", needs={"forget"})
    run_phase(plain, FORGET)
    for name, value in leaves(context.model).items():
        torch.testing.assert_close(value.detach(), wanted[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(leaves(plain.model)["0.weight"], wanted["0.weight"], rtol=1e-4, atol=1e-6)


def test_sam_leaves_edits_alone_and_does_not_stack():
    edit = reinitialise(None, "x")
    context = make_context("random")
    steps = Sam().rewrite(Asam().rewrite(iter([edit, DESCENT]), context), context)
    assert next(steps) is edit
    with pytest.raises(NotApplicable, match="perturbed"):
        next(steps)
    assert "perturbed" in Sam().refuse(Given(given=(DESCENT.but(perturb=lambda *_: None),)))
    assert isinstance(context, Context) and len(split("random")["forget"]) == 40


def softened() -> nn.Module:
    """Return a net without kinks, whose second derivatives exist everywhere."""
    net = make_net()
    net[2], net[5] = nn.Softplus(), nn.Softplus()
    return net.eval()


def test_second_order_sam_is_the_derivative_of_the_worst_nearby_loss():
    rho, context = 0.3, make_context("random", needs={"forget"}, net=softened())
    batch, net = forget_batch(context), softened().double()
    parameters = dict(net.named_parameters())

    def loss(values):
        return F.cross_entropy(torch.func.functional_call(net, values, (batch.x.double(),)), batch.y)

    def worst(values):
        g = torch.func.grad(loss)(values)
        length = sum(part.square().sum() for part in g.values()).sqrt()
        return loss({name: values[name] + rho * g[name] / length for name in values})

    exact = torch.func.grad(worst)({name: value.detach() for name, value in parameters.items()})
    g = torch.func.grad(loss)({name: value.detach() for name, value in parameters.items()})
    length = sum(part.square().sum() for part in g.values()).sqrt()
    first_order = torch.func.grad(loss)({name: value.detach() + rho * g[name] / length for name, value in parameters.items()})
    before = {name: value.detach().clone() for name, value in leaves(context.model).items()}
    (step,) = SecondOrderSam(rho=rho, difference=0.01).rewrite(iter([FORGET]), context)
    run_phase(context, step)
    found = flat({name: (before[name] - value.detach()) / 0.1 for name, value in leaves(context.model).items()}).double()
    wanted, plain = flat(exact), flat(first_order)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
    assert float((plain - wanted).norm() / wanted.norm()) > 0.05


def test_second_order_sam_draws_the_same_units_in_every_look():
    drawn = []

    class Noted(nn.Module):
        """Dropout that says what it drew."""

        def forward(self, x):
            drawn.append(torch.rand(3))
            return x

    net = make_net()
    net[6] = nn.Sequential(nn.Flatten(), Noted())
    context = make_context("random", needs={"forget"}, net=net)
    drawn.clear()
    run_phase(context, FORGET.but(perturb=second_order_sam(0.1), epochs=2, batch_size=SIZE))
    first, second, third, later = drawn[:4]
    assert len(drawn) == 6 and torch.equal(first, third) and not torch.equal(first, second) and not torch.equal(first, later)


@pytest.mark.parametrize("addon", [Sam(rho=0.5), Asam(rho=0.5), SecondOrderSam(rho=0.5)])
def test_what_a_mask_freezes_is_not_displaced(addon):
    context = make_context("random", needs={"forget", "retain"})
    mask = {name: (torch.rand(value.shape) > 0.5).float() for name, value in leaves(context.model).items()}
    before, seen = context.original, []

    def look(ctx, batch, student):
        values = leaves(ctx.model)
        seen.append([(values[name][mask[name] == 0] == before[name][mask[name] == 0]).all() for name in mask])
        seen[-1].append(any((values[name] != before[name]).any() for name in mask))
        return cross_entropy(ctx, batch, student)

    (step,) = addon.rewrite(iter([FORGET.but(terms=[Term("forget", look)], mask=mask, batch_size=SIZE)]), context)
    run_phase(context, step)
    assert len(seen) == (3 if isinstance(addon, SecondOrderSam) else 2)
    assert all(all(part[:-1]) for part in seen) and not seen[0][-1] and all(part[-1] for part in seen[1:])


def test_pruned_weights_are_zero_at_the_worst_point_too():
    context, zeros = make_context("random", needs={"forget", "retain"}), []
    mask = Prune(sparsity=0.8).mask(context)

    def look(ctx, batch, student):
        zeros.append(all(not leaves(ctx.model)[name][value == 0].any() for name, value in mask.items()))
        return cross_entropy(ctx, batch, student)

    run(context, Given(given=(FORGET.but(terms=[Term("forget", look)]),)), [Prune(sparsity=0.8, repair_epochs=0), Sam(rho=1.0)])
    assert zeros == [True, True]


# Mixed precision


def test_mixed_precision_is_a_step_under_autocast_on_single_precision_weights():
    batch, mixed = forget_batch(make_context()), after([MixedPrecision()], FORGET)
    net = copy.deepcopy(make_context().model).eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(batch.x)
    F.cross_entropy(logits.float(), batch.y).backward()
    whole = after([], FORGET)
    for name, value in net.named_parameters():
        torch.testing.assert_close(leaves(mixed.model)[name].detach(), (value - 0.1 * value.grad).detach(), rtol=0, atol=1e-6)
    assert not torch.equal(change_of(mixed), change_of(whole))
    assert float(F.cosine_similarity(change_of(mixed), change_of(whole), dim=0)) > 0.99


def test_mixed_precision_keeps_steps_that_bfloat16_weights_would_swallow():
    small = FORGET.but(optimizer=sgd(1e-4, momentum=0, weight_decay=0))
    context = after([MixedPrecision()], small)
    change, start = change_of(context), flat({name: context.original[name] for name in leaves(context.model)})
    kept = (start + change).bfloat16() == start.bfloat16()
    assert float(change.abs().max()) > 0 and float(kept[change != 0].double().mean()) > 0.9


# Clipping, noise, averages


def test_clipping_bounds_the_step_and_counts_what_can_move():
    limit = 0.01
    for addons, steps in (
        ([Clip(norm=limit)], FORGET),
        ([Clip(norm=limit)], FORGET.but(clip=100.0)),
        ([Clip(norm=5.0)], FORGET.but(clip=limit)),
    ):
        context = after(addons, steps)
        moved = [context.original[name] - value.detach() for name, value in leaves(context.model).items()]
        assert float(norm(moved)) == pytest.approx(0.1 * limit, rel=1e-3)
    mask = RandomMask(keep=0.1).mask(make_context())
    masked = after([Clip(norm=limit)], FORGET.but(mask=mask))
    moved = [masked.original[name] - value.detach() for name, value in leaves(masked.model).items()]
    assert float(norm(moved)) == pytest.approx(0.1 * limit, rel=1e-3)  # 0.3 of it, were the frozen entries counted


def change_of(context) -> torch.Tensor:
    return flat({name: value.detach() - context.original[name] for name, value in leaves(context.model).items()})


def test_noise_has_its_deviation_and_respects_masks():
    still = FORGET.but(optimizer=sgd(1e-12, momentum=0, weight_decay=0))
    assert float(change_of(after([Noise(deviation=0.01)], still)).std()) == pytest.approx(0.01, rel=0.05)
    silent = FORGET.but(optimizer=sgd(0.5, momentum=0, weight_decay=0), terms=[Term("forget", zero)])
    assert float(change_of(after([Noise(deviation=0.01, scale="relative")], silent)).std()) == pytest.approx(0.005, rel=0.05)
    context = after([Noise(deviation=0.1), SaliencyMask(keep=0.3)], FORGET)
    mask = SaliencyMask(keep=0.3).mask(make_context())
    assert all(
        torch.equal(value[mask[name] == 0], context.original[name][mask[name] == 0]) for name, value in leaves(context.model).items()
    )


def zero(context, batch, student):
    return 0 * cross_entropy(context, batch, student)


@pytest.mark.parametrize("damping", [1.0, 0.1])
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_is_that_of_the_weights_after_each_step(decay, damping):
    """Where a mask damps the steps of a convolution too: it must not damp the way to the average once more."""
    states = []
    phase = DESCENT.but(epochs=2, stop=lambda ctx, progress: bool(states.append(copy.deepcopy(ctx.model.state_dict()))), stop_every=1)
    if damping < 1:
        phase = phase.but(mask={"0.weight": torch.full_like(make_net()[0].weight, damping)})
    after([], phase)
    average = {name: value.double() for name, value in states[0].items()}
    for number, state in enumerate(states[1:], 1):
        share = min(decay, number / (number + 1))
        average = {name: share * average[name] + (1 - share) * value.double() for name, value in state.items()}
    assert len(states) == 12
    for addons in ([Ema(decay=decay)], [Ema(decay=decay), RandomMask(keep=1.0)]):
        found = after(addons, phase).model.state_dict()
        for name, value in found.items():
            if value.is_floating_point():
                torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)
    moved = states[-1]["0.weight"].double() - states[0]["0.weight"].double()
    assert float((found["0.weight"].double() - states[-1]["0.weight"].double()).norm()) > 0.05 * float(moved.norm())


def test_the_average_keeps_masks_in_either_order():
    mask = SaliencyMask(keep=0.4).mask(make_context())
    decaying = DESCENT.but(optimizer=sgd(0.05, weight_decay=0.1))
    for addons in ([Ema(decay=0.5), SaliencyMask(keep=0.4)], [SaliencyMask(keep=0.4), Ema(decay=0.5)]):
        context = after(addons, decaying)
        for name, value in leaves(context.model).items():
            assert torch.equal(value[mask[name] == 0], context.original[name][mask[name] == 0]), name


def test_an_average_takes_adapters_as_they_are():
    context = after([Lora(rank=2), Ema(decay=0.5)], DESCENT)
    change = (leaves(context.model)["3.weight"] - context.original["3.weight"]).detach().flatten(1)
    assert 1 <= int(torch.linalg.matrix_rank(change, rtol=1e-4)) <= 2
    with pytest.raises(NotApplicable, match="best epoch"):
        after([Ema()], DESCENT.but(select=lambda ctx: 0.0))


# Optimisers


def test_another_learning_rate_reaches_a_method_whose_layers_have_their_own():
    """Layer by layer lr is a factor of the method's; an absolute one would leave the chosen rate without effect."""
    method = registry.find("methods", "gradient_ascent_by_depth")
    for addon, lr in ((None, 1e-3), (Optimizer(lr=0.1), 0.1), (Optimizer(lr=0.1, kind="adam"), 0.1)):
        context = make_context("class", needs={"forget"})
        phase = next(method(lr=1e-3, epochs=1).steps(context))
        chosen = (addon.changed(phase.optimizer) if addon else phase.optimizer).make({"7.weight": leaves(context.model)["7.weight"]})
        assert chosen.param_groups[0]["lr"] == pytest.approx(lr * block_rates(context)["7.weight"])


def test_another_optimizer_is_that_optimizer():
    fields = [
        (Optimizer(kind="adam", lr=1e-3), adam(1e-3)),
        (Optimizer(lr=0.2), sgd(0.2)),
        (Optimizer(momentum=0.0), sgd(0.05, momentum=0.0)),
    ]
    fields += [
        (Optimizer(weight_decay=0.1), sgd(0.05, weight_decay=0.1)),
        (Optimizer(kind="adamw"), Recipe("adamw", 0.05, {"weight_decay": 0.01})),
    ]
    for addon, wanted in fields:
        one, other = after([addon], DESCENT).model.state_dict(), after([], DESCENT.but(optimizer=wanted)).model.state_dict()
        assert all(torch.equal(value, other[name]) for name, value in one.items()), addon
    assert Optimizer(kind="adam", momentum=0.8).changed(sgd(1.0)).options == {"weight_decay": 0.0, "betas": (0.8, 0.999)}


def test_settings_of_single_parameters_stay_where_they_have_a_meaning():
    own = sgd(0.1, scale=lambda name, parameter: {"momentum": 0.5, "lr": 0.3} if parameter.dim() == 1 else {})
    changed = Optimizer(kind="adam").changed(own)
    groups = changed.make(leaves(make_net())).param_groups
    assert sorted(group["lr"] for group in groups) == [0.1, 0.3] and not any("momentum" in group for group in groups)
    assert Optimizer(lr=0.2).changed(own).scale is own.scale


# The end of the net


@pytest.mark.parametrize("blocks", [1, 2])
def test_only_the_last_blocks_move(blocks):
    context = make_context()
    names = set(context.architecture.last_blocks(blocks))
    steps = (DESCENT, reinitialise(None, "x"), recalibrate("retain"), DESCENT.but(optimizer=adam(0.01, 0.1)))
    run(context, Given(given=steps), [LastK(blocks=blocks)])
    moved = {name for name, value in context.model.state_dict().items() if not torch.equal(value, context.original[name])}
    allowed = {name.rpartition(".")[0] for name in names}
    assert {name for name in moved if name in leaves(context.model)} == names
    assert all(name.rpartition(".")[0] in allowed for name in moved)


def test_a_phase_that_moves_nothing_there_is_refused_and_adapters_go_with_their_layer():
    with pytest.raises(NotApplicable, match=r"nothing in the last blocks"):
        after([LastK()], DESCENT.but(trainable=frozenset({"0.weight"})))
    context = after([Lora(rank=1, head="adapter"), LastK()], DESCENT)
    moved = {name for name, value in leaves(context.model).items() if not torch.equal(value, context.original[name])}
    assert moved == {"7.weight"}


def test_a_random_mask_is_drawn_from_the_seed_and_saves_nothing_else():
    context = make_context()
    mask = RandomMask(keep=0.3).mask(context)
    assert density(mask) == pytest.approx(0.3, abs=1e-3)
    assert not torch.equal(flat(mask), flat(RandomMask(keep=0.3).mask(make_context(seed=1))))
    assert torch.equal(flat(mask), flat(RandomMask(keep=0.3).mask(make_context())))
    salient = SaliencyMask(keep=0.3).mask(context)
    assert 0.05 < float((flat(mask) * flat(salient)).mean()) < 0.13  # 0.09 if independent


# Weights of examples


def forget_gradient(addon, weight: float = -1.0, loss=cross_entropy):
    """Return the update of one plain step on the forget set under the add-on, over the learning rate."""
    context = after([addon] if addon else [], FORGET.but(terms=[Term("forget", loss, weight=weight)], batch_size=SIZE))
    return flat({name: (context.original[name] - value.detach()) / 0.1 for name, value in leaves(context.model).items()})


def naive_gradient(objective) -> torch.Tensor:
    net, batch = trained_net().eval(), forget_batch(make_context())
    found = torch.autograd.grad(objective(net(batch.x), batch), list(net.parameters()))
    return torch.cat([part.flatten() for part in found])


def test_npo_is_the_gradient_of_its_loss():
    """At the original every weight is one; so the reference is another model here."""
    beta, other = 0.7, trained_net(1).eval()

    def objective(logits, batch):
        ratio = -F.cross_entropy(logits, batch.y, reduction="none") + F.cross_entropy(other(batch.x), batch.y, reduction="none").detach()
        return -(2 / beta) * F.logsigmoid(-beta * ratio).mean()

    context = make_context()
    context._teachers["original", 0] = other
    run(
        context,
        Given(given=(FORGET.but(terms=[Term("forget", cross_entropy, weight=-1.0)], batch_size=SIZE),)),
        [Reweight(rule="npo", beta=beta)],
    )
    found = flat({name: (context.original[name] - value.detach()) / 0.1 for name, value in leaves(context.model).items()})
    torch.testing.assert_close(found, naive_gradient(objective), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(forget_gradient(Reweight(rule="npo")), forget_gradient(None), rtol=1e-3, atol=1e-5)


def test_simnpo_is_the_gradient_of_its_loss():
    def objective(logits, batch):
        return -(2 / 0.5) * F.logsigmoid(0.5 * F.cross_entropy(logits, batch.y, reduction="none")).mean()

    torch.testing.assert_close(forget_gradient(Reweight(rule="simnpo", beta=0.5)), naive_gradient(objective), rtol=1e-3, atol=1e-5)


def test_inverse_losses_have_mean_one_and_the_least_loss_the_largest_weight():
    def objective(logits, batch):
        losses = F.cross_entropy(logits, batch.y, reduction="none")
        weights = losses.detach().clamp_min(1e-3) ** -0.5
        return -(losses * weights / weights.mean()).mean()

    torch.testing.assert_close(forget_gradient(Reweight(power=0.5)), naive_gradient(objective), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(forget_gradient(Reweight(power=0.0)), forget_gradient(None), rtol=1e-4, atol=1e-6)


def test_every_class_weighs_the_same_by_its_true_label():
    index, labels = torch.tensor([4, 1, 7, 2]), torch.tensor([0, 0, 0, 1])
    assert class_weights(index, labels, 9).tolist() == pytest.approx([1, 4 / 6, 2, 1, 4 / 6, 1, 1, 4 / 6, 1])
    context = make_context()
    uneven = torch.cat([split("random")["forget"][:20], torch.arange(0, 100, 5)]).unique()
    context._streams["forget"] = Stream("forget", SOURCE, uneven)
    weigh = Reweight(rule="class_balanced").weights(context)
    batch = next(context.stream("forget").relabelled(torch.zeros(len(uneven), dtype=torch.int64)).batches(SIZE))
    weights = weigh(context, batch, Forward(context, batch), torch.zeros(len(batch)))
    sums = torch.stack([weights[SOURCE.labels[batch.index] == label].sum() for label in range(CLASSES)])
    torch.testing.assert_close(sums, torch.full((CLASSES,), len(uneven) / CLASSES))


@pytest.mark.parametrize("rule", ["npo", "simnpo"])
def test_what_is_forgotten_is_measured_by_the_true_label_whatever_the_method_teaches(rule):
    context = make_context()
    context._teachers["original", 0] = trained_net(1).eval()
    stream, weigh = context.stream("forget"), Reweight(rule=rule, beta=1.0).weights(context)
    true, taught = (next(part.batches(SIZE)) for part in (stream, stream.relabelled((stream.labels + 1) % CLASSES)))
    first, second = (weigh(context, batch, Forward(context, batch), torch.zeros(len(batch))) for batch in (true, taught))
    torch.testing.assert_close(first, second)


def test_only_forgotten_data_are_weighted():
    context = make_context()
    terms = [
        Term("forget", cross_entropy),
        Term("retain", cross_entropy),
        Term(context.stream("forget").subset(torch.tensor([0, 9]), "part"), cross_entropy),
    ]
    (step,) = Reweight().rewrite(iter([DESCENT.but(terms=terms)]), context)
    assert [hasattr(term.loss, "__wrapped__") for term in step.terms] == [True, False, True]
    assert step.terms[0].label == "cross_entropy on forget"
    with pytest.raises(NotApplicable, match="forgotten data"):
        list(Reweight().rewrite(iter([DESCENT]), context))
    partial = Term("forget", functools.partial(zero))
    list(Reweight().rewrite(iter([DESCENT.but(terms=[partial])]), context))
