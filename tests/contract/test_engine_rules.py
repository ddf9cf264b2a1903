"""Stop and selection rules, divergence, and what a phase reports."""

import math

import pytest
import torch

from conftest import SOURCE, make_context, make_net, trained_net
from expunge.engine.loop import run_phase
from expunge.engine.measure import accuracy, logits_of, mean_loss
from expunge.engine.parameters import leaves
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Penalty, Term, cross_entropy, l1
from expunge.engine.update import sgd
from expunge.errors import Diverged

RETAIN = Term("retain", cross_entropy)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[name], value) for name, value in b.items())


# Whole splits


class Recorder:
    """A rule that records which examples of a split the model was shown for it."""

    def __init__(self, answers):
        self.answers, self.shown, self.progress = iter(answers), [], []

    def __call__(self, context, progress=None):
        seen = []
        handle = context.model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        mean_loss(context, "validation")
        handle.remove()
        self.shown.append(torch.cat(seen))
        self.progress.append(progress)
        return next(self.answers)


def test_stop_rule_reads_the_whole_split_after_each_epoch():
    context, rule = make_context(net=make_net()), Recorder([False, False, True])
    result = run_phase(context, Phase([RETAIN], epochs=9, batch_size=100, stop=rule))
    assert (result.epochs, result.steps, result.stopped) == (3, 12, True)
    whole = torch.cat([batch.x for batch in context.stream("validation").batches(1000)])
    assert len(rule.shown) == 3 and all(torch.equal(shown, whole) for shown in rule.shown)
    assert [(p.step, p.epoch) for p in rule.progress] == [(4, 1), (8, 2), (12, 3)]


def test_stop_every_asks_every_so_many_steps_and_not_at_epochs_too():
    rule = Recorder([False, False, False, True])
    result = run_phase(make_context(net=make_net()), Phase([RETAIN], epochs=9, batch_size=100, stop=rule, stop_every=2))
    assert [p.step for p in rule.progress] == [2, 4, 6, 8]
    assert (result.steps, result.stopped) == (8, True)
    rule = Recorder([False, True])
    result = run_phase(make_context(net=make_net()), Phase([RETAIN], epochs=9, batch_size=100, stop=rule, stop_every=3))
    assert (result.steps, result.epochs, result.stopped) == (6, 2, True)


def test_a_phase_that_runs_out_was_not_stopped():
    assert not run_phase(make_context(net=make_net()), Phase([RETAIN], stop=Recorder([False]))).stopped


@pytest.mark.parametrize("scores,best", [([3, 1, 2], 2), ([1, 2, 3], 1), ([3, 2, 1], 3), ([math.nan, 5, math.nan], 2), ([2, 2, 2], 1)])
def test_selection_restores_the_best_epoch(scores, best):
    net, kept = make_net(), []
    rule = Recorder(scores)

    def remember(context):
        kept.append(weights(context.model))
        return rule(context)

    result = run_phase(make_context(net=net), Phase([RETAIN], epochs=3, batch_size=100, select=remember))
    assert result.selected_epoch == best and result.epochs == 3
    assert equal(kept[best - 1], net.state_dict())
    assert not equal(kept[best % 3], net.state_dict())
    assert all(len(shown) == 50 for shown in rule.shown)


def test_measures_equal_their_definitions():
    net = trained_net()
    context = make_context(net=net)
    x, y = next((b.x, b.y) for b in context.stream("validation").batches(50))
    with torch.no_grad():
        expected = net.eval()(x)
    net.train()
    logits, labels = logits_of(context, "validation", size=7)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, y) and net.training
    chosen = expected.log_softmax(1)[torch.arange(50), y]
    assert mean_loss(context, "validation") == pytest.approx(-float(chosen.mean()), rel=1e-4)
    assert accuracy(context, "validation") == pytest.approx(float((expected.argmax(1) == y).float().mean()))


# Divergence


class Bomb:
    """Cross entropy that is multiplied by a number at one step."""

    def __init__(self, at, factor):
        self.at, self.factor, self.calls = at, factor, 0
        self.__name__ = "bomb"

    def __call__(self, context, batch, student):
        self.calls += 1
        return cross_entropy(context, batch, student) * (self.factor if self.calls == self.at else 1.0)


@pytest.mark.parametrize("at,epoch", [(1, 0), (6, 1), (8, 1), (9, 2)])
def test_a_loss_that_is_not_finite_names_step_term_and_last_good_state(at, epoch):
    net, states = make_net(), []
    context = make_context(net=net, report=lambda event: event["event"] == "epoch" and states.append(weights(net)))
    states.append(weights(net))
    with pytest.raises(Diverged, match="is not finite; the last good state is") as caught:
        run_phase(context, Phase([RETAIN, Term("forget", Bomb(at, math.nan))], epochs=4, batch_size=100))
    assert (caught.value.step, caught.value.term) == (at, "bomb on forget")
    assert caught.value.last_good == f"after epoch {epoch} of phase 0"
    assert equal(states[epoch], net.state_dict())


def test_of_two_terms_with_one_label_the_right_one_is_named():
    terms = [Term("forget", Bomb(3, math.inf)), Term("forget", Bomb(0, 1.0))]
    with pytest.raises(Diverged) as caught:
        run_phase(make_context(net=make_net()), Phase(terms, epochs=4))
    assert (caught.value.step, caught.value.term) == (3, "bomb on forget")
    with pytest.raises(Diverged) as caught:
        run_phase(make_context(net=make_net()), Phase([terms[1], Term("forget", Bomb(3, math.inf))], epochs=4))
    assert (caught.value.step, caught.value.term) == (3, "bomb on forget (2)")


def test_a_penalty_can_diverge():
    penalty = Penalty(lambda context, values: l1(context, values) * math.inf, name="l1")
    with pytest.raises(Diverged) as caught:
        run_phase(make_context(net=make_net()), Phase([RETAIN, penalty]))
    assert (caught.value.step, caught.value.term) == (1, "l1")


def test_divergence_in_a_long_epoch_is_found_before_the_epoch_ends():
    steps = []
    phase = Phase([RETAIN, Term("forget", Bomb(2, math.nan))], batch_size=1)

    def count(context, batch, student):
        steps.append(1)
        return cross_entropy(context, batch, student)

    with pytest.raises(Diverged) as caught:
        run_phase(make_context(net=make_net()), phase.but(terms=[*phase.terms, Term("validation", count)], norm="frozen"))
    assert caught.value.step == 2 and len(steps) < 100


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("name", ["3.weight", "4.running_var"])
def test_weights_and_buffers_that_are_not_finite_are_caught(value, name):
    """The last step breaks the weights: no loss has seen it."""
    net = make_net()
    before = weights(net)

    def break_it(step):
        if step.progress.step == step.progress.total_steps - 1:
            net.state_dict()[name].view(-1)[0] = value

    with pytest.raises(Diverged, match="diverged at step 4: weights is not finite") as caught:
        run_phase(make_context(net=net), Phase([RETAIN], batch_size=100, after_step=(break_it,)))
    assert caught.value.last_good == "after epoch 0 of phase 0"
    assert equal(before, net.state_dict())


def test_exploding_ascent_diverges_with_the_weights_restored():
    net = trained_net()
    before = weights(net)
    with pytest.raises(Diverged):
        run_phase(make_context(net=net), Phase([Term("forget", cross_entropy, weight=-1e30)], optimizer=sgd(1e6), epochs=30))
    assert all(bool(torch.isfinite(value).all()) for value in net.state_dict().values())
    assert before.keys() == net.state_dict().keys()


# Reports


def test_reported_losses_are_means_over_examples():
    """130 examples in batches of 100 and 30: a mean of batch means would count the last ones more."""
    events, values = [], []

    def keep(context, batch, student):
        each = cross_entropy(context, batch, student)
        values.append(each.detach())
        return each

    for order, reduction in (("zip", "mean"), ("mixed", "mean"), ("zip", "sum")):
        events.clear(), values.clear()
        context = make_context(net=make_net(), report=events.append)
        part = Stream("part", SOURCE, context.stream("retain").index[:130])
        terms = [Term(part, keep, weight=0.001, reduction=reduction), Term("forget", cross_entropy)]
        result = run_phase(context, Phase(terms, batch_size=100, order=order, optimizer=sgd(0.1)))
        assert len(torch.cat(values)) == 130
        assert result.losses[0]["keep on part"] == pytest.approx(float(torch.cat(values).mean()), rel=1e-5)
        assert [event["event"] for event in events[:2]] == ["phase", "epoch"] and events[1]["losses"] == result.losses[0]


def test_weights_of_terms_and_their_schedules_act():
    """Two epochs: weight 1, then 0; the second changes nothing but momentum, which is off."""
    nets = {}
    for epochs in (1, 2):
        net = make_net()
        term = Term("retain", cross_entropy, weight=lambda progress: float(progress.epoch == 0))
        run_phase(make_context(net=net), Phase([term], epochs=epochs, optimizer=sgd(0.1, momentum=0, weight_decay=0)))
        nets[epochs] = {name: value.detach().clone() for name, value in leaves(net).items()}
    assert equal(nets[1], nets[2])
