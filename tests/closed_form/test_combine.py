"""Combiners on 200 random problems, against what defines them."""

import pytest
import torch

from conftest import make_context, make_net
from expunge.engine.combine import minimum_norm, nash, pcgrad, total, weighted
from expunge.engine.loop import run_phase
from expunge.engine.parameters import dot, leaves, norm
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd

PROBLEMS = 200
SHAPES = ((3, 2), (4,), ())


def problems(groups=("f", "r")):
    """Yield random gradients in float64, from nearly opposite to nearly parallel, of very different lengths."""
    made = torch.Generator().manual_seed(11)
    for number in range(PROBLEMS):
        shared = [torch.randn(shape, generator=made, dtype=torch.float64) for shape in SHAPES]
        yield {
            name: [
                10 ** (2 * float(torch.rand((), generator=made)) - 1)
                * (torch.randn(part.shape, generator=made, dtype=torch.float64) + (-1) ** (number * place) * (number % 5) * part)
                for part in shared
            ]
            for place, name in enumerate(groups)
        }


def count(cases):
    found = list(cases)
    assert len(found) == PROBLEMS
    return found


def flat(parts):
    return torch.cat([part.reshape(-1) for part in parts])


def test_problems_cover_conflict_and_agreement():
    signs = [float(dot(case["f"], case["r"])) < 0 for case in count(problems())]
    assert 40 < sum(signs) < 160


def test_total_and_weighted():
    for case in count(problems()):
        torch.testing.assert_close(flat(total(case)), flat(case["f"]) + flat(case["r"]))
        combined = weighted(f=-0.5, r=2.0)(case, {})
        torch.testing.assert_close(flat(combined), -0.5 * flat(case["f"]) + 2 * flat(case["r"]))
        torch.testing.assert_close(flat(weighted(f=-0.5, r=2.0)({"f": case["f"]}, {})), -0.5 * flat(case["f"]))


def pcgrad_by_hand(f, r):
    f, r = flat(f), flat(r)
    if f @ r >= 0:
        return f + r
    return f - (f @ r) / (r @ r) * r + r - (f @ r) / (f @ f) * f


def test_pcgrad_never_conflicts():
    worse = 0
    for case in count(problems()):
        update = pcgrad()(case, {})
        torch.testing.assert_close(flat(update), pcgrad_by_hand(case["f"], case["r"]))
        for group in case.values():
            assert float(dot(update, group)) >= -1e-9 * float(norm(update) * norm(group))
        worse += any(float(dot(total(case), group)) < 0 for group in case.values())
        one_sided = pcgrad(only="f")(case, {})
        assert float(dot(one_sided, case["r"])) >= -1e-9
    assert worse > 20, "the plain sum does conflict, and the check above sees it"


def test_pcgrad_with_three_groups_projects_the_running_result():
    for case in count(problems(("a", "b", "c"))):
        expected = 0
        vectors = {name: flat(parts) for name, parts in case.items()}
        for name, own in vectors.items():
            result = own.clone()
            for other_name, other in vectors.items():
                if other_name != name and result @ other < 0:
                    result = result - (result @ other) / (other @ other) * other
            expected = expected + result
        torch.testing.assert_close(flat(pcgrad()(case, {})), expected)


def test_minimum_norm_is_the_shortest_convex_combination():
    shares = torch.linspace(0, 1, 2001, dtype=torch.float64)
    for case in count(problems()):
        update, f, r = flat(minimum_norm(case, {})), flat(case["f"]), flat(case["r"])
        lengths = (shares[:, None] * f + (1 - shares[:, None]) * r).norm(dim=1)
        assert float(update.norm()) <= float(lengths.min()) * (1 + 1e-9)
        assert float(update.norm()) >= float(lengths.min()) * 0.99
        for group in (f, r):  # optimality of a projection: no group is closer to the origin along the update
            assert float(update @ group) >= float(update @ update) - 1e-9 * float(group.norm() ** 2)


def nash_residual(update, case):
    """Solve update = a f + b r and return how far G^T G (a, b) = (1/a, 1/b) is from holding, relatively."""
    basis = torch.stack([flat(case["f"]), flat(case["r"])], 1)
    share = torch.linalg.lstsq(basis, flat(update)[:, None]).solution[:, 0]
    assert bool((share > 0).all())
    return float((basis.T @ basis @ share * share - 1).abs().max())


def test_nash_is_stationary():
    released = 0
    for case in count(problems()):
        assert nash_residual(nash(case, {}), case) < 1e-5
        units = {name: [part / norm(parts) for part in parts] for name, parts in case.items()}
        released += nash_residual(total(units), case) > 0.01
    assert released > 100, "the plain sum of unit gradients is not the solution, and the check above sees it"


def test_nash_of_opposite_gradients_is_zero_and_of_equal_ones_is_root_two():
    u = [torch.tensor([3.0, 4.0], dtype=torch.float64)]
    assert float(norm(nash({"f": u, "r": [-u[0]]}, {}))) == 0
    torch.testing.assert_close(float(norm(nash({"f": u, "r": u}, {}))), 2**0.5)


@pytest.mark.parametrize("combine", [total, pcgrad(), minimum_norm, nash])
def test_zero_gradients_and_single_groups(combine):
    zero, some = [torch.zeros(3)], [torch.ones(3)]
    assert bool(torch.isfinite(flat(combine({"f": zero, "r": some}, {}))).all())
    assert bool((flat(combine({"f": zero, "r": zero}, {})) == 0).all())
    assert torch.equal(flat(combine({"r": some}, {})), flat(some))


# In a phase


def test_groups_equal_separate_autograd_runs():
    seen = []

    def look(gradients, state):
        seen.append({name: [part.clone() for part in parts] for name, parts in gradients.items()})
        return total(gradients)

    net = make_net()
    context = make_context(net=net)
    terms = [
        Term("forget", cross_entropy, weight=-0.3),
        Term("retain", cross_entropy, weight=2.0),
        Term("retain", lambda c, b, s: s.logits.square().mean(1), group="size"),
    ]
    batches = {}

    def note(context, batch, student):
        batches[batch.name] = batch
        return cross_entropy(context, batch, student)

    run_phase(context, Phase([*terms, Term("forget", note, weight=0.0)], norm="frozen", steps=1, combine=look))
    fresh = make_net().eval()
    assert set(seen[0]) == {"forget", "retain", "size"}
    retain = next(b for b in context.stream("retain").batches(256, seed=_seed(context), shuffle=True, augment=True))
    f, r = batches["forget"], retain
    losses = {
        "forget": -0.3 * torch.nn.functional.cross_entropy(fresh(f.x), f.y),
        "retain": 2.0 * torch.nn.functional.cross_entropy(fresh(r.x), r.y),
        "size": fresh(r.x).square().mean(1).mean(),
    }
    for name, loss in losses.items():
        expected = torch.autograd.grad(loss, list(fresh.parameters()))
        for part, wanted in zip(seen[0][name], expected, strict=True):
            torch.testing.assert_close(part, wanted, rtol=1e-4, atol=1e-6)


def _seed(context):
    from expunge.engine.randomness import derive

    return derive(context.seed, "batches", 0)


def test_combining_by_sum_is_the_same_update_as_no_combiner():
    nets = []
    for combine in (None, total):
        net = make_net()
        terms = [Term("forget", cross_entropy, weight=-0.3), Term("retain", cross_entropy)]
        run_phase(make_context(net=net), Phase(terms, combine=combine, batch_size=64, optimizer=sgd(0.05)))
        nets.append(leaves(net))
    for name, value in nets[0].items():
        torch.testing.assert_close(value, nets[1][name], rtol=1e-3, atol=1e-5)


def test_a_combiner_is_asked_when_only_one_group_has_its_turn():
    """Passing it by would drop the weights of `weighted`."""
    groups = []

    def look(gradients, state):
        groups.append(sorted(gradients))
        return total(gradients)

    terms = [Term("forget", cross_entropy), Term("retain", cross_entropy, every=2)]
    run_phase(make_context(net=make_net()), Phase(terms, combine=look, steps=4, epochs=9))
    assert groups == [["forget", "retain"], ["forget"]] * 2
