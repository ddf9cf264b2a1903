"""The laboratory's mathematics against slow or closed forms, and every study run small."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from expunge import config, registry
from expunge.attacks import roc
from expunge.engine.parameters import flat, leaves, unflat
from expunge.errors import BadInput
from expunge.lab import conduct, directions, figures, influence, page, plane, recomputed, settings
from expunge.lab.attackers import ATTACKERS, judge
from expunge.lab.evidence import looks
from expunge.lab.sets import Hyper, SetTransformer
from expunge.lab.surface import Losses
from expunge.lab.world import World, world_of
from expunge.progress import Progress
from expunge.statistics import NotEnoughEvidence

torch.set_num_threads(1)

TINY = {
    "boundary": ["lab.widths=[4]", "lab.depths=[1]", "lab.grid=15", "lab.frames=4", "lab.other_seeds=1", "lab.forget_points=2",
                 "data.per_class=6", "data.test_per_class=20", "train.epochs=15", "method.epochs=4"],
    "capacity": ["lab.widths=[2,8]", "lab.depths=[1]", "lab.seeds=2", "data.per_class=12", "data.test_per_class=20", "train.epochs=10",
                 "method.epochs=2"],
    "surface": ["lab.grid=7", "lab.examples=40", "model.hidden=[8]", "train.epochs=2", "method.epochs=2", "data.train_limit=300"],
    "hypernetwork": ["lab.points=8", "lab.tasks=64", "lab.epochs=2", "lab.new_tasks=2", "lab.grid=11", "train.epochs=10", "method.epochs=2",
                     "data.per_class=60", "data.test_per_class=60"],
    "stream": ["lab.methods=[streaming,gradient_ascent]", "lab.requests=2", "lab.seeds=3", "model.hidden=[8]", "train.epochs=2",
               "data.train_limit=300"],
    "discriminator": ["lab.methods=[{name: finetune, epochs: 1}]", "lab.seeds=2", "lab.folds=3", "lab.attackers=[threshold,neural_net]",
                      "data.train_limit=200", "data.test_limit=100", "train.epochs=2", "model.hidden=[8]"],
}  # fmt: skip


class Quiet:
    """Hears the events of a study and keeps them."""

    def __init__(self):
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def report(self, event):
        assert event["event"] == "plan" or "title" in event, "a display finds the bar of an event by its title"
        self.events.append(event["event"])


def small_world(hidden=(), per_class=12, **train) -> World:
    tree = {
        "data": {"name": "discs", "per_class": per_class, "test_per_class": 20},
        "model": {"name": "mlp", "hidden": list(hidden)},
        "train": {"name": "tiny", "epochs": 60, "batch_size": 1000, "weight_decay": 0.05, **train},
    }
    return world_of(config.resolve(tree))


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_study_runs_is_found_again_and_says_only_finite_numbers(name, tmp_path):
    study = settings.read(name, None, [*TINY[name], f"out={tmp_path}"])
    shown = Quiet()
    lines = conduct.conduct(study, shown)
    record = json.loads(next(tmp_path.glob("*/record.json")).read_text())
    assert record["config"] == json.loads(json.dumps(study.tree())) and shown.events.count("done") >= 2
    assert len(lines) > 3 and all("nan" not in line.lower() and "inf " not in line for line in lines)
    text = next(tmp_path.glob("*/page.html")).read_text(encoding="utf-8")
    assert "http://" not in text.split("<script")[0] and all(line[2:] in text or "&#" in text for line in lines[:1])
    again = Quiet()
    assert conduct.conduct(study, again) == lines and again.events == [], "what is there is not computed again"
    round_trip = next(tmp_path.glob("*/config.yaml"))
    assert settings.read(name, round_trip).tree() == study.tree(), "what is printed runs again unchanged"


def test_all_studies_are_covered_here():
    assert sorted(TINY) == registry.names("labs")


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["lab.width=[2]"], "lab.width"),
        (["lab.grid=yes"], "lab.grid"),
        (["metod=salun"], "metod"),
        (["method.lr=-1"], "method.lr"),
        (["lab=surface"], "lab"),
    ],
)
def test_wrong_words_are_named(words, where):
    with pytest.raises(BadInput, match=f"^{where}"):
        settings.read("boundary", None, words)


def test_a_study_refuses_keys_that_it_does_not_read_and_data_that_does_not_fit(tmp_path):
    with pytest.raises(BadInput, match="^forget: the study hypernetwork does not read it"):
        settings.read("hypernetwork", None, ["forget=random"])
    cases = {
        "stream": "lab.methods=[finetune]",
        "hypernetwork": "data=digits",
        "boundary": "model=small_cnn",
        "surface": "model=timm:test_byobnet",
    }
    for name, word in cases.items():
        study = settings.read(name, None, [word, f"out={tmp_path}"])
        with pytest.raises(BadInput):
            study.lab.run(study.experiment, lambda event: None)


# Influence


def test_the_estimate_is_newtons_step_for_a_linear_classifier():
    """For logits that are linear in the weights Gauss-Newton is the Hessian, which autograd gives independently."""
    world = small_world()
    index = world.data.train_index.numpy()
    (model,) = world.trained([index], [0], lambda event: None)
    decay = 0.05
    found = influence.estimated_changes(world, model, index, decay)
    batch = next(iter(world.stream("all", index).batches(len(index))))
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (world.data.mean, world.data.std))
    x = (batch.x.double() - mean) / std

    def losses(row):
        return nn.functional.cross_entropy(x @ row[:4].view(2, 2).T + row[4:], batch.y, reduction="none")

    assert [tuple(value.shape) for value in leaves(model).values()] == [(2, 2), (2,)]
    row = influence.weights_of(model)
    hessian = torch.autograd.functional.hessian(lambda r: losses(r).mean(), row) + decay * torch.eye(6, dtype=torch.float64)
    pulls = torch.autograd.functional.jacobian(losses, row) + decay * row
    assert torch.allclose(found, torch.linalg.solve(hessian, pulls.T).T / (len(index) - 1), rtol=1e-4, atol=1e-7)


def test_the_estimate_foretells_exact_retraining_and_its_sign():
    world = small_world(epochs=150)
    index = world.data.train_index.numpy()
    models = world.trained(influence.without_each(index), [0] * (len(index) + 1), lambda event: None)
    changes = influence.estimated_changes(world, models[0], index, 0.05)
    exact = torch.stack([influence.weights_of(model) for model in models[1:]]) - influence.weights_of(models[0])
    for estimated, measured in zip(changes, exact, strict=True):
        assert float(torch.nn.functional.cosine_similarity(estimated, measured, dim=0)) > 0.95, "the decay stays while the mean shrinks"
    held = influence.rank_correlation(changes.norm(dim=1).numpy(), influence.distances(models))
    assert held.mean > 0.9 and held.low < held.mean < held.high


def test_points_near_the_other_disc_weigh_most_for_a_small_net():
    world = small_world(epochs=150)
    index = world.data.train_index.numpy()
    models = world.trained(influence.without_each(index), [0] * (len(index) + 1), lambda event: None)
    batch = next(iter(world.stream("all", index).batches(len(index))))
    apart = torch.cdist(batch.x, batch.x) + 9.0 * (batch.y[:, None] == batch.y[None])
    assert influence.rank_correlation(-apart.min(1).values.numpy(), influence.distances(models)).mean > 0.5


def test_nets_trained_at_once_are_those_trained_alone():
    world = small_world(hidden=(4,), batch_size=8, epochs=5)
    index = world.data.train_index.numpy()
    sets = influence.without_each(index)[:3]
    together = world.trained(sets, [3, 3, 3], lambda event: None)
    alone = [world.trained([part], [3], lambda event: None)[0] for part in sets]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(influence.weights_of(one), influence.weights_of(other), atol=1e-5)


def test_a_rank_correlation_needs_something_that_varies():
    with pytest.raises(NotEnoughEvidence):
        influence.rank_correlation(np.ones(9), np.arange(9.0))
    held = influence.rank_correlation(np.arange(30.0), np.arange(30.0) ** 3)
    assert held.mean == pytest.approx(1) and held.low > 0.9


# The plane


def test_moved_counts_cells_and_a_picture_survives_its_text():
    first = np.zeros((4, 2), np.float32)
    first[:, 0] = 1
    other = first.copy()
    other[:1, 1] = 5
    assert plane.moved(other[None], first).tolist() == [0.25] and plane.moved(first[None], first).tolist() == [0]
    picture = np.arange(49).reshape(7, 7) * 2
    assert np.array_equal(plane.unpacked(plane.packed(picture)), picture)


def test_the_grid_asks_where_it_draws():
    world = small_world()
    view = plane.around(np.array([[0.2, 0.4], [0.8, 0.6]]), 11)
    points = view.points()
    assert points.shape == (121, 2) and points[0].tolist() == pytest.approx(view.low) and points[-1].tolist() == pytest.approx(view.high)
    model = world.new(0)
    logits = view.answers([model])[0]
    with torch.no_grad():
        p = torch.softmax(model.eval()(points[37:38]), dim=1)[0, 1]
    assert view.picture(logits)[37 // 11, 37 % 11] == round(100 * float(p))


def test_other_weights_give_the_answers_of_other_nets():
    world = small_world(hidden=(5,))
    models = [world.new(seed).eval() for seed in (1, 2)]
    x = torch.rand(6, 2)
    rows = torch.stack([influence.weights_of(model) for model in models])
    with torch.no_grad():
        expected = np.stack([model(x).numpy() for model in models])
    assert np.allclose(influence.answers_at(models[0], rows, x), expected, atol=1e-6)


# The surface


def test_the_plane_through_three_points_keeps_their_distances():
    points = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    span = directions.span(points)
    assert torch.allclose(torch.cdist(span.places, span.places), torch.cdist(points, points))
    assert torch.allclose(span.at(span.places), points) and torch.allclose(span.axes @ span.axes.T, torch.eye(2, dtype=torch.float64))
    places, off = span.seen(torch.cat([points, points[:1] + 1]))
    assert torch.allclose(places[:3], span.places) and off[:3].max() < 1e-6 < off[3]
    with pytest.raises(BadInput, match="one line"):
        directions.span(torch.stack([points[0], points[0], points[1]]))


def test_losses_on_the_plane_are_those_of_the_nets():
    world = small_world(hidden=(6,))
    models = [world.new(seed).eval() for seed in range(3)]
    span = directions.span(torch.stack([influence.weights_of(model) for model in models]))
    index = world.data.train_index.numpy()
    batch = next(iter(world.stream("all", index).batches(len(index))))
    with torch.no_grad():
        expected = [float(nn.functional.cross_entropy(model(batch.x), batch.y)) for model in models]
    assert np.allclose(Losses(world, {"all": index})(models[0], span.at(span.places))["all"], expected, atol=1e-5)


def test_filter_normalised_directions_see_no_scale_between_layers():
    """A ReLU net whose first layer is doubled and whose second is halved computes the same; its surface must be the same too."""
    world = small_world(hidden=(6,))
    net, scaled = world.new(0), world.new(0)
    with torch.no_grad():
        own = leaves(scaled)
        first, second = "net.layers.0.0", "net.head"
        for name, factor in ((f"{first}.weight", 2.0), (f"{first}.bias", 2.0), (f"{second}.weight", 0.5)):
            own[name].mul_(factor)
    index = world.data.train_index.numpy()
    steps = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    surfaces = []
    for model in (net, scaled):
        direction = directions.filter_normalized(model, 0, 0)
        surfaces.append(Losses(world, {"all": index})(model, influence.weights_of(model) + steps * direction)["all"])
    assert np.allclose(*surfaces, atol=1e-5)
    plain = torch.randn(len(influence.weights_of(net)), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unscaled = [Losses(world, {"all": index})(model, influence.weights_of(model) + steps * plain)["all"] for model in (net, scaled)]
    assert not np.allclose(*unscaled, atol=1e-2), "directions that are not scaled do see it"


class Normed(nn.Module):
    """Convolution, BatchNorm, ReLU, and a linear head: small enough to compute by hand."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.linear, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False)

    def forward(self, x):
        return self.last(self.linear(torch.relu(self.norm(self.convolution(x))).mean((2, 3))))


def test_recomputed_statistics_are_those_of_a_pass_over_the_references_at_each_place():
    """The reference is torch's own: statistics gathered anew over the references as one batch, then evaluation mode."""
    made = torch.manual_seed(0)
    model = Normed().double()
    known, x = torch.randn(9, 1, 6, 6, dtype=torch.float64, generator=made), torch.randn(5, 1, 6, 6, dtype=torch.float64, generator=made)
    rows = influence.weights_of(model) + 0.3 * torch.randn(4, len(influence.weights_of(model)), dtype=torch.float64, generator=made)
    found = recomputed.answers_at(model, rows, known, x)
    for row, logits in zip(rows, found, strict=True):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, value in unflat(row, leaves(moved)).items():
                leaves(moved)[name].copy_(value)
        torch.optim.swa_utils.update_bn([known], moved)
        assert np.allclose(logits, moved.eval()(x).detach().numpy(), atol=1e-6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the net itself stays as it is"


def test_surfaces_of_nets_with_batchnorm_see_no_scale_before_it():
    """A filter ten times as long before BatchNorm computes the same; with running statistics of one place the surface would differ."""
    experiment = config.resolve(config.read(None, ["data=digits", "data.train_limit=60", "model=small_cnn", "model.width=4"]))
    world, index = world_of(experiment), np.arange(40)
    net, scaled = world.new(0), world.new(0)
    with torch.no_grad():
        for module in scaled.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(10)
                assert module.bias is None
    steps = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    surfaces = [
        Losses(world, {"all": index}, references)(model, influence.weights_of(model) + steps * directions.filter_normalized(model, 0, 0))[
            "all"
        ]
        for references in (np.arange(40, 60), None)
        for model in (net, scaled)
    ]
    assert np.ptp(surfaces[0]) > 0.01 and np.allclose(surfaces[0], surfaces[1], atol=1e-3)
    assert not np.allclose(surfaces[2], surfaces[3], atol=1e-2), "with the statistics of another place it is seen"


def test_a_surface_of_a_net_with_batchnorm_says_what_its_statistics_are(tmp_path):
    words = ["model=small_cnn", "model.width=4", "lab.grid=5", "lab.examples=20", "lab.references=40", "train.epochs=1", "method.epochs=1"]
    study = settings.read("surface", None, [*words, "data.train_limit=300", f"out={tmp_path}"])
    found = study.lab.run(study.experiment, lambda event: None)
    assert found["statistics"]["examples"] == 40 and np.isfinite(found["statistics"]["own"]["forget"]).all()
    sheet = study.lab.sheet(found)
    assert "takes its statistics anew at every place, from 40 retained examples" in sheet.findings[-1]
    assert ("BatchNorm", "statistics of 40 retained examples at every place") in sheet.facts


def test_a_filter_of_the_direction_is_as_long_as_the_nets_own_and_biases_stay():
    model = small_world(hidden=(6,)).new(0)
    direction, start = directions.filter_normalized(model, 0, 1), 0
    for value in leaves(model).values():
        part = direction[start : start + value.numel()].view_as(value)
        start += value.numel()
        if value.dim() > 1:
            assert torch.allclose(part.norm(dim=1), value.detach().double().norm(dim=1))
        else:
            assert not part.any()


# The hypernetwork


def test_made_weights_do_not_depend_on_the_order_but_on_every_point():
    world = small_world(hidden=(4,))
    torch.manual_seed(0)
    classifier = world.new(0)
    count = len(flat(leaves(classifier)))
    net = Hyper(SetTransformer(2, 2, count, 16), classifier).eval()
    nn.init.normal_(net.transformer.head[-1].weight, std=0.1)
    points = torch.rand(3, 7, 4)
    with torch.no_grad():
        whole = net.weights(points)
        assert torch.allclose(whole, net.weights(points[:, torch.randperm(7)]), atol=1e-5)
        assert (whole - net.weights(points[:, 1:])).abs().max() > 1e-4
        changed = points.clone()
        changed[:, 0] = torch.rand(4)
        assert torch.equal(net.weights(points[:, 1:]), net.weights(changed[:, 1:])), "what is left out has no influence at all"
        own = influence.answers_at(classifier, whole[:1].double(), points[0, :, :2])
        assert np.allclose(net(points)[0].numpy(), own[0], atol=1e-5)


# The discriminator


@pytest.mark.parametrize("attacker", sorted(ATTACKERS))
def test_attackers_see_nothing_where_there_is_nothing_and_a_shift_where_there_is_one(attacker):
    draws = np.random.default_rng(0)
    same = draws.normal(size=(2, 150, 3))
    null = judge(attacker, same[0], same[1])
    assert abs(null.auc - 0.5) < 3.5 * roc.null_standard_error(150, 150)
    shifted = judge(attacker, same[0] - 1.5, same[1])
    assert shifted.auc > 0.75, "also where the forgotten score lower: an attacker finds the direction itself"
    assert len(shifted.folds) == 5 and len(shifted.scores[0]) == 150


def test_an_attacker_is_never_judged_on_what_it_was_fitted_on():
    """Noise in many dimensions is told apart perfectly in the sample; held out it is a coin."""
    draws = np.random.default_rng(1)
    noise = draws.normal(size=(2, 60, 100))
    assert abs(judge("logistic_regression", noise[0], noise[1]).auc - 0.5) < 0.2
    assert abs(judge("support_vectors", noise[0], noise[1]).auc - 0.5) < 0.2


def test_looks_are_gradients_and_probabilities_of_the_model():
    world = small_world(hidden=(5,))
    model = world.new(0).eval()
    stream = world.stream("asked", world.data.train_index.numpy()[:4])
    found = looks(model, stream, 2)
    batch = next(iter(stream.batches(4)))
    for place in range(4):
        model.zero_grad()
        features = []
        handle = model.net.head.register_forward_pre_hook(lambda _, x, kept=features: (kept.append(x[0]), x[0].retain_grad())[1])
        loss = nn.functional.cross_entropy(model(batch.x[place : place + 1]), batch.y[place : place + 1])
        loss.backward()
        handle.remove()
        norms = [np.log10(float(parameter.grad.double().norm()) + 1e-12) for parameter in model.parameters()]
        assert np.allclose(found["gradient_norms"][place], norms, atol=1e-4)
        assert found["probabilities"][place, 0] == pytest.approx(-loss.item(), abs=1e-5)
        gradient = features[0].grad[0].double().numpy()
        assert np.allclose(found["feature_gradient"][place], np.sign(gradient) * np.log1p(np.abs(gradient) / 1e-4), atol=1e-3)
    labels = world.data.labels.numpy()[:4]
    assert set(labels) == {0, 1}
    assert np.allclose(np.exp(found["probabilities"]).sum(1), 1)


# The data and the page


@pytest.mark.parametrize("name", ["discs", "moons", "blobs", "spirals"])
def test_points_are_balanced_nested_and_shaped(name):
    small, large = (config.build("datasets", {"name": name, "per_class": size}, "data").load() for size in (10, 25))
    count = small.train_size
    x = [next(data.source.batches(torch.arange(count), count, augment=False, seed=0, epoch=0))[0] for data in (small, large)]
    assert torch.equal(*x), "a larger set holds the smaller one"
    assert np.bincount(small.labels[:count]).tolist() == [10] * small.num_classes
    other = config.build("datasets", {"name": name, "draw": 1}, "data").load()
    assert other.fingerprint != small.fingerprint


def test_discs_are_discs():
    data = config.build("datasets", {"name": "discs", "per_class": 2000}, "data").load()
    x, y = next(data.source.batches(data.train_index, 4000, augment=False, seed=0, epoch=0))
    radius = (x - torch.stack([0.2 + 0.6 * y, torch.full_like(y, 0.5, dtype=torch.float32)], dim=1)).norm(dim=1)
    assert float(radius.max()) <= 0.1201
    assert float((radius < 0.12 * 0.5**0.5).float().mean()) == pytest.approx(0.5, abs=0.03), "half of the points in half of the area"


def test_a_page_holds_back_what_could_end_its_script():
    study = settings.read("boundary", None, [])
    sheet = page.Sheet("q", ["<script>alert(1)</script>"], [("</script>", '"><b>')], [])
    record = {"config": study.tree(), "command": "</script><script>alert(2)", "seconds": 1.0, "environment": {}, "found": "</script>"}
    text = page.render("t", sheet, record)
    assert "<script>alert" not in text and "<b>" not in text and text.count("</script>") == 4


def test_figures_hold_plain_values():
    made = figures.numbers(np.array([[0.123456, np.nan], [np.inf, 2]]))
    assert made == [[0.1235, None], [None, 2.0]]
    layout, suffixes = figures.grid(2, 2, list("abcd"))
    assert suffixes == ["", "2", "3", "4"] and layout["xaxis2"]["domain"][1] == pytest.approx(1)
    json.dumps(figures.bars([0.1, None], [0.2, 0.3], [0.4, None]), allow_nan=False)


def test_the_display_takes_every_event(capsys):
    shown = Progress()
    with shown:
        shown.report({"event": "plan", "jobs": ["a"]})
        for event in ("start", "epoch", "end", "done"):
            shown.report({"event": event, "title": "a", "epoch": 1, "epochs": 2})
    assert "1 of 1" in capsys.readouterr().err
