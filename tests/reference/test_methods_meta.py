"""Methods made of methods: each against the same steps taken by hand."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from test_methods_gradient import assert_same, batches, changed, method, plain_loop, plain_sgd

from conftest import make_context, trained_net
from expunge import registry
from expunge.config import build
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.parameters import leaves
from expunge.engine.run import run
from expunge.engine.stream import Stream
from expunge.errors import BadInput, Diverged, NotApplicable, UndeclaredAccess

BOTH = {"forget", "retain"}
META = ("sequential", "ensemble_draw", "rum", "undo")


def after(*parts, kind: str = "random", net=None, forget=None) -> Context:
    """Return the context after some methods, one after the other, on one model."""
    context = make_context(kind, needs=BOTH, net=net)
    if forget is not None:
        context._streams["forget"] = forget
    for part in parts:
        run(context, part)
    return context


def same(one: Context, other: Context) -> bool:
    return not changed(one.model, other.model) and bool(changed(one.model))


FINETUNE = {"name": "finetune", "epochs": 1, "batch_size": 128}
ASCENT = {"name": "gradient_ascent", "epochs": 1, "lr": 1e-3}


def test_sequential_is_one_after_the_other(kind: str) -> None:
    found = after(method("sequential", parts=(ASCENT, FINETUNE)), kind=kind)
    expected = after(build("methods", ASCENT, "a"), build("methods", FINETUNE, "b"), kind=kind)
    assert same(found, expected)


def test_parts_take_the_defaults_of_the_request() -> None:
    events = {}
    for kind in ("random", "class"):
        seen: list[dict] = []
        context = make_context(kind, needs=BOTH, report=seen.append)
        run(context, method("sequential", parts=("gradient_ascent",)))
        events[kind] = next(event["method"] for event in seen if event["event"] == "part")
    assert events["random"]["lr"] == 5e-4 and events["class"]["lr"] == 1e-4


def test_the_drawn_method_is_the_only_one_and_seeds_draw_all() -> None:
    drawn = set()
    for seed in range(8):
        place = randomness.derive(seed, "ensemble_draw") % 2
        drawn.add(place)
        if seed < 3:
            context = make_context(needs=BOTH, seed=seed)
            run(context, method("ensemble_draw", parts=(ASCENT, FINETUNE)))
            expected = make_context(needs=BOTH, seed=seed)
            run(expected, build("methods", (ASCENT, FINETUNE)[place], "a"))
            assert same(context, expected)
    assert drawn == {0, 1}


def thirds() -> list[torch.Tensor]:
    """Return the forget set in three parts, from the smallest loss of the original to the largest."""
    forget = make_context(needs=BOTH).stream("forget")
    batch, net = next(forget.batches(100)), trained_net().eval()
    with torch.no_grad():
        loss = F.cross_entropy(net(batch.x).double(), batch.y, reduction="none")
    order = batch.index[loss.argsort()]
    return [order[:14], order[14:27], order[27:]]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_rum_gives_each_method_its_third(place: int) -> None:
    parts = ["original", "original", "original"]
    parts[place] = {"name": "random_label", "epochs": 1, "batch_size": 64}
    found = after(method("rum", parts=tuple(parts)))
    whole = make_context(needs=BOTH).stream("forget")
    third = Stream("forget", whole.source, thirds()[place])
    assert same(found, after(build("methods", parts[place], "a"), forget=third))
    assert changed(found.model, after(build("methods", parts[place], "a")).model)


def test_rum_runs_the_parts_in_order_and_puts_the_forget_set_back() -> None:
    events: list[dict] = []
    context = make_context(needs=BOTH, report=events.append)
    whole = context.stream("forget")
    run(context, method("rum", parts=("original", FINETUNE, ASCENT)))
    assert [event["method"]["name"] for event in events if event["event"] == "part"] == ["original", "finetune", "gradient_ascent"]
    assert context.stream("forget") is whole


def test_the_forget_set_is_put_back_when_a_part_diverges() -> None:
    context = make_context(needs=BOTH)
    whole = context.stream("forget")
    with pytest.raises(Diverged):
        run(context, method("rum", parts=("original", "original", {"name": "gradient_ascent", "lr": 1e30, "epochs": 3, "batch_size": 4})))
    assert context.stream("forget") is whole


def test_rum_says_which_part_is_empty() -> None:
    events: list[dict] = []
    context = make_context(needs=BOTH, report=events.append)
    context._streams["forget"] = context.stream("forget").subset(context.stream("forget").index[:2])
    run(context, method("rum", parts=(ASCENT, FINETUNE, ASCENT)))
    assert [event["event"] for event in events].count("part") == 2 and any("too small" in event.get("message", "") for event in events)


def test_undo_distils_the_unlearned_model_into_damaged_weights() -> None:
    context = make_context(needs=BOTH)
    fresh = context.fresh_state("undo")
    run(context, method("undo", parts=(ASCENT,), alpha=0.4, epochs=1, lr=0.05, batch_size=128))
    unlearned = after(build("methods", ASCENT, "a")).model.eval()
    expected = trained_net()
    expected.load_state_dict(unlearned.state_dict())
    with torch.no_grad():
        for name, value in leaves(expected).items():
            value.copy_(0.6 * value + 0.4 * fresh[name])

    def loss(batch):
        with torch.no_grad():
            p = unlearned(batch.x).softmax(1)
        return lambda net: F.kl_div(F.log_softmax(net(batch.x), 1), p, reduction="batchmean")

    plain_loop(expected, plain_sgd(expected, 0.05), [loss(batch) for batch in batches(context, "retain", 128, phase=1)])
    assert_same(context.model, expected)


def test_undo_counts_the_unlearned_model_as_a_teacher() -> None:
    context = make_context(needs=BOTH)
    outcome = run(context, method("undo", parts=("original",), epochs=2, batch_size=128))
    assert outcome.cost["teacher"] == outcome.cost["forward"] == 2 * 360


def test_all_of_alpha_leaves_nothing_of_the_weights() -> None:
    results = []
    for net in (trained_net(), trained_net(1)):
        net.load_state_dict({**net.state_dict(), **{k: v for k, v in trained_net().state_dict().items() if "running" in k or "num_" in k}})
        context = make_context(needs=BOTH, net=net)
        steps = method("undo", parts=("original",), alpha=1.0, epochs=1).steps(context)
        with torch.no_grad():
            next(steps).apply(context)
        results.append(context.model)
    assert not changed(*results)


@pytest.mark.parametrize("name", META)
def test_parts_that_need_more_or_do_not_exist_are_refused(name: str) -> None:
    wrong = [("retrain",), ("scrub_r",), ("no_such_method",), ({"name": "finetune", "lr": -1},), ({"name": "finetune", "speed": 1},), ()]
    for parts in wrong:
        with pytest.raises(ValidationError):
            method(name, parts=parts)
    with pytest.raises(BadInput, match=r"recipe.*forget and retain"):
        build("methods", {"name": name, "parts": ["retrain"]}, "method")


def test_a_part_that_does_not_fit_the_request_is_refused() -> None:
    with pytest.raises(NotApplicable, match="whole classes"):
        run(make_context("random", needs=BOTH), method("sequential", parts=("head_surgery",)))


def test_parts_survive_the_record() -> None:
    for name in META:
        made = registry.find("methods", name)(parts=("original", FINETUNE))
        assert build("methods", made.tree(), "method") == made


def test_a_narrowed_stream_stays_within_what_is_declared() -> None:
    context = make_context(needs=BOTH)
    foreign = Stream("forget", context.stream("forget").source, torch.arange(400, 410))
    with pytest.raises(UndeclaredAccess), context.narrowed(forget=foreign):
        pass
