"""The methods of 2025 and 2026 at their edges: resumed, masked, in other precisions, on frozen parts, on inputs that are no pictures."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import changed, method
from torch import Tensor, nn
from torch.nn.utils import parametrize

from conftest import CLASSES, SOURCE, make_context, split, trained_net
from expunge import registry
from expunge.engine.combine import total
from expunge.engine.context import Context
from expunge.engine.derivatives import gradient
from expunge.engine.loop import run_phase
from expunge.engine.parameters import leaves
from expunge.engine.phase import Phase
from expunge.engine.run import run
from expunge.engine.stream import Stream
from expunge.engine.targets import random_label
from expunge.engine.terms import Forward, Progress, Term, cross_entropy
from expunge.errors import Diverged, NotApplicable
from expunge.methods.constrained.even_weights import EvenProgress
from expunge.methods.constrained.latest_losses import LatestLosses
from expunge.methods.features import mu_mis
from expunge.methods.relabeling import lotus
from expunge.methods.reset_and_repair.scissorhands import keep_forgetting

BOTH, ALL = {"forget", "retain"}, {"forget", "retain", "validation"}
START = Progress(0, 1, 0, 1)


def frozen(*prefixes: str) -> nn.Module:
    net = trained_net()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
    return net


def without(kind: str, *classes: int) -> dict[str, Stream]:
    """Return the streams of a request, these classes taken from the retain set."""
    streams = {name: Stream(name, SOURCE, index) for name, index in split(kind).items()}
    retain = streams["retain"]
    streams["retain"] = retain.subset(retain.index[~torch.isin(retain.labels, torch.tensor(classes))])
    return streams


def world(streams: dict[str, Stream], needs: set[str], kind: str, net: nn.Module | None = None) -> Context:
    forgotten = (2,) if kind == "class" else ()
    net = trained_net() if net is None else net
    return Context(net, streams, needs=needs, seed=0, num_classes=CLASSES, forget_classes=forgotten, kind=kind)


# What is remembered between steps


def test_mu_mis_knows_the_lowest_sensitivity_after_a_kill(monkeypatch) -> None:
    """A rule that begins anew at the first value, the wrong version, would go on: 9.5 is .1 above 8, but not above 10."""
    seen = iter([10.0, 8.0, 10.0, 9.5, 10.0, 9.5])
    monkeypatch.setattr(mu_mis, "other_sensitivity", lambda context: next(seen))
    killed = make_context(needs={"forget"})
    assert not mu_mis.risen(killed, 0.1)(killed, START)
    resumed = make_context(needs={"forget"})
    resumed.memory = {name: value.clone() for name, value in killed.memory.items()}
    assert mu_mis.risen(resumed, 0.1)(resumed, START)
    forgetful = make_context(needs={"forget"})
    assert not mu_mis.risen(forgetful, 0.1)(forgetful, START)


def test_lotus_measures_before_an_epoch_and_keeps_it_for_the_whole_epoch() -> None:
    context = make_context(needs=ALL)
    gap = lotus.Gap(reference=0.25, first=0.7)
    assert gap.latest(context) == 0.7
    found = gap.measure(context)
    assert found == gap.latest(context) != 0.7
    with torch.no_grad():
        for parameter in context.model.parameters():
            parameter.zero_()
    assert gap.latest(context) == found != gap.measure(context)


def test_the_memory_of_a_phase_is_its_own() -> None:
    context = make_context(needs=BOTH)
    seen = []

    def remember(context: Context, progress: Progress) -> bool:
        seen.append(dict(context.memory))
        context.memory["x"] = torch.ones(())
        return False

    for number in range(2):
        context.phase = number
        run_phase(context, Phase([Term("retain", cross_entropy)], epochs=2, batch_size=200, stop=remember))
    assert [set(memory) for memory in seen] == [set(), {"x"}, set(), {"x"}]


# FAMO


def watched(rule: EvenProgress, retain: float, forget: float) -> None:
    for goal, value in (("retain", retain), ("forget", forget)):
        rule.losses.watch(goal, lambda *_, value=value: torch.full((2,), value))(None, None, Forward(None, None))


def test_famo_compares_with_the_losses_at_the_weights_themselves() -> None:
    """Under SAM the latest losses are those at displaced weights; a gain measured from there, the wrong version, is another."""
    rule, state = EvenProgress(lr=0.1, decay=0.0, floor=0.0), {}
    groups = {"retain": [torch.ones(1)], "forget": [torch.ones(1)]}
    watched(rule, 1.0, 1.0)
    first = dict(state)
    rule.combine(groups, state)
    watched(rule, 100.0, 1.0)  # the second look
    rule.combine(groups, first)
    rule.losses.remeasured = lambda goal, context: torch.tensor(0.9 if goal == "retain" else 0.5, dtype=torch.float64)
    rule.update(type("Taken", (), {"state": state, "context": None})())
    assert state["famo w"][0] > 0 > state["famo w"][1]  # the retain loss has gained less, from 1.0 to 0.9 and not from 100
    assert math.log(100 / 0.9) > math.log(1 / 0.5)


def test_losses_are_measured_again_in_the_precision_of_the_step() -> None:
    context = make_context(needs=BOTH)
    batch, losses = next(context.stream("retain").batches(50)), LatestLosses()
    for precision in ("float32", "bfloat16"):
        with torch.no_grad():
            losses.watch(precision, cross_entropy)(context, batch, Forward(context, batch, precision))
        assert losses.remeasured(precision, context) == losses.mean(precision)
    assert losses.mean("float32") != losses.mean("bfloat16")


# Masks


def test_scissorhands_projects_within_what_may_move() -> None:
    """With the whole ascent in the projection, the wrong version, half of what the step forgets is left."""
    context = make_context(needs=BOTH)
    names = [name for name, _ in context.model.named_parameters()]
    descent = gradient(context, "forget", reduction="mean")
    held = {"7.weight": torch.zeros_like(descent["7.weight"]), "0.weight": (torch.arange(216) % 2).view(8, 3, 3, 3).float()}
    masked = [descent[name] * held.get(name, 1) for name in names]
    groups = {"retain": [3 * part for part in masked], "forget": [-0.05 * part for part in masked]}

    def product(parts: list[Tensor]) -> float:
        return float(sum((part * -m).sum() for part, m in zip(parts, masked, strict=True)))

    context.mask = held
    assert product(total(groups)) < -1e-3
    assert abs(product(keep_forgetting(context, 1)(groups, {}))) < 1e-6
    context.mask = {}
    wrong = [part * held.get(name, 1) for name, part in zip(names, keep_forgetting(context, 1)(groups, {}), strict=True)]
    assert product(wrong) < -1e-4


def test_the_running_mask_is_known_to_rules() -> None:
    context, seen = make_context(needs={"retain"}), []
    mask = {"7.weight": torch.zeros_like(leaves(context.model)["7.weight"]), "0.bias": torch.ones(8)}

    def look(gradients, state):
        seen.append(dict(context.mask))
        return total(gradients)

    run_phase(context, Phase([Term("retain", cross_entropy)], steps=1, mask=mask, combine=look))
    assert [set(found) for found in seen] == [{"7.weight"}]


# LUR


def test_lur_fits_random_labels_a_step_ahead() -> None:
    """At the present weights, or with true labels, the wrong versions, the loss is another."""
    context = make_context(needs=BOTH)
    forget, retain = (next(context.stream(name).batches(40)) for name in ("forget", "retain"))
    (term, _) = list(method("lur", forget="random_label", ahead=0.5).steps(context))[1].terms
    context.model.eval()
    others = {"retain": Forward(context, retain)}
    found = term.loss(context, forget, Forward(context, forget, others=others)).detach()
    moved, labels = trained_net().eval(), random_label("epoch")(context, forget)
    slopes = torch.autograd.grad(F.cross_entropy(moved(retain.x), retain.y), list(moved.parameters()))
    with torch.no_grad():
        here = F.cross_entropy(moved(forget.x), labels, reduction="none")
        for parameter, slope in zip(moved.parameters(), slopes, strict=True):
            parameter.sub_(0.5 * slope)
        logits = moved(forget.x)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"), atol=1e-5, rtol=1e-5)
    assert (labels != forget.y).all() and float((found - here).abs().max()) > 1e-3


# What adapters make


class Product(nn.Module):
    """A weight plus the product of two numbers."""

    def __init__(self, size: float):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(size)), nn.Parameter(torch.tensor(size))

    def forward(self, original: Tensor) -> Tensor:
        return original + self.a * self.b


def test_adapters_whose_product_is_not_finite_have_diverged() -> None:
    """Each part is finite, and so is the loss of a phase that never looks through them."""
    context = make_context(needs={"retain"})
    parametrize.register_parametrization(context.model[7], "weight", Product(1e30))
    phase = Phase([Term("retain", lambda context, batch, student: batch.x.flatten(1).mean(1) + 0 * context.model[0].bias.sum())], steps=1)
    with pytest.raises(Diverged, match="weights is not finite"):
        run_phase(context, phase)


class Twins(nn.Module):
    """Two layers with one weight, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(192, 192), nn.Linear(192, 192, bias=False), nn.Linear(192, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))


def test_lora_refuses_shared_weights_before_the_first_edit() -> None:
    net = Twins()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(NotApplicable, match="'first.weight' and as 'second.weight'"):
        run(make_context(needs={"retain"}, net=net), method("weight_negation"), [registry.find("addons", "lora")()])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# Spotter


def test_spotter_acts_in_the_steps_in_which_the_method_forgets() -> None:
    context = make_context("class", needs=BOTH)
    spotter = registry.find("addons", "spotter")()
    phase = spotter.protected(context, Phase([Term("retain", cross_entropy), Term("forget", cross_entropy, weight=-1.0, every=5)]))
    assert [term.every for term in phase.terms] == [1, 5, 5, 5]


def test_spotter_counts_as_the_loss_beside_it_does() -> None:
    context = make_context("class", needs=BOTH)
    (jit,) = method("jit").steps(context)
    assert [term.reduction for term in registry.find("addons", "spotter")().protected(context, jit).terms] == ["sum"] * 3


# Frozen parts


@pytest.mark.parametrize("name", ["cola", "cola_plus", "pour_d"])
def test_methods_for_the_encoder_leave_frozen_parts_and_refuse_a_frozen_encoder(name: str) -> None:
    chosen = method(name)
    fields = {key: 1 for key in ("collapse_epochs", "epochs") if key in type(chosen).model_fields}
    context = make_context("class", needs=chosen.needs, net=frozen("0.", "1."))
    run(context, chosen.but(**fields))
    moved = {name for name in changed(context.model) if "running" not in name and "num_batches" not in name}
    assert "3.weight" in moved and not any(name.startswith(("0.", "1.")) for name in moved)
    for net in (frozen("0.", "1.", "3.", "4."), nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))):
        with pytest.raises(NotApplicable, match=f"method={name}: moves what comes before the head"):
            next(chosen.steps(make_context("class", needs=chosen.needs, net=net)))


def test_edits_of_frozen_layers_are_refused() -> None:
    with pytest.raises(NotApplicable, match=r"\['0'\] are frozen"):
        next(method("weight_negation").steps(make_context(needs={"retain"}, net=frozen("0."))))
    with pytest.raises(NotApplicable, match="edits the head, which is frozen"):
        next(method("pour_p").steps(make_context("class", needs=set(), net=frozen("7."))))


def test_l2ul_holds_what_may_move() -> None:
    context = make_context(needs={"forget"}, net=frozen("0."))
    run(context, method("l2ul", pictures=1, moves=2, epochs=1))
    assert "3.weight" in changed(context.model) and "0.weight" not in changed(context.model)


# Other precisions, inputs and classes


IN_FLOAT64 = (
    "adversarial",
    "boundary_expand",
    "contrastive_train",
    "damp",
    "entropy_matching",
    "mu_mis",
    "pour_d",
    "scar",
    "subspace_projection",
)


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_models_in_float64_stay_in_float64(name: str) -> None:
    chosen = method(name)
    kind = "class" if "class" in chosen.scenarios else "random"
    chosen = chosen.but(epochs=1) if "epochs" in type(chosen).model_fields else chosen
    streams = {name: Stream(name, Doubled(), index) for name, index in split(kind).items()}
    context = world(streams, set(chosen.needs), kind, trained_net().double())
    run(context, chosen)
    double = changed(context.model, trained_net().double())
    assert double and all(value.dtype == torch.float64 for value in leaves(context.model).values())


class Doubled:
    """The shared pictures in float64."""

    labels = SOURCE.labels

    def __len__(self) -> int:
        return len(SOURCE)

    def batches(self, order, size, **how):
        for x, y in SOURCE.batches(order, size, **how):
            yield x.double(), y


class Attends(nn.Module):
    """A patch embedding, one layer of attention, a head."""

    def __init__(self):
        super().__init__()
        self.patches, self.mixed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.mixed(tokens).chunk(3, dim=2)
        return self.head((tokens + nn.functional.scaled_dot_product_attention(q, k, v)).mean(1))


@pytest.mark.parametrize("name", ["orthograd", "l2ul", "mu_mis", "lur"])
def test_attention_is_differentiated_by_example_and_twice(name: str) -> None:
    net, before = Attends(), Attends()
    before.load_state_dict(net.state_dict())
    chosen = method(name, epochs=1, lr=1e-3)
    run(make_context(needs=chosen.needs, net=net), chosen.but(**({"pictures": 1, "moves": 1} if name == "l2ul" else {})))
    assert "mixed.weight" in changed(net, before)


def test_natmu_says_what_it_cannot_blend() -> None:
    rows = {name: Stream(name, Rows(), index) for name, index in split("random").items()}
    with pytest.raises(NotApplicable, match=r"two pixels a side or more, and the inputs are \[40, 3, 1, 64\]"):
        next(method("natmu").steps(world(rows, BOTH, "random", nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)))))
    with pytest.raises(NotApplicable, match="retained pictures of other classes"):
        next(method("natmu").steps(world(without("subclass", 0, 1, 3, 4), BOTH, "subclass")))


class Rows(Doubled):
    """The shared pictures as single rows of pixels."""

    def batches(self, order, size, **how):
        for x, y in SOURCE.batches(order, size, **how):
            yield x.reshape(len(x), 3, 1, 64), y


def test_damp_says_when_nothing_is_damped() -> None:
    heard: list[dict] = []
    context = make_context("class", needs=BOTH, net=nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)), report=heard.append)
    few = {**without("class", 9), "forget": context.stream("retain").subset(context.stream("retain").index[:20], "forget")}
    alike = world(few, BOTH, "class", context.model)  # what is forgotten is a part of what is retained
    alike.report = heard.append
    run(alike, method("damp"))
    assert any("the weights stay" in event.get("message", "") for event in heard)
