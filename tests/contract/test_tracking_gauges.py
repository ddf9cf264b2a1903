"""What a phase tells trackers is right, and telling it changes nothing."""

import math

import pytest
import torch
import torch.nn.functional as F

from conftest import CLASSES, SOURCE, make_context, make_net, split
from expunge.engine.combine import pcgrad
from expunge.engine.context import Context
from expunge.engine.gauges import Detail, Gauges
from expunge.engine.loop import run_phase
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Penalty, Term, cross_entropy, l1
from expunge.engine.update import adam, noise, sam, sgd
from expunge.errors import Diverged

RETAIN, ASCENT = Term("retain", cross_entropy), Term("forget", cross_entropy, weight=-0.2)
PHASES = {
    "sum": Phase([RETAIN, ASCENT], epochs=2, optimizer=sgd(0.02), batch_size=64),
    "combined": Phase([RETAIN, ASCENT], epochs=2, optimizer=sgd(0.02), batch_size=64, combine=pcgrad()),
    "sharp": Phase([RETAIN, ASCENT], epochs=2, optimizer=sgd(0.02), batch_size=64, perturb=sam(0.05), clip=0.5),
    "mixed": Phase([RETAIN, ASCENT], epochs=2, optimizer=adam(1e-3), batch_size=64, order="mixed", after_step=(noise(1e-3),)),
    "interleave": Phase([RETAIN, ASCENT, Penalty(l1, weight=1e-4)], epochs=2, optimizer=sgd(0.02), batch_size=64, order="interleave"),
    "masked": Phase([RETAIN, ASCENT], epochs=2, optimizer=sgd(0.02), batch_size=64, mask={"0.weight": torch.zeros(8, 3, 3, 3)}),
}


def run(phase, detail=None, net=None):
    """Return the state after a phase, what it counted, and its events."""
    events = []
    context = make_context(net=net or make_net(), report=events.append)
    context.detail = detail
    context.cost.watch(context.model)
    run_phase(context, phase)
    counted = (context.cost.forward, context.cost.backward)
    return {name: value.clone() for name, value in context.model.state_dict().items()}, counted, events


@pytest.mark.parametrize("name", PHASES)
def test_watching_changes_no_bit_of_the_weights_and_no_count(name):
    expected, counted, _ = run(PHASES[name])
    for detail in (Detail(every=1), Detail(every=3, apart=True, histograms=True)):
        found, again, events = run(PHASES[name], detail)
        assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []
        assert again == counted
        assert any(event["event"] == "steps" for event in events)
    assert any(event["event"] == "weights" for event in events)


def test_without_detail_nothing_is_measured():
    _, _, events = run(PHASES["combined"])
    assert {event["event"] for event in events} == {"phase", "epoch"}
    assert all("values" not in event for event in events)


def steps_of(events, name):
    """Return {step: value} of one series."""
    found = {}
    for event in events:
        if event["event"] == "steps":
            found |= {step: value for step, value in zip(event["steps"], event["values"].get(name, ()), strict=False)}
    return found


def gradients_by_hand(net, streams):
    """Return flat gradients and hits of one step over whole streams, from a plain forward and backward in training mode."""
    net.train()
    flat, hits, logits = {}, {}, {}
    for name in ("forget", "retain"):
        batch = next(iter(Stream(name, SOURCE, streams[name]).batches(len(streams[name]))))
        y = batch.y
        logits[name] = net(batch.x)
        hits[name] = float((logits[name].argmax(1) == y).double().mean())
        loss = F.cross_entropy(logits[name], y)
        flat[name] = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(net.parameters()))]).double()
    return flat, hits


def one_step(combine=None, apart=False):
    events, streams = [], split("random")
    context = make_context(net=make_net(), report=events.append)
    context.detail = Detail(every=1, apart=apart)
    sizes = {name: len(index) for name, index in streams.items()}
    terms = [Term("retain", cross_entropy), Term("forget", cross_entropy)]
    run_phase(context, Phase(terms, steps=1, optimizer=sgd(0.01), batch_size=sizes, combine=combine, augment=False))
    return events


@pytest.mark.parametrize("combine,apart", [(pcgrad(), False), (None, True)])
def test_norms_angle_and_accuracy_are_those_of_a_plain_backward(combine, apart):
    flat, hits = gradients_by_hand(make_net(), split("random"))
    events = one_step(combine, apart)
    seen = {name: values[0] for event in events if event["event"] == "steps" for name, values in event["values"].items()}
    for name in ("forget", "retain"):
        assert seen[f"gradient_norm/{name}"] == pytest.approx(float(flat[name].norm()), rel=1e-3)
        assert seen[f"top1/{name}"] == pytest.approx(hits[name], abs=1e-6)
    cosine = float(flat["forget"] @ flat["retain"] / (flat["forget"].norm() * flat["retain"].norm()))
    (found,) = (value for name, value in seen.items() if name.startswith("cosine/"))
    assert found == pytest.approx(cosine, abs=1e-3)
    if combine is None:
        assert seen["gradient_norm/update"] == pytest.approx(float((flat["forget"] + flat["retain"]).norm()), rel=1e-3)
    assert seen["lr"] == 0.01 and "top5/forget" not in seen, "five classes: the true one is always among five"


def test_groups_are_taken_apart_in_one_step_of_every_window_and_of_every_epoch():
    events = run(PHASES["sum"].but(batch_size=60), Detail(every=4, apart=True))[2]
    assert list(steps_of(events, "cosine/retain forget")) == [4, 6, 10, 12]
    events = run(PHASES["sum"].but(batch_size=60), Detail(every=100, apart=True))[2]
    assert list(steps_of(events, "cosine/retain forget")) == [6, 12], "short epochs too"


def test_top5_is_the_share_among_the_five_highest():
    gauges = Gauges(make_context(), Detail(every=1))
    logits = torch.eye(7)[torch.tensor([0, 1, 6])] * 3 - torch.arange(7) * 0.01
    forward = type("F", (), {"known_logits": logits, "batch": type("B", (), {"y": torch.tensor([0, 5, 4])})})
    gauges.see_forwards(1, {"retain": forward})
    assert gauges.end_epoch(1) == {"top1/retain": pytest.approx(1 / 3), "top5/retain": pytest.approx(1 / 3)}


def test_values_by_step_average_to_the_epoch():
    events = run(PHASES["sum"].but(batch_size=60), Detail(every=4))[2]
    losses = steps_of(events, "loss/cross_entropy on retain")
    epochs = [event for event in events if event["event"] == "epoch"]
    assert list(losses) == [4, 6, 10, 12], "six steps an epoch, and a value at its end"
    for epoch, (one, other) in zip(epochs, [(4, 6), (10, 12)], strict=True):
        mean = (losses[one] * 4 + losses[other] * 2) / 6
        assert epoch["losses"]["cross_entropy on retain"] == pytest.approx(mean, rel=1e-6)
        assert epoch["values"]["loss/cross_entropy on retain"] == pytest.approx(mean, rel=1e-6)
    assert [event["steps"] for event in epochs] == [6, 12] and epochs[0]["passes"] > 0


def test_a_run_that_diverges_tells_how_it_came_to_that():
    calls = []

    def bomb(context, batch, student):
        calls.append(1)
        return cross_entropy(context, batch, student) * (math.nan if len(calls) == 5 else 1.0)

    events = []
    context = make_context(net=make_net(), report=events.append)
    context.detail = Detail(every=1)
    with pytest.raises(Diverged):
        run_phase(context, Phase([Term("retain", bomb)], epochs=2, batch_size=64))
    seen = steps_of(events, "loss/bomb on retain")
    assert next(step for step, value in seen.items() if value is None) == 5
    assert all(math.isfinite(seen[step]) for step in (1, 2, 3, 4))


def test_the_plan_says_how_much_may_move():
    plan = next(event for event in run(PHASES["masked"])[2] if event["event"] == "phase")
    moving = sum(parameter.numel() for parameter in make_net().parameters())
    assert plan["mask_density"] == pytest.approx(1 - 216 / moving) and plan["parameters"] == moving
    assert plan["total_steps"] == 12 and plan["terms"] == ["cross_entropy on retain", "cross_entropy on forget"]


def test_multipliers_of_rules_are_told_and_other_state_is_not():
    def rule(step):
        step.state["multiplier"] = torch.tensor(2.0 + step.progress.step, dtype=torch.float64)
        step.state["length of steps"] = torch.tensor(1.0)
        step.state["steps"] = torch.tensor(1)

    events = run(PHASES["sum"].but(after_step=(rule,), epochs=1), Detail(every=1))[2]
    assert steps_of(events, "rule/multiplier") == {1: None, 2: 2.0, 3: 3.0, 4: 4.0, 5: 5.0, 6: 6.0}
    names = {name for event in events if event["event"] == "steps" for name in event["values"]}
    assert {name for name in names if name.startswith("rule/")} == {"rule/multiplier"}


def test_histograms_count_every_weight():
    events = [event for event in run(PHASES["sum"], Detail(histograms=True))[2] if event["event"] == "weights"]
    assert [event["epoch"] for event in events] == [0, 1, 2]
    for event in events:
        assert {name: sum(one["counts"]) for name, one in event["histograms"].items()} == {
            name: value.numel() for name, value in make_net().named_parameters()
        }


def test_a_stream_without_labels_has_no_accuracy():
    streams = {"surrogate": Stream("surrogate", SOURCE, torch.arange(50))}
    events = []
    context = Context(make_net(), streams, needs={"surrogate"}, seed=0, num_classes=CLASSES, report=events.append, detail=Detail(every=1))
    run_phase(context, Phase([Term("surrogate", cross_entropy)]))
    assert not [name for event in events for name in event.get("values", ()) if name.startswith("top")]
