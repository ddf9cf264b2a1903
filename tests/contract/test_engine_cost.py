"""The cost meter counts at the models, so nothing is forgotten and nothing counted twice."""

import pytest
import torch

from conftest import make_context, make_net, trained_net
from expunge.engine import targets
from expunge.engine.combine import pcgrad, total
from expunge.engine.derivatives import fisher_diagonal, gradient
from expunge.engine.edits import Edit
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.terms import Term, cross_entropy, match
from expunge.engine.update import sam

FORGET, RETAIN = Term("forget", cross_entropy, weight=-0.1), Term("retain", cross_entropy)


def cost_of(*steps, net=None, needs=("forget", "retain", "validation")):
    """Run steps (phases, edits, or functions of the context) and return the counts; 40 to forget, 360 to keep."""

    class Listed(Method):
        """Yields what it is given."""

        def steps(self, ctx):
            """Yield the steps."""
            for step in steps:
                made = step(ctx) if callable(step) else step
                if made is not None and not isinstance(made, dict):
                    yield made

    context = make_context(net=net or make_net(), needs=needs)
    return run(context, Listed()).cost


def counts(cost):
    return cost["forward"], cost["backward"], cost["teacher"], cost["teacher_backward"]


def test_one_term():
    assert counts(cost_of(Phase([RETAIN], epochs=2))) == (720, 720, 0, 0)
    assert cost_of(Phase([RETAIN], epochs=2))["passes"] == 3 * 720


def test_zip_counts_what_was_passed_through():
    assert counts(cost_of(Phase([FORGET, RETAIN], batch_size=40))) == (720, 720, 0, 0)
    assert counts(cost_of(Phase([FORGET, RETAIN], batch_size=40, order="mixed"))) == (400, 400, 0, 0)
    assert counts(cost_of(Phase([FORGET, RETAIN], batch_size=40, order="sequential"))) == (400, 400, 0, 0)


def test_two_terms_on_one_stream_share_a_forward_and_a_backward():
    again = Term("retain", match(targets.uniform))
    assert counts(cost_of(Phase([RETAIN, again]))) == (360, 360, 0, 0)


def test_the_sum_needs_one_backward_and_a_combiner_one_for_each_group():
    two = [RETAIN, Term("retain", match(targets.uniform), group="other")]
    assert counts(cost_of(Phase(two))) == (360, 360, 0, 0)
    assert counts(cost_of(Phase(two, combine=total))) == (360, 720, 0, 0)
    assert counts(cost_of(Phase([RETAIN, two[0]], combine=pcgrad()))) == (360, 360, 0, 0)
    assert counts(cost_of(Phase([FORGET, RETAIN], batch_size=40, order="mixed", combine=total)))[:2] == (400, 800)


def test_sam_costs_twice():
    assert counts(cost_of(Phase([FORGET, RETAIN], batch_size=40, perturb=sam()))) == (1440, 1440, 0, 0)


def test_teachers_are_counted_apart():
    kept = Term("retain", match(targets.teacher("original")))
    assert counts(cost_of(Phase([kept]))) == (360, 360, 360, 0)
    assert counts(cost_of(Phase([kept, Term("retain", match(targets.teacher("random")))]))) == (360, 360, 720, 0)
    attack = Term("forget", match(targets.adversarial_label()))
    assert counts(cost_of(Phase([attack]), net=trained_net())) == (40, 40, 80, 40)


def feature_norm(context, batch, student):
    return student.features.square().sum(1)


def test_a_term_on_features_alone_pays_for_its_backward():
    only = Term("retain", feature_norm, features=True)
    assert counts(cost_of(Phase([only]))) == (360, 360, 0, 0)
    assert counts(cost_of(Phase([only, RETAIN]))) == (360, 360, 0, 0)
    assert counts(cost_of(Phase([only, Term("forget", feature_norm, features=True)], order="mixed"))) == (400, 400, 0, 0)


def test_scoring_passes_are_counted():
    assert counts(cost_of(lambda ctx: gradient(ctx, "forget"))) == (40, 40, 0, 0)
    assert counts(cost_of(lambda ctx: fisher_diagonal(ctx, "forget"))) == (40, 40, 0, 0)
    forward, backward, *_ = counts(cost_of(lambda ctx: fisher_diagonal(ctx, "forget", "exact")))
    assert backward == 5 * 40 and forward >= 5 * 40


def test_scores_can_be_taken_inside_edits_and_rules():
    """Both run without gradients; a score turns them on for itself."""
    found = []
    edit = Edit("score", lambda ctx: found.append(gradient(ctx, "forget")))
    assert counts(cost_of(edit)) == (40, 40, 0, 0)
    cost_of(Phase([FORGET], stop=lambda ctx, progress: found.append(gradient(ctx, "forget"))))
    assert len(found) == 2 and all(bool((score["0.weight"] != 0).any()) for score in found)


def test_rules_are_counted():
    assert counts(cost_of(Phase([RETAIN], epochs=2, stop=lambda ctx, p: mean(ctx)))) == (720 + 2 * 50, 720, 0, 0)


def mean(ctx):
    from expunge.engine.measure import mean_loss

    return mean_loss(ctx, "validation") < 0


def test_finding_the_architecture_is_free_of_charge():
    assert counts(cost_of(lambda ctx: ctx.architecture and None)) == (0, 0, 0, 0)


def test_seconds_memory_and_hooks():
    net = make_net()
    cost = cost_of(Phase([RETAIN]), net=net)
    assert cost["seconds"] > 0
    weights = sum(value.numel() * 4 for value in net.state_dict().values())
    assert cost["peak_memory_bytes"] > weights
    assert not net._forward_hooks


def test_hooks_come_off_after_a_failure():
    net = make_net()

    def fail(ctx):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        cost_of(fail, net=net)
    assert not net._forward_hooks


def test_counting_at_one_term_would_miss_scoring_passes():
    """Planted: a meter in the loss of the phase sees none of the passes of a score."""
    seen = []

    def counted(context, batch, student):
        seen.append(len(batch))
        return cross_entropy(context, batch, student)

    cost = cost_of(lambda ctx: gradient(ctx, "retain"), Phase([Term("forget", counted)]))
    assert sum(seen) == 40 and cost["forward"] == 400


def test_without_gradients_no_backward():
    context = make_context(net=make_net())
    context.cost.watch(context.model)
    with torch.no_grad():
        context.model(next(context.stream("retain").batches(9)).x)
    assert (context.cost.forward, context.cost.backward) == (9, 0)
