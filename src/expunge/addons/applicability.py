"""What add-ons ask of a method before any work. Each function returns a reason to refuse, empty if there is none."""

from collections.abc import Callable

import torch

from expunge.addons.pairs import added_up, forgetting, is_forgotten, pair
from expunge.addons.plan import Planned, plan
from expunge.engine.context import Context
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.run import Under
from expunge.engine.terms import Term
from expunge.errors import NotApplicable

NO_PAIR = "with its settings no phase has steps that see forgotten and retained data at once, and so two gradients never meet."
NO_FORGET_GRADIENT = "with its settings no phase has a gradient of forgotten data apart from that of retained data."
NO_FORGET_TERM = "none of its phases has a loss on forgotten data."
OWN_RULE = "it joins the gradients of its groups by a rule of its own."


def changes_nothing(method: Method) -> str:
    """Say why an add-on that rewrites steps is pointless."""
    planned = plan(method)
    if planned.complete and not planned.phases and not planned.edits:
        return "it leaves the model as it is, so there is no step to rewrite."
    return ""


def trains_anew(method: Method) -> str:
    """Say why an add-on that keeps weights of the original contradicts the method.

    Add-ons below are not asked: what they make anew, as `lottery_ticket` does, is the original itself.
    """
    own = method.method if isinstance(method, Under) else method
    if "recipe" in own.needs or any(edit.anew for edit in plan(own).edits):
        return "it gives every weight a new random value, and frozen weights would carry the original's into the new model."
    return ""


def takes_no_gradient_step(method: Method) -> str:
    """Say why an add-on that acts on optimiser steps has nothing to act on."""
    return _unless(method, lambda context, phase: True, "it takes no gradient step.")


def never_pairs(method: Method) -> str:
    """Say why an add-on that compares the gradients of forgotten and retained data has nothing to compare."""
    return _unless(method, lambda context, phase: pair(context, phase) is not None, NO_PAIR)


def joins_by_its_own_rule(method: Method) -> str:
    """Say why an add-on that joins two gradients, or rests on their sum, has no place."""
    return _unless(method, lambda context, phase: added_up(context, phase) is not None, OWN_RULE)


def no_forget_gradient(method: Method) -> str:
    """Say why an add-on that ranks weights by the forget gradient of a step has nothing to rank by."""
    return _unless(method, lambda context, phase: forgetting(context, phase) is not None, NO_FORGET_GRADIENT)


def scores_no_forgotten_data(method: Method) -> str:
    """Say why an add-on that changes losses on forgotten data has none to change."""
    return _unless(method, has_forget_term, NO_FORGET_TERM)


def has_forget_term(context: Context, phase: Phase) -> bool:
    """Return whether a phase has a loss on forgotten data."""
    return any(isinstance(term, Term) and is_forgotten(context, term) for term in phase.terms)


def perturbs_already(method: Method) -> str:
    """Say why a second displacement of the weights has no meaning."""
    return _if_any(method, lambda phase: phase.perturb is not None, "it takes its gradients at perturbed weights already.")


def changes_weights_after_steps(method: Method) -> str:
    """Say why adapters cannot carry what the method does."""
    reason = "it changes weights after each step by a rule of its own, and adapters are no weights."
    return _if_any(method, lambda phase: bool(phase.after_step), reason)


def needs_all_parameters(method: Method) -> str:
    """Say what a method's rule for joining gradients answers when it is given those of other parameters than the model's."""
    for phase in plan(method).phases:
        if phase.combine is not None:
            try:
                phase.combine({term.group_name: [torch.zeros(1)] for term in phase.terms}, {})
            except NotApplicable as error:
                return f"its rule for joining gradients {error.problem}"
            except (RuntimeError, ValueError, TypeError, LookupError, AssertionError):
                continue  # one number is too little for the rule, which says nothing about adapters
    return ""


def keeps_one_epoch(method: Method) -> str:
    """Say why an average over steps has no place."""
    own = method.method if isinstance(method, Under) else method
    if any(phase.at_end for phase in plan(own).phases):
        return "it goes back to weights that it has kept from an epoch, which no average would reach."
    return _if_any(
        method, lambda phase: phase.select is not None, "it keeps the weights of its best epoch, which an average would replace."
    )


def _unless(method: Method, fits: Callable[[Context, Phase], bool], reason: str) -> str:
    planned: Planned = plan(method)
    found = any(fits(planned.context, phase) for phase in planned.phases)
    return reason if planned.complete and not found else ""


def _if_any(method: Method, wrong: Callable[[Phase], bool], reason: str) -> str:
    return reason if any(map(wrong, plan(method).phases)) else ""
