"""Representation measures against naive forms of the published formulas, or an independent implementation."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from conftest import CLASSES, SOURCE, make_net, split, trained_net
from expunge.engine import randomness
from expunge.engine.architecture import Architecture
from expunge.engine.stream import Stream
from expunge.engine.update import sgd
from expunge.representation import challenge, cka, controls, neighborhood, neighbors, outputs, probe, relearn
from expunge.representation.features import Reading
from expunge.representation.frechet import frechet


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def naive_hsic(x: np.ndarray, y: np.ndarray) -> float:
    n, one = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    total = np.trace(k @ m) + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
    return total / (n * (n - 3))


def naive_biased(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


@pytest.mark.parametrize(("n", "wide"), [(4, 3), (9, 2), (9, 30), (20, 5)])
def test_hsic_against_the_hollow_matrices(n, wide):
    x, y = normal(n, wide) + 3, normal(n, wide + 1, seed=1) @ normal(wide + 1, wide + 1, seed=2)
    assert cka.hsic(x, y) == pytest.approx(naive_hsic(x, y), rel=1e-8)
    assert cka.unbiased(x, y) == pytest.approx(naive_hsic(x, y) / np.sqrt(naive_hsic(x, x) * naive_hsic(y, y)), rel=1e-8)
    assert cka.biased(x, y) == pytest.approx(naive_biased(x, y), rel=1e-8)


def test_minibatch_and_all_layers_against_the_sums():
    parts = [({"a": normal(8, 3, seed=k), "b": normal(8, 20, seed=k + 50)}, {"c": normal(8, 4, seed=k) ** 2}) for k in range(5)]
    names, others, values = cka.all_layers(parts)
    assert (names, others, values.shape) == (["a", "b"], ["c"], (2, 1))
    for row, name in enumerate(names):
        pairs = [(one[name], two["c"]) for one, two in parts]
        sums = [sum(naive_hsic(*chosen) for chosen in group) for group in (pairs, [(x, x) for x, _ in pairs], [(y, y) for _, y in pairs])]
        assert values[row, 0] == pytest.approx(sums[0] / np.sqrt(sums[1] * sums[2]))
        assert cka.minibatch(pairs) == pytest.approx(values[row, 0])
        assert cka.minibatch_biased(pairs) == pytest.approx(np.mean([naive_biased(*pair) for pair in pairs]))


def test_frechet_against_the_matrix_root():
    x, y = normal(30, 4) @ normal(4, 4, seed=3), normal(25, 4, seed=1) + 0.5
    one, two = np.cov(x.T), np.cov(y.T)
    naive = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
    assert frechet(x, y) == pytest.approx(naive, rel=1e-6)


def reading(x: np.ndarray, y: np.ndarray) -> Reading:
    return Reading(x, np.zeros((len(x), 3)), y)


@pytest.mark.parametrize("balanced", [False, True])
def test_linear_probe_against_a_pipeline(balanced):
    made = np.random.default_rng(0)
    y = made.choice(3, 150, p=[0.6, 0.3, 0.1])
    x = np.eye(3, 6)[y] * 1.5 + made.normal(size=(150, 6))
    fit, held, asked = slice(0, 70), slice(70, 110), slice(110, 150)
    found = probe.linear_probe(*(reading(x[part], y[part]) for part in (fit, held, asked)), balanced=balanced)
    z = (x - x[fit].mean(0)) / x[fit].std(0)
    weight = "balanced" if balanced else None
    models = {c: LogisticRegression(C=c, max_iter=1000, class_weight=weight).fit(z[fit], y[fit]) for c in probe.STRENGTHS}
    best = max(models, key=lambda c: (models[c].score(z[held], y[held]), -c))
    assert found.strength == best and found.accuracy == models[best].score(z[asked], y[asked])


def test_neighbours_against_scikit_learn():
    made = np.random.default_rng(0)
    y = made.integers(0, 3, 200)
    x = np.eye(3, 6)[y] + made.normal(size=(200, 6))
    for k in (1, 7):
        other = KNeighborsClassifier(k, metric="cosine").fit(x[:150], y[:150])
        votes = np.sort(np.stack([np.bincount(y[:150][row], minlength=3) for row in other.kneighbors(x[150:])[1]]), axis=1)
        clear = votes[:, -1] > votes[:, -2]
        found = neighbors.predict(x[:150], y[:150], x[150:], k)
        assert clear.sum() > 30 and np.array_equal(found[clear], other.predict(x[150:])[clear])


def test_zrf_against_torch():
    z, other = normal(12, 5).astype(np.float32) * 2, normal(12, 5, seed=1).astype(np.float32)
    p, q = (torch.softmax(torch.from_numpy(part).double(), 1) for part in (z, other))
    m = (p + q) / 2
    js = 0.5 * (F.kl_div(m.log(), p, reduction="none") + F.kl_div(m.log(), q, reduction="none")).sum(1)
    assert outputs.zero_retrain_forgetting(z, other) == pytest.approx(float(1 - js.mean() / np.log(2)))
    published = 0.5 * F.kl_div(p.log(), m, reduction="none").mean() + 0.5 * F.kl_div(q.log(), m, reduction="none").mean()
    assert outputs.zero_retrain_forgetting_published(z, other) == pytest.approx(float(1 - published))


def test_calibration_against_a_loop():
    z, labels = normal(200, 4).astype(np.float32) * 2, np.random.default_rng(0).integers(0, 4, 200)
    p = torch.softmax(torch.from_numpy(z).double(), 1).numpy()
    top, right = p.max(1), p.argmax(1) == labels
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (top > low) & (top <= low + 1 / 15)
        error += abs(top[inside].sum() - right[inside].sum()) / 200
    found = outputs.calibration(z, labels)
    assert found.expected_error == pytest.approx(error)
    assert found.signed_error == pytest.approx(top.mean() - right.mean())
    assert found.negative_log_likelihood == pytest.approx(float(F.cross_entropy(torch.from_numpy(z).double(), torch.from_numpy(labels))))


def test_logistic_attacker_against_scikit_learn():
    ours, theirs = normal(24, 6) * 2 + 1, normal(20, 6, seed=1)
    rates = challenge.logistic(ours, theirs, splits=1, seed=3)
    (fit_u, score_u), (fit_r, score_r) = challenge.halves(ours, 6), challenge.halves(theirs, 7)
    for example in range(6):
        fit = np.concatenate([fit_u[:, example], fit_r[:, example]])
        answers = np.repeat([1, 0], [len(fit_u), len(fit_r)])
        mean, spread = fit.mean(), fit.std()
        other = LogisticRegression(C=1.0, tol=1e-8).fit((fit[:, None] - mean) / spread, answers)
        called = [other.predict((part[:, example, None] - mean) / spread) for part in (score_u, score_r)]
        assert rates.false_negative[0, example] == pytest.approx(1 - called[0].mean())
        assert rates.false_positive[0, example] == pytest.approx(called[1].mean())


def test_gaussian_and_threshold_attackers_against_loops():
    ours, theirs = normal(16, 5) * 3 + 1, normal(16, 5, seed=1)
    (fit_u, score_u), (fit_r, score_r) = challenge.halves(ours, 0), challenge.halves(theirs, 1)
    gaussian, threshold = challenge.gaussian(ours, theirs), challenge.best_threshold(ours, theirs)

    def density(x, sample):
        return np.exp(-(((x - sample.mean()) / sample.std(ddof=1)) ** 2) / 2) / sample.std(ddof=1)

    for i in range(5):
        wrong = [density(part[:, i], fit_u[:, i]) > density(part[:, i], fit_r[:, i]) for part in (score_r, score_u)]
        assert gaussian.false_positive[i] == wrong[0].mean() and gaussian.false_negative[i] == 1 - wrong[1].mean()
        values = np.sort(np.concatenate([fit_u[:, i], fit_r[:, i]]))
        cuts = [values[0] - 1, *(values[1:] + values[:-1]) / 2, values[-1] + 1]
        rules = [(side, cut) for cut in cuts for side in (1, -1)]
        best = min(np.mean(side * (fit_r[:, i] - cut) > 0) + np.mean(side * (fit_u[:, i] - cut) <= 0) for side, cut in rules)
        sign, cut = challenge._cut(fit_u[:, i], fit_r[:, i])[::-1]
        assert np.mean(sign * (fit_r[:, i] - cut) > 0) + np.mean(sign * (fit_u[:, i] - cut) <= 0) == pytest.approx(best)
        assert threshold.false_positive[i] == np.mean(sign * (score_r[:, i] - cut) > 0)
        assert threshold.false_negative[i] == np.mean(sign * (score_u[:, i] - cut) < 0)


def test_soft_regression_against_scikit_learn_on_hard_labels():
    x, y = normal(80, 5) * [1, 2, 5, 0.1, 1] + 3, np.random.default_rng(0).integers(0, 3, 80)
    weight, bias = controls.soft_regression(x, np.eye(3)[y], ridge=0.1)
    z = (x - x.mean(0)) / x.std(0)
    other = LogisticRegression(C=1 / (0.1 * 80), tol=1e-8, max_iter=1000).fit(z, y)
    ours = torch.softmax(torch.from_numpy(x @ weight.T + bias), 1).numpy()
    assert np.allclose(ours, other.predict_proba(z), atol=1e-3)


def test_prototype_accuracy_against_a_loop():
    classes = np.arange(30) % 2, np.full(3, 2), np.full(20, 2)
    known, shots, asked = (reading(normal(len(y), 5, seed=len(y)) + np.eye(3, 5)[y], y) for y in classes)
    means = {label: known.features[known.labels == label].mean(0) for label in (0, 1)} | {2: shots.features.mean(0)}
    centre = np.mean(list(means.values()), axis=0)

    def cosine(x, y):
        return (x - centre) @ (y - centre) / np.linalg.norm(x - centre) / np.linalg.norm(y - centre)

    def nearest(x):
        return max(means, key=lambda label: cosine(x, means[label]))

    right = [nearest(x) == 2 for x in asked.features]
    assert relearn.prototype_accuracy(known, shots, asked) == np.mean(right)


def test_retain_only_against_a_plain_loop():
    net, epochs, size = make_net(2), 2, 100
    parts = {name: Stream(name, SOURCE, index) for name, index in split("random").items()}
    curve = relearn.retain_only(net, parts["retain"], parts["forget"], epochs, relearn.Training(sgd(0.02, weight_decay=0.0), size, seed=5))
    plain = copy.deepcopy(net)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.9)
    x = torch.cat([batch.x for batch in parts["forget"].batches(40)])
    expected = []
    for epoch in range(epochs + 1):
        plain.eval()
        expected.append(float((plain(x).argmax(1) == parts["forget"].labels).float().mean()))
        plain.train()
        seed = randomness.derive(5, "batches", 0)
        for batch in parts["retain"].batches(size, seed=seed, epoch=epoch, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(plain(batch.x), batch.y).backward()
            optimizer.step()
    assert curve.accuracy == pytest.approx(expected)


def test_residual_knowledge_against_a_loop():
    ours, theirs = trained_net().eval(), make_net(1).eval()
    forget = Stream("forget", SOURCE, torch.arange(0, 60))
    batch = next(forget.batches(60))
    right = []
    with torch.no_grad():
        for net in (ours, theirs):
            moved = [neighborhood.perturb(batch.x, batch.index, 0.05, draw) for draw in range(3)]
            right.append(np.stack([(net(x).argmax(1) == batch.y).numpy() for x in moved]).mean(0))
    found = neighborhood.residual_knowledge(ours, theirs, forget, radius=0.05, draws=3)
    assert found.rate == pytest.approx(right[0].mean()) and found.ratio == pytest.approx(right[0].mean() / right[1].mean())
    assert found.residual_fraction == np.mean(right[0] > right[1]) and found.over_fraction == np.mean(right[0] < right[1])


def test_relearn_time_against_a_plain_loop():
    net, size = make_net(2), 20
    forget = Stream("forget", SOURCE, split("random")["forget"])
    found = relearn.relearn_time(net, forget, 0.88, budget=100, training=relearn.Training(sgd(0.02, weight_decay=0.0), size))
    plain = copy.deepcopy(net).eval()  # forget data alone: running statistics stay as they are
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.9)
    x = torch.cat([batch.x for batch in forget.batches(40)])
    steps = 0
    while float((plain(x).argmax(1) == forget.labels).float().mean()) < 0.88:
        epoch, place = divmod(steps, forget.steps(size))
        batch = list(forget.batches(size, seed=randomness.derive(0, "batches", 0), epoch=epoch, shuffle=True))[place]
        optimizer.zero_grad()
        F.cross_entropy(plain(batch.x), batch.y).backward()
        optimizer.step()
        steps += 1
    assert found.steps == steps > 3 and not found.censored


def test_architecture_features_are_what_the_probe_sees():
    net = trained_net().eval()
    architecture = Architecture(net, torch.rand(2, 3, 8, 8))
    x = torch.rand(6, 3, 8, 8)
    assert architecture.num_features == 144 and architecture.num_classes == CLASSES
    assert torch.allclose(architecture.forward_with_features(net, x)[1], net[:7](x))
