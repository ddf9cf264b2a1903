"""What every add-on promises with every method: it keeps its invariant, or it refuses with a reason."""

from typing import Any

import pytest
import torch
from registry_world import ARTEFACTS, all_streams, context_for, same, small, state_of
from test_methods import field_problems

from expunge import registry
from expunge.addons.prune import prunable
from expunge.engine.context import Context
from expunge.engine.measure import logits_of
from expunge.engine.method import Addon
from expunge.engine.parameters import adapters, effective
from expunge.engine.phase import Phase
from expunge.engine.run import check, run
from expunge.engine.select import density
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd
from expunge.errors import Diverged, NotApplicable

METHODS, ADDONS = registry.names("methods"), registry.names("addons")
FEW = ["finetune", "salun", "scrub", "msg", "ssd", "fisher_forgetting", "retrain", "cf_k"]

LATE = {("salun_soft", "lora")}
"""Combinations that only a step of the method shows to be impossible."""


def kind_for(method) -> str:
    return "class" if "class" in method.scenarios else sorted(method.scenarios)[0]


def refusal(method, *chosen) -> str:
    """Return the reason for which the engine refuses the combination; empty if it does not."""
    try:
        check(method, chosen, kind=kind_for(method), streams=list(all_streams("class")), artefacts=ARTEFACTS)
    except NotApplicable as error:
        return error.problem
    return ""


class Watch(Addon):
    """Keeps what the layers computed with before and after each phase, seen from outside of all other add-ons."""

    seen: list[Any] = []

    def rewrite(self, steps, ctx):
        for step in steps:
            before = {name: value.detach().clone() for name, value in effective(ctx.model).items()}
            buffers = {name: value.clone() for name, value in ctx.model.named_buffers()}
            yield step
            after = {name: value.detach().clone() for name, value in effective(ctx.model).items()}
            kept = all(torch.equal(value, buffers[name]) for name, value in ctx.model.named_buffers())
            self.seen.append((step, before, after, kept))


def finish(method, *chosen) -> tuple[Context, list[Any]]:
    watch = Watch(seen=[])
    context, _ = context_for(method, chosen, kind=kind_for(method))
    run(context, method, [*chosen, watch])
    return context, watch.seen


def head_names(context: Context) -> set[str]:
    return set(context.architecture.class_rows(0))


def check_saliency(addon, context: Context, seen: list[Any]) -> None:
    fresh, _ = context_for(small("methods", "salun"), (addon,), kind=context.kind)
    mask = addon.mask(fresh)
    assert density(mask) == pytest.approx(addon.density, abs=1e-3)
    frozen = 0
    for name, value in state_of(context).items():
        if name in mask:
            assert torch.equal(value[mask[name] == 0], context.original[name][mask[name] == 0]), name
            frozen += int((mask[name] == 0).sum())
    assert frozen > 100


def check_pruned(addon, context: Context, seen: list[Any]) -> None:
    fresh, _ = context_for(small("methods", "finetune"), (addon,), kind=context.kind)
    mask = addon.mask(fresh)
    state = state_of(context)
    assert 1 - density(mask) == pytest.approx(addon.sparsity, abs=1e-2)
    assert not head_names(context) & set(mask)
    for name, value in mask.items():
        assert (state[name][value == 0] == 0).all(), name
    assert len(seen) >= 1 and all((after[name][value == 0] == 0).all() for _, _, after, _ in seen for name, value in mask.items())


def check_low_rank(addon, context: Context, seen: list[Any]) -> None:
    phases = [entry for entry in seen if isinstance(entry[0], Phase)]
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
    assert list(context.model.state_dict()) == list(context.original.state)


def check_sam(addon, context: Context, seen: list[Any]) -> None:
    phases = [entry[0] for entry in seen if isinstance(entry[0], Phase)]
    assert phases and all(phase.perturb is not None for phase in phases)


CHECKS = {
    "saliency_mask": (check_saliency, {}),
    "prune": (check_pruned, {"sparsity": 0.7}),
    "lora": (check_low_rank, {"rank": 2, "alpha": 2.0}),
    "sam": (check_sam, {}),
}


def test_every_addon_has_its_invariant():
    assert CHECKS.keys() <= set(ADDONS) and {"lora", "prune", "saliency_mask", "sam"} <= CHECKS.keys()


@pytest.mark.parametrize("addon_name", sorted(CHECKS))
@pytest.mark.parametrize("name", METHODS)
def test_keeps_its_invariant_or_refuses(name, addon_name):
    invariant, fields = CHECKS[addon_name]
    method, addon = small("methods", name), small("addons", addon_name, **fields)
    reason = refusal(method, addon)
    if reason:
        assert len(reason) > 30 and f"method={name}" in reason
        return
    try:
        context, seen = finish(method, addon)
    except NotApplicable as error:  # known only once a phase is there
        assert len(error.problem) > 30 and (name, addon_name) in LATE
        return
    assert all(torch.isfinite(value).all() for value in state_of(context).values())
    assert list(state_of(context)) == list(context.original.state)
    invariant(addon, context, seen)


@pytest.mark.parametrize("name", METHODS)
def test_gradient_addons_refuse_exactly_the_methods_without_phases(name):
    method = small("methods", name)
    _, seen = finish(method)
    has_phase = any(isinstance(entry[0], Phase) for entry in seen)
    assert (refusal(method, small("addons", "sam")) == "") == has_phase


@pytest.mark.parametrize("addon_name", sorted(CHECKS))
@pytest.mark.parametrize("name", FEW)
def test_same_seed_same_weights(name, addon_name):
    method, addon = small("methods", name), small("addons", addon_name)
    if refusal(method, addon):
        return
    first, second = finish(method, addon)[0], finish(method, addon)[0]
    assert same(state_of(first), state_of(second)) and not same(state_of(first), first.original.state)


@pytest.mark.parametrize("order", [("saliency_mask", "lora"), ("lora", "saliency_mask")])
@pytest.mark.parametrize("name", ["finetune", "salun", "scrub", "msg"])
def test_adapters_and_mask_work_in_either_order(name, order):
    method = small("methods", name)
    chosen = [small("addons", key, **CHECKS[key][1]) for key in order]
    context, seen = finish(method, *chosen)
    for addon in chosen:
        CHECKS[addon.name][0](addon, context, seen)
    assert not same(state_of(context), context.original.state)


@pytest.mark.parametrize("order", [("prune", "lora", "sam"), ("sam", "lora", "prune"), ("lora", "prune", "saliency_mask")])
def test_three_at_once(order):
    chosen = [small("addons", key, **CHECKS[key][1]) for key in order]
    context, _ = finish(small("methods", "salun"), *chosen)
    zeros = [(value == 0).double().mean() for name, value in state_of(context).items() if name in prunable(context)]
    assert zeros and not adapters(context.model)
    total = sum((value == 0).sum() for value in prunable(context).values()) / sum(value.numel() for value in prunable(context).values())
    assert float(total) >= 0.69 or order[2] == "saliency_mask"


@pytest.mark.parametrize("addon_name", sorted(CHECKS))
def test_refusals_name_the_addon_and_the_method(addon_name):
    method, addon = small("methods", "original"), small("addons", addon_name)
    if addon_name == "prune":
        context, seen = finish(method, addon)
        check_pruned(addon, context, seen)
        return
    with pytest.raises(NotApplicable, match=f"addons={addon_name}.*method=original.*step"):
        check(method, [addon], kind="random", streams=list(all_streams("random")))


@pytest.mark.parametrize("addon_name", ADDONS)
def test_fields_are_described_ranged_and_validated(addon_name):
    addon = registry.find("addons", addon_name)
    assert field_problems(addon) == []
    assert addon.source and addon.summary()


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
