"""Fisher forgetting, influence, SSD and MSG against their formulas, written naively, and against known wrong versions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_derivatives import literal_woodfisher, loop
from torch import nn

from conftest import CLASSES, make_context
from expunge import registry
from expunge.data.source import TensorSource
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.loop import run_phase
from expunge.engine.parameters import flat
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.stream import Stream
from expunge.engine.terms import Progress
from expunge.methods.reset_and_repair.msg import Msg, gradients
from expunge.methods.weight_edits.fisher_forgetting import FisherForgetting, first_deviation, noise_variance
from expunge.methods.weight_edits.influence import Influence, forget_direction
from expunge.methods.weight_edits.ssd import Ssd, factors


def change(context: Context) -> dict[str, torch.Tensor]:
    return {name: value.detach() - context.original[name] for name, value in context.model.named_parameters()}


def changed_by(method, kind: str = "random", **more) -> dict[str, torch.Tensor]:
    context = make_context(kind, needs=method.needs, **more)
    run(context, method)
    return change(context)


def apply(context: Context, step: Edit) -> None:
    with torch.no_grad():
        step.apply(context)


@pytest.mark.parametrize(
    ("alias", "method"),
    [("fisher_new", FisherForgetting), ("fisher", FisherForgetting), ("FF", FisherForgetting), ("wfisher", Influence), ("IU", Influence)]
    + [("SSD", Ssd), ("MSG", Msg)],
)
def test_names_of_the_sources(alias, method):
    assert registry.find("methods", alias) is method


# Fisher forgetting


def naive_variance(fisher: torch.Tensor, head: bool, alpha: float) -> torch.Tensor:
    cap = 1e2 if head else 1e3
    rows = fisher.reshape(len(fisher), -1, 1) if fisher.dim() == 1 else fisher
    v = torch.zeros_like(fisher)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in fisher.shape)).reshape(-1, fisher.dim()).tolist():
        v[tuple(place)] = alpha * min(1 / (float(fisher[tuple(place)]) + 1e-8), cap)
    if fisher.dim() > 1:
        for place in torch.cartesian_prod(*(torch.arange(n) for n in fisher.shape)).tolist():
            across = [float(alpha * min(1 / (float(rows[(place[0], j, *place[2:])]) + 1e-8), cap)) for j in range(fisher.shape[1])]
            v[tuple(place)] = sum(across) / len(across)
    return v * 10 if head or fisher.dim() == 1 else v


@pytest.mark.parametrize("shape", [(4,), (3, 5), (4, 3, 2, 2)])
@pytest.mark.parametrize("head", [True, False])
def test_variance_rules(shape, head):
    fisher = 10 ** (torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 8 - 6)
    found = noise_variance({"a": fisher}, {"a"} if head else set(), 1e-7)["a"]
    torch.testing.assert_close(found, naive_variance(fisher, head, 1e-7), rtol=1e-9, atol=1e-18)


def test_first_version_rule():
    fisher = torch.tensor([1e-12, 1e-3, 1.0], dtype=torch.float64)
    assert first_deviation({"a": fisher}, set(), 1e-8)["a"].tolist() == pytest.approx([1e-3, 1e-3, 1e-4])
    assert first_deviation({"a": fisher}, {"a"}, 1e-8)["a"].tolist() == pytest.approx([1e-2, 1e-2, 1e-3])
    head = first_deviation({"weight": fisher[None].expand(2, 3), "bias": fisher}, {"weight", "bias"}, 1e-8)
    assert head["weight"][1].tolist() == pytest.approx([1e-3, 1e-3, 1e-4]), "its last dimension is not the number of classes"
    assert head["bias"].tolist() == pytest.approx([1e-2, 1e-2, 1e-3])


@pytest.mark.parametrize("form", ["exact", "sampled", "published", "first"])
def test_noise_has_the_deviation_that_the_rules_give(form):
    method = FisherForgetting(form=form, alpha=1e-6)
    size = torch.cat([value.flatten().abs() for value in changed_by(method).values()])
    assert 1e-5 < float(size.median()) < 1e-1


def test_noise_grows_with_the_root_of_alpha():
    one, four = (changed_by(FisherForgetting(form="published", alpha=alpha)) for alpha in (1e-8, 4e-8))
    torch.testing.assert_close(flat(four), 2 * flat(one), rtol=1e-2, atol=1e-6)


def wide_as_classes() -> nn.Module:
    """Return a net whose hidden layers are as wide as there are classes, which detection by shape takes for heads."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(192, CLASSES), nn.ReLU(), nn.Linear(CLASSES, CLASSES), nn.ReLU(), nn.Linear(CLASSES, CLASSES)
        )


def test_the_head_is_found_by_running_and_not_by_shape():
    method = FisherForgetting(form="first", alpha=1e6)  # so large that every deviation is at its cap
    found = changed_by(method, net=wide_as_classes())
    deviation = {name: float(value.square().mean().sqrt()) for name, value in found.items()}
    assert deviation.pop("5.bias") == pytest.approx(1e-2, rel=0.7)
    assert len(deviation) == 5 and all(value == pytest.approx(1e-3, rel=0.7) for value in deviation.values())


def test_the_row_of_a_forgotten_class_is_drawn_anew_around_zero():
    context = make_context("class", needs={"retain"})
    run(context, FisherForgetting(alpha=1e-12))
    state = context.model.state_dict()
    row, others = state["7.weight"][2], [0, 1, 3, 4]
    assert float(row.std()) == pytest.approx(1e-3**0.5, rel=0.2) and abs(float(row.mean())) < 0.01
    assert float((state["7.weight"][others] - context.original["7.weight"][others]).abs().max()) < 1e-3
    assert abs(float(state["7.bias"][2])) < 0.15


def test_a_random_request_as_large_as_a_class_wipes_no_row():
    context = make_context("random", needs={"retain"})
    run(context, FisherForgetting(alpha=1e-12))
    assert max(float(value.abs().max()) for value in change(context).values()) < 1e-3


# Influence


def test_direction_is_that_of_the_source():
    context = make_context("random")
    forget, retain = loop(context, "forget").sum(0), loop(context, "retain").sum(0)
    wanted = forget / 400 - 40 / (400 * 360) * retain
    torch.testing.assert_close(flat(forget_direction(context)), wanted, rtol=1e-3, atol=1e-6)


def linear_world(removed: int = 15) -> tuple[Context, torch.Tensor]:
    """Return a context of a well-specified softmax regression at its optimum, and the weights of the exact retrained one."""
    made = torch.Generator().manual_seed(3)
    x = torch.randn(300, 3, generator=made)
    truth = torch.randn(4, 3, generator=made)
    y = torch.multinomial((x @ truth.T).softmax(1), 1, generator=made).flatten()
    forget, retain = torch.arange(removed), torch.arange(removed, 300)

    def fit(index: torch.Tensor) -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 4))
        nn.init.zeros_(net[0].weight), nn.init.zeros_(net[0].bias)
        solver = torch.optim.LBFGS(net.parameters(), max_iter=300, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

        def loss():
            solver.zero_grad()
            value = F.cross_entropy(net(x[index]), y[index]) + 1e-4 * sum(p.square().sum() for p in net.parameters())
            value.backward()
            return value

        solver.step(loss)
        return net

    source = TensorSource(x, y)
    streams = {"forget": Stream("forget", source, forget), "retain": Stream("retain", source, retain)}
    context = Context(fit(torch.arange(300)), streams, needs={"forget", "retain"}, seed=0, num_classes=4)
    return context, torch.cat([p.detach().flatten() for p in fit(retain).parameters()])


def test_influence_predicts_the_exact_retrained_weights():
    context, retrained = linear_world()
    before = torch.cat([p.detach().flatten() for p in context.model.parameters()])
    run(context, Influence(alpha=1.0, damping=1e-3))
    after = torch.cat([p.detach().flatten() for p in context.model.parameters()])
    cosine = torch.cosine_similarity(after - before, retrained - before, dim=0)
    assert float(cosine) > 0.95
    assert float((after - retrained).norm()) < 0.4 * float((before - retrained).norm())


def test_the_step_solves_the_damped_system():
    context, _ = linear_world()
    v = flat(forget_direction(context)).double()
    g = loop(context).double()
    wanted = torch.linalg.solve(g.T @ g / len(g) + 0.01 * torch.eye(len(v)), v)
    events = []
    context.report = events.append
    run(context, Influence(alpha=2.0, damping=0.01))
    torch.testing.assert_close(flat(change(context)).double(), 2 * wanted, rtol=2e-3, atol=1e-6)
    assert [event["residual"] < 1e-4 for event in events if event["event"] == "conjugate gradients"] == [True]


def test_the_published_form_is_the_recursion_and_another_step():
    context, _ = linear_world()
    v, g = flat(forget_direction(context)).double(), loop(context).double()
    damped, _ = linear_world()
    run(context, Influence(alpha=1.0, form="published"))
    run(damped, Influence(alpha=1.0))
    torch.testing.assert_close(flat(change(context)).double(), literal_woodfisher(g, v, 1000), rtol=1e-3, atol=1e-6)
    assert float((flat(change(context)) - flat(change(damped))).norm() / flat(change(damped)).norm()) > 0.05


# Selective synaptic dampening


def naive_dampening(weight, forget, everything, alpha, lam):
    result = weight.clone()
    for place in range(weight.numel()):
        if forget.flatten()[place] > alpha * everything.flatten()[place]:
            result.flatten()[place] *= min(float(lam * everything.flatten()[place] / forget.flatten()[place]), 1.0)
    return result


@pytest.mark.parametrize(("alpha", "lam"), [(0.5, 1.0), (1.0, 0.3), (2.0, 5.0), (1e9, 1.0)])
def test_dampening_is_the_formula(alpha, lam):
    made = torch.Generator().manual_seed(1)
    weight, forget, everything = (torch.rand(4, 6, generator=made, dtype=torch.float64) for _ in range(3))
    found = weight * factors({"a": forget}, {"a": everything}, alpha, lam)["a"]
    torch.testing.assert_close(found, naive_dampening(weight, forget, everything, alpha, lam), rtol=1e-12, atol=0)
    assert (found.abs() <= weight.abs()).all()


def test_weights_without_any_gradient_stay():
    assert factors({"a": torch.zeros(3)}, {"a": torch.zeros(3)}, 1.0, 1.0)["a"].tolist() == [1, 1, 1]


def test_importance_over_all_data_counts_forgotten_and_retained():
    context = make_context("random")
    all_data = torch.cat([loop(context, "forget"), loop(context, "retain")]).square().mean(0)
    forget = loop(context, "forget").square().mean(0)
    weights = torch.cat([parameter.detach().flatten() for parameter in context.model.parameters()])
    run(context, Ssd(alpha=1.0, dampening=0.5))
    wanted = naive_dampening(weights, forget, all_data, 1.0, 0.5)
    found = torch.cat([parameter.detach().flatten() for parameter in context.model.parameters()])
    assert int((found != weights).sum()) > 100
    assert float(((found - wanted).abs() < 1e-4 * wanted.abs() + 1e-7).double().mean()) > 0.999  # all but ties at the threshold


def test_batch_size_changes_the_reference_and_not_the_paper():
    def weights(**fields):
        return flat(changed_by(Ssd(alpha=1.0, dampening=0.5, **fields)))

    assert torch.equal(weights(batch_size=8), weights(batch_size=64))
    assert not torch.allclose(weights(fidelity="reference", batch_size=8), weights(fidelity="reference", batch_size=64))


# MSG


def test_the_score_compares_mean_gradients_of_equally_many_examples():
    context = make_context("random")
    forget, retain = gradients(context)
    torch.testing.assert_close(flat(forget), loop(context, "forget").mean(0), rtol=1e-3, atol=1e-6)
    pool = loop(context, "retain")
    assert float((flat(retain) - pool.mean(0)).norm()) > 0  # a subset, not the whole stream
    assert float(flat(retain).norm()) < 5 * float(pool.mean(0).norm()) + 1


def test_reset_takes_the_smallest_differences_in_each_convolution():
    context = make_context("random")
    forget, retain = gradients(context)
    steps = Msg(reset=0.3).steps(context)
    edit = next(steps)
    apply(context, edit)
    moved = change(context)
    for name in ("0.weight", "3.weight"):
        score = (retain[name] - forget[name]).abs().flatten()
        wanted = set(score.argsort(stable=True)[: int(0.3 * score.numel())].tolist())
        assert set(moved[name].flatten().nonzero().flatten().tolist()) == wanted
        wrong = (retain[name] + forget[name]).abs().flatten()  # the sign error
        assert set(wrong.argsort(stable=True)[: int(0.3 * score.numel())].tolist()) != wanted
    assert moved["0.bias"].any() and moved["3.bias"].any()
    assert not any(moved[name].any() for name in moved if name[0] not in "03")
    phase = next(steps)
    assert isinstance(phase, Phase) and set(phase.mask) == {"0.weight", "3.weight"}
    for name, mask in phase.mask.items():
        assert torch.equal(mask == 1, moved[name] != 0) and mask[mask != 1].tolist() == pytest.approx([0.1] * int((mask != 1).sum()))


def test_new_weights_follow_he_with_fan_out():
    context = make_context("random")
    apply(context, next(Msg(reset=1.0).steps(context)))
    for name, fan_out in (("0.weight", 8 * 9), ("3.weight", 16 * 9)):
        assert float(context.model.state_dict()[name].std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_other_weights_move_a_tenth_as_much():
    def movement(slow: float) -> dict[str, torch.Tensor]:
        context = make_context("random", needs={"forget", "retain"})
        steps = Msg(epochs=1, slow=slow, reset=0.0).steps(context)
        apply(context, next(steps))
        before = copy.deepcopy(context.model.state_dict())
        run_phase(context, next(steps).but(steps=1, epochs=1))
        return {name: value - before[name] for name, value in context.model.named_parameters()}

    tenth, whole = movement(0.1), movement(1.0)
    torch.testing.assert_close(tenth["3.weight"], 0.1 * whole["3.weight"], rtol=1e-2, atol=2e-8)
    assert torch.equal(tenth["7.weight"], whole["7.weight"]) and whole["7.weight"].any()


def test_the_learning_rate_rises_and_falls_to_zero():
    context = make_context("random")
    steps = Msg().steps(context)
    apply(context, next(steps))
    factor = next(steps).schedule
    values = [factor(Progress(step, 100, 0, 5)) for step in range(100)]
    assert values[0] == pytest.approx(0.05) and max(values) == 1 and values.index(1) in (19, 20) and values[-1] == pytest.approx(0.0125)


def test_a_net_without_convolutions_resets_its_linear_layers_but_not_the_head():
    context = make_context("random", net=wide_as_classes())
    apply(context, next(Msg().steps(context)))
    moved = {name for name, value in change(context).items() if value.any()}
    assert moved == {"1.weight", "1.bias", "3.weight", "3.bias"}


def test_source_001_multiplies_by_noise_where_both_gradients_are_small():
    context = make_context("random")
    forget, retain = gradients(context)
    steps = Msg(variant="source_001").steps(context)
    apply(context, next(steps))
    moved, ratios = change(context), []
    for name, value in moved.items():
        score = torch.minimum(forget[name].abs(), retain[name].abs()).flatten()
        wanted = set(score.argsort(stable=True)[: int(0.3 * score.numel())].tolist())
        assert set(value.flatten().nonzero().flatten().tolist()) <= wanted
        old = context.original[name].flatten()[list(wanted)]
        ratios.append((value.flatten()[list(wanted)] + old)[old != 0] / old[old != 0])
    ratio = torch.cat(ratios)
    assert len(ratio) > 500 and abs(float(ratio.mean())) < 0.1 and float(ratio.std()) == pytest.approx(1, rel=0.1)
    phase = next(steps)
    assert phase.mask is None and phase.optimizer.kind == "adam"
    assert phase.schedule(Progress(0, 100, 0, 5)) == phase.schedule(Progress(99, 100, 0, 5)) == 1
    forget = context.stream("forget").steps(phase.batch_size)  # an epoch has as many steps as a pass over the forget set
    assert phase.steps == 5 * forget <= phase.epochs * context.stream("retain").steps(phase.batch_size)
