"""What every add-on promises with every method: it keeps its invariant, or it refuses with a reason.

The cross of all methods and all add-ons runs on a net of 600 weights and one batch for each set, so that it costs seconds.
"""

import copy
import json
from functools import cache
from typing import Any

import pytest
import torch
from registry_world import ARTEFACTS, EAGER, SMALL, OneEpoch, all_streams, context_for, same, small, state_of
from test_methods import field_problems
from torch import nn

from conftest import CLASSES, SOURCE
from expunge import cli, registry
from expunge.addons import applicability, pairs
from expunge.addons.importance import prunable
from expunge.addons.plan import plan
from expunge.bench.compatibility import compatibility
from expunge.engine.combine import Chain, joined, total
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.loop import run_phase
from expunge.engine.measure import logits_of, mean_loss
from expunge.engine.method import Addon, Method
from expunge.engine.parameters import adapters, dot, effective
from expunge.engine.phase import Phase
from expunge.engine.run import check, run
from expunge.engine.select import density
from expunge.engine.stream import Stream
from expunge.engine.terms import Forward, Term, cross_entropy
from expunge.engine.update import sgd
from expunge.errors import Diverged, NotApplicable, UndeclaredAccess

METHODS, ADDONS = registry.names("methods"), registry.names("addons")
FEW = ["finetune", "salun", "neggrad_plus", "msg", "ssd", "retrain", "cf_k"]
ONE_BATCH = {**SMALL, "batch_size": 64, "forget_batch_size": 64, "examples": 16}


# A small world


def _index() -> dict[str, torch.Tensor]:
    first, labels = torch.arange(60), SOURCE.labels[:60]
    return {
        "forget": first[labels == 2],
        "retain": first[labels != 2],
        "validation": torch.arange(400, 430),
        "surrogate": torch.arange(430, 450),
    }


@cache
def _trained(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 6, 3, 2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Flatten(), nn.Linear(24, CLASSES),
        )  # fmt: skip
    context = Context(net, {"train": Stream("train", SOURCE, torch.arange(60))}, needs={"train"}, seed=seed, num_classes=CLASSES)
    run_phase(context, Phase([Term("train", cross_entropy)], epochs=10, optimizer=sgd(0.1), batch_size=20))
    return net


@cache
def _architecture():
    return world(set()).architecture


def world(needs, addons=(), shared: bool = False) -> Context:
    """Return a context with a request for class 2 around a net that is trained once; it knows where the head is if ``shared``."""
    context = Context(
        copy.deepcopy(_trained(0)),
        {name: Stream(name, SOURCE, index) for name, index in _index().items()},
        needs=set(needs).union(*(addon.needs for addon in addons)),
        seed=0,
        num_classes=CLASSES,
        forget_classes=(2,),
        kind="class",
        recipe=OneEpoch(),
        oracle=_trained(1),
    )
    if shared:
        context.__dict__["architecture"] = _architecture().on(context.model)
    return context


@cache
def quick(name: str) -> Method:
    """Return a method that takes few steps."""
    component = registry.find("methods", name)
    return component(**{key: value for key, value in {**ONE_BATCH, **EAGER.get(name, {})}.items() if key in component.model_fields})


def refusal(method, *chosen) -> str:
    """Return the reason for which the engine refuses the combination; empty if it does not."""
    shared = set(method.scenarios).intersection(*(addon.scenarios for addon in chosen)) or method.scenarios
    kind = "class" if "class" in shared else sorted(shared)[0]
    try:
        check(method, chosen, kind=kind, streams=list(_index()), artefacts=ARTEFACTS)
    except NotApplicable as error:
        return error.problem
    return ""


class Watch(Addon):
    """Keeps what the layers computed with before and after each phase and what combiners were given, from outside of all other add-ons."""

    seen: list[Any] = []
    joins: list[Any] = []

    def rewrite(self, steps, ctx):
        for step in steps:
            before = {name: value.detach().clone() for name, value in effective(ctx.model).items()}
            buffers = {name: value.clone() for name, value in ctx.model.named_buffers()}
            yield step.but(combine=self.spied(step.combine)) if isinstance(step, Phase) and step.combine else step
            after = {name: value.detach().clone() for name, value in effective(ctx.model).items()}
            kept = all(torch.equal(value, buffers[name]) for name, value in ctx.model.named_buffers())
            self.seen.append((step, before, after, kept))

    def spied(self, combine):
        def spy(gradients, state):
            update = combine(gradients, state)
            self.joins.append((combine, gradients, update))
            return update

        return spy


def finish(method, *chosen) -> tuple[Context, Watch]:
    watch = Watch(seen=[], joins=[])
    context = world(method.needs, chosen, shared=True)
    run(context, method, [*chosen, watch])
    return context, watch


def head_names(context: Context) -> set[str]:
    return set(context.architecture.class_rows(0))


def phases_of(watch: Watch) -> list[Phase]:
    found = [entry[0] for entry in watch.seen if isinstance(entry[0], Phase)]
    assert found
    return found


# Invariants


def check_frozen(addon, context: Context, watch: Watch) -> None:
    mask = addon.mask(world({"forget"}, shared=True))
    assert density(mask) == pytest.approx(addon.keep, abs=2e-3)
    state = context.model.state_dict()
    assert all(torch.equal(state[name][value == 0], context.original[name][value == 0]) for name, value in mask.items())


def check_pruned(addon, context: Context, watch: Watch) -> None:
    mask, state = addon.mask(world({"retain"}, shared=True)), context.model.state_dict()
    assert 1 - density(mask) == pytest.approx(addon.sparsity, abs=1e-2)
    assert not head_names(context) & set(mask)
    for name, value in mask.items():
        assert (state[name][value == 0] == 0).all(), name
    assert all((after[name][value == 0] == 0).all() for _, _, after, _ in watch.seen for name, value in mask.items())


def check_ticket(addon, context: Context, watch: Watch) -> None:
    values = prunable(context)
    zeros = sum(int((value == 0).sum()) for value in values.values()) / sum(value.numel() for value in values.values())
    assert zeros >= addon.sparsity - 1e-2 and len(phases_of(watch)) >= 1 + addon.cycles


def check_low_rank(addon, context: Context, watch: Watch) -> None:
    phases = [entry for entry in watch.seen if isinstance(entry[0], Phase)]
    assert phases
    for phase, before, after, buffers_kept in phases:
        assert buffers_kept and phase.norm == "frozen"
        for name in before.keys() - head_names(context):
            change = after[name] - before[name]
            if change.dim() < 2:
                assert not change.any(), name
            elif phase.mask is None or bool((phase.mask.get(name, torch.ones(1)) == 1).all()):
                values = torch.linalg.svdvals(change.flatten(1).double())
                assert (values > 1e-6 * before[name].double().flatten(1).norm()).sum() <= addon.rank, name
    assert not adapters(context.model)


def check_perturbed(addon, context: Context, watch: Watch) -> None:
    assert all(phase.perturb is not None for phase in phases_of(watch))


def check_clipped(addon, context: Context, watch: Watch) -> None:
    assert all(phase.clip is not None and phase.clip <= addon.norm for phase in phases_of(watch))


def check_noisy(addon, context: Context, watch: Watch) -> None:
    assert all(phase.after_step for phase in phases_of(watch))
    for phase, before, after, _ in watch.seen:
        if isinstance(phase, Phase) and phase.trainable is None and phase.mask is None:
            assert all((after[name] != before[name]).double().mean() > 0.99 for name in before)


def check_averaged(addon, context: Context, watch: Watch) -> None:
    assert all(phase.at_end and phase.follow for phase in phases_of(watch))


def check_mixed(addon, context: Context, watch: Watch) -> None:
    assert all(phase.precision == "bfloat16" for phase in phases_of(watch))
    assert all(value.dtype != torch.bfloat16 for value in context.model.state_dict().values())


def check_optimizer(addon, context: Context, watch: Watch) -> None:
    assert all((phase.optimizer.kind, phase.optimizer.lr) == (addon.kind, addon.lr) for phase in phases_of(watch))


def check_last(addon, context: Context, watch: Watch) -> None:
    allowed = {name.rpartition(".")[0] for name in context.architecture.last_blocks(addon.blocks)}
    for name, value in context.model.state_dict().items():
        assert name.rpartition(".")[0] in allowed or torch.equal(value, context.original[name]), name


def check_weighted(addon, context: Context, watch: Watch) -> None:
    terms = [term for phase in phases_of(watch) for term in phase.terms if isinstance(term, Term)]
    weighted = [term for term in terms if hasattr(term.loss, "__wrapped__")]
    assert weighted and all(pairs.is_forgotten(context, term) for term in weighted)


def check_braked(addon, context: Context, watch: Watch) -> None:
    """All forgotten examples of the world have one class: the better one is known, the larger its weight, from 0 to 2."""
    check_weighted(addon, context, watch)
    batch = next(context.stream("forget").batches(100))
    student = Forward(context, batch)
    weight = addon.weights(context)(context, batch, student, batch.x)[student.logits.softmax(1)[:, 2].argsort()]
    assert len(weight) == 12 and (weight >= 0).all() and (weight <= 2).all() and (weight.diff() >= 0).all()


def check_spotted(addon, context: Context, watch: Watch) -> None:
    met = [phase for phase in phases_of(watch) if applicability.has_forget_term(context, phase)]
    assert met
    for phase in met:
        beside, alike = phase.terms[-2:]
        assert len(phase.terms) > 2 and pairs.is_forgotten(context, beside) and pairs.is_forgotten(context, alike)
        assert beside.weight == 1 - addon.own_share and alike.weight == addon.dispersion and alike.features


def joins(watch: Watch, *, by_sum: bool = True) -> list[Any]:
    """Return ``(forget, retain, update)`` of the steps that an add-on changed and in which both sides took part."""
    changed = [(combine, gradients, update) for combine, gradients, update in watch.joins if isinstance(combine, Chain)]
    assert changed
    return [
        (gradients["forget"], gradients["retain"], update)
        for combine, gradients, update in changed
        if gradients.keys() == {"forget", "retain"} and (not by_sum or combine.join is total)
    ]


def check_agreeing(addon, context: Context, watch: Watch) -> None:
    for forget, retain, update in joins(watch):
        for f, r, u in zip(forget, retain, update, strict=True):
            assert not u[f * r < -1e-30].any()


def check_focused(addon, context: Context, watch: Watch) -> None:
    for forget, retain, update in joins(watch):
        for f, r, u in zip(forget, retain, update, strict=True):
            assert (u.abs() <= (f + r).abs() * 1.0001).all() and (u * (f + r) >= 0).all()


def check_feasible(addon, context: Context, watch: Watch) -> None:
    for forget, retain, update in joins(watch):
        for f, r, u in zip(forget, retain, update, strict=True):
            slack = 1e-5 * float(f.norm() + r.norm()) * float(u.norm())
            assert float((f * u).sum()) >= -slack and float((r * u).sum()) >= -slack


def check_surgery(addon, context: Context, watch: Watch) -> None:
    for _, retain, update in joins(watch, by_sum=False):
        assert float(dot(update, retain)) >= -1e-5 * float(dot(retain, retain) + dot(update, update))


def check_salient(addon, context: Context, watch: Watch) -> None:
    for forget, _, update in joins(watch):
        for f, u in zip(forget, update, strict=True):
            assert not u[f.abs() < torch.quantile(f.abs(), addon.quantile)].any()


CHECKS = {
    "asam": (check_perturbed, {}),
    "batch_saliency": (check_salient, {}),
    "clip": (check_clipped, {"norm": 0.5}),
    "ema": (check_averaged, {"decay": 0.5}),
    "falw": (check_braked, {}),
    "gradient_focus": (check_focused, {}),
    "gradient_mask": (check_agreeing, {}),
    "gradient_surgery": (check_surgery, {}),
    "last_k": (check_last, {}),
    "lora": (check_low_rank, {"rank": 2, "alpha": 2.0}),
    "lottery_ticket": (check_ticket, {"sparsity": 0.5}),
    "mixed_precision": (check_mixed, {}),
    "noise": (check_noisy, {"deviation": 1e-3}),
    "optimal_mask": (check_feasible, {}),
    "optimizer": (check_optimizer, {"kind": "adam", "lr": 1e-3}),
    "prune": (check_pruned, {"sparsity": 0.7}),
    "random_mask": (check_frozen, {}),
    "reweight": (check_weighted, {}),
    "saliency_mask": (check_frozen, {}),
    "sam": (check_perturbed, {}),
    "second_order_sam": (check_perturbed, {}),
    "spotter": (check_spotted, {}),
}


@cache
def quick_addon(name: str) -> Addon:
    """Return an add-on with the settings of its check, and little repair."""
    component, fields = registry.find("addons", name), CHECKS[name][1] if name in CHECKS else {}
    return component(**{key: value for key, value in ONE_BATCH.items() if key in component.model_fields}, **fields)


def test_every_addon_has_its_invariant():
    assert sorted(CHECKS) == ADDONS


@pytest.mark.parametrize("addon_name", sorted(CHECKS))
@pytest.mark.parametrize("name", METHODS)
def test_keeps_its_invariant_or_refuses(name, addon_name):
    method, addon = quick(name), quick_addon(addon_name)
    reason = refusal(method, addon)
    if reason:
        assert len(reason) > 30 and f"method={name}" in reason
        return
    context, watch = finish(method, addon)
    assert all(torch.isfinite(value).all() for value in context.model.state_dict().values())
    assert list(context.model.state_dict()) == list(context.original.state)
    CHECKS[addon_name][0](addon, context, watch)


FEATURES = {
    "takes gradient steps": lambda context, phase: True,
    "pairs": lambda context, phase: pairs.pair(context, phase) is not None,
    "adds up": lambda context, phase: pairs.added_up(context, phase) is not None,
    "forget gradient": lambda context, phase: pairs.forgetting(context, phase) is not None,
    "forget term": applicability.has_forget_term,
    "perturbs": lambda context, phase: phase.perturb is not None,
    "after step": lambda context, phase: bool(phase.after_step),
    "selects": lambda context, phase: phase.select is not None,
}


@pytest.mark.parametrize("name", METHODS)
def test_the_plan_of_a_method_is_what_it_does(name):
    """Refusals rest on it: one that is wrong would keep an add-on from a method that it fits."""
    method = quick(name)
    planned, (context, watch) = plan(method), finish(method)
    phases = [entry[0] for entry in watch.seen if isinstance(entry[0], Phase)]
    assert planned.complete
    for feature, has in FEATURES.items():
        does = any(has(context, phase) for phase in phases)
        assert any(has(planned.context, phase) for phase in planned.phases) == does, feature
    assert bool(planned.phases or planned.edits) == (len(watch.seen) > 0)


@pytest.mark.parametrize("addon_name", sorted(CHECKS))
@pytest.mark.parametrize("name", FEW)
def test_same_seed_same_weights(name, addon_name):
    method, addon = quick(name), quick_addon(addon_name)
    if refusal(method, addon):
        return
    first, second = finish(method, addon)[0], finish(method, addon)[0]
    assert same(state_of(first), state_of(second)) and not same(state_of(first), dict(_trained(0).state_dict()))


@pytest.mark.parametrize("order", [("saliency_mask", "lora"), ("lora", "saliency_mask")])
@pytest.mark.parametrize("name", ["finetune", "salun", "scrub", "msg"])
def test_adapters_and_mask_work_in_either_order(name, order):
    method, chosen = quick(name), [quick_addon(key) for key in order]
    context, watch = finish(method, *chosen)
    for addon in chosen:
        CHECKS[addon.name][0](addon, context, watch)
    assert not same(state_of(context), context.original.state)


PILES = [
    ("prune", "lora", "sam"),
    ("sam", "lora", "prune"),
    ("lora", "prune", "saliency_mask"),
    ("prune", "gradient_focus", "optimal_mask", "sam", "clip", "ema"),
    ("ema", "optimizer", "random_mask", "gradient_mask", "second_order_sam"),
    ("last_k", "lora", "reweight", "gradient_surgery", "asam"),
    ("ema", "lora"),
    ("lora", "ema"),
]
PARTIAL = {"gradient_focus", "gradient_mask", "gradient_surgery", "optimal_mask", "saliency_mask", "prune", "random_mask"}
"""Add-ons whose check asks for what others in a pile change as well, such as the repair of an outer one."""


@pytest.mark.parametrize("order", PILES)
def test_several_at_once(order):
    method, chosen = quick("neggrad_plus"), [quick_addon(key) for key in order]
    context, watch = finish(method, *chosen)
    pruned = order.index("prune") if "prune" in order else 0
    for addon in [addon for addon in chosen[pruned:] if addon.name not in PARTIAL]:
        CHECKS[addon.name][0](addon, context, watch)
    if "prune" in order:
        values = prunable(context).values()
        zeros = sum(int((value == 0).sum()) for value in values) / sum(value.numel() for value in values)
        assert zeros >= 0.69 or "saliency_mask" in order
    assert not adapters(context.model) and not same(state_of(context), context.original.state)


@pytest.mark.parametrize("outer", ADDONS)
def test_two_addons_that_cannot_go_together_are_refused_before_any_work(outer):
    """What the check lets through runs, and what it refuses would have failed; the reason names both."""
    method, together = quick("neggrad_plus"), 0
    for inner in ADDONS:
        if inner == outer:
            continue
        chosen = [quick_addon(inner), quick_addon(outer)]
        reason = refusal(method, *chosen)
        if reason:
            assert f"cannot go on {inner} with method=neggrad_plus" in reason
            if "requests" in reason:
                continue  # one is for classes and the other for parts of classes
            with pytest.raises(NotApplicable):
                run(world(method.needs, chosen), method, chosen)
        together += not reason
    assert together >= len(ADDONS) - 4


@pytest.mark.parametrize("pair", [("sam", "asam"), ("noise", "lora"), ("gradient_surgery", "optimal_mask")])
def test_these_two_are_refused(pair):
    assert pair[0] in refusal(quick("neggrad_plus"), *map(quick_addon, pair))


@pytest.mark.parametrize("addon_name", ["saliency_mask", "random_mask", "last_k", "lora"])
def test_weights_of_the_original_are_not_kept_in_a_model_that_starts_anew(addon_name):
    addon = quick_addon(addon_name)
    for name in ("contrastive_train", "retrain"):
        assert "gives every weight a new random value" in refusal(quick(name), addon)
    assert refusal(quick("untrained"), addon)
    assert not refusal(quick("contrastive_train").but(renew=False), addon) and not refusal(quick("fsf"), addon)


@pytest.mark.parametrize("name", ["pdu", "famo"])
def test_adapters_carry_a_method_whose_rule_after_steps_moves_no_weight(name):
    method, lora = quick(name), quick_addon("lora")
    assert not refusal(method, lora)
    context, watch = finish(method, lora)
    CHECKS["lora"][0](lora, context, watch)
    for other in ("noisy_finetune", "salun_soft"):
        assert "changes weights after each step" in refusal(quick(other), lora)


@pytest.mark.parametrize("addon_name", sorted(CHECKS))
def test_refusals_name_the_addon_and_the_method(addon_name):
    method, addon = quick("original"), quick_addon(addon_name)
    if addon_name in ("prune", "lottery_ticket"):
        context, watch = finish(method, addon)
        CHECKS[addon_name][0](addon, context, watch)
        return
    with pytest.raises(NotApplicable, match=f"addons={addon_name}.*method=original.*step"):
        check(method, [addon], kind="random", streams=list(all_streams("random")))


@pytest.mark.parametrize("addon_name", ADDONS)
def test_fields_are_described_ranged_and_validated(addon_name):
    addon = registry.find("addons", addon_name)
    assert field_problems(addon) == []
    assert addon.source and addon.summary()


# The matrix


def test_the_matrix_is_what_the_engine_refuses(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "names", lambda kind: FEW if kind == "methods" else ADDONS)
    found = compatibility()
    assert found["methods"] == FEW and found["addons"] == ADDONS and len(found["reasons"]) >= 4
    refused = 0
    for name in FEW:
        for addon in ADDONS:
            key = found["matrix"][name][addon]
            reason = refusal(registry.find("methods", name)(), registry.find("addons", addon)())
            assert (key == "yes") == (reason == "") and (key == "yes" or reason.endswith(found["reasons"][key]))
            refused += key != "yes"
    assert 20 < refused < len(FEW) * len(ADDONS) - 20
    monkeypatch.setattr("sys.argv", ["expunge", "list", "compatibility", "--json"])
    cli.main()
    assert json.loads(capsys.readouterr().out) == found  # from the cache by now
    monkeypatch.setattr("sys.argv", ["expunge", "list", "compatibility"])
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.split()[0] in FEW] == FEW
    assert lines[-len(found["reasons"])].startswith("a: ")


# Failures


class Explodes(Addon):
    """Makes every phase diverge in its second epoch."""

    def rewrite(self, steps, ctx):
        for step in steps:
            bad = Term("retain", lambda context, batch, student: cross_entropy(context, batch, student) * 1e30, name="explosion")
            yield step.but(terms=[bad], optimizer=sgd(1e30), epochs=3) if isinstance(step, Phase) else step


@pytest.mark.parametrize("order", [0, 1])
def test_a_run_that_diverges_leaves_plain_weights(order):
    method, lora = small("methods", "finetune"), small("addons", "lora")
    context, _ = context_for(method, [lora])
    chosen = [Explodes(), lora] if order == 0 else [lora, Explodes()]
    with pytest.raises(Diverged) as error:
        run(context, method, chosen)
    assert error.tb is not None  # the traceback keeps the generators alive, so that nothing but the engine has closed them
    assert not adapters(context.model)
    assert list(context.model.state_dict()) == list(context.original.state)
    assert all(torch.isfinite(value).all() for value in state_of(context).values())
    assert all(parameter.requires_grad for parameter in context.model.parameters())
    assert torch.isfinite(logits_of(context, "retain")[0]).all()


class OnlyForgets(Method):
    """Declares the forget set, and reads the retained data in the way that ``how`` says."""

    needs = {"forget"}
    how: str = "not at all"

    def steps(self, ctx):
        if self.how == "while it thinks":
            mean_loss(ctx, "retain")
        yield Phase([Term("retain" if self.how == "in a phase" else "forget", cross_entropy)], batch_size=64)
        if self.how == "in an edit":
            yield Edit("peek", lambda context: mean_loss(context, "retain"))
        if self.how == "while it thinks again":
            mean_loss(ctx, "retain")


class Nosy(Addon):
    """Reads the forget set without declaring it."""

    def rewrite(self, steps, ctx):
        mean_loss(ctx, "forget")
        yield from steps


HOWS = ["while it thinks", "in a phase", "in an edit", "while it thinks again"]


@pytest.mark.parametrize("around", [("prune",), ("saliency_mask", "prune"), ("prune", "clip", "last_k")])
@pytest.mark.parametrize("how", HOWS)
def test_what_an_addon_declares_widens_nothing_for_the_method(how, around):
    chosen = [quick_addon(name) for name in around]
    method = OnlyForgets(how=how)
    with pytest.raises(UndeclaredAccess, match="'retain' but declares only .'forget'."):
        run(world(method.needs, chosen), method, chosen)
    run(world(method.needs, chosen), OnlyForgets(), chosen)  # the repair itself reads what prune declares


def test_what_a_method_declares_widens_nothing_for_an_addon():
    method = OnlyForgets()
    with pytest.raises(UndeclaredAccess, match="'forget' but declares only .."):
        run(world(method.needs), method, [Nosy()])
    context = world(method.needs)
    with context.granted({"retain"}):
        assert context.needs == {"retain"}
    assert context.needs == {"forget"} and joined(None) is total
