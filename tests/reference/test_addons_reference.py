"""Adapters, masks and pruning against their formulas, and against known wrong versions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from conftest import CLASSES, SOURCE, make_context, trained_net
from expunge.addons.importance import prunable
from expunge.addons.lora import Adapter, Lora
from expunge.addons.masking import blend, under, within
from expunge.addons.matrices import weights
from expunge.addons.prune import Prune
from expunge.addons.saliency_mask import SaliencyMask
from expunge.engine.derivatives import gradient
from expunge.engine.edits import Edit, add_noise, reinitialise, resize_head
from expunge.engine.measure import accuracy
from expunge.engine.method import Method
from expunge.engine.parameters import Snapshot, adapters, effective, flat, leaves
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.select import density
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy, distance_to
from expunge.engine.update import adam, sgd
from expunge.errors import NotApplicable
from expunge.models.vit import VisionTransformer

DESCENT = Phase([Term("retain", cross_entropy)], epochs=1, optimizer=sgd(0.05), batch_size=64)


class Steps(Method):
    """Yields given steps."""

    needs = {"forget", "retain"}
    given: tuple = ()

    def steps(self, ctx):
        yield from self.given


def make_vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(CLASSES, 3, (8, 8), 4, 2, 2, 8)


class TorchAttention(nn.Module):
    """A net around `nn.MultiheadAttention`, which reads the weight of its output layer without calling the layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def pictures(count: int = 6) -> torch.Tensor:
    return next(Stream("x", SOURCE, torch.arange(count)).batches(count)).x


def scramble(model: nn.Module) -> None:
    """Give every adapter an update that is not zero."""
    made = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in adapters(model).values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=made))


# LoRA


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 0, 3), (1, 0, 1), (2, 2, 5)])
def test_an_adapted_convolution_is_a_thin_convolution_and_a_1x1(stride, padding, kernel):
    conv = nn.Conv2d(3, 8, kernel, stride, padding)
    x, plain = pictures(), conv(pictures())
    adapter = Adapter(conv.weight, 2, 4.0, torch.Generator().manual_seed(0))
    nn.init.normal_(adapter.B)
    parametrize.register_parametrization(conv, "weight", adapter)
    thin = F.conv2d(x, adapter.A.view(2, 3, kernel, kernel), stride=stride, padding=padding)
    torch.testing.assert_close(conv(x), plain + 4.0 * F.conv2d(thin, adapter.B[:, :, None, None]), rtol=1e-4, atol=1e-5)


def test_a_new_adapter_changes_nothing_and_a_mask_limits_it():
    weight = torch.randn(4, 3)
    adapter = Adapter(weight, 2, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(adapter(weight), weight)
    nn.init.normal_(adapter.B)
    adapter.mask = torch.tensor([[1.0, 0.5, 0.0]]).expand(4, 3)
    change = adapter(weight) - weight
    full = adapter.B @ adapter.A
    torch.testing.assert_close(change, full * adapter.mask, rtol=1e-5, atol=1e-6)
    assert torch.equal(adapter(weight)[:, 2], weight[:, 2])


@pytest.mark.parametrize("make", [trained_net, make_vit, TorchAttention])
@pytest.mark.parametrize("head", ["full", "adapter", "frozen"])
def test_merging_keeps_the_logits_and_the_names(make, head):
    context = make_context("random", net=make())
    model, x = context.model.eval(), pictures()
    order = [name for name, _ in model.named_parameters()]
    with Lora(rank=2, head=head).adapters(context) as added:
        assert len(added) >= 4 and added.keys() == adapters(model).keys()
        assert set(added.values()) <= set(leaves(model))
        assert (f"{context.architecture.head_name}.weight" in added.values()) == (head == "adapter")
        before = model(x).detach()
        scramble(model)
        adapted = model(x).detach()
    merged = model(x).detach()
    assert not torch.allclose(before, adapted)
    torch.testing.assert_close(merged, adapted, rtol=1e-6, atol=1e-6)
    assert [name for name, _ in model.named_parameters()] == order and list(model.state_dict()) == list(context.original.state)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())


def test_attention_that_reads_weights_directly_is_reached():
    context = make_context("random", net=TorchAttention())
    model, x, called = context.model.eval(), pictures(), []
    model.attention.out_proj.register_forward_hook(lambda *_: called.append(1))
    with torch.enable_grad():
        before = model(x).detach()
    assert not called  # a wrapper around the layer would be bypassed in silence
    with Lora(rank=2, targets="attention").adapters(context) as added:
        assert {"attention.out_proj.weight", "attention.in_proj_weight"} == set(added.values())
        with torch.no_grad():
            leaf = model.attention.out_proj.parametrizations.weight[0]
            leaf.B.normal_(generator=torch.Generator().manual_seed(1))
        assert not torch.allclose(model(x), before)


@pytest.mark.parametrize(("targets", "wanted"), [("convolutions", 1), ("attention", 8), ("linears", 12), ("all", 13)])
def test_targets(targets, wanted):
    context = make_context("random", net=make_vit())
    with Lora(targets=targets).adapters(context) as added:
        assert len(set(added.values())) == wanted


def test_phases_keep_to_what_the_method_moves():
    context = make_context("random", needs={"forget", "retain"})
    phase = DESCENT.but(trainable=frozenset({"3.weight", "3.bias"}))
    run(context, Steps(given=(phase,)), [Lora(rank=2)])
    moved = {name for name, value in leaves(context.model).items() if not torch.equal(value, context.original[name])}
    assert moved == {"3.weight"}
    with pytest.raises(NotApplicable, match=r"addons=lora.*4\.bias"):
        run(context, Steps(given=(DESCENT.but(trainable=frozenset({"4.bias"})),)), [Lora()])


def test_two_phases_add_two_updates_of_low_rank():
    context = make_context("random", needs={"forget", "retain"})
    run(context, Steps(given=(DESCENT, DESCENT)), [Lora(rank=1, alpha=1.0)])
    change = (leaves(context.model)["3.weight"] - context.original["3.weight"]).detach().flatten(1).double()
    values = torch.linalg.svdvals(change)
    assert int((values > 1e-3 * values[0]).sum()) == 2


def test_a_snapshot_from_within_a_phase_comes_back_after_the_merge():
    context = make_context("random", needs={"forget", "retain"})
    kept = []

    def keep(ctx) -> float:
        kept.append((Snapshot(ctx.model), ctx.model(pictures()).clone()))
        return 0.0

    rewind = Edit("rewind", lambda ctx: kept[0][0].restore(ctx.model))
    run(context, Steps(given=(DESCENT.but(epochs=2, select=keep), rewind)), [Lora(rank=2, alpha=2.0)])
    torch.testing.assert_close(context.model(pictures()), kept[0][1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(kept[0][1], kept[1][1])


def test_distances_see_what_the_layers_compute_with():
    context = make_context("random")
    with Lora(rank=2).adapters(context):
        scramble(context.model)
        with torch.no_grad():
            penalty = float(distance_to(context.original)(context, effective(context.model)))
    change = sum(((value - context.original[name]) ** 2).sum() for name, value in leaves(context.model).items())
    assert penalty == pytest.approx(0.5 * float(change.detach()), rel=1e-4) and penalty > 0.1


# Saliency mask


def test_density_is_exact_and_follows_the_summed_gradient():
    context = make_context("random")
    mask = SaliencyMask(keep=0.3).mask(context)
    score = flat(gradient(context, "forget")).abs()
    count = int(0.3 * score.numel())
    assert int(flat(mask).sum()) == count
    assert set(flat(mask).nonzero().flatten().tolist()) == set(score.argsort(descending=True, stable=True)[:count].tolist())
    other = SaliencyMask(keep=0.3, gradients="random_label").mask(context)
    assert 0.05 < float((flat(mask) != flat(other)).double().mean()) < 0.6


def test_adding_batch_means_gives_another_mask():
    context = make_context("random")
    forget = context.stream("forget")
    means = sum(flat(gradient(context, forget.subset(part), reduction="mean")) for part in forget.index.split(32))
    mask = flat(SaliencyMask().mask(context))
    chosen = torch.zeros_like(mask)
    chosen[means.abs().argsort(descending=True)[: int(0.5 * len(mask))]] = 1
    assert float((chosen != mask).double().mean()) > 0.02


def test_masking_the_gradient_only_would_leak():
    context = make_context("random", needs={"forget", "retain"})
    mask = SaliencyMask(keep=0.2).mask(context)
    frozen = flat(mask) == 0
    run(context, Steps(given=(DESCENT.but(optimizer=sgd(0.05, weight_decay=0.01)),)), [SaliencyMask(keep=0.2)])
    change = flat(leaves(context.model)) != flat({name: context.original[name] for name in mask})
    assert not change[frozen].any() and change[~frozen].double().mean() > 0.9
    net = trained_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    F.cross_entropy(net(pictures()), SOURCE.labels[:6]).backward()
    for name, parameter in net.named_parameters():
        parameter.grad *= mask[name]
    optimizer.step()
    leaked = torch.cat([p.detach().flatten() for p in net.parameters()]) != flat({name: context.original[name] for name in mask})
    assert leaked[frozen].double().mean() > 0.9


# Masks on edits


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_blend(factor):
    before, after = torch.tensor([0.1, 1e8, -3.0]), torch.tensor([0.3, 1.0, 7.0])
    found = blend(before, after, torch.full((3,), factor))
    if factor in (0.0, 1.0):
        assert torch.equal(found, before if factor == 0 else after)
    else:
        torch.testing.assert_close(found, before + factor * (after - before))


@pytest.mark.parametrize("make", [lambda like: add_noise(like), lambda like: reinitialise(None, "x")])
def test_edits_are_limited_to_the_mask(make):
    context = make_context("random")
    mask = SaliencyMask(keep=0.4).mask(context)
    edit = make({name: torch.full_like(value, 0.1) for name, value in leaves(context.model).items()})
    with torch.no_grad():
        within(mask, edit).apply(context)
    moved = {name: value.detach() != context.original[name] for name, value in leaves(context.model).items()}
    assert not flat(moved)[flat(mask) == 0].any() and flat(moved)[flat(mask) == 1].double().mean() > 0.7
    context.original.restore(context.model)
    with torch.no_grad():
        edit.apply(context)
    unlimited = flat({name: value.detach() != context.original[name] for name, value in leaves(context.model).items()})
    assert unlimited[flat(mask) == 0].any()  # what happens without the limit


def test_an_edit_that_reshapes_is_refused():
    context = make_context("random")
    mask = SaliencyMask().mask(context)
    with torch.no_grad(), pytest.raises(NotApplicable, match=r"resize head.*7\.weight"):
        within(mask, resize_head(CLASSES + 1)).apply(context)


def test_masks_multiply():
    mask = {"0.weight": torch.full((8, 3, 3, 3), 0.5)}
    (step,) = under(mask, iter([DESCENT.but(mask={"0.weight": torch.full((8, 3, 3, 3), 0.5), "3.bias": torch.zeros(16)})]))
    assert step.mask["0.weight"].unique().tolist() == [0.25] and not step.mask["3.bias"].any()


# Pruning


def test_global_pruning_takes_the_smallest_weights_of_all_layers():
    context = make_context("random")
    size = torch.cat([context.original[name].abs().flatten() for name in ("0.weight", "3.weight")])
    threshold = size.sort().values[int(0.8 * len(size))]
    mask = Prune(sparsity=0.8).mask(context)
    assert set(mask) == {"0.weight", "3.weight"}  # neither head, norm layers nor biases
    assert all(torch.equal(value != 0, context.original[name].abs() >= threshold) for name, value in mask.items())


def test_pruning_within_layers_and_by_channels():
    context = make_context("random")
    each = Prune(sparsity=0.5, scope="tensor").mask(context)
    assert all(density({name: value}) == pytest.approx(0.5, abs=0.01) for name, value in each.items())
    channels = Prune(sparsity=0.5, structure="channels").mask(context)
    for name, value in channels.items():
        length = context.original[name].flatten(1).square().sum(1)
        kept = value.flatten(1).amax(1)
        assert torch.equal(value.flatten(1).amin(1), kept) and int(kept.sum()) == len(kept) // 2
        assert float(length[kept == 0].max()) <= float(length[kept == 1].min())


@pytest.mark.parametrize("make", [make_vit, TorchAttention])
def test_transformers_are_pruned_in_their_linear_layers(make):
    context = make_context("random", net=make())
    names = set(prunable(context))
    assert not any(name.startswith(("embed", "stem", "head")) or "norm" in name or name.endswith("bias") for name in names)
    assert len(names) == (12 if make is make_vit else 2)
    assert {f"{name}.{attribute}" for name, _, attribute in weights(context.model)} > names


def test_pruned_weights_stay_zero_through_phases_and_edits():
    events = []
    context = make_context("random", needs={"forget", "retain"}, report=events.append)
    addon = Prune(sparsity=0.9, repair_epochs=1)
    mask = addon.mask(context)
    noise = add_noise({name: torch.full_like(value, 0.1) for name, value in leaves(context.model).items()})
    run(context, Steps(given=(noise, DESCENT.but(optimizer=adam(0.01, 0.1)), reinitialise(None, "x"))), [addon])
    for name, value in mask.items():
        found = leaves(context.model)[name]
        assert not found[value == 0].any() and (found[value == 1] != 0).all()
    (event,) = [event for event in events if event["event"] == "pruned"]
    assert event["sparsity"] == pytest.approx(0.9, abs=1e-3) and event["layers"].keys() == mask.keys()


def test_repair_reads_retained_data_only_and_helps():
    def repaired(epochs: int) -> float:
        context = make_context("random", needs={"retain"})
        run(context, Steps(), [Prune(sparsity=0.9, repair_epochs=epochs, batch_size=64)])
        return accuracy(context, "retain")

    assert repaired(10) > repaired(0) + 0.05
