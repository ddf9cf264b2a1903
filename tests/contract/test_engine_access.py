"""Data that a method does not declare is out of its reach, by every way in."""

import pytest
import torch

from conftest import CLASSES, SIZE, SOURCE, make_context, make_net
from expunge.engine.context import Context
from expunge.engine.edits import Edit, recalibrate
from expunge.engine.loop import run_phase
from expunge.engine.measure import accuracy, mean_loss
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.run import check, run
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy
from expunge.errors import BadInput, NotApplicable, UndeclaredAccess

FORGET = Term("forget", cross_entropy)


def peeking(context, batch, student):
    context.stream("validation")
    return cross_entropy(context, batch, student)


def reads_other(context, batch, student):
    return cross_entropy(context, batch, student) + 0 * student.other("validation").logits.mean()


WAYS = {
    "steps": lambda ctx: ctx.stream("validation"),
    "term": lambda ctx: Phase([Term("validation", cross_entropy)]),
    "inside a term": lambda ctx: Phase([Term("forget", peeking)]),
    "uses": lambda ctx: Phase([Term("forget", cross_entropy, uses=("validation",))]),
    "stop rule": lambda ctx: Phase([FORGET], stop=lambda context, progress: accuracy(context, "validation") > 0),
    "stop rule in an epoch": lambda ctx: Phase([FORGET], stop=lambda c, p: mean_loss(c, "validation") > 0, stop_every=1),
    "selection": lambda ctx: Phase([FORGET], select=lambda context: mean_loss(context, "validation")),
    "edit": lambda ctx: recalibrate("validation"),
    "oracle": lambda ctx: ctx.teacher("retrained"),
    "recipe": lambda ctx: ctx.recipe,
    "wider subset": lambda ctx: Phase([Term(ctx.stream("forget").subset(torch.arange(SIZE, SIZE + 5), "mine"), cross_entropy)]),
    "test data by index": lambda ctx: mean_loss(ctx, Stream("mine", ctx.stream("forget").source, torch.arange(SIZE + 50, SIZE + 60))),
}


class Peek(Method):
    """Reads what it does not declare."""

    needs = {"forget"}
    way: str = "steps"

    def steps(self, ctx):
        """Yield one step."""
        step = WAYS[self.way](ctx)
        if isinstance(step, Phase | Edit):
            yield step


@pytest.mark.parametrize("way", WAYS)
def test_undeclared_data_raises(way):
    context = make_context(net=make_net(), needs=Peek.needs)
    with pytest.raises(UndeclaredAccess, match="declare"):
        run(context, Peek(way=way))
    if way not in ("oracle", "recipe", "test data by index"):  # the same step is fine once it is declared
        run(make_context(net=make_net(), needs={"forget", "validation"}), Peek(way=way))


def test_a_stream_built_of_declared_examples_passes():
    context = make_context(net=make_net(), needs={"forget", "retain"})
    forget, retain = context.stream("forget"), context.stream("retain")
    both = Stream("both", SOURCE, torch.cat([forget.index[:10], retain.index[:10]]))
    relabelled = forget.relabelled((forget.labels + 1) % CLASSES, "wrong labels")
    result = run_phase(context, Phase([Term(both, cross_entropy), Term(relabelled, cross_entropy)]))
    assert result.steps == 1


def test_declared_but_absent_is_the_users_problem():
    context = Context(make_net(), {}, needs={"retain"}, seed=0, num_classes=CLASSES)
    with pytest.raises(BadInput, match=r"^retain: the method needs retain data and there is none\."):
        context.stream("retain")


def test_empty_streams_are_refused():
    context = make_context(net=make_net())
    empty = Stream("nothing", SOURCE, torch.arange(0))
    with pytest.raises(BadInput, match="^nothing: the stream holds no example"):
        run_phase(context, Phase([Term(empty, cross_entropy)]))


def test_reading_another_batch_without_uses_is_an_error():
    with pytest.raises(RuntimeError, match="without naming it in uses"):
        run_phase(make_context(net=make_net()), Phase([Term("forget", reads_other)]))


def test_uses_may_name_a_built_stream_of_another_term():
    context = make_context(net=make_net())
    built = context.stream("retain").subset(context.stream("retain").index[:30], "validation")
    other = Term("forget", reads_other, uses=("validation",))
    assert run_phase(context, Phase([Term(built, cross_entropy), other])).steps == 1


def test_two_streams_of_one_name_are_refused():
    context = make_context(net=make_net())
    built = context.stream("retain").subset(context.stream("retain").index[:30], "forget")
    for terms in ([Term(built, cross_entropy), FORGET], [FORGET, Term(built, cross_entropy)]):
        with pytest.raises(ValueError, match="two different streams are called 'forget'"):
            run_phase(context, Phase(terms))


def test_check_refuses_before_any_work():
    class ForClasses(Method):
        """Only whole classes."""

        needs = {"forget", "retain"}
        scenarios = {"class"}

    with pytest.raises(NotApplicable, match="does not fit a random request: it is made for class requests"):
        check(ForClasses(), kind="random", streams=["forget", "retain"])
    with pytest.raises(BadInput, match="^retain: "):
        check(ForClasses(), kind="class", streams=["forget"])
    check(ForClasses(), kind="class", streams=["forget", "retain"])
