"""Scores of pruning, iterative pruning and lottery tickets, against their formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import make_context, make_net, trained_net
from expunge import registry
from expunge.addons.importance import grasp, importance, linearised, prunable, synflow
from expunge.addons.lottery_ticket import LotteryTicket
from expunge.addons.prune import Prune, channel_score, kept_after
from expunge.engine import randomness
from expunge.engine.method import Method
from expunge.engine.parameters import flat, leaves
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.select import density
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import adam, cosine, sgd
from expunge.errors import BadInput
from expunge.models.vit import VisionTransformer

WEIGHTS = ("0.weight", "3.weight")
DECAYING = Phase([Term("retain", cross_entropy)], optimizer=adam(0.01, 0.1), batch_size=64)


class Given(Method):
    """Yields given steps."""

    needs = {"forget", "retain"}
    given: tuple = ()

    def steps(self, ctx):
        yield from self.given


class Looks(Method):
    """Keeps what a method would see of the original."""

    needs = {"forget"}
    seen: list = []

    def steps(self, ctx):
        self.seen.append((copy.deepcopy(ctx.model.state_dict()), ctx.original, ctx.teacher()))
        yield from ()


class Recipe:
    """Four epochs of SGD along a cosine, and the learning rates that it took."""

    def __init__(self):
        self.rates, self.read = [], []

    def steps(self, ctx, stream="train"):
        def schedule(progress):
            factor = cosine()(progress)
            self.rates.append(round(factor, 6))
            return factor

        self.read.append(stream)
        yield Phase([Term(stream, cross_entropy)], epochs=4, optimizer=sgd(0.05), schedule=schedule, batch_size=100, name="training")


def everything(context):
    batch = next(context.stream("retain").batches(1000))
    return batch.x, batch.y


# Scores


def test_snip_is_weight_times_gradient():
    context, net = make_context(), trained_net().eval()
    x, y = everything(context)
    found = torch.autograd.grad(F.cross_entropy(net(x), y), [net.get_parameter(name) for name in WEIGHTS])
    for name, slope in zip(WEIGHTS, found, strict=True):
        wanted = (net.get_parameter(name) * slope).abs()
        torch.testing.assert_close(importance(context, "snip", 0.5)[name], wanted.detach(), rtol=1e-3, atol=1e-6)


def test_grasp_is_weight_times_hessian_times_gradient():
    context, net = make_context(), trained_net().eval()
    retain = context.stream("retain")
    batch = next(retain.subset(randomness.shuffle(0, "retain", 0, retain.index)[:256]).batches(256))
    chosen = [net.get_parameter(name) for name in WEIGHTS]
    slope = torch.autograd.grad(F.cross_entropy(net(batch.x) / 200, batch.y), chosen, create_graph=True)
    product = torch.autograd.grad(sum((part * part.detach()).sum() for part in slope), chosen)
    before = context.cost.backward
    score = grasp(context, prunable(context))
    for name, weight, part in zip(WEIGHTS, chosen, product, strict=True):
        torch.testing.assert_close(score[name], (weight * part).detach(), rtol=1e-3, atol=1e-9)
    assert context.cost.backward - before == 3 * len(batch)
    assert all(parameter.requires_grad for parameter in context.model.parameters())


def test_grasp_removes_what_lengthens_the_gradient():
    """The first-order change of ``g.g`` when a weight goes is ``-2 w H g``: pruning the lowest scores raises it."""
    context = make_context()
    score = importance(context, "grasp", 0.2)
    kept = kept_after(score, 0.2)
    assert sum(float(-(value * (1 - kept[name])).sum()) for name, value in score.items()) > 0


def naive_flow(net: nn.Module, kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return ``|w dR/dw|`` of a linearised net by finite differences of the exact, multilinear R."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, value in kept.items():
            net.get_parameter(name).mul_(value)
        x, flow = torch.ones(1, 3, 8, 8, dtype=torch.float64), {}
        whole = net(x).sum()
        for name in kept:
            weight = net.get_parameter(name)
            flow[name] = torch.zeros_like(weight)
            for place in range(0, weight.numel(), 7):
                old = float(weight.view(-1)[place])
                weight.view(-1)[place] = 0
                flow[name].view(-1)[place] = whole - net(x).sum()  # R is linear in each weight
                weight.view(-1)[place] = old
    return flow


def test_synflow_is_the_flow_through_absolute_weights_and_touches_nothing():
    context = make_context()
    before = copy.deepcopy(context.model.state_dict())
    net = linearised(context.model)
    assert all((value >= 0).all() for value in net.parameters())
    assert not net[1].running_mean.any() and (net[1].running_var == 1).all()
    score = synflow(context, list(WEIGHTS), sparsity=0.0)  # nothing goes in any round
    wanted = naive_flow(net, {name: torch.ones_like(score[name]) for name in WEIGHTS})
    for name in WEIGHTS:
        torch.testing.assert_close(score[name].view(-1)[::7], wanted[name].view(-1)[::7])
    assert all(torch.equal(value, before[name]) for name, value in context.model.state_dict().items())  # signs and all
    assert any((value < 0).any() for value in before.values()) and context.model.get_parameter("0.weight").dtype == torch.float32


@pytest.mark.parametrize("sparsity", [0.9, 0.995])
def test_synflow_prunes_in_rounds_without_closing_a_layer(sparsity):
    context = make_context()
    mask = Prune(score="synflow", sparsity=sparsity).mask(context)
    assert 1 - density(mask) == pytest.approx(sparsity, abs=2e-3)
    assert all(value.any() for value in mask.values())
    once = kept_after(synflow(context, list(WEIGHTS), 0.0), sparsity)
    assert not torch.equal(flat(once), flat(mask))  # a hundred rounds are not one
    assert context.cost.backward >= 100


@pytest.mark.parametrize("score", ["magnitude", "random", "snip", "grasp", "synflow"])
@pytest.mark.parametrize("structure", ["unstructured", "channels"])
def test_every_score_prunes_what_it_should(score, structure):
    events, context = [], make_context(report=lambda event: events.append(event))
    addon = Prune(score=score, structure=structure, sparsity=0.5, repair_epochs=1, batch_size=400)
    mask = addon.mask(context)
    run(context, Given(given=(DECAYING,)), [addon])
    assert 1 - density(mask) == pytest.approx(0.5, abs=0.02)
    for name, value in mask.items():
        found = leaves(context.model)[name]
        assert not found[value == 0].any() and found[value == 1].all()
        if structure == "channels":
            assert torch.equal(value.flatten(1).amin(1), value.flatten(1).amax(1))
    (event,) = [event for event in events if event["event"] == "pruned"]
    assert event["sparsity"] == pytest.approx(0.5, abs=0.02)


def test_channel_scores_of_signed_scores_add_up():
    assert channel_score(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist() == [5, 1]
    assert channel_score(torch.tensor([[3.0, -4.0], [0.0, 1.0]])).tolist() == [-1, 1]
    assert channel_score(torch.tensor([[3.0, float("-inf")], [float("-inf")] * 2])).tolist() == [3, 0]


def test_transformers_are_pruned_in_their_linear_layers_by_every_score():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VisionTransformer(5, 3, (8, 8), 4, 2, 2, 8)
    context = make_context(net=net)
    for score in ("magnitude", "snip", "grasp", "synflow"):
        mask = Prune(score=score, sparsity=0.6).mask(context)
        assert len(mask) == 12 and 1 - density(mask) == pytest.approx(0.6, abs=1e-2), score


# Cycles and rewinding


def sparsities(addon, **more):
    events = []
    context = make_context(report=events.append, **more)
    run(context, Given(given=(DECAYING,)), [addon])
    zeros = sum((leaves(context.model)[name] == 0).sum() for name in WEIGHTS) / sum(leaves(context.model)[name].numel() for name in WEIGHTS)
    return [event["sparsity"] for event in events if event["event"] == "pruned"], float(zeros), context


def test_each_cycle_prunes_the_same_share_of_what_remains():
    rate, cycles = 0.2, 5
    found, zeros, _ = sparsities(Prune(sparsity=1 - (1 - rate) ** cycles, cycles=cycles, repair_epochs=1, batch_size=400))
    assert found == pytest.approx([1 - (1 - rate) ** (number + 1) for number in range(cycles)], abs=1e-3)
    assert zeros == pytest.approx(found[-1], abs=1e-6)


@pytest.mark.parametrize("score", ["random", "synflow", "snip"])
def test_what_was_pruned_stays_so(score):
    context = make_context()
    addon = Prune(score=score, cycles=3)
    mask = addon.mask(context, 0.3)
    for share in (0.5, 0.7):
        later = addon.mask(context, share, mask)
        assert all(not later[name][value == 0].any() for name, value in mask.items()) and 1 - density(later) == pytest.approx(
            share, abs=2e-3
        )
        mask = later


def test_rewinding_puts_the_remaining_weights_back():
    seen = []

    class Watch(Given):
        """Looks at the model before each repair."""

    def look(ctx, batch, student):
        seen.append({name: leaves(ctx.model)[name].detach().clone() for name in WEIGHTS})
        return cross_entropy(ctx, batch, student)

    for rewind in ("original", "none"):
        context = make_context()
        addon = Prune(sparsity=0.7, cycles=3, rewind=rewind, repair_epochs=1, batch_size=400)
        steps = (step.but(terms=[Term("retain", look)]) if isinstance(step, Phase) else step for step in addon.rewrite(iter(()), context))
        run(context, Watch(given=steps))
    assert len(seen) == 6

    def differs(state):
        return any((state[name] != trained_net().get_parameter(name))[state[name] != 0].any() for name in WEIGHTS)

    assert [differs(state) for state in seen] == [False, False, False, False, True, True]


def test_a_lottery_ticket_is_a_new_sparse_original():
    recipe, looks = Recipe(), Looks(seen=[])
    context = make_context("class", needs={"forget", "retain", "recipe"}, recipe=recipe)
    first = context.original
    run(context, looks, [LotteryTicket(sparsity=0.75, cycles=2)])
    (state, original, teacher) = looks.seen[0]
    assert original is not first and original is context.original
    assert all(torch.equal(value, original[name]) for name, value in state.items())
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    zeros = torch.cat([(state[name] == 0).flatten() for name in WEIGHTS]).double().mean()
    assert float(zeros) == pytest.approx(0.75, abs=1e-3)
    assert [len(stream) for stream in recipe.read] == [400, 400, 400]  # forgotten data included
    assert len(recipe.rates) == 3 * 16
    labels = context.stream("forget").labels if "forget" in context.needs else None
    assert labels is not None and not torch.equal(state["0.weight"], first["0.weight"])


@pytest.mark.parametrize("addon", [LotteryTicket(sparsity=0.75), Prune(sparsity=0.75, repair_epochs=1)])
def test_a_vision_transformer_stays_sparse_in_its_linear_layers(addon):
    net = registry.find("models", "vit")(depth=1, width=8, heads=2).build(5, (3, 8, 8))
    context = make_context(needs={"forget", "retain", "recipe"}, recipe=Recipe(), net=net)
    events = []
    context.report = events.append
    run(context, registry.find("methods", "finetune")(epochs=1), [addon])
    names = list(events_of(events, "pruned")[0]["layers"])
    assert len(names) == 6 and all("blocks." in name and ".norm" not in name for name in names)
    zeros = torch.cat([(leaves(context.model)[name] == 0).flatten() for name in names]).double().mean()
    assert float(zeros) == pytest.approx(0.75, abs=1e-2)


def events_of(events, kind):
    return [event for event in events if event["event"] == kind]


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_ticket_rewinds_to_its_epoch_and_goes_on_with_the_schedule(epochs):
    recipe, seen = Recipe(), []
    context = make_context(needs={"forget", "retain", "recipe"}, recipe=recipe)
    addon = LotteryTicket(sparsity=0.5, rewind_epochs=epochs)

    class Notes(Method):
        """Nothing to do."""

        def steps(self, ctx):
            yield from ()

    def watched(steps):
        for step in steps:
            seen.append((getattr(step, "name", ""), copy.deepcopy(context.model.state_dict())))
            yield step

    context.needs = frozenset(addon.needs)
    for step in watched(addon.rewrite(iter(()), context)):
        run(context, Given(given=(step,)))
    assert [name for name, _ in seen] == ["reinitialise", "training", "rewind", "scale", "training"]
    assert recipe.rates[:16] == [round(cosine()(type("P", (), {"fraction": n / 16})), 6) for n in range(16)]
    assert recipe.rates[16:] == recipe.rates[4 * epochs : 16]
    start, rewound = seen[1][1], seen[3][1]
    assert all(torch.equal(value, rewound[name]) for name, value in start.items()) == (epochs == 0)


def test_a_ticket_from_beyond_the_training_is_refused():
    context = make_context(needs={"forget", "retain", "recipe"}, recipe=Recipe(), net=make_net())
    ticket = registry.find("addons", "lottery_ticket")(rewind_epochs=4)
    with pytest.raises(BadInput, match=r"addons\.lottery_ticket\.rewind_epochs: .*no more than 4 epochs"):
        run(context, Given(), [ticket])
