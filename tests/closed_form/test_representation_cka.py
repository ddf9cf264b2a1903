"""Alignment, Frechet distance and weight distances where the value is known."""

import copy

import numpy as np
import pytest
import torch

from conftest import make_net
from expunge.engine.architecture import Architecture
from expunge.errors import BadInput
from expunge.representation import cka, distances
from expunge.representation.frechet import frechet, frechet_of_moments
from expunge.statistics import NotEnoughEvidence


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def rotation(size: int) -> np.ndarray:
    return np.linalg.qr(normal(size, size, seed=9))[0]


@pytest.mark.parametrize("measure", [cka.unbiased, cka.biased])
def test_rotation_scale_and_shift_do_not_matter(measure):
    x = normal(60, 12)
    assert measure(x, 3.7 * x @ rotation(12) + 5) == pytest.approx(1)
    assert measure(x, -x) == pytest.approx(1)


def test_a_general_linear_map_matters():
    x = normal(200, 12)
    assert cka.unbiased(x, x * np.geomspace(1, 30, 12)) < 0.6


@pytest.mark.parametrize(("n", "p", "expected"), [(64, 64, 0.497), (256, 64, 0.199), (256, 512, 0.666), (64, 512, 0.890)])
def test_independent_features(n, p, expected):
    pairs = [(normal(n, p, seed=2 * k), normal(n, p, seed=2 * k + 1)) for k in range(6)]
    biased = np.mean([cka.biased(*pair) for pair in pairs])
    assert biased == pytest.approx(expected, abs=0.015)
    assert biased == pytest.approx(p / (n - 1 + p), abs=0.01)  # p / (n + p) but for the centring
    assert np.mean([cka.unbiased(*pair) for pair in pairs]) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("p", "size", "biased"),
    [(32, 8, 0.90), (32, 16, 0.83), (32, 64, 0.67), (32, 256, 0.56), (64, 8, 0.95), (64, 16, 0.90), (64, 64, 0.75), (64, 256, 0.60)],
)
def test_noise_of_equal_variance_gives_one_half_at_every_batch_size(p, size, biased):
    x = normal(4096, p)
    y = x + normal(4096, p, seed=1)
    batches = [(x[start : start + size], y[start : start + size]) for start in range(0, 4096, size)]
    assert cka.minibatch(batches) == pytest.approx(0.5, abs=0.02)
    assert cka.minibatch_biased(batches) == pytest.approx(biased, abs=0.012)


def test_a_tenth_of_the_points_far_away_hides_equal_features():
    x = normal(1000, 32)
    y = x.copy()
    y[:100] += 10 * rotation(32)[0] * np.sqrt(32)
    assert cka.unbiased(x, y) < 0.1


def test_hsic_does_not_change_with_shifts_and_is_zero_in_the_mean():
    x, y = normal(40, 5), normal(40, 7, seed=1)
    assert cka.hsic(x, y) == pytest.approx(cka.hsic(x + 100, y - 3), abs=1e-9)
    assert np.mean([cka.hsic(normal(8, 3, seed=k), normal(8, 3, seed=k + 5000)) for k in range(1000)]) == pytest.approx(0, abs=0.05)


def test_too_little_evidence_is_refused():
    x = normal(10, 3)
    for features in ((x, np.ones((10, 3))), (x[:3], x[:3])):
        with pytest.raises(NotEnoughEvidence):
            cka.unbiased(*features)
    with pytest.raises(NotEnoughEvidence):
        cka.all_layers([])
    with pytest.raises(NotEnoughEvidence):
        cka.biased(x, np.ones((10, 3)))


def test_all_layers_of_one_model_have_ones_on_the_diagonal():
    parts = [{"a": normal(16, 5, seed=k), "b": normal(16, 40, seed=k + 10)} for k in range(3)]
    one, two, values = cka.all_layers([(part, part) for part in parts])
    assert (one, two) == (["a", "b"], ["a", "b"])
    assert np.diag(values) == pytest.approx(1) and np.allclose(values, values.T)
    assert abs(values[0, 1]) < 0.3


def test_frechet_of_equal_covariances_is_the_squared_shift():
    x, shift = normal(500, 6), np.arange(6.0)
    assert frechet(x, x + shift) == pytest.approx(np.square(shift).sum(), rel=1e-9)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_of_diagonal_covariances():
    a, b = np.array([1.0, 4.0, 9.0, 0.0]), np.array([4.0, 4.0, 1.0, 2.0])
    value = frechet_of_moments(np.zeros(4), np.diag(a), np.zeros(4), np.diag(b))
    assert value == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum())


def test_frechet_does_not_change_when_both_are_rotated_and_scales_squared():
    x, y, turn = normal(200, 5), 2 * normal(200, 5, seed=1) + 1, rotation(5)
    assert frechet(x @ turn, y @ turn) == pytest.approx(frechet(x, y))
    assert frechet(3 * x, 3 * y) == pytest.approx(9 * frechet(x, y))
    with pytest.raises(ValueError, match="width"):
        frechet(x, y[:, :2])
    with pytest.raises(NotEnoughEvidence):
        frechet(x[:1], y)


def test_weight_distances():
    net = make_net(0)
    assert distances.overall(net, copy.deepcopy(net)) == 0
    grown = copy.deepcopy(net)
    with torch.no_grad():
        grown[0].weight.mul_(1.5)
        grown[1].running_mean.add_(1)
    architecture = Architecture(net, torch.rand(4, 3, 8, 8))
    found = distances.by_layer(grown, net)
    assert found["0.weight"] == pytest.approx(0.5) and found["3.weight"] == 0
    blocks = distances.by_block(architecture, grown, net)
    assert list(blocks) == list(architecture.blocks) and blocks["0"] > 0 and blocks["3"] == blocks["7"] == 0
    assert distances.overall(grown, net, without=("0.weight",)) == 0
    assert distances.buffers(grown, net)["1.running_mean"] == float("inf")
    assert found["1.bias"] == 0  # zero on both sides
    with pytest.raises(BadInput, match="shape"):
        distances.by_layer(net, torch.nn.Sequential(torch.nn.Conv2d(3, 9, 3), *copy.deepcopy(net)[1:]))
    with pytest.raises(BadInput, match="only one"):
        distances.by_layer(net, net[:3])


def test_exact_unlearning_of_ridge_regression_has_distance_zero():
    x, y = torch.from_numpy(normal(50, 4)), torch.from_numpy(normal(50, 2, seed=1))

    def solution(a: torch.Tensor, b: torch.Tensor) -> torch.nn.Linear:
        layer = torch.nn.Linear(4, 2, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(torch.linalg.solve(a.T @ a + torch.eye(4), a.T @ b).T)
        return layer

    original, retrained = solution(x, y), solution(x[10:], y[10:])
    unlearned = copy.deepcopy(original)
    hessian = x[10:].T @ x[10:] + torch.eye(4)
    with torch.no_grad():
        residual = hessian @ original.weight.T - x[10:].T @ y[10:]
        unlearned.weight.sub_(torch.linalg.solve(hessian, residual).T)
    assert distances.overall(unlearned, retrained) < 1e-12 < distances.overall(original, retrained)
