"""Source 003's challenge score: rates to privacy loss to bins, and its answer to pools that are alike, shifted and separated."""

import numpy as np
import pytest

from expunge.audits.attacker_families import AttackerFamilies, privacy_loss, score
from expunge.audits.audit import Panel
from expunge.representation.challenge import Rates


def rates(high, low) -> Rates:
    return Rates(np.array(high, dtype=float), np.array(low, dtype=float), 10)


def panel(shift: float, seed: int, models: int = 40, n: int = 30, spread: float = 1.0) -> Panel:
    margins = (shift + spread * np.random.default_rng(seed).normal(size=(models, n))).astype(np.float32)
    return Panel({"forget": margins}, {"forget": margins > 0})


def test_privacy_loss_of_one_rule():
    naive = max(np.log(1 - 0.01 - 0.2) - np.log(0.1), np.log(1 - 0.01 - 0.1) - np.log(0.2))
    assert privacy_loss(rates([0.2], [0.1]), 0.01) == pytest.approx([naive])
    for one, other in ((0.0, 0.0), (0.0, 0.3), (0.3, 0.0)):
        least = max(np.log((0.99 - a) / b) for a, b in ((max(one, 0.05), max(other, 0.05)), (max(other, 0.05), max(one, 0.05))))
        assert privacy_loss(rates([one], [other]), 0.01) == pytest.approx([least])
    assert privacy_loss(rates([0.5], [0.5]), 0.01) == 0 == privacy_loss(rates([1.0], [1.0]), 0.01)
    assert privacy_loss(rates([[0.5], [0.2]], [[0.5], [0.1]]), 0.01) == pytest.approx([naive])


def test_the_source_discards_rules_without_one_of_the_errors():
    assert privacy_loss(rates([0.0], [0.0]), 0.01, "discard") == [np.inf]
    assert privacy_loss(rates([0.0], [0.3]), 0.01, "discard") == 0 == privacy_loss(rates([0.3], [0.0]), 0.01, "discard")
    # ... and so more distance can score better:
    near, far = (AttackerFamilies(unseen_errors="discard").statistic(panel(shift, 0), panel(0, 1), {}) for shift in (2, 4))
    assert far > near


def test_bins():
    assert score(np.array([0, 0.49, 0.5, 1.0, 6.0, 99, np.inf])).tolist() == [1, 1, 0.5, 0.25, 2**-12, 2**-12, 2**-12]


def test_score_falls_with_the_distance_and_is_not_one_for_equal_pools():
    audit = AttackerFamilies()
    values = [audit.statistic(panel(shift, 0), panel(0, 1), {}) for shift in (0, 1, 2, 4)]
    assert 0.2 < values[0] < 0.9 and np.all(np.diff(values) < 0)
    ceiling = np.log((0.99 - 0.5 / 40) / (0.5 / 40))
    assert audit.statistic(panel(100, 0), panel(-100, 1), {}) == 2.0 ** -np.floor(ceiling / 0.5)


def test_a_narrower_pool_is_seen_by_the_normal_attacker():
    found = AttackerFamilies().describe(panel(0, 0, spread=0.05), panel(0, 1), {})
    alike = AttackerFamilies().describe(panel(0, 0), panel(0, 1), {})
    assert found.details["families"]["gaussian"] < alike.details["families"]["gaussian"] / 2
    assert found.value < alike.value and alike.details["examples"] == 30
    assert found.value == AttackerFamilies().describe(panel(0, 0, spread=0.05), panel(0, 1), {}).value
