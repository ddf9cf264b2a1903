"""Run a method with its add-ons on a model."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch

from expunge.engine import divided, parallel
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.loop import Checkpoints, PhaseResult, run_phase
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase
from expunge.errors import BadInput, NotApplicable


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        phases: for each phase its name, steps, epochs, mean losses per epoch, selected epoch, and whether a stop rule ended it.
        cost: counts of the cost meter.
    """

    phases: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)


def check(method: Method, addons: Sequence[Addon] = (), *, kind: str, streams: Sequence[str], artefacts: Sequence[str] = ()) -> None:
    """Refuse what cannot work, before any work.

    Args:
        method: the method.
        addons: its add-ons.
        kind: kind of the request: random, class or subclass.
        streams: names of the streams that exist.
        artefacts: what else exists: recipe, oracle.

    Raises:
        NotApplicable: the method or an add-on does not fit the request, or an add-on not the method.
        BadInput: data that the method needs is missing.
    """
    _check_fits(method, kind, "method")
    names = [addon.name for addon in addons]
    for number, addon in enumerate(addons):
        if names.count(addon.name) > 1:
            raise NotApplicable(f"addons={addon.name}", "is named more than once.", "Name each add-on once.")
        reason = no_request_in_common(addon, method) or addon.refuse(method)
        if reason:
            raise NotApplicable(f"addons={addon.name}", f"cannot go with method={method.name}: {reason}")
        under = cast(Method, Under(method, tuple(addons[:number])))
        reason = no_request_in_common(addon, under) or addon.refuse(under) if number else ""
        if reason:
            below = ", ".join(names[:number])
            raise NotApplicable(
                f"addons={addon.name}", f"cannot go on {below} with method={method.name}: {reason}", "Leave one out, or change their order."
            )
    for addon in addons:
        _check_fits(addon, kind, "addons")
    parts: list[Method | Addon] = [method, *addons]
    for part in parts:
        for name in sorted(part.needs - set(streams) - set(artefacts)):
            raise BadInput(name, f"{part.name} needs {name} data and there is none.", f"Give {name}=..., or choose a method without it.")


def no_request_in_common(addon: Addon, method: Method) -> str:
    """Return why no request can have both; empty if one can."""
    if set(addon.scenarios) & set(method.scenarios):
        return ""
    own, other = (" and ".join(sorted(part.scenarios)) or "no" for part in (addon, method))
    return f"it is for {own} requests, and what it goes on is for {other} requests."


def _check_fits(part: Method | Addon, kind: str, key: str) -> None:
    if kind not in part.scenarios:
        reason = part.scenario_reason or f"it is made for {' and '.join(sorted(part.scenarios))} requests."
        hint = f"`expunge list {'methods' if key == 'method' else key}` shows which fit."
        raise NotApplicable(f"{key}={part.name}", f"does not fit a {kind} request: {reason}", hint)


def run(context: Context, method: Method, addons: Sequence[Addon] = (), checkpoints: Checkpoints | None = None) -> Outcome:
    """Run a method on the context's model, in place, and return what it did.

    The first add-on is the innermost: it sees the method's own steps. What an add-on declares widens nothing for the method.

    Raises:
        Diverged: see `run_phase`.
        UndeclaredAccess: the method or an add-on reads what it does not declare.
    """
    borrowed = frozenset().union(*(addon.needs for addon in addons)) - method.needs
    steps = _rewritten(context, context.needs - borrowed, method, addons)
    outcome = Outcome()
    devices = [context.device] if context.device.type == "cuda" else []
    _warm_up()
    if parallel.ranks() > 1:
        with context.cost.paused():
            divided.check(context.model, context.example(2 * parallel.ranks()))
    context.cost.watch(context.model)
    with torch.random.fork_rng(devices=devices), context.cost.running(context.device):
        try:
            for step in steps:
                _take(context, step, outcome, checkpoints)
        finally:
            _close(steps)  # an add-on takes its adapters off here when a phase diverges
    context.model.eval()
    outcome.cost = context.cost.tree()
    return outcome


@dataclass(frozen=True)
class Under:
    """A method under some add-ons, as the next add-on meets it: for `Addon.refuse`, which asks what steps there are."""

    method: Method
    addons: tuple[Addon, ...]

    name = property(lambda self: self.method.name)
    needs = property(lambda self: self.method.needs)
    scenarios = property(lambda self: set(self.method.scenarios).intersection(*(addon.scenarios for addon in self.addons)))
    changes_shape = property(lambda self: self.method.changes_shape)

    def steps(self, ctx: Context) -> Steps:
        """Yield the method's steps as the add-ons have rewritten them."""
        yield from _rewritten(ctx, self.method.needs, self.method, self.addons)


def _rewritten(context: Context, needs: Iterable[str], method: Method, addons: Sequence[Addon]) -> Steps:
    """Return the steps of a method as its add-ons rewrite them, each computed with what its part declares."""
    steps = _declaring(context, needs, method.steps(context))
    for addon in addons:
        steps = _declaring(context, addon.needs, addon.rewrite(steps, context))
    return steps


def _declaring(context: Context, needs: Iterable[str], steps: Steps) -> Steps:
    """Yield the steps of one part, computed with what it declares; those that it has made itself are marked with that."""
    try:
        while True:
            with context.granted(needs):
                step = next(steps, None)
            if step is None:
                return
            yield step if step.needs is not None else dataclasses.replace(step, needs=frozenset(needs))
    finally:
        with context.granted(needs):
            _close(steps)


def _close(steps: Steps) -> None:
    close = getattr(steps, "close", None)
    if close is not None:
        close()


@cache
def _warm_up() -> None:
    """Take one step of a throw-away optimiser: torch imports its compiler at the first one, which is nobody's unlearning time."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.SGD([parameter], lr=0.1).step()


def _take(context: Context, step: Phase | Edit, outcome: Outcome, checkpoints: Checkpoints | None) -> None:
    with context.granted(context.needs if step.needs is None else step.needs):
        _carry_out(context, step, outcome, checkpoints)


def _carry_out(context: Context, step: Phase | Edit, outcome: Outcome, checkpoints: Checkpoints | None) -> None:
    if isinstance(step, Edit):
        with torch.no_grad():
            step.apply(context)
        parallel.take_over(context.model.state_dict().values())
        context.report({"event": "edit", "name": step.name})
        return
    result: PhaseResult = run_phase(context, step, checkpoints)
    context.phase += 1
    outcome.phases.append(
        {
            "name": step.name,
            "steps": result.steps,
            "epochs": result.epochs,
            "losses": result.losses,
            "selected_epoch": result.selected_epoch,
            "stopped": result.stopped,
        }
    )
