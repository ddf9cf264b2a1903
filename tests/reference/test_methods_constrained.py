"""Constrained training and methods with two goals: on problems with a known optimum, and each against its formula in plain torch."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import assert_same, batches, method, plain_sgd
from torch import Tensor, nn

from conftest import CLASSES, SOURCE, make_context, trained_net
from expunge import registry
from expunge.engine.context import Context
from expunge.engine.loop import run_phase
from expunge.engine.measure import accuracy, mean_loss
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.stream import Batch, Stream
from expunge.engine.targets import random_label
from expunge.engine.terms import Forward, Term
from expunge.engine.update import sgd
from expunge.errors import BadInput
from expunge.methods.constrained import duality
from expunge.methods.constrained.duality import Constraint, blank_loss, top_accuracy
from expunge.training.checkpoints import DiskCheckpoints

BOTH = {"forget", "retain"}
ALL = BOTH | {"validation"}


# A convex problem: the nearest point to ``a`` within, or on, the ball around ``b``


class Point(nn.Module):
    """Answers every input with the same two numbers, its weights."""

    def __init__(self, start: tuple[float, float]):
        super().__init__()
        self.place = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        return self.place.expand(len(x), 2)


def half_square(centre: Tensor) -> Callable[[Context, Batch, Forward], Tensor]:
    return lambda context, batch, student: 0.5 * (student.logits - centre).square().sum(1)


def solve(constraint: Constraint, a: Tensor, b: Tensor, steps: int = 800) -> tuple[Tensor, list[float]]:
    """Return where the phase ends, and the multipliers that it went through."""
    net, stream = Point((0.3, -0.2)), Stream("data", SOURCE, torch.arange(400))
    context = Context(net, {"data": stream}, needs={"data"}, seed=0, num_classes=2)
    seen = []

    def update(step):
        constraint.update(step)
        seen.append(float(step.state["multiplier"]))

    terms = [
        Term("data", half_square(a), group="objective", name="objective"),
        Term("data", constraint.watch(half_square(b)), group="condition", name="condition"),
    ]
    phase = Phase(
        terms,
        epochs=steps // 400,
        batch_size=1,
        optimizer=sgd(0.02 if constraint.solver == "penalty" else 0.1, 0.0, 0.0),
        combine=constraint.combine,
        after_step=(update,),
    )
    run_phase(context, phase)
    return net.place.detach(), seen


@pytest.mark.parametrize("solver", ["penalty", "lagrangian", "augmented_lagrangian"])
@pytest.mark.parametrize("active", [True, False])
def test_an_inequality_is_solved(solver: str, active: bool) -> None:
    a, b = torch.tensor([2.0, 1.0]), torch.tensor([-0.5, 0.0])
    radius = 1.5 if active else 4.0
    start = {"penalty": 10.0} if solver == "penalty" else {"penalty": 1.0}
    constraint = Constraint(radius**2 / 2, solver, multiplier=1.0, rate=0.1, calm=0.0, **start)
    found, multipliers = solve(constraint, a, b)
    distance = float((a - b).norm())
    wanted = b + (a - b) * min(1.0, radius / distance)
    factor = max(0.0, distance / radius - 1)
    assert min(multipliers) >= 0
    if solver != "penalty":
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)
        assert multipliers[-1] == pytest.approx(factor, abs=5e-3)
        return
    violation = max(0.0, float((found - b).square().sum()) / 2 - constraint.bound)
    torch.testing.assert_close((found - a) + 2 * 10.0 * violation * (found - b), torch.zeros(2), atol=2e-3, rtol=0)
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("solver", ["lagrangian", "augmented_lagrangian"])
@pytest.mark.parametrize("radius", [1.5, 4.0])
def test_an_equality_is_solved_with_a_multiplier_of_either_sign(solver: str, radius: float) -> None:
    a, b = torch.tensor([2.0, 1.0]), torch.tensor([-0.5, 0.0])
    found, multipliers = solve(Constraint(radius**2 / 2, solver, equality=True, multiplier=0.0, penalty=0.1, rate=0.02), a, b)
    distance = float((a - b).norm())
    torch.testing.assert_close(found, b + (a - b) * radius / distance, atol=5e-3, rtol=0)
    assert multipliers[-1] == pytest.approx(distance / radius - 1, abs=1e-2)
    assert (multipliers[-1] < 0) == (radius == 4.0)


def test_without_the_projection_a_satisfied_constraint_pushes() -> None:
    """The wrong version: an inequality whose multiplier is free ends on the border although the optimum lies inside."""
    a, b = torch.tensor([2.0, 1.0]), torch.tensor([-0.5, 0.0])
    free, _ = solve(Constraint(8.0, "lagrangian", equality=True, multiplier=0.0, rate=0.02), a, b)
    right, _ = solve(Constraint(8.0, "lagrangian", multiplier=0.0, rate=0.02), a, b)
    torch.testing.assert_close(right, a, atol=2e-3, rtol=0)
    assert float((free - a).norm()) > 1


def test_normalised_gradients_have_length_one() -> None:
    constraint = Constraint(0.0, "lagrangian", multiplier=0.5, normalize=True)
    constraint._latest = (None, None, torch.tensor(1.0))
    o, c = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 100.0])
    (joined,) = constraint.combine({"objective": [o], "condition": [c]}, {})
    torch.testing.assert_close(joined, torch.tensor([0.6, 0.8 + 0.5]))


# Against plain loops


def plain_constrained(net: nn.Module, pairs: list[tuple[Batch, Batch]], solver: str, equality: bool, bound: float, lr: float, **start):
    """Train on (objective batch, condition batch, sign) pairs, two a pass, as the formulas say; return the final l and a."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    multiplier, penalty, lengths = start["multiplier"], start["penalty"], []
    net.train()
    for number, (o, c, sign) in enumerate(pairs):
        optimizer.zero_grad()
        objective = sign * F.cross_entropy(net(o.x), o.y)
        h = F.cross_entropy(net(c.x), c.y) - bound
        if solver == "penalty":
            loss = objective + penalty * (h if equality else h.clamp_min(0)) ** 2
        elif solver == "lagrangian":
            loss = objective + multiplier * h
        else:
            inside = multiplier + 2 * penalty * h
            shifted = inside if equality else inside.clamp_min(0)
            loss = objective + (shifted**2 - multiplier**2) / (4 * penalty)
        loss.backward()
        lengths.append(float(torch.cat([p.grad.flatten() for p in net.parameters()]).norm()))
        optimizer.step()
        if solver != "penalty":
            with torch.no_grad():
                again = float(F.cross_entropy(copy.deepcopy(net)(c.x), c.y))
            multiplier += lr * (again - bound)
            multiplier = multiplier if equality else max(0.0, multiplier)
        if number % 2:
            penalty *= {"penalty": 1.05 if sum(lengths) / 2 < 5 else 1.0, "augmented_lagrangian": 1.01, "lagrangian": 1.0}[solver]
            lengths = []
    return multiplier, penalty


def pairs_of(context: Context, objective: str, condition: str, sign: float) -> list[tuple[Batch, Batch, float]]:
    found = []
    for epoch in (0, 1, 2):
        parts = {name: batches(context, name, 20, epoch)[:2] for name in ("forget", "retain")}
        found += [(o, c, sign) for o, c in zip(parts[objective], parts[condition], strict=True)]
    return found


@pytest.mark.parametrize("solver", ["penalty", "lagrangian", "augmented_lagrangian"])
@pytest.mark.parametrize("name", ["constrained_unlearning", "constrained_finetuning", "confusion_resolution"])
def test_constrained_training_follows_its_formula(name: str, solver: str) -> None:
    context, events = make_context(needs=ALL), []
    context.report = events.append
    start = {"multiplier": 0.5, "penalty": 2.0}
    bound = {
        "constrained_unlearning": lambda: mean_loss(context, "retain"),
        "constrained_finetuning": lambda: mean_loss(context, "validation"),
        "confusion_resolution": lambda: blank_loss(context),
    }[name]()
    run(context, method(name, solver=solver, lr=0.02, epochs=3, batch_size=20, stop="none", **start))
    expected, equality = trained_net(), name != "constrained_unlearning"
    roles = ("retain", "forget", 1.0) if equality else ("forget", "retain", -1.0)
    multiplier, penalty = plain_constrained(expected, pairs_of(context, *roles), solver, equality, bound, 0.02, **start)
    assert_same(context.model, expected)
    last = [event for event in events if event["event"] == "constraint"][-1]
    assert last["multiplier"] == pytest.approx(multiplier, abs=1e-6) and last["penalty"] == pytest.approx(penalty)
    assert (penalty != 2.0) == (solver != "lagrangian") or solver == "penalty"


def test_the_bound_is_the_originals_retain_loss_in_eval_mode() -> None:
    """The wrong version measures it in train mode, where batch statistics give another loss."""
    context = make_context(needs=ALL)
    phase = next(method("constrained_unlearning").steps(context))
    (condition,) = [term for term in phase.terms if term.group == "condition"]
    assert condition.stream == "retain"
    bound = phase.combine.__self__.bound
    whole = next(context.stream("retain").batches(400))
    assert bound == pytest.approx(float(F.cross_entropy(trained_net().eval()(whole.x), whole.y).detach()), rel=1e-5)
    assert abs(bound - float(F.cross_entropy(trained_net().train()(whole.x), whole.y).detach())) > 1e-3


def test_a_blank_net_guesses() -> None:
    assert blank_loss(make_context(needs=ALL)) == pytest.approx(math.log(CLASSES), abs=0.3)


@pytest.mark.parametrize("stop", ["unlearning", "confusion", "forget_forever", "none"])
def test_stop_rules_end_where_they_say(stop: str) -> None:
    context = make_context("class", needs=ALL)
    chosen = method(
        "constrained_unlearning", stop=stop, epochs=8, lr=0.05, top=1, retain_floor=0.97, normalize=True, multiplier=0.0, clip=1.0
    )
    outcome = run(context, chosen).phases[0]
    reached = {
        "unlearning": lambda: mean_loss(context, "forget") >= mean_loss(context, "validation"),
        "confusion": lambda: mean_loss(context, "forget") >= blank_loss(context),
        "forget_forever": lambda: accuracy(context, "retain") <= 0.97,
    }
    if stop == "none":
        assert outcome["epochs"] == 8 and not outcome["stopped"]
    else:
        assert outcome["stopped"] and outcome["epochs"] < 8 and reached[stop]()


def test_refining_waits_for_a_stall_and_the_bound() -> None:
    context = make_context(needs=ALL)
    chosen = method("constrained_finetuning", epochs=30, lr=1e-4)
    constraint = chosen.constraint(100.0, equality=True)
    rule = chosen.stop_rule("forget", constraint)
    losses, asked = [], []
    net = context.model
    for bias in (3.0, 2.0, 3.0, 4.0):
        with torch.no_grad():
            net[7].bias[0] = trained_net()[7].bias[0] + bias
        losses.append(mean_loss(context, "validation"))
        asked.append(rule(context, None))
    assert losses[1] < losses[0] and losses[1] < losses[2] < losses[3]
    assert asked == [False, False, False, True]
    constraint.bound = -1.0
    assert not rule(context, None)


@pytest.mark.parametrize("addons", [[], ["sam"]])
def test_refining_ends_under_a_second_look_too(addons: list[str], monkeypatch) -> None:
    """A second look joins gradients with a state that is thrown away; what the rule remembers must not be in it."""
    monkeypatch.setattr(duality, "mean_loss", lambda context, stream: 1.0)
    context = make_context(needs=ALL)
    chosen = method("constrained_finetuning", stop="refining", epochs=12, lr=1e-3, batch_size=20)
    outcome = run(context, chosen, [registry.find("addons", addon)() for addon in addons]).phases[0]
    assert outcome["stopped"] and outcome["epochs"] == 3


def test_top_accuracy_counts_the_first_few_and_refuses_all() -> None:
    context = make_context(needs=ALL)
    whole = next(context.stream("retain").batches(400))
    order = trained_net().eval()(whole.x).argsort(1, descending=True)
    assert top_accuracy(context, "retain", 2) == pytest.approx(float((order[:, :2] == whole.y[:, None]).any(1).float().mean()))
    with pytest.raises(BadInput, match="less than the number of classes, 5"):
        top_accuracy(context, "retain", 5)


def test_the_dual_state_survives_a_kill(tmp_path) -> None:
    chosen = method("constrained_finetuning", epochs=4, lr=0.02, batch_size=20, stop="none")
    calm, killed, resumed = (make_context(needs=ALL) for _ in range(3))
    run_phase(calm, next(chosen.steps(calm)))

    def kill(context, progress):
        if progress.epoch == 3:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_phase(killed, next(chosen.steps(killed)).but(stop=kill), DiskCheckpoints(tmp_path / "state"))
    result = run_phase(resumed, next(chosen.steps(resumed)), DiskCheckpoints(tmp_path / "state"))
    assert result.epochs == 4
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, calm.model.state_dict()[name]), name


# Two goals


def flat_gradient(net: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)]).double()


def plain_joined(
    net: nn.Module, pairs: list[tuple[Batch, Batch]], labels: Callable[[Batch], Tensor], join: Callable, lr: float = 0.01
) -> None:
    """Take steps along ``join(g_retain, g_forget)``, clipped at one."""
    optimizer = plain_sgd(net, lr)
    net.train()
    for r, f in pairs:
        keep, lose = F.cross_entropy(net(r.x), r.y), F.cross_entropy(net(f.x), labels(f))
        d = join(flat_gradient(net, keep), flat_gradient(net, lose))
        d = d * min(1.0, 1 / float(d.norm()))
        for p, part in zip(net.parameters(), d.split([p.numel() for p in net.parameters()]), strict=True):
            p.grad = part.view_as(p).to(p.dtype)
        optimizer.step()


def both_projected(r: Tensor, f: Tensor) -> Tensor:
    conflict = min(0.0, float(r @ f))
    return r - conflict / (f @ f) * f + f - conflict / (r @ r) * r


def forget_projected(r: Tensor, f: Tensor) -> Tensor:
    return r + f - min(0.0, float(r @ f)) / (r @ r) * r


def bargain(r: Tensor, f: Tensor) -> Tensor:
    u, v = r / r.norm(), f / f.norm()
    return (u + v) / (1 + u @ v).sqrt()


def shortest(r: Tensor, f: Tensor) -> Tensor:
    share = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    length = share**2 * (r @ r) + 2 * share * (1 - share) * (r @ f) + (1 - share) ** 2 * (f @ f)
    best = float(share[length.argmin()])
    return best * r + (1 - best) * f


@pytest.mark.parametrize(
    ("name", "fields", "join"),
    [
        ("munba", {}, bargain),
        ("pcgrad", {}, both_projected),
        ("pcgrad", {"project": "forget"}, forget_projected),
        ("mgda", {"normalize": False}, shortest),
        ("mgda", {}, lambda r, f: shortest(r / r.norm(), f / f.norm())),
    ],
)
def test_two_goals_are_joined_as_the_formula_says(name: str, fields: dict[str, object], join: Callable) -> None:
    context = make_context(needs=BOTH)
    run(context, method(name, epochs=1, batch_size=90, **fields))
    retain = batches(context, "retain", 90)
    forget = [batches(context, "forget", 90, turn)[0] for turn in range(len(retain))]
    assert len(retain) == 4
    expected = trained_net()
    labels = {id(f): random_label("epoch")(make_context(needs=BOTH), f) for f in forget}
    plain_joined(expected, list(zip(retain, forget, strict=True)), lambda f: labels[id(f)], join)
    for name_, value in context.model.state_dict().items():
        torch.testing.assert_close(
            value, expected.state_dict()[name_], atol=2e-5, rtol=1e-3, msg=lambda text, name_=name_: f"{name_}: {text}"
        )
    assert not torch.equal(context.model[7].weight, trained_net()[7].weight)


def test_pdu_descends_on_flat_logits_under_a_bound() -> None:
    context = make_context(needs=BOTH)
    run(context, method("pdu", epochs=2, batch_size=20, tolerance=0.05, rate=0.5, warm_up=1, lr=0.02, clip=None))
    expected, bound, multiplier = trained_net(), mean_loss(make_context(needs=BOTH), "retain") + 0.05, 1.0
    optimizer = plain_sgd(expected, 0.02)
    expected.train()
    for epoch in (0, 1):
        for f, r in zip(batches(context, "forget", 20, epoch), batches(context, "retain", 20, epoch)[:2], strict=True):
            optimizer.zero_grad()
            z = expected(f.x)
            spread = ((z.max(1).values - z.sum(1) / CLASSES) ** 2).mean()
            (spread + multiplier * (F.cross_entropy(expected(r.x), r.y) - bound)).backward()
            optimizer.step()
            with torch.no_grad():
                h = float(F.cross_entropy(copy.deepcopy(expected)(r.x), r.y)) - bound
            if epoch:
                multiplier = max(0.0, multiplier + 0.5 * h)
    assert_same(context.model, expected)


def test_the_sources_names_find_their_methods() -> None:
    expected = {
        "untrain_constrained": "constrained_unlearning", "constrained_learning": "constrained_finetuning",
        "confusion": "confusion_resolution", "PDU": "pdu", "MUNBa": "munba", "PCGrad": "pcgrad", "MGDA": "mgda",
    }  # fmt: skip
    assert {alias: registry.find("methods", alias).name for alias in expected} == expected
