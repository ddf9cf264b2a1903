"""What every method promises, over the whole registry."""

import copy
from functools import cache
from typing import ClassVar, Literal, get_args, get_origin

import pytest
import torch
from pydantic import ValidationError
from registry_world import ARTEFACTS, KINDS, all_streams, context_for, finish, same, small, state_of

from expunge import registry
from expunge.config import Component
from expunge.engine.context import Context
from expunge.engine.derivatives import fisher_diagonal, gradient
from expunge.engine.edits import Edit
from expunge.engine.measure import mean_loss
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.run import check, run
from expunge.engine.terms import Term, cross_entropy
from expunge.errors import BadInput, NotApplicable, UndeclaredAccess

NAMES = registry.names("methods")
FITTING = [(name, kind) for name in NAMES for kind in KINDS if kind in registry.find("methods", name).scenarios]
DETERMINISTIC = {"original", "head_surgery", "tempered", "ssd", "lfssd", "assd", "pour_p", "slug"}
"""Methods that draw nothing: no phase, no noise, no sample."""


@cache
def finished(name: str, kind: str):
    """Run a method once; return its context, outcome, record, states before and after, and the teacher's state before."""
    method = small("methods", name, kind)
    context, source = context_for(method, kind=kind)
    before, teacher = state_of(context), copy.deepcopy(context.teacher().state_dict())
    outcome = run(context, method)
    return context, outcome, source, before, state_of(context), teacher


def test_the_registry_has_methods():
    assert len(NAMES) >= 20 and len(FITTING) > 2 * len(NAMES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_fits_or_is_refused_with_a_reason(name, kind):
    method = small("methods", name, kind)
    if kind in method.scenarios:
        check(method, kind=kind, streams=list(all_streams(kind)), artefacts=ARTEFACTS)
        return
    with pytest.raises(NotApplicable, match=kind) as refusal:
        check(method, kind=kind, streams=list(all_streams(kind)), artefacts=ARTEFACTS)
    assert method.scenario_reason and method.scenario_reason in str(refusal.value)


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_keeps_shapes_names_and_finiteness(name, kind):
    _, outcome, _, before, after, _ = finished(name, kind)
    assert list(before) == list(after)
    for key, value in after.items():
        assert value.shape == before[key].shape and value.dtype == before[key].dtype, key
        assert torch.isfinite(value).all(), key
    assert (same(before, after)) == (name == "original")


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_leaves_modes_and_gradients_as_they_were(name, kind):
    context, *_ = finished(name, kind)
    assert not context.model.training and all(parameter.requires_grad for parameter in context.model.parameters())
    assert not any("parametrizations" in key for key in context.model.state_dict())


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_same_seed_same_weights(name, kind):
    *_, after, _ = finished(name, kind)
    context, _, _ = finish(small("methods", name, kind), kind=kind)
    assert same(after, state_of(context))


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_another_seed_other_weights(name, kind):
    *_, after, _ = finished(name, kind)
    context, _, _ = finish(small("methods", name, kind), kind=kind, seed=1)
    if name in DETERMINISTIC:
        assert same(after, state_of(context))
    else:
        assert not same(after, state_of(context))


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_reads_declared_data_only(name, kind):
    method = small("methods", name, kind)
    _, _, source, *_ = finished(name, kind)
    index = all_streams(kind)
    allowed = {number for stream in method.needs & index.keys() for number in index[stream].tolist()}
    assert source.read <= allowed
    assert source.read or not (method.needs & index.keys())


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_original_and_teacher_are_untouched(name, kind):
    context, _, _, before, _, teacher = finished(name, kind)
    assert same(context.original.state, before)
    assert same(dict(context.teacher().state_dict()), dict(teacher))
    assert same(dict(teacher), before)


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_costs_are_metered(name, kind):
    _, outcome, *_ = finished(name, kind)
    works = bool(registry.find("methods", name).needs)
    assert (outcome.cost["passes"] > 0) == works
    steps = sum(phase["steps"] for phase in outcome.phases)
    assert outcome.cost["backward"] >= steps


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_are_named(name):
    kind = sorted(registry.find("methods", name).scenarios)[0]
    method = small("methods", name, kind)
    for missing in method.needs:
        rest = (set(all_streams(kind)) | set(ARTEFACTS)) - {missing}
        with pytest.raises(BadInput, match=missing):
            check(method, kind=kind, streams=sorted(rest))


UNREAD = [
    ("confusion_resolution", "random", "validation", {"stop": "refining"}),
    ("constrained_unlearning", "class", "validation", {"stop": "unlearning"}),
    ("constrained_unlearning", "subclass", "validation", {"stop": "unlearning"}),
    ("contrastive_unlearning", "class", "validation", {"target": None}),
    ("duck", "class", "validation", {"target": None}),
    ("gradient_ascent_perturbed", "random", "retain", {"move": "mahalanobis"}),
    ("lotus", "class", "validation", {"target": None}),
    ("projected_ascent", "class", "validation", {"stop": "validation"}),
    ("scar", "class", "validation", {"target": None}),
    ("scar_surrogate", "class", "validation", {"target": None}),
]
"""Methods whose defaults for a request leave some data alone, and a setting that reads them."""


@pytest.mark.parametrize(("name", "kind", "unread", "reading"), UNREAD)
def test_data_that_the_settings_do_not_read_are_not_demanded(name, kind, unread, reading):
    method, rest = small("methods", name, kind), sorted({*all_streams(kind)} - {unread})
    assert type(method).needs - method.needs == {unread}, "the class declares all that any setting reads"
    check(method, kind=kind, streams=rest, artefacts=ARTEFACTS)
    context, _ = context_for(method, kind=kind)
    del context._streams[unread]
    run(context, method)
    with pytest.raises(BadInput, match=f"needs {unread} data"):
        check(method.but(**reading), kind=kind, streams=rest, artefacts=ARTEFACTS)


@pytest.mark.parametrize("name", NAMES)
def test_says_where_it_comes_from(name):
    method = registry.find("methods", name)
    assert method.source or name == "original"
    assert isinstance(method.deviations, tuple) and all(isinstance(line, str) and len(line) > 10 for line in method.deviations)
    assert method.scenarios <= set(KINDS) and method.scenarios
    assert method.summary()
    for kind, defaults in method.scenario_defaults.items():
        assert kind in method.scenarios
        method(**defaults)


def field_problems(component: type[Component]) -> list[str]:
    """Return what is wrong with the declarations of a component's fields."""
    problems = []
    for key, field in component.model_fields.items():
        if not field.description:
            problems.append(f"{key} has no description")
        kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
        numbers = get_origin(field.annotation) is not Literal and any(kind in (int, float) for kind in kinds)
        bounded = any(hasattr(rule, side) for rule in [*field.metadata, *_inner(field)] for side in ("gt", "ge", "lt", "le"))
        if numbers and not bounded and not (field.json_schema_extra or {}).get("search"):
            problems.append(f"{key} has no range")
        wrong = "no such choice" if get_origin(field.annotation) is Literal or numbers or field.annotation is bool else object()
        try:
            component(**{key: wrong})
            problems.append(f"{key} takes {wrong!r}")
        except ValidationError:
            pass
    return problems


def _inner(field) -> list[object]:
    """Return the rules of the parts of ``Annotated[...] | None`` and ``tuple[Annotated[...], ...]``."""
    return [rule for part in get_args(field.annotation) for rule in getattr(part, "__metadata__", ())] + [
        bound
        for part in get_args(field.annotation)
        for rule in getattr(part, "__metadata__", ())
        for bound in getattr(rule, "metadata", ())
    ]


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_described_ranged_and_validated(name):
    assert field_problems(registry.find("methods", name)) == []


@pytest.mark.parametrize("size", [7, 40])
def test_scores_do_not_depend_on_the_batch_size(size):
    context, _ = context_for(small("methods", "ssd"))
    reference = fisher_diagonal(context, "forget", size=1), gradient(context, "forget", size=1)
    for one, other in zip(reference, (fisher_diagonal(context, "forget", size=size), gradient(context, "forget", size=size)), strict=True):
        assert len(one) == 10
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-6)


class Snoops(Method):
    """Reads validation data without declaring it, in the way that ``how`` says."""

    needs: ClassVar[set[str]] = {"retain"}
    how: str = "term"

    def steps(self, ctx):
        if self.how == "measure":
            mean_loss(ctx, "validation")
        if self.how == "edit":
            yield Edit("snoop", lambda context: mean_loss(context, "validation"))
        if self.how == "stop":
            yield Phase([Term("retain", cross_entropy)], stop=lambda context, progress: mean_loss(context, "validation") > 1)
        if self.how == "uses":
            yield Phase([Term("retain", cross_entropy, uses=("validation",))])
        yield Phase([Term("validation", cross_entropy)])


@pytest.mark.parametrize("how", ["term", "measure", "edit", "stop", "uses"])
def test_a_method_that_snoops_is_caught(how):
    context, source = context_for(Snoops())
    with pytest.raises(UndeclaredAccess, match="validation"):
        run(context, Snoops(how=how))
    assert not source.read & set(all_streams("random")["validation"].tolist())


class LooksForTheHead(Method):
    """Asks where the head is, for which one declared batch is enough."""

    needs: ClassVar[set[str]] = {"forget"}

    def steps(self, ctx: Context):
        yield Phase([Term("forget", cross_entropy)], trainable=frozenset(ctx.architecture.class_rows(0)))


def test_finding_the_head_reads_declared_data_only():
    context, source = context_for(LooksForTheHead())
    run(context, LooksForTheHead())
    assert source.read == set(all_streams("random")["forget"].tolist())


class GoesAround(Method):
    """Takes a stream from behind the declared interface, as only a test would."""

    needs: ClassVar[set[str]] = {"retain"}
    how: str = "read"

    def steps(self, ctx: Context):
        if self.how == "term":
            yield Phase([Term(ctx._streams["validation"], cross_entropy)])
        next(ctx._streams["validation"].batches(4))
        yield Phase([Term("retain", cross_entropy)])


def test_the_record_of_reads_is_not_blind():
    context, source = context_for(GoesAround())
    run(context, GoesAround())
    assert source.read & set(all_streams("random")["validation"].tolist())


def test_a_stream_taken_from_elsewhere_is_caught():
    context, _ = context_for(GoesAround())
    with pytest.raises(UndeclaredAccess, match="validation"):
        run(context, GoesAround(how="term"))
