"""Add-ons that look at the gradients of both sides of a step, against loops written from the source."""

import math

import pytest
import torch
import torch.nn.functional as F

from conftest import SIZE, make_context, make_net, trained_net
from expunge.addons.batch_saliency import BatchSaliency
from expunge.addons.gradient_focus import GradientFocus
from expunge.addons.gradient_mask import GradientMask
from expunge.addons.gradient_surgery import GradientSurgery
from expunge.addons.optimal_mask import OptimalMask
from expunge.addons.sam import Sam
from expunge.engine import randomness
from expunge.engine.combine import above_quantile, feasible, masked_by, signs_agree, then, weighted
from expunge.engine.method import Method
from expunge.engine.parameters import dot, leaves
from expunge.engine.phase import Phase
from expunge.engine.run import check, run
from expunge.engine.terms import Penalty, Term, cross_entropy, l1
from expunge.engine.update import sgd
from expunge.errors import NotApplicable
from expunge.methods.ascent.neggrad_plus import NeggradPlus

BOTH = ("f", "r")
PLAIN = sgd(0.05, momentum=0, weight_decay=0)
BETA = 0.7


def gradients(steps: int = 6, like=((5, 4), (7,), ()), seed: int = 3):
    """Return a list of random steps, ``{"f": [...], "r": [...]}``, whose entries differ in scale and drift."""
    made = torch.Generator().manual_seed(seed)
    drift = {name: [torch.randn(shape, generator=made, dtype=torch.float64) for shape in like] for name in BOTH}
    return [
        {name: [0.1 * (d + 1.5 * torch.randn(d.shape, generator=made, dtype=torch.float64)) for d in drift[name]] for name in BOTH}
        for _ in range(steps)
    ]


def normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def naive_probabilities(series, rho: float, ema: str):
    """Yield a for each step, entry by entry, as source 001 has it."""
    moments: dict[tuple[str, int, int], float] = {}
    for step in series:
        found = []
        for number, (f, r) in enumerate(zip(step["f"], step["r"], strict=True)):
            values = []
            for place, pair in enumerate(zip(f.flatten().tolist(), r.flatten().tolist(), strict=True)):
                cdf = []
                for name, g in zip(BOTH, pair, strict=True):
                    key = (name, number, place)
                    if key not in moments:
                        moments[key] = (1 - rho) * g * g
                    elif ema == "intended":
                        moments[key] = rho * moments[key] + (1 - rho) * g * g
                    else:
                        moments[key] = (1 - rho) * moments[key] + rho * g * g
                    cdf.append(normal_cdf(g / math.sqrt(moments[key] + 1e-8)))
                values.append(cdf[0] * cdf[1] + (1 - cdf[0]) * (1 - cdf[1]))
            found.append(torch.tensor(values, dtype=torch.float64).view(f.shape))
        yield found


@pytest.mark.parametrize("ema", ["intended", "reference"])
@pytest.mark.parametrize("rho", [0.9, 0.7])
def test_the_probability_is_that_of_the_source(ema, rho):
    state, compared = {}, 0
    look = signs_agree(*BOTH, rho=rho, ema=ema)
    series = gradients()
    for step, wanted in zip(series, naive_probabilities(series, rho, ema), strict=True):
        for agreement, a in zip(look(step, state), wanted, strict=True):
            torch.testing.assert_close((1 + agreement) / 2, a)
            assert ((a > 0) & (a < 1)).all()
            compared += a.numel()
    assert compared == 6 * 28


def test_noise_gives_one_half():
    look = signs_agree(*BOTH)
    zero, some = torch.zeros(3), torch.tensor([1.0, -1.0, 1e-9])
    assert look({"f": [zero], "r": [some]}, {})[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("ema", ["intended", "reference"])
def test_a_threshold_of_one_half_is_sign_agreement(ema):
    look, state, agreeing = signs_agree(*BOTH, ema=ema), {}, 0
    change = masked_by(look, lambda agreement: agreement >= 2 * 0.5 - 1, BOTH)
    for step in gradients(20):
        for f, r, kept in zip(step["f"], step["r"], change(step, state)["f"], strict=True):
            assert torch.equal(kept != 0, f * r > 0)
            agreeing += int((f * r > 0).sum())
    assert 100 < agreeing < 20 * 28 - 100
    tiny = {"f": [torch.tensor([1e-9, -1e-9])], "r": [torch.tensor([1e-9, 1e-9])]}  # one half in float32, were it not for 2 a - 1
    assert change(tiny, {})["r"][0].tolist() == [pytest.approx(1e-9), 0]


def test_the_released_average_confines_the_probability_and_the_intended_one_does_not():
    spans = {}
    for ema in ("intended", "reference"):
        state, look = {}, signs_agree(*BOTH, ema=ema)
        found = [torch.cat([part.flatten() for part in look(step, state)]) for step in gradients(60)]
        spans[ema] = torch.stack(found[1:])
    low, high = (float((1 + edge) / 2) for edge in (spans["reference"].min(), spans["reference"].max()))
    limit = normal_cdf(1 / math.sqrt(0.9))
    assert high <= limit**2 + (1 - limit) ** 2 + 1e-9 and 0.24 < low < 0.30 and 0.70 < high < 0.76
    assert float((1 + spans["intended"].max()) / 2) > 0.9 and float((1 + spans["intended"].min()) / 2) < 0.1


def test_weights_of_the_terms_do_not_reach_the_moments():
    state = {}, {}
    plain, scaled = signs_agree(*BOTH), signs_agree(*BOTH, scales={"f": 0.05, "r": 0.95})
    for step in gradients():
        tiny = {name: [1e-4 * part for part in parts] for name, parts in step.items()}  # next to the 1e-8 under the root
        carried = {"f": [0.05 * part for part in tiny["f"]], "r": [0.95 * part for part in tiny["r"]]}
        for one, other in zip(plain(tiny, state[0]), scaled(carried, state[1]), strict=True):
            torch.testing.assert_close(one, other)


# The feasible update


def naive_optimal(f, r, alpha: float, beta: float):
    """Return the mask of source 001 for one tensor, from unweighted gradients; alpha weighs forgetting and beta retaining."""
    f, r = f.flatten().tolist(), r.flatten().tolist()
    kept = sorted(range(len(f)), key=lambda place: f[place] * r[place])
    while kept:
        conflict = sum(f[place] * r[place] for place in kept)
        room = min(alpha / beta * sum(f[place] ** 2 for place in kept), beta / alpha * sum(r[place] ** 2 for place in kept))
        if room + conflict >= 0:
            break
        kept = kept[1:]
    return [1.0 if place in kept else 0.0 for place in range(len(f))]


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.95])
def test_the_optimal_mask_is_that_of_the_source_and_feasible(beta):
    alpha, left_out, whole = 1 - beta, 0, 0
    for number, step in enumerate(gradients(30, seed=5)):
        opposed = {"f": step["f"], "r": [part - (number % 4) * f for part, f in zip(step["r"], step["f"], strict=True)]}
        carried = {"f": [alpha * part for part in opposed["f"]], "r": [beta * part for part in opposed["r"]]}
        for mask, f, r in zip(feasible(*BOTH)(carried, {}), opposed["f"], opposed["r"], strict=True):
            assert mask.flatten().tolist() == naive_optimal(f, r, alpha, beta)
            update = mask * (beta * r + alpha * f)
            assert float((f * mask * update).sum()) >= -1e-12 and float((r * mask * update).sum()) >= -1e-12
            aligned = float((f * (beta * r + alpha * f)).sum()) >= 0 and float((r * (beta * r + alpha * f)).sum()) >= 0
            assert bool((mask == 1).all()) == aligned
            whole, left_out = whole + aligned, left_out + int((mask == 0).sum())
    assert whole > 10 and left_out > 50


def test_what_opposes_wholly_is_left_out_wholly():
    f = torch.ones(4)
    assert feasible(*BOTH)({"f": [f], "r": [-2 * f]}, {})[0].tolist() == [0] * 4
    assert feasible(*BOTH)({"f": [0 * f], "r": [f]}, {})[0].tolist() == [1] * 4


# Through a method


def paired_batches(context, epoch: int):
    seed = randomness.derive(context.seed, "batches", 0)
    return [next(context.stream(name).batches(SIZE, seed=seed, epoch=epoch, shuffle=True)) for name in ("forget", "retain")]


def naive_run(mask, epochs: int = 3):
    """Return the parameters after NegGrad+ of source 001 with ``u = mask(g_U, g_C, state) * ((1 - beta) g_U + beta g_C)``."""
    context, net, state = make_context(), trained_net().eval(), {}
    for epoch in range(epochs):
        forget, retain = paired_batches(context, epoch)
        parameters = list(net.parameters())
        g_u = torch.autograd.grad(-F.cross_entropy(net(forget.x), forget.y), parameters)
        g_c = torch.autograd.grad(F.cross_entropy(net(retain.x), retain.y), parameters)
        factors = mask(g_u, g_c, state)
        with torch.no_grad():
            for parameter, u, c, factor in zip(parameters, g_u, g_c, factors, strict=True):
                parameter -= 0.05 * factor * ((1 - BETA) * u + BETA * c)
    return dict(net.named_parameters())


def probabilities(g_u, g_c, state):
    """Return a of source 001, with the intended average."""
    found = []
    for number, gradients_of_both in enumerate(zip(g_u, g_c, strict=True)):
        cdf = []
        for name, g in zip("uc", gradients_of_both, strict=True):
            key = f"{name}{number}"
            state[key] = 0.9 * state[key] + 0.1 * g * g if key in state else 0.1 * g * g
            cdf.append(torch.distributions.Normal(0, 1).cdf(g / torch.sqrt(state[key] + 1e-8)))
        found.append(cdf[0] * cdf[1] + (1 - cdf[0]) * (1 - cdf[1]))
    return found


def focus_optimal(g_u, g_c, state):
    """Return ``m a`` of FocusOPT: both gradients weighted by a, and the mask found on those."""
    factors = []
    for u, c, a in zip(g_u, g_c, probabilities(g_u, g_c, state), strict=True):
        mask = naive_optimal((a * u).double(), (a * c).double(), 1 - BETA, BETA)
        factors.append(a * torch.tensor(mask).view(a.shape))
    return factors


def finish(addons, method=None, epochs: int = 3):
    context = make_context()
    method = method or Paired(epochs=epochs)
    check(method, addons, kind="random", streams=["forget", "retain"])
    run(context, method, addons)
    return leaves(context.model)


class Paired(Method):
    """NegGrad+ with SGD, in eval mode, on whole sets."""

    needs = {"forget", "retain"}
    epochs: int = 3
    order: str = "zip"

    def steps(self, ctx):
        terms = [Term("retain", cross_entropy, weight=BETA), Term("forget", cross_entropy, weight=BETA - 1)]
        yield Phase(terms, epochs=self.epochs, optimizer=PLAIN, batch_size=SIZE, norm="frozen", augment=False, order=self.order)


def share_that_differs(found, wanted) -> float:
    differs = [~torch.isclose(found[name], wanted[name], rtol=1e-4, atol=1e-7) for name in wanted]
    return sum(int(part.sum()) for part in differs) / sum(part.numel() for part in differs)


CASES = {
    "focus": ([GradientFocus()], probabilities),
    "mask": ([GradientMask(threshold=0.55)], lambda u, c, state: [(a >= 0.55).float() for a in probabilities(u, c, state)]),
    "optimal": (
        [OptimalMask()],
        lambda u, c, state: [
            torch.tensor(naive_optimal(f.double(), r.double(), 1 - BETA, BETA)).view(f.shape) for f, r in zip(u, c, strict=True)
        ],
    ),
    "focus and optimal": ([GradientFocus(), OptimalMask()], focus_optimal),
    "salun": ([BatchSaliency(quantile=0.4)], lambda u, c, state: [(g.abs() >= torch.quantile(g.abs(), 0.4)).float() for g in u]),
}


@pytest.mark.parametrize("case", CASES)
def test_three_steps_of_a_method_are_those_of_the_source(case):
    addons, mask = CASES[case]
    wanted = naive_run(mask)
    assert share_that_differs(finish(addons), wanted) < 2e-3  # a mask may flip where rounding decides
    assert share_that_differs(finish([]), wanted) > 0.1


def test_the_order_of_focus_and_optimal_matters():
    wanted = naive_run(focus_optimal)
    assert share_that_differs(finish([OptimalMask(), GradientFocus()]), wanted) > 0.05


def test_second_moments_go_on_through_the_epochs():
    def forgetful(g_u, g_c, state):
        return probabilities(g_u, g_c, {})

    assert share_that_differs(finish([GradientFocus()]), naive_run(forgetful)) > 0.1


def test_the_second_look_of_sam_leaves_the_moments_alone():
    seen = []

    def note(gradients, state):
        seen.append({name: value.clone() for name, value in state.items()})
        return gradients

    for addons in ([GradientFocus()], [GradientFocus(), Sam(rho=1e-9)]):
        context = make_context()
        (step,) = GradientFocus().rewrite(Paired(epochs=2).steps(context), context)
        for addon in addons[1:]:
            (step,) = addon.rewrite(iter([step]), context)
        run(context, Given(given=(step.but(combine=then(step.combine, note)),)))
    first, second = seen[:2], seen[2:]
    assert len(second) == 4 and first[0]
    for name in first[0]:
        torch.testing.assert_close(second[2][name], first[1][name], rtol=1e-4, atol=1e-12)  # seen by the first look of the second step


class Given(Method):
    """Yields given steps."""

    needs = {"forget", "retain"}
    given: tuple = ()

    def steps(self, ctx):
        yield from self.given


def test_quantiles_do_not_interpolate_away_entries():
    checked = 0
    for count in (1, 2, 5, 10, 33):
        for quantile in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
            g = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
            (kept,) = above_quantile("f", quantile)({"f": [g]}, {})
            assert torch.equal(kept == 1, g.abs() >= torch.quantile(g.abs(), quantile)), (count, quantile)
            checked += 1
    assert checked == 30


# Which phases


def test_phases_without_a_pair_are_left_as_they_are():
    context = make_context()
    alone = Phase([Term("retain", cross_entropy)])
    turns = Phase([Term("retain", cross_entropy), Term("forget", cross_entropy)], order="sequential")
    paired = Phase([Term("retain", cross_entropy), Term("forget", cross_entropy, group="other"), Penalty(l1)])
    for addon in (GradientMask(), GradientFocus(), OptimalMask(), GradientSurgery()):
        first, second, third = addon.rewrite(iter([alone, turns, paired]), context)
        assert first is alone and second is turns and third.combine is not None
        assert [term.group_name for term in third.terms] == ["retain", "forget", "retain"]
        with pytest.raises(NotApplicable, match="two gradients never meet"):
            list(addon.rewrite(iter([alone, turns]), context))


def test_settings_decide_before_any_work():
    for order, fits in (("zip", True), ("mixed", True), ("sequential", False)):
        for addon in (GradientMask(), OptimalMask(), GradientSurgery(rule="nash")):
            assert (addon.refuse(Paired(order=order)) == "") == fits, (order, addon.name)
    assert BatchSaliency().refuse(Paired(order="mixed")) == "" and BatchSaliency().refuse(Paired(order="sequential"))


def test_a_rule_of_the_methods_own_goes_with_masks_but_not_with_other_rules():
    terms = [Term("retain", cross_entropy), Term("forget", cross_entropy)]
    method = Given(
        given=(Phase(terms, combine=weighted(forget=-0.3, retain=0.7), batch_size=SIZE, norm="frozen", augment=False, optimizer=PLAIN),)
    )
    assert GradientMask().refuse(method) == "" and "rule of its own" in OptimalMask().refuse(method)
    assert "rule of its own" in GradientSurgery().refuse(method)
    moved = finish([GradientFocus()], method)
    assert share_that_differs(moved, naive_run(probabilities, epochs=1)) > 0.5  # another weight, and descent: only that it runs


def test_steps_without_forgotten_examples_pass():
    addon = BatchSaliency(quantile=0.9)
    context = make_context()
    (step,) = addon.rewrite(Paired(order="mixed").steps(context), context)
    run(context, Given(given=(step.but(batch_size=16),)))  # of 22 batches some hold retained examples only
    retained = {"retain": [torch.ones(3)]}
    assert step.combine.changes[0](retained, {}) is retained


@pytest.mark.parametrize("rule", ["pcgrad", "project_forget", "minimum_norm", "nash"])
def test_surgery_keeps_its_rules_promise(rule):
    seen = []
    context = make_context()
    (step,) = GradientSurgery(rule=rule).rewrite(Paired(epochs=2).steps(context), context)

    def spy(gradients, state):
        update = step.combine(gradients, state)
        seen.append((gradients["forget"], gradients["retain"], update))
        return update

    run(context, Given(given=(step.but(combine=spy),)))
    assert len(seen) == 2
    for forget, retain, update in seen:
        if rule != "project_forget":
            assert float(dot(update, forget)) >= -1e-9
        assert float(dot(update, retain)) >= -1e-9


def test_scales_are_the_weights_of_the_terms():
    context = make_context(net=make_net())
    (step,) = NeggradPlus(alpha=0.9, epochs=1).steps(context)
    from expunge.addons.pairs import pair

    assert pair(context, step).scales == pytest.approx({"retain": 0.9, "forget": 0.1})
    fading = step.but(terms=[Term("retain", cross_entropy), Term("forget", cross_entropy, weight=lambda progress: -0.5)])
    assert pair(context, fading).scales == {"retain": 1.0, "forget": 1.0}
