"""What the author of a model has frozen stays as it is, whatever the method: it moves what is left, or says that it cannot."""

from collections.abc import Sequence

import pytest
import torch
from registry_world import KINDS, context_for, small, state_of

from expunge import registry
from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd
from expunge.errors import BadInput

PARTS = {
    "body": ("0.weight", "0.bias"),
    "bias": ("0.bias",),
    "norm": ("1.weight",),
    "layer": ("1.weight", "1.bias"),
    "head": ("7.weight", "7.bias"),
}
CASES = [
    (name, kind, part)
    for name in registry.names("methods")
    for kind in KINDS[:2]
    if kind in registry.find("methods", name).scenarios
    for part in PARTS
]


ANEW = {"contrastive_train", "lottery_ticket", "retrain", "retrain_sam", "retrain_smoothed", "untrained"}
"""Methods, and an add-on, that start from a new model, in which a layer that is frozen in part starts as the layer says."""


def moved(method: Method, kind: str, part: str, addons: Sequence[Addon] = ()) -> tuple[list[str], bool]:
    """Run a method; return the frozen entries that it has moved, and whether it has moved anything."""
    context, _ = context_for(method, addons, kind=kind, frozen=PARTS[part])
    before = state_of(context)
    run(context, method, addons)
    after = state_of(context)
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    return [key for key in changed if key in PARTS[part]], bool(changed)


@pytest.mark.parametrize(("name", "kind", "part"), CASES)
def test_frozen_weights_stay_bit_for_bit_or_the_method_says_why_not(name, kind, part):
    try:
        wrong, anything = moved(small("methods", name, kind), kind, part)
    except BadInput as refusal:
        assert "frozen" in str(refusal)
        return
    expected = list(PARTS[part]) if name in ANEW and part in ("bias", "norm") else []
    assert wrong == expected and anything == (name != "original")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", registry.names("addons"))
def test_frozen_weights_stay_under_every_addon(name, part):
    addon = small("addons", name)
    method = next(
        found
        for found in (small("methods", label) for label in ("finetune", "random_label", "neggrad_plus", "bad_teacher", "scrub"))
        if not addon.refuse(found)
    )
    kind = "random" if "random" in addon.scenarios else "class"
    try:
        wrong, anything = moved(method, kind, part, [addon])
    except BadInput as refusal:
        assert "frozen" in str(refusal) or name == "last_k"
        return
    assert wrong == (list(PARTS[part]) if name in ANEW and part in ("bias", "norm") else []) and anything


@pytest.mark.parametrize("part", PARTS)
def test_a_model_that_starts_anew_keeps_what_was_not_learned_here(part):
    """And its statistics, where the whole layer is frozen: such a layer passes forward in eval mode, and would never find others."""
    net_of, _ = context_for(small("methods", "retrain"), frozen=PARTS[part])
    before, fresh = state_of(net_of), net_of.fresh_state("test")
    kept = {key for key in before if torch.equal(before[key], fresh[key])}
    layer = {key for key in before if key.startswith("1.")}
    assert kept == {"bias": set(), "norm": set(), "layer": layer}.get(part, set(PARTS[part]))


class Stubborn(Method):
    """Moves the head and nothing else."""

    needs = {"retain"}
    source = "test"

    def steps(self, ctx: Context) -> Steps:
        """Yield two ways."""
        yield reinitialise(["3.weight", *PARTS["head"]])
        yield Phase([Term("retain", cross_entropy)], epochs=1, optimizer=sgd(0.1), trainable=frozenset(PARTS["head"]))


def test_a_phase_that_could_move_nothing_is_refused_and_an_edit_spares_what_is_frozen():
    context, _ = context_for(Stubborn(), frozen=PARTS["head"])
    before = state_of(context)
    with pytest.raises(BadInput, match="frozen"):
        run(context, Stubborn())
    after = state_of(context)
    assert all(torch.equal(before[key], after[key]) for key in PARTS["head"]) and not torch.equal(before["3.weight"], after["3.weight"])
