"""References, fine-tuning and ascent: each method against its formula in plain torch, and against the wrong version it is known for."""

import copy
import math
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import CLASSES, SOURCE, make_context, make_net, trained_net
from expunge import registry
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.measure import accuracy, mean_loss
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.run import check, run
from expunge.engine.stream import Batch
from expunge.engine.terms import Progress, Term, cross_entropy
from expunge.engine.update import sgd
from expunge.errors import BadInput, NotApplicable

HEAD = ("7.weight", "7.bias")
LAST_TWO = ("3.weight", "3.bias", "4.weight", "4.bias", "4.running_mean", "4.running_var", "4.num_batches_tracked", *HEAD)


def method(name: str, **fields: object) -> Method:
    return registry.find("methods", name)(**fields)


def batches(context: Context, stream: str, size: int, epoch: int = 0, phase: int = 0) -> list[Batch]:
    """Return the batches that the engine takes from a stream."""
    seed = randomness.derive(context.seed, "batches", phase)
    return list(context.stream(stream).batches(size, seed=seed, epoch=epoch, shuffle=True, augment=True))


def plain_sgd(net: nn.Module, lr: float, weight_decay: float = 5e-4) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=lr, momentum=0.9, weight_decay=weight_decay)


def plain_loop(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Callable[[nn.Module], Tensor]],
    frozen_norm: bool = False,
    after: Callable[[nn.Module, int], None] | None = None,
) -> None:
    """Take one optimiser step for each loss, as anybody would write it."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and frozen_norm:
            module.eval()
    for number, loss in enumerate(losses):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
        if after is not None:
            with torch.no_grad():
                after(net, number)


ADAM_NOISE = ("0.bias", "3.bias", "1.running_mean", "4.running_mean")
"""A bias before BatchNorm in train mode has gradient zero; Adam makes full steps of its rounding."""


def assert_same(net: nn.Module, expected: nn.Module, but: tuple[str, ...] = (), atol: float = 1e-6) -> None:
    """All weights and buffers agree to 1e-6, and differ from the start; Adam makes more of the rounding of a gradient next to zero."""
    state = expected.state_dict()
    for name, value in net.state_dict().items():
        if name not in but:
            torch.testing.assert_close(value, state[name], atol=atol, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert changed(net)


def changed(net: nn.Module, before: nn.Module | None = None) -> set[str]:
    """Return the names of weights and buffers that are not bit for bit as before."""
    start = (before or trained_net()).state_dict()
    return {name for name, value in net.state_dict().items() if not torch.equal(value, start[name])}


def ce(batch: Batch) -> Callable[[nn.Module], Tensor]:
    return lambda net: F.cross_entropy(net(batch.x), batch.y)


class Recipe:
    """A stand-in for how the original was trained."""

    def steps(self, ctx: Context, stream: str):
        yield Phase([Term(stream, cross_entropy)], epochs=2, optimizer=sgd(0.05), batch_size=128, name="train")


# References


def test_original_changes_nothing(kind: str) -> None:
    context = make_context(kind, needs=())
    outcome = run(context, method("original"))
    assert not changed(context.model) and outcome.phases == []


def test_retrain_owes_nothing_to_the_original() -> None:
    results = []
    for net in (trained_net(), make_net(3)):
        context = make_context(needs={"retain", "recipe"}, net=net, recipe=Recipe())
        fresh = context.fresh_state("retrain")
        run(context, method("retrain"))
        results.append(context.model)
    assert not changed(results[0], results[1])
    expected = make_net(5)
    expected.load_state_dict(fresh)
    plain_loop(expected, plain_sgd(expected, 0.05), [ce(batch) for epoch in (0, 1) for batch in batches(context, "retain", 128, epoch)])
    assert_same(results[0], expected)


def test_head_distillation_moves_the_head_alone(kind: str) -> None:
    context = make_context(kind, needs={"forget", "retain"})
    before = accuracy(context, "forget")
    run(context, method("head_distillation", lr=0.1, epochs=10))
    assert changed(context.model) == set(HEAD)
    assert accuracy(context, "forget") < before - 0.2


def test_head_distillation_is_masked_and_plain_divergence() -> None:
    context = make_context(needs={"forget", "retain"})
    run(context, method("head_distillation", epochs=1, lr=0.1, batch_size=128))
    teacher, expected = trained_net().eval(), trained_net()
    for name, parameter in expected.named_parameters():
        parameter.requires_grad_(name in HEAD)

    def loss(forget: Batch, retain: Batch) -> Callable[[nn.Module], Tensor]:
        with torch.no_grad():
            p_f, p_r = teacher(forget.x).softmax(1), teacher(retain.x).softmax(1)
        p_f[torch.arange(len(forget)), forget.y] = 0
        p_f = p_f / p_f.sum(1, keepdim=True)
        return lambda net: divergence(p_f, net(forget.x)) + divergence(p_r, net(retain.x))

    pairs = [(batches(context, "forget", 128, i)[0], batch) for i, batch in enumerate(batches(context, "retain", 128))]
    plain_loop(expected, plain_sgd(expected, 0.1, 0.0), [loss(*pair) for pair in pairs], frozen_norm=True)
    assert_same(context.model, expected)


def divergence(p: Tensor, logits: Tensor) -> Tensor:
    """KL(p || student), written as torch's own function, mean over the batch."""
    return F.kl_div(F.log_softmax(logits, 1), p, reduction="batchmean")


def test_head_surgery_silences_the_class_and_nothing_else() -> None:
    context = make_context("class", needs=())
    run(context, method("head_surgery"))
    x = SOURCE._stored[:100].permute(0, 3, 1, 2) / 255
    before, after = trained_net().eval()(x), context.model.eval()(x)
    kept = [label for label in range(CLASSES) if label != 2]
    assert (before.argmax(1) == 2).any() and not (after.argmax(1) == 2).any()
    assert torch.equal(after[:, kept], before[:, kept])
    assert (after[:, 2] == -1e4).all()
    assert torch.isfinite(F.cross_entropy(after, torch.full((100,), 2)))
    assert changed(context.model) == set(HEAD)


def test_head_imitation_comes_nearer_to_the_oracle_by_the_head_alone() -> None:
    context = make_context(needs={"forget", "retain", "oracle"}, oracle=make_net(9))
    x = SOURCE._stored[:100].permute(0, 3, 1, 2) / 255
    wanted = make_net(9).eval()(x).softmax(1)
    before = divergence(wanted, context.model.eval()(x))
    run(context, method("head_imitation", lr=0.05, epochs=20, batch_size=64))
    assert changed(context.model) == set(HEAD)
    assert divergence(wanted, context.model.eval()(x)) < before / 2


def test_tempering_divides_the_logits_and_keeps_the_answers() -> None:
    context = make_context(needs=())
    run(context, method("tempered", temperature=4.0))
    x = SOURCE._stored[:100].permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(context.model.eval()(x), trained_net().eval()(x) / 4)
    assert changed(context.model) == set(HEAD)


def test_an_untrained_model_has_nothing_of_the_original() -> None:
    context = make_context(needs=())
    run(context, method("untrained"))
    weights = {name for name, value in trained_net().named_parameters() if value.dim() > 1}
    assert weights <= changed(context.model)


def test_dropping_a_class_key_shares_its_attention_out_in_proportion() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = registry.find("models", "class_attention")(width=8, channels=4).build(CLASSES, (3, 8, 8))
    x = SOURCE._stored[:100].permute(0, 3, 1, 2) / 255
    query, before = net.eval().query(x), net(x).softmax(1)
    scores = query @ net.keys.weight.T / math.sqrt(8) + net.keys.bias
    torch.testing.assert_close(before, scores.softmax(1))
    context = make_context("class", needs={"forget"}, net=net)
    run(context, method("class_key_removal"))
    kept = [label for label in range(CLASSES) if label != 2]
    after = context.model(x).softmax(1)
    torch.testing.assert_close(after[:, kept], before[:, kept] / before[:, kept].sum(1, keepdim=True))
    assert (after[:, 2] == 0).all() and (before[:, 2] > 0.01).any()
    assert torch.equal(context.model.query(x), query)


def test_head_surgery_says_where_it_does_not_fit() -> None:
    with pytest.raises(NotApplicable, match="whole classes"):
        check(method("head_surgery"), kind="random", streams=())
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES, bias=False))
    with pytest.raises(NotApplicable, match="no bias"):
        run(make_context("class", needs=(), net=net), method("head_surgery"))


# Fine-tuning


def test_finetune_is_training_on_the_retain_set() -> None:
    context = make_context(needs={"retain"})
    run(context, method("finetune", epochs=2, batch_size=128))
    expected = trained_net()
    plain_loop(expected, plain_sgd(expected, 0.01), [ce(batch) for epoch in (0, 1) for batch in batches(context, "retain", 128, epoch)])
    assert_same(context.model, expected)


def test_finetune_along_a_cosine_takes_pytorchs_learning_rates() -> None:
    context = make_context(needs={"retain"})
    run(context, method("finetune", epochs=2, batch_size=128, schedule="cosine"))
    expected = trained_net()
    optimizer = plain_sgd(expected, 0.01)
    losses = [ce(batch) for epoch in (0, 1) for batch in batches(context, "retain", 128, epoch)]
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(losses))
    plain_loop(expected, optimizer, losses, after=lambda net, number: falling.step())
    assert len(losses) > 2
    assert_same(context.model, expected)


@pytest.mark.parametrize(("blocks", "moved"), [(1, HEAD), (2, LAST_TWO)])
def test_cf_k_leaves_the_rest_bit_for_bit_buffers_too(blocks: int, moved: tuple[str, ...]) -> None:
    context = make_context(needs={"retain"})
    run(context, method("cf_k", blocks=blocks, epochs=2))
    assert changed(context.model) == set(moved)


def test_freezing_by_requires_grad_lets_buffers_drift() -> None:
    """The wrong version of CF-k: no encoder weight moves, its running statistics do."""
    context, wrong, right = make_context(needs={"retain"}), trained_net(), trained_net()
    for net in (wrong, right):
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name in HEAD)
    losses = [ce(batch) for batch in batches(context, "retain", 128)]
    plain_loop(wrong, plain_sgd(wrong, 0.1), losses)
    assert {"1.running_mean", "4.running_var"} <= changed(wrong)
    plain_loop(right, plain_sgd(right, 0.1), losses, frozen_norm=True)
    run(context, method("cf_k", epochs=1, batch_size=128))
    assert_same(context.model, right)


def test_cf_k_wants_blocks_that_exist() -> None:
    with pytest.raises(BadInput, match="1 to 3"):
        run(make_context(needs={"retain"}), method("cf_k", blocks=4))


def test_eu_k_starts_the_last_blocks_anew() -> None:
    context = make_context(needs={"retain"})
    steps = method("eu_k", blocks=2).steps(context)
    edit = next(steps)
    assert isinstance(edit, Edit)
    with torch.no_grad():
        edit.apply(context)
    assert changed(context.model) == set(LAST_TWO)
    fresh = context.fresh_state("eu_k")
    assert all(torch.equal(context.model.state_dict()[name], fresh[name]) for name in LAST_TWO)


def test_eu_k_owes_the_last_blocks_nothing() -> None:
    """The result is the same whatever the last blocks were; the wrong version, CF-k, remembers them."""
    results = {}
    for name in ("eu_k", "cf_k"):
        for damage in (0.0, 0.5):
            net = trained_net()
            with torch.no_grad():
                net[7].weight.add_(damage)
            context = make_context(needs={"retain"}, net=net)
            run(context, method(name, epochs=1))
            results[name, damage] = context.model
    assert not changed(results["eu_k", 0.0], results["eu_k", 0.5])
    assert changed(results["cf_k", 0.0], results["cf_k", 0.5])
    assert changed(results["eu_k", 0.0]) == set(HEAD)


def test_l1_sparse_adds_a_fading_sum_of_absolute_values() -> None:
    context = make_context(needs={"retain"})
    run(context, method("l1_sparse", epochs=3, no_l1_epochs=1, alpha=1e-3, batch_size=128))
    expected = trained_net()

    def loss(batch: Batch, strength: float) -> Callable[[nn.Module], Tensor]:
        return lambda net: F.cross_entropy(net(batch.x), batch.y) + strength * sum(p.abs().sum() for p in net.parameters())

    strengths = enumerate((1e-3, 0.5e-3, 0.0))
    losses = [loss(batch, strength) for epoch, strength in strengths for batch in batches(context, "retain", 128, epoch)]
    plain_loop(expected, plain_sgd(expected, 0.01), losses)
    assert_same(context.model, expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1, 0.75, 0.5, 0.25]),
        ({"no_l1_epochs": 2}, [1, 0.5, 0, 0]),
        ({"penalty": "constant", "no_l1_epochs": 1}, [1, 1, 1, 0]),
        ({"penalty": "growing"}, [0, 0.25, 0.5, 0.75]),
    ],
)
def test_l1_sparse_schedules(fields: dict[str, object], expected: list[float]) -> None:
    for per in ("epoch", "step"):
        sparse = method("l1_sparse", alpha=1.0, epochs=4, per=per, **fields)
        assert [sparse.strength(Progress(5 * epoch, 20, epoch, 4)) for epoch in range(4)] == pytest.approx(expected)
    assert method("l1_sparse", alpha=1.0, epochs=4, per="step").strength(Progress(7, 20, 1, 4)) == pytest.approx(1 - 7 / 20)


def test_l1_sparse_refuses_to_be_fine_tuning() -> None:
    with pytest.raises(ValueError, match="no_l1_epochs must be below epochs"):
        method("l1_sparse", epochs=2, no_l1_epochs=2)


# Ascent


def test_gradient_ascent_climbs_with_frozen_statistics() -> None:
    context = make_context(needs={"forget"})
    before = mean_loss(context, "forget")
    run(context, method("gradient_ascent", lr=1e-3, epochs=1))
    assert mean_loss(context, "forget") > before
    assert not any("running" in name for name in changed(context.model))


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_gradient_ascent_is_descent_on_the_negative(fidelity: str) -> None:
    context = make_context(needs={"forget"})
    run(context, method("gradient_ascent", lr=1e-3, epochs=2, batch_size=16, fidelity=fidelity))
    expected = trained_net()
    losses = [lambda net, b=batch: -F.cross_entropy(net(b.x), b.y) for epoch in (0, 1) for batch in batches(context, "forget", 16, epoch)]
    plain_loop(expected, plain_sgd(expected, 1e-3), losses, frozen_norm=fidelity == "paper")
    assert_same(context.model, expected)


def test_gradient_ascent_stops_at_its_ceiling() -> None:
    outcomes = {}
    for ceiling in (None, 0.5):
        context = make_context("class", needs={"forget"})
        outcomes[ceiling] = run(context, method("gradient_ascent", lr=2e-3, epochs=8, ceiling=ceiling)).phases[0]["epochs"]
        assert mean_loss(context, "forget") > 0.5 * math.log(CLASSES)
    assert outcomes[0.5] < outcomes[None] == 8


@pytest.mark.parametrize("epoch_of", ["retain", "forget"])
def test_neggrad_plus_weighs_descent_and_ascent(epoch_of: str) -> None:
    context = make_context(needs={"forget", "retain"})
    run(context, method("neggrad_plus", alpha=0.9, anchor=0.1, epochs=1, batch_size=32, epoch_of=epoch_of))
    retain = batches(context, "retain", 32)
    forget = [batch for epoch in range(6) for batch in batches(context, "forget", 32, epoch)]
    assert (len(retain), len(forget)) == (12, 12)
    steps = 12 if epoch_of == "retain" else 2
    start, expected = dict(trained_net().named_parameters()), trained_net()

    def loss(f: Batch, r: Batch) -> Callable[[nn.Module], Tensor]:
        def value(net: nn.Module) -> Tensor:
            away = sum(((p - start[name].detach()) ** 2).sum() for name, p in net.named_parameters())
            return 0.9 * (F.cross_entropy(net(r.x), r.y) + 0.1 / 2 * away) - 0.1 * F.cross_entropy(net(f.x), f.y)

        return value

    # The forget batch passes first or second through BatchNorm; the running statistics say which.
    order = [loss(f, r) for f, r in zip(forget[:steps], retain[:steps], strict=True)]
    plain_loop(expected, plain_sgd(expected, 0.01), order)
    assert_same(context.model, expected)


def test_neggrad_plus_paired_adam_and_frozen_statistics() -> None:
    context = make_context(needs={"forget", "retain"})
    run(context, method("NGPlus", optimizer="adam", lr=1e-3, epochs=2, epoch_of="forget", batch_size=40, fidelity="reference"))
    expected = trained_net()

    def loss(f: Batch, r: Batch) -> Callable[[nn.Module], Tensor]:
        return lambda net: 0.95 * F.cross_entropy(net(r.x), r.y) - 0.05 * F.cross_entropy(net(f.x), f.y)

    # A new pass over the retain set begins with every epoch.
    losses = [loss(batches(context, "forget", 40, epoch)[0], batches(context, "retain", 40, epoch)[0]) for epoch in (0, 1)]
    plain_loop(expected, torch.optim.Adam(expected.parameters(), lr=1e-3), losses, frozen_norm=True)
    assert_same(context.model, expected)
    assert not any("running" in name for name in changed(context.model))


def test_the_sources_names_find_their_methods() -> None:
    expected = {
        "raw": "original", "FT": "finetune", "FT_prune": "l1_sparse", "FT_l1": "l1_sparse", "cfk": "cf_k", "euk": "eu_k",
        "GA": "gradient_ascent", "NGPlus": "neggrad_plus", "RL": "random_label", "SRL": "successive_random_label", "SalUn": "salun",
        "RL_proximal": "salun_soft", "SCRUB": "scrub", "SCRUB+R": "scrub_r", "boundary_shrink": "boundary_shrink",
    }  # fmt: skip
    assert {alias: registry.find("methods", alias).name for alias in expected} == expected
    assert copy.deepcopy(method("GA")).tree()["name"] == "gradient_ascent"


@pytest.mark.parametrize("name", ["gradient_ascent", "delete", "head_distillation"])
def test_defaults_for_other_requests_are_fields_within_their_range(name: str) -> None:
    component = registry.find("methods", name)
    assert component.scenario_defaults.keys() <= component.scenarios and component.scenario_defaults
    for fields in component.scenario_defaults.values():
        assert component(**fields) != component()
