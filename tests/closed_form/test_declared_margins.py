"""Claims of matching retraining: simulated evaluations of a perfect method, of one that leaves a tenth, and of one that costs accuracy."""

from functools import cache

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from expunge import registry
from expunge.audits import margins as declared
from expunge.audits.assess import assess
from expunge.audits.doses import dose_response
from expunge.bench import audits
from expunge.errors import BadInput
from expunge.metrics import table as tables
from expunge.metrics.view import View
from expunge.report import equivalence, headline

METRICS = ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "loss_auc", "retain_only_relearning")
AUDITS = ("set_classifier", "example_auc")
MARGINS = {"set_classifier": 0.18, "example_auc": 0.03, "RA": 1.0, "TA": 1.0, "retain_only_relearning": 1.0, "UA": 2.0, "loss AUC": 0.02}
"""Declared in all simulations: points of accuracy and areas under a curve."""
EARLY = {"time": "2026-11-20T12:48:02+00:00", "models": {"there": 0, "of": 64}, "before": []}
"""What a record says about margins that were declared before anything was there."""
SIZES = {"forget": 100, "retain": 1000, "test": 1000, "unseen": 500}


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


class World:
    """Models whose margins are normal around centres of their own for each example; training moves a forget example up by two.

    Args:
        seed: of everything.
    """

    def __init__(self, seed: int):
        self.made = np.random.default_rng([23, seed])
        self.centres = {part: self.made.normal(2.5, 2, size) for part, size in SIZES.items()}
        self.labels = {part: self.made.integers(0, 2, size) for part, size in SIZES.items()}

    def view(self, kept: float = 0.0, damage: float = 0.0) -> View:
        """Return a model that kept a share of the forget set, and whose other margins are lower by ``damage``."""
        together = 0.1 * self.made.normal()
        margins = {part: centre + together - damage + self.made.normal(size=len(centre)) for part, centre in self.centres.items()}
        margins["forget"][: round(kept * SIZES["forget"])] += 2.0
        logits = {part: np.stack([-each / 2, each / 2], 1) for part, each in margins.items()}
        for part, labels in self.labels.items():
            logits[part][labels == 0] *= -1
        gain = 0.01 + 0.01 * self.made.normal()
        inside = {"retain_only": np.array([0.8, 0.8 + gain]), "retain_only_rows": np.arange(100), "retain_only_finite": np.array(True)}
        return View({part: each.astype(np.float32) for part, each in logits.items()}, self.labels, inspection=inside)

    def views(self, models: int, **law: float) -> list[View]:
        return [self.view(**law) for _ in range(models)]


def record(seed: int, models: int, law: dict[str, float], margins: dict[str, float]) -> dict:
    """Return the record of an evaluation with one row ``m``."""
    world = World(seed)
    original, retrained, row = world.views(models, kept=1.0), world.views(2 * models), world.views(models, **law)
    metrics = [registry.find("metrics", name)() for name in METRICS]
    chosen = [registry.find("audits", name)() for name in AUDITS]
    table = tables.evaluate(original, retrained, {"m": row}, metrics, "random")
    panels = {name: audits.panel(views) for name, views in {"m": row, "original": original}.items()}
    control, reference = audits.panel(retrained[:models]), audits.panel(retrained[models:])
    found = {"reason": None, **assess(panels, control, reference, world.labels, chosen, seed=seed, tests=len(metrics))}
    for each in table["rows"]:
        each["verdict"] = tables.verdict(each, audits.tests(found, each["name"]))
    request = {"seeds": models, "tier": "rigorous", "margins": declared.resolve(margins)}
    held = {"table": table, "audits": found, "doses": noticed(models), "request": request, "cost": {}}
    return {**held, "declared": {"m": EARLY if margins else None}}


@cache
def noticed(models: int) -> dict:
    """Return how the set classifier answers to a tenth left in, which is a property of the configuration."""
    world = World(1000)
    held = [audits.panel(world.views(models, kept=share)) for share in (0.0, 0.1, 1.0)]
    doses, audit = dict(zip((0.0, 0.1, 1.0), held, strict=True)), registry.find("audits", "set_classifier")()
    return {audit.name: dose_response(audit, doses, audits.panel(world.views(models)), world.labels, tests=7)}


@cache
def perfect() -> dict:
    return record(0, 64, {}, MARGINS)


def claimed(law: dict[str, float], margins: dict[str, float], models: int, runs: int, first: int = 0) -> float:
    """Return the share of simulated evaluations after which ``matches retraining`` is claimed."""
    cards = [headline.card(record(seed, models, law, margins), "m") for seed in range(first, first + runs)]
    assert len(cards) == runs
    return float(np.mean([card.claim == "matches retraining" for card in cards]))


def test_a_perfect_method_matches_within_declared_margins_and_says_which():
    found = perfect()
    card = headline.card(found, "m")
    assert card.claim == "matches retraining", card.unmet
    assert card.sentence.startswith("It matches retraining within the declared margins (set classifier AUC ± 0.18, per-example AUC ± 0.03")
    assert "RA ± 1 %" in card.sentence and len(card.declared) == 7 and all(each.shown for each in card.declared)
    assert card.sentence.endswith("; declared on 2026-11-20 at 12:48 UTC, before any result of the method was in this store).")
    assert headline.card(found, "original").claim == "not claimed"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"models": {"there": 3, "of": 64}}, "declared when 3 of its 64 models were there: chosen after results, they do not count"),
        ({"before": [{"time": "2026-11-19T08:00:00+00:00", "margins": {}}]}, "evaluated without margins on 2026-11-19 at 08:00 UTC"),
        (
            {"before": [{"time": "2026-11-19T08:00:00+00:00", "margins": {"loss_auc": 0.01}}]},
            "evaluated with loss_auc ± 0.01 on 2026-11-19",
        ),
        (None, "it is not known whether its margins were declared before its results were there"),
    ],
)
def test_margins_that_were_chosen_after_results_do_not_count(changed, words):
    found = {**perfect(), "declared": {"m": None if changed is None else EARLY | changed}}
    card = headline.card(found, "m")
    assert card.claim == "not claimed" and len(card.unmet) == 1 and words in card.sentence


@pytest.mark.parametrize("law", [{"kept": 0.1}, {"damage": 0.15}], ids=["a tenth is left", "accuracy is lost"])
def test_what_is_not_retraining_is_not_claimed_to_match(law):
    card = headline.card(record(1, 64, law, MARGINS), "m")
    assert card.claim == "not claimed" and "(declared margins:" in card.sentence
    missed = [each.label for each in card.declared if not each.shown]
    assert missed and all(f"{label} ± " in " ".join(card.unmet) for label in missed)


def test_few_models_claim_nothing():
    card = headline.card(record(0, 12, {}, MARGINS), "m")
    assert card.claim == "not claimed" and any("is not shown: the difference is" in reason for reason in card.unmet)


@pytest.mark.slow
def test_how_often_it_is_claimed():
    """Measured over 60 evaluations with 64 models each; without margins a perfect method fails for its models' own band."""
    perfect, bare = claimed({}, MARGINS, 64, 60), claimed({}, {}, 64, 60)
    leaking, damaged = claimed({"kept": 0.1}, MARGINS, 64, 60), claimed({"damage": 0.15}, MARGINS, 64, 60)
    assert perfect >= 0.7 and leaking == 0 and damaged == 0 and bare < perfect


def test_a_dose_that_one_test_alone_notices_is_not_enough_for_a_claim():
    found = perfect()
    held = found["doses"]["set_classifier"]
    missed = {**held, "adjusted": {"tests": 7, "power": [0.0] * 3, "detectable": None}}
    card = headline.card({**found, "doses": {"set_classifier": missed}}, "m")
    assert card.unmet == ("it is not shown that a leak of 10 % of the forget set would be noticed among 7 tests (evaluate.doses)",)
    assert "one such test alone" in card.power and "10 % of the forget set left in, or more. As one of the 7 tests" in card.power
    assert headline.power(found).count("10 % of the forget set left in") == 2


def test_margins_by_name_or_head_and_nothing_else():
    assert declared.resolve({"UA": 1.0, "loss_auc": 0.02, "per-example AUC": 0.01}) == {
        "unlearning_accuracy": 1.0,
        "loss_auc": 0.02,
        "example_auc": 0.01,
    }
    with pytest.raises(BadInput, match="evaluate.margins.lossauc.*loss_auc"):
        declared.resolve({"lossauc": 1.0})
    with pytest.raises(BadInput, match="declared twice"):
        declared.resolve({"UA": 1.0, "unlearning_accuracy": 2.0})
    for margins in ({"RA": 100.0}, {"forgetting_quality": 1.0}):
        with pytest.raises(BadInput, match="none lies outside a margin of"):
            declared.resolve(margins)
    assert declared.resolve({}) == {}


@pytest.mark.parametrize(
    ("name", "room", "words"),
    [
        ("example_auc", 0.5, "from 0 to 1 around 0.5, which is no leak"),
        ("set_classifier", 0.5, "around 0.5"),
        ("ulira_efficacy", 0.5, "around 0.5"),
        ("ulira_privacy", 0.5, "around 0.5"),
        ("swap", 1.0, "from -1 to 1 around 0, which is no leak"),
        ("ulira_collateral", 1.0, "around 0,"),
    ],
)
def test_an_audit_that_cannot_go_so_far_from_its_null_has_no_such_margin(name, room, words):
    assert declared.resolve({name: 0.99 * room}) == {name: 0.99 * room}
    with pytest.raises(BadInput, match=f"{words}.*none lies outside a margin of.*Declare one below {room:g}"):
        declared.resolve({name: room})


def power_of(models: int) -> dict:
    world, chosen = World(0), registry.find("audits", "example_auc")()
    control, reference = (audits.panel(world.views(models)) for _ in range(2))
    return assess({}, control, reference, world.labels, [chosen], tests=6)["audits"]["example_auc"]["detectable"]


def test_power_is_stated_alone_and_among_all_tests():
    found = record(0, 32, {}, {})
    for name in AUDITS:
        detectable = found["audits"]["audits"][name]["detectable"]
        assert detectable["adjusted"]["tests"] == len(METRICS) + len(AUDITS)
        assert detectable["adjusted"]["above"] > detectable["above"]
    words = headline.power(found)
    assert "one such test alone" in words and "As one of the 7 tests that a verdict counts together" in words
    few = power_of(4)["adjusted"]
    assert few["above"] is None and "so few models" in few["words"]


def test_models_that_agree_exactly_show_no_more_than_one_example_can():
    """All seeds equal retraining to the last example; an interval of width 0 would show any margin, with two seeds of ten examples."""
    cell = {"per_seed": [100.0, 100.0], "n": 10, "value": 100.0}
    head = {"label": "RA", "unit": "%", "target": "retrained", "pair": False, "band": None}
    retrained = {"role": "retrained", "cells": {"retain_accuracy": cell}}
    row = {"name": "m", "role": "unlearned", "cells": {"retain_accuracy": cell}}
    held = {"audits": {}, "table": {"metrics": {"retain_accuracy": head}, "rows": [retrained, row], "skipped": {}}}
    assert not equivalence.judge(held, row, "retain_accuracy", 1.0).shown
    assert equivalence.judge(held, row, "retain_accuracy", 50.0).shown
    cell["n"] = 10_000
    assert equivalence.judge(held, row, "retain_accuracy", 1.0).shown


PAIRED = [name for name in registry.names("metrics") if name != "metric" and registry.find("metrics", name).is_pair()]


@pytest.mark.parametrize("name", [name for name in PAIRED if registry.find("metrics", name).target != "report"])
def test_a_pair_metric_is_within_its_margin_on_both_sides_but_for_a_distance(name):
    """A row far below two retrained models, as fidelity and CKA of a broken one are, is not shown to be like them."""
    target = str(registry.find("metrics", name).target)
    head = {"label": name, "unit": "", "target": target, "pair": True, "band": {"low": 0.88, "mean": 0.9, "high": 0.92, "n": 12}}
    row = {"name": "m", "role": "unlearned", "seeds": 4, "cells": {name: {"n": 200, "per_seed": [0.09, 0.1, 0.1, 0.11]}}}
    held = {"audits": {}, "table": {"metrics": {name: head}, "rows": [row], "skipped": {}}}
    found = equivalence.judge(held, row, name, 0.1)
    assert found.difference == pytest.approx(-0.8) and found.shown == (target == "zero_up_to_band") == (found.low is None)
    row["cells"][name]["per_seed"] = [1.7, 1.7, 1.7, 1.71]
    assert not equivalence.judge(held, row, name, 0.1).shown


def test_a_band_that_ends_at_a_limit_of_the_metric_keeps_its_error():
    cell = {"per_seed": [0.5, 0.6, 0.7]}
    band = {"low": 0.2, "mean": 0.6, "high": 1.0, "n": 8}
    (_, whole), (_, cut) = (equivalence._pair(cell, {"band": {**band, "high": high}}) for high in (1.0, 0.7))
    assert whole == pytest.approx(cut)
