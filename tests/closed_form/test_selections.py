"""Selection rules on outputs whose score is known, and what no rule can see."""

from typing import ClassVar

import numpy as np
import pytest

from expunge import registry
from expunge.bench.selections import readings
from expunge.bench.selections.forget_validation import ForgetValidation
from expunge.bench.selections.oracle_gap import OracleGap
from expunge.bench.selections.selection import SEEABLE, Selection, Sight
from expunge.bench.selections.validation import Validation
from expunge.config import Tuned, build, provenance
from expunge.errors import BadInput
from expunge.metrics.view import View

LABELS = np.arange(100) % 4


def part(right: int, margin: float = 2.0):
    """Return logits of 100 examples of four classes of which the first ``right`` are right, all with the same margin."""
    logits = np.zeros((100, 4), dtype=np.float32)
    shown = np.where(np.arange(100) < right, LABELS, (LABELS + 1) % 4)
    logits[np.arange(100), shown] = margin
    return logits


def view(labels=LABELS, **parts) -> View:
    return View(parts, {name: labels.astype(np.int64) for name in parts})


def test_a_model_like_one_that_never_saw_the_forget_set_scores_zero():
    whole = view(forget=part(80), retain=part(100), validation=part(80))
    assert Validation().score(Sight(whole, whole)).value == 0
    assert ForgetValidation().score(Sight(whole, whole)).value == 0
    assert OracleGap().score(Sight(whole, whole, [whole])).value == 0


def test_each_distance_counts_in_points():
    before = view(forget=part(100), retain=part(100), validation=part(80))
    after = view(forget=part(70), retain=part(98), validation=part(75))
    found = Validation().score(Sight(after, before))
    assert {name: round(value, 6) for name, value in found.readings.items() if name != "membership"} == {
        "forgetting": 5, "validation_loss": 5, "retain_loss": 2,
    }  # fmt: skip
    # 75 of the unseen and 70 of the forgotten examples have the small loss: AUC 1/2 - 0.05 / 2, and its distance from chance doubled.
    assert found.readings["membership"] == pytest.approx(5)
    assert found.value == pytest.approx((5 + 5 + 5 + 2) / 4)
    assert ForgetValidation(utility_budget=2.0).score(Sight(after, before)).value == pytest.approx(5 + 3)
    retrained = [view(forget=part(80), retain=part(100), validation=part(78)), view(forget=part(84), retain=part(100), validation=part(82))]
    gap = OracleGap().score(Sight(after, before, retrained))
    assert gap.readings["forget"] == pytest.approx(12) and gap.readings["validation"] == pytest.approx(5)


def test_doing_nothing_and_knowing_nothing_are_both_worse_than_forgetting():
    before = view(forget=part(100), retain=part(100), validation=part(80))
    good = view(forget=part(81), retain=part(100), validation=part(80))
    nothing = view(forget=part(25), retain=part(25), validation=part(25))
    for rule in (Validation(), ForgetValidation()):
        scores = [rule.score(Sight(model, before)).value for model in (good, before, nothing)]
        assert scores[0] == min(scores) and scores[0] <= 1.0, rule.name


def test_whole_classes_are_to_be_forgotten_altogether():
    before = View(
        {"forget": part(100), "retain": part(100), "validation": part(80), "validation_forgotten": part(80)},
        {name: LABELS.astype(np.int64) for name in ("forget", "retain", "validation", "validation_forgotten")},
    )
    after = View({**before.logits, "forget": part(0), "validation_forgotten": part(0)}, before.labels)
    assert Validation().score(Sight(after, before, kind="class")).readings["forgetting"] == 0
    assert Validation().score(Sight(before, before, kind="class")).readings["forgetting"] == 100
    assert "class" not in ForgetValidation.scenarios


def test_validation_is_weighted_as_the_forget_set_is():
    forget, held = np.array([0] * 30 + [1] * 10), np.array([0] * 10 + [1] * 90)
    logits = {"forget": np.zeros((40, 2), np.float32), "validation": np.zeros((100, 2), np.float32)}
    logits["validation"][:, 0] = 1.0  # right on class 0 alone
    made = View(logits, {"forget": forget.astype(np.int64), "validation": held.astype(np.int64)})
    assert readings.matched_accuracy(made) == pytest.approx(75)
    lacking = View(logits, {"forget": forget.astype(np.int64), "validation": np.zeros(100, np.int64)})
    with pytest.raises(BadInput, match="no example of class 1"):
        readings.matched_accuracy(lacking)


@pytest.mark.parametrize("name", registry.names("selections"))
def test_no_rule_sees_test_data(name):
    rule = build("selections", name, "tune.rule")
    assert set(rule.parts) <= set(SEEABLE) and not any("test" in seen or seen == "unseen" for seen in SEEABLE)
    whole = view(**{seen: part(80) for seen in (*SEEABLE, "test", "unseen", "test_forgotten")})
    shown = rule.narrowed(whole)
    assert set(shown.logits) == set(rule.parts)
    for hidden in ("test", "unseen", "test_forgotten"):
        with pytest.raises(BadInput, match=f"view.{hidden}"):
            shown.correct(hidden)


def test_a_rule_that_declares_test_data_cannot_be_defined():
    with pytest.raises(TypeError, match="declares test; tuning may see forget, retain, validation"):

        class Cheat(Selection):
            """Looks."""

            parts: ClassVar[tuple[str, ...]] = ("validation", "test")


def test_what_looked_at_retrained_models_cannot_be_called_tuned():
    given = {"rule": "oracle_gap", "budget": 10, "trials": 1, "study": "tune-1"}
    assert OracleGap.label() == "oracle-tuned" and Validation.label() == "tuned"
    assert provenance({"name": "ssd", "tuned": {**given, "label": "oracle-tuned"}}).label == "oracle-tuned"
    with pytest.raises(BadInput, match="what the rule oracle_gap chose is oracle-tuned"):
        provenance({"name": "ssd", "tuned": {**given, "label": "tuned"}})
    assert provenance({"name": "ssd"}) is None
    assert Tuned(rule="of_another_package", label="tuned", budget=10, trials=1, study="tune-1").rule == "of_another_package"
