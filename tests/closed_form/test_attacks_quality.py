"""Forgetting quality, KLOM, normal divergence and energy distance: nulls, responses to a shift, limits."""

import numpy as np
import pytest

from expunge.attacks import forgetting_quality as quality
from expunge.attacks import gaussian, klom, per_example, roc
from expunge.statistics import NotEnoughEvidence


def pools(models, examples, shift=0.0, scale=1.0, seed=0):
    made = np.random.default_rng(seed)
    return [(made.normal(size=(models, examples)) * scale + step).astype(np.float32) for step in (shift, 0)]


def test_forgetting_quality_of_one_law_is_not_one():
    found = quality.forgetting_quality(*pools(512, 150))
    assert found.value == pytest.approx(0.188, abs=0.02)
    assert found.epsilons.mean() == pytest.approx(1.56, abs=0.06)
    assert np.median(found.epsilons) == pytest.approx(1.61, abs=0.06)
    assert 2.1 < np.quantile(found.epsilons, 0.95) < 2.4
    assert quality.null_quality(np.ones(5), 512, 60).value == pytest.approx(0.188, abs=0.04)


@pytest.mark.parametrize(("scale", "value"), [(0.02, 0.278), (0.1, 0.127), (0.3, 0.088)])
def test_its_null_depends_on_the_deviation(scale, value):
    assert quality.null_quality(np.full(4, scale), 512, 80).value == pytest.approx(value, abs=0.035)


@pytest.mark.parametrize(("shift", "value", "tolerance"), [(0.25, 0.14, 0.03), (0.5, 0.079, 0.02), (1, 0.013, 0.006), (2, 0.0015, 0.001)])
def test_its_response_to_a_shift(shift, value, tolerance):
    assert quality.forgetting_quality(*pools(512, 60, shift)).value == pytest.approx(value, abs=tolerance)


def test_a_nearly_deterministic_method_has_quality_zero():
    unlearned, retrained = pools(512, 5)
    found = quality.forgetting_quality(unlearned * np.float32(1e-4), retrained)
    assert found.value == 0 and (found.epsilons == quality.CAP).all()
    assert quality.forgetting_quality(unlearned * 0, retrained * 0).value == 0


def test_complete_separation_has_quality_zero():
    found = quality.forgetting_quality(*pools(64, 5, 50))
    assert (found.epsilons == quality.CAP).all() and found.value == 0


def test_score_bins():
    assert quality.score(np.array([0, 0.49, 0.5, 1.2, 6.49, 6.5, 6.99, 7.0, 50]), 512) == pytest.approx(
        [1, 1, 0.5, 0.25, 2**-12, 2**-13, 2**-13, 0, 0]
    )
    assert quality.final_score(0.2, (0.9, 0.8), (0.5, 1.0)) == pytest.approx(0.2 * 1.125 * 0.5)


def test_too_few_models_is_an_error():
    with pytest.raises(NotEnoughEvidence, match="errs on both sides"):
        quality.forgetting_quality(np.array([[0.0204], [0.0247]]), np.array([[0.0227], [0.0251]]))


def test_klom_of_identical_arrays_is_exactly_zero():
    unlearned, _ = pools(100, 50)
    for quirks in ("none", "easydub"):
        assert (klom.klom(unlearned, unlearned.copy(), quirks=quirks) == 0).all()
    assert klom.klom(unlearned, unlearned.copy(), quirks="data_unlearning_bench") == pytest.approx(0, abs=1e-12)
    assert (klom.klom(np.ones((5, 3)), np.ones((4, 3))) == 0).all()


@pytest.mark.parametrize(
    ("models", "mean", "high"), [(20, 3.02, 5.09), (50, 0.853, 1.66), (100, 0.342, 0.661), (200, 0.146, 0.276), (500, 0.050, 0.090)]
)
def test_klom_null(models, mean, high):
    found = klom.null_klom(models, models)
    assert found.mean() == pytest.approx(mean, rel=0.1)
    assert np.quantile(found, 0.95) == pytest.approx(high, rel=0.1)


@pytest.mark.parametrize(("shift", "value"), [(0.5, 0.54), (1, 1.18), (2, 3.55), (4, 8.59), (10, 9.86)])
def test_klom_response_and_saturation(shift, value):
    found = klom.klom(*pools(100, 2000, shift))
    assert found.mean() == pytest.approx(value, rel=0.1)
    assert found.max() < 11.52


def test_klom_bound_and_the_quirks_at_the_joint_maximum():
    unlearned, retrained = np.full((10, 1), 100.0), np.linspace(-5, 5, 10)[:, None]
    assert klom.klom(unlearned, retrained)[0] == pytest.approx(np.log(1e5))
    assert klom.klom(unlearned, retrained, quirks="easydub")[0] == 0
    assert np.isnan(klom.klom(unlearned, retrained, quirks="data_unlearning_bench")[0])


def test_normal_divergence_null_and_response():
    for models, value in ((100, 0.0203), (200, 0.0098)):
        assert gaussian.null_gaussian_kl(models, models) == pytest.approx(value, rel=0.05)
        plain = gaussian.gaussian_kl(*pools(models, 20_000), debias=False)
        assert plain.mean() == pytest.approx(gaussian.null_gaussian_kl(models, models), rel=0.03)
    found = gaussian.gaussian_kl(*pools(8, 40_000, seed=1))
    assert found.mean() == pytest.approx(0, abs=4 * found.std() / 200)
    assert gaussian.gaussian_kl(*pools(2000, 200, 1.0)).mean() == pytest.approx(0.5, abs=0.01)
    assert gaussian.gaussian_kl(*pools(2000, 200, 1.0, scale=7)).mean() == pytest.approx(1 / 98, abs=0.001)


def test_divergence_without_spread_or_models_is_an_error():
    for pair in ((np.ones((5, 2)), pools(5, 2)[0]), (pools(3, 2)[0], pools(3, 2)[1])):
        with pytest.raises(NotEnoughEvidence):
            gaussian.gaussian_kl(*pair)


def test_energy_distance_is_unbiased_and_has_its_closed_form():
    null = gaussian.energy_distance(*pools(10, 40_000))
    assert null.mean() == pytest.approx(0, abs=4 * null.std() / 200)
    shifted = gaussian.energy_distance(*pools(500, 400, 1.0))
    expected = 2 * (2 / np.sqrt(np.pi) * np.exp(-1 / 4) + 1 * (2 * 0.760250 - 1)) - 4 / np.sqrt(np.pi)
    assert shifted.mean() == pytest.approx(expected, abs=0.01)


def test_noisy_mean_model():
    """A(D) = mean(D) + N(0, s^2): doing nothing is a shift of |difference of means| / s, subtracting the forget set's part is exact."""
    made, models, noise = np.random.default_rng(0), 2000, 0.05
    data = made.normal(size=100) + (np.arange(100) < 10) * 0.5
    full, rest = data.mean(), data[10:].mean()
    original, retrained, fresh = ((mean + noise * made.normal(size=(models, 1))) for mean in (full, rest, rest))
    shift = abs(full - rest) / noise
    assert 0.5 < shift < 3
    pair = (original, retrained) if full > rest else (retrained, original)
    known = roc.normal_areas(shift)
    assert per_example.auc(*pair)[0] == pytest.approx(known["auc"], abs=0.02)
    assert per_example.kolmogorov_smirnov(*pair).statistic[0] == pytest.approx(known["advantage"], abs=0.03)
    assert gaussian.gaussian_kl(original, retrained)[0] == pytest.approx(known["kl"], rel=0.12)
    subtracted = original - full + rest
    assert per_example.mann_whitney(subtracted, fresh).p_value[0] > 0.01
    assert gaussian.gaussian_kl(subtracted, fresh)[0] == pytest.approx(0, abs=0.005)
    assert klom.klom(subtracted, fresh)[0] == pytest.approx(klom.null_klom(models, models, 300).mean(), abs=0.02)
