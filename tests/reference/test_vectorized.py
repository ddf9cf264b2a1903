"""Models trained at once against the same models trained one by one: by a loop written out in float64, and by the engine in float32."""

import copy
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expunge import config
from expunge.data.augmentation import Augmentation
from expunge.data.source import TensorSource
from expunge.engine.context import Context
from expunge.engine.phase import Phase
from expunge.engine.randomness import derive
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd
from expunge.errors import BadInput, Diverged
from expunge.models.mlp import Mlp
from expunge.models.model import Normalized
from expunge.models.small_cnn import SmallCnn
from expunge.pools import evidence, feed, locks, stacked, stages, store, trial, vectorized
from expunge.pools.pool import Pool
from expunge.pools.workplace import Workplace
from expunge.training.recipe import Recipe
from expunge.training.recipes.fast import Fast
from expunge.training.recipes.standard import Standard
from expunge.training.recipes.tiny import Tiny
from expunge.training.train import train

CLASSES, SIDE, BATCH, SIZES = 4, 8, 16, (80, 75, 66, 80)
STEPS = 20
"""Four epochs of five batches, of 16, 15, 14 or 13, and 16 examples."""
MODELS = {"batch norm": SmallCnn(width=4), "group norm": SmallCnn(width=4, norm="group"), "mlp": Mlp(hidden=(16,))}
TINY = Tiny(epochs=4, batch_size=BATCH, lr=0.02)


def make_source(augmentation: Augmentation | None = Augmentation(pad=2)) -> TensorSource:  # noqa: B008
    made = torch.Generator().manual_seed(1)
    y = torch.arange(160) % CLASSES
    x = 0.5 * torch.rand(CLASSES, 2, SIDE, SIDE, generator=made)[y] + 0.5 * torch.rand(160, 2, SIDE, SIDE, generator=made)
    return TensorSource((255 * x).to(torch.uint8), y, augmentation=augmentation)


SOURCE = make_source()


def make_streams(sizes=SIZES, source=SOURCE) -> list[Stream]:
    made = torch.Generator().manual_seed(2)
    return [Stream("train", source, torch.randperm(160, generator=made)[:size].sort().values) for size in sizes]


def make_models(component, count: int = len(SIZES), dtype=torch.float32, device="cpu") -> list[nn.Module]:
    models = []
    for seed in range(count):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(Normalized(component.build(CLASSES, (2, SIDE, SIDE)), (0.5, 0.4), (0.3, 0.2)).to(device, dtype))
    return models


def together(models, streams, recipe, **more):
    return stacked.train_together(models, streams, recipe, seeds=range(len(models)), num_classes=CLASSES, **more)


def differences(first, second) -> list[float]:
    """Return for each model the largest difference of a weight or a buffer."""
    pairs = [zip(a.state_dict().values(), b.state_dict().values(), strict=True) for a, b in zip(first, second, strict=True)]
    return [max(float((one.double() - other.double()).abs().max()) for one, other in pair) for pair in pairs]


def loop(model: nn.Module, stream: Stream, seed: int, recipe: Tiny) -> None:
    """Train as `Tiny` does, written out in the model's precision: Nesterov, a linear rise, half a cosine."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True)
    model.train()
    total, step = recipe.epochs * -(-len(stream) // recipe.batch_size), 0
    for epoch in range(recipe.epochs):
        batches = stream.batches(recipe.batch_size, seed=derive(seed, "batches", 0), epoch=epoch, shuffle=True, augment=True)
        for batch in batches:
            rise = recipe.rise * total
            done = int(step - rise) / max(1, int(total - rise))
            factor = (step + 1) / rise if step < rise else 0.5 * (1 + np.cos(np.pi * done))
            optimizer.param_groups[0]["lr"] = recipe.lr * factor
            optimizer.zero_grad()
            F.cross_entropy(model(batch.x), batch.y, label_smoothing=recipe.label_smoothing).backward()
            optimizer.step()
            step += 1
    assert step == STEPS


def against_the_loop(component, streams=None, recipe=TINY) -> float:
    streams = streams or make_streams()
    alone, at_once = make_models(component, dtype=torch.float64), make_models(component, dtype=torch.float64)
    for seed, (model, stream) in enumerate(zip(alone, streams, strict=True)):
        loop(model, stream, seed, recipe)
    outcomes = together(at_once, streams, recipe)
    assert [outcome.phases[0]["steps"] for outcome in outcomes] == [STEPS] * len(alone)
    assert not any(model.training for model in at_once)
    return max(differences(alone, at_once))


@pytest.mark.parametrize("name", MODELS)
def test_models_trained_at_once_are_those_of_a_loop_in_float64(name):
    assert against_the_loop(MODELS[name]) < 1e-10
    assert against_the_loop(MODELS[name], make_streams([80] * 4), TINY.but(label_smoothing=0.1)) < 1e-10
    assert against_the_loop(MODELS[name], make_streams([78, 77, 66, 78])) < 1e-10


RECIPES = {
    "tiny": TINY,
    "adam": Standard(epochs=4, batch_size=BATCH, optimizer="adam", lr=1e-3, precision="float32"),
    "adamw": Standard(epochs=4, batch_size=BATCH, optimizer="adamw", lr=1e-3, warm_up_epochs=1, label_smoothing=0.1, precision="float32"),
    "standard": Standard(epochs=4, batch_size=BATCH, lr=0.01, precision="float32"),
    "fast": Fast(epochs=4, batch_size=BATCH, lr=0.2, shift=1, precision="float32"),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", MODELS)
def test_they_are_what_the_engine_makes_one_by_one_in_float32(name, recipe):
    """Three of four models to 1e-5: in one, a ReLU or a maximum may fall the other way, as it does when one weight is rounded otherwise."""
    streams, alone, at_once = make_streams(), make_models(MODELS[name]), make_models(MODELS[name])
    one_by_one = [
        train(model, stream, RECIPES[recipe], seed=seed, num_classes=CLASSES)
        for seed, (model, stream) in enumerate(zip(alone, streams, strict=True))
    ]
    outcomes = together(at_once, streams, RECIPES[recipe])
    assert sorted(differences(alone, at_once))[-2] < 1e-5
    for one, other in zip(one_by_one, outcomes, strict=True):
        assert one.cost.keys() == other.cost.keys()
        assert all(one.cost[key] == other.cost[key] for key in ("forward", "backward", "passes"))
        (phase,), (its) = one.phases, other.phases[0]
        assert {**phase, "losses": 0} == {**its, "losses": 0}
        for mine, other_losses in zip(phase["losses"], its["losses"], strict=True):
            assert mine == pytest.approx(other_losses, abs=1e-3)


def test_running_statistics_are_followed_exactly():
    norm, models = nn.BatchNorm2d(3).double(), [nn.Sequential(nn.BatchNorm2d(3)).double() for _ in range(2)]
    x = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    stacked_net = stacked.StackedNet(models)
    padded = stacked.StackedNet(models)
    out = stacked_net(x)
    weights = torch.tensor([[1.0] * 6, [1, 1, 1, 1, 0, 0]])
    short = padded(x, weights)
    assert torch.allclose(out[0], norm(x[0]), atol=1e-12)
    assert torch.allclose(stacked_net.buffers["0.running_var"][0], norm.running_var, atol=1e-12)
    assert torch.equal(stacked_net.buffers["0.num_batches_tracked"], torch.tensor([1, 1]))
    norm.reset_running_stats()
    assert torch.allclose(short[1, :4], norm(x[1, :4]), atol=1e-12)
    assert torch.allclose(padded.buffers["0.running_mean"][1], norm.running_mean, atol=1e-12)
    assert torch.allclose(padded.buffers["0.running_var"][1], norm.running_var, atol=1e-12)


def test_gradients_are_clipped_model_by_model():
    made = torch.Generator().manual_seed(0)
    stacks = [torch.zeros(3, 4, 2, requires_grad=True), torch.zeros(3, 5, requires_grad=True)]
    scale = torch.tensor([0.01, 1.0, 9.0])
    for stack in stacks:
        stack.grad = torch.randn(stack.shape, generator=made) * scale.view(-1, *[1] * (stack.dim() - 1))
    expected = []
    for number in range(3):
        single = [nn.Parameter(torch.zeros(stack.shape[1:])) for stack in stacks]
        for parameter, stack in zip(single, stacks, strict=True):
            parameter.grad = stack.grad[number].clone()
        nn.utils.clip_grad_norm_(single, 0.5)
        expected.append([parameter.grad for parameter in single])
    stacked.clip_each(stacks, 0.5)
    for number in range(3):
        for stack, grad in zip(stacks, expected[number], strict=True):
            assert torch.allclose(stack.grad[number], grad, atol=1e-7)


@pytest.mark.parametrize("source", [make_source(None), TensorSource(torch.randn(160, 2, SIDE, SIDE), torch.arange(160) % CLASSES)])
def test_pictures_without_augmentation_and_plain_numbers_work_as_well(source):
    assert against_the_loop(MODELS["mlp"], make_streams(source=source)) < 1e-10


def mean_instead_of_sum(monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", lambda value, *rest, **more: GRAD(value / len(SIZES), *rest, **more))


def shared_augmentation(monkeypatch):
    own = feed.Feed._draws
    monkeypatch.setattr(feed.Feed, "_draws", lambda self, orders, epoch: own(_with_one_seed(self), orders, epoch))


def _with_one_seed(made):
    return SimpleNamespace(**{**vars(made), "seeds": [made.seeds[0]] * len(made.seeds)})


def shared_order(monkeypatch):
    own = feed.Feed.__init__

    def init(self, readings):
        own(self, readings)
        self.seeds = [self.seeds[0]] * len(self.seeds)

    monkeypatch.setattr(feed.Feed, "__init__", init)


def counted_padding(monkeypatch):
    own = stacked.StackedNet.__call__
    monkeypatch.setattr(stacked.StackedNet, "__call__", lambda self, x, weights=None: own(self, x, None))


GRAD = torch.autograd.grad


@pytest.mark.parametrize("plant", [mean_instead_of_sum, shared_augmentation, shared_order, counted_padding])
def test_a_planted_error_is_seen(plant, monkeypatch):
    plant(monkeypatch)
    assert against_the_loop(MODELS["batch norm"]) > 1e-4


def test_models_that_do_not_go_in_step_are_refused():
    with pytest.raises(ValueError, match="same number of steps"):
        together(make_models(MODELS["mlp"], 2), make_streams([80, 40]), TINY)


def test_one_model_that_diverges_leaves_the_others_alone():
    streams, models, clean = make_streams(), make_models(MODELS["mlp"]), make_models(MODELS["mlp"])
    with torch.no_grad():
        models[1].net.head.bias[0] = float("inf")
    outcomes = together(models, streams, TINY)
    together(clean, streams, TINY)
    assert isinstance(outcomes[1], Diverged) and outcomes[1].step == 1
    assert [difference for number, difference in enumerate(differences(models, clean)) if number != 1] == [0.0, 0.0, 0.0]


def phase(**changes) -> Phase:
    return Phase([Term(make_streams()[0], cross_entropy)], optimizer=sgd(0.1)).but(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "bfloat16"}, "rounds too coarsely"),
        ({"stop": lambda context, progress: False}, "stop"),
        ({"perturb": lambda *arguments: []}, "perturb"),
        ({"after_step": (lambda step: None,)}, "rules"),
        ({"terms": [Term(make_streams()[0], lambda context, batch, student: student.logits.sum(1))]}, "cross entropy"),
        ({"terms": [Term(make_streams()[0], cross_entropy, weight=-1.0)]}, "cross entropy"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(changes, reason):
    model = make_models(MODELS["mlp"], 1)[0]
    assert stacked.refusal(phase(), model) is None
    assert reason in stacked.refusal(phase(**changes), model)


def test_a_norm_layer_of_another_kind_is_refused():
    net = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True))
    assert "InstanceNorm2d" in stacked.refusal(phase(), net)
    assert "BatchNorm2d" in stacked.refusal(phase(), nn.Sequential(nn.BatchNorm2d(2, momentum=None)))


# Run folders

WORDS = ["data=digits", "train=tiny", "train.epochs=2", "forget=random", "method=finetune", "method.epochs=1", "evaluate.workers=1"]


def workplace(folder, *words: str) -> Workplace:
    return Workplace(
        config.resolve(config.read(None, [*WORDS, "evaluate.executor=vectorized", f"out={folder}", *(words or ["model=mlp"])]))
    )


def halves(work: Workplace, count: int) -> tuple[list[np.ndarray], list[int]]:
    pool = Pool(work, "base")
    return [np.flatnonzero(pool.state(number)) for number in range(count)], list(range(count))


def ignore(event):
    pass


def test_run_folders_hold_what_those_of_worker_processes_hold(tmp_path):
    work = workplace(tmp_path)
    indices, seeds = halves(work, 2)
    heard: list[dict] = []
    runs = vectorized.train_many(work, indices, seeds, heard.append)
    alone = [stages.train(work, index, seed, f"model {seed}") for index, seed in zip(indices, seeds, strict=True)]
    for one, other in zip(runs, alone, strict=True):
        assert sorted(path.name for path in one.folder.iterdir()) == sorted(path.name for path in other.folder.iterdir())
        assert one.record.keys() == other.record.keys() and one.record["title"] == other.record["title"]
        identity, its = one.record["identity"], other.record["identity"]
        assert {key: value for key, value in identity.items() if not key.startswith("executor")} == its
        assert identity["executor"] == "vectorized" and one.folder != other.folder
        assert np.abs(one.logits() - other.logits()).max() < 1e-3
        assert store.find(one.folder).record == one.record
        events = [[json.loads(line)["event"] for line in (run.folder / "events.jsonl").read_text().splitlines()] for run in (one, other)]
        assert events[0] == events[1]
    assert [event["event"] for event in heard].count("end") == 2
    again: list[dict] = []
    assert [run.folder for run in vectorized.train_many(work, indices, seeds, again.append)] == [run.folder for run in runs]
    assert {event["event"] for event in again} == {"found"}


def test_two_ways_to_cut_chunks_agree(tmp_path, monkeypatch):
    found = []
    for limit in (3, 2):
        work = workplace(tmp_path / str(limit))
        indices, seeds = halves(work, 3)
        monkeypatch.setattr(vectorized, "chunk_size", lambda work, limit=limit: limit)
        runs = vectorized.train_many(work, indices, seeds, ignore)
        assert [run.record["cost"]["models_at_once"] for run in runs] == {3: [3, 3, 3], 2: [2, 2, 1]}[limit]
        found.append(np.stack([run.logits() for run in runs]))
    assert np.abs(found[0] - found[1]).max() < 1e-3


def test_models_of_different_sizes_each_take_their_own_steps(tmp_path):
    work = workplace(tmp_path)
    indices = [work.split.train[:count] for count in (200, 150, 190)]
    runs = vectorized.train_many(work, indices, [0, 1, 2], ignore)
    assert [run.record["phases"][0]["steps"] for run in runs] == [8, 6, 6]
    assert [run.record["cost"]["forward"] for run in runs] == [400, 300, 380]


def test_a_killed_chunk_leaves_no_half_written_folder(tmp_path, monkeypatch):
    work = workplace(tmp_path)
    indices, seeds = halves(work, 4)
    monkeypatch.setattr(vectorized, "chunk_size", lambda work: 2)
    heard = []

    def killing(event):
        heard.append(event["event"])
        if heard.count("epoch") == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vectorized.train_many(work, indices, seeds, killing)
    folders = sorted(tmp_path.glob("train-*"))
    assert len(folders) == 2 and all((folder / "record.json").is_file() for folder in folders)
    again: list[dict] = []
    runs = vectorized.train_many(work, indices, seeds, again.append)
    assert len(runs) == 4 and [event["event"] for event in again].count("found") == 2


def test_two_drivers_of_one_store_make_no_model_twice(tmp_path, monkeypatch):
    """The second comes while the first trains its first chunk, with chunks of another size: it takes what is free, and finds the rest."""
    work = workplace(tmp_path)
    indices, seeds = halves(work, 5)
    own, made, second, heard = vectorized._train_chunk, [], [], []
    monkeypatch.setattr(vectorized, "chunk_size", lambda work: 4 if second else 2)

    def watched(work, chunk, report):
        made.append([one.place for one in chunk])
        if len(made) == 1:
            second.append(threading.Thread(target=lambda: vectorized.train_many(work, indices, seeds, heard.append)))
            second[0].start()
            while not any(event["event"] == "waiting" for event in heard) and second[0].is_alive():
                time.sleep(0.01)
        return own(work, chunk, report)

    monkeypatch.setattr(vectorized, "_train_chunk", watched)
    first = vectorized.train_many(work, indices, seeds, ignore)
    second[0].join()
    assert sorted(place for places in made for place in places) == [0, 1, 2, 3, 4] and len(first) == 5
    assert made[0] == [0, 1] and [event["event"] for event in heard].count("found") == 2
    assert all(json.loads((run.folder / "record.json").read_text()) == run.record for run in first)
    assert not list(tmp_path.rglob(".lock*"))


def test_a_pool_takes_over_what_another_driver_made_in_the_last_moment(tmp_path, monkeypatch):
    """The row of such a run is written under the lock of its folder, which this process must not hold then."""
    work, other = workplace(tmp_path), workplace(tmp_path)
    pool, real, looked = Pool(work, "base"), vectorized.store.look_up, []

    def late(*arguments, **more):
        found = real(*arguments, **more)
        if not looked:
            looked.append(found)
            vectorized.train_many(other, [pool._examples(0)], [pool.training_seed(0)], ignore)
        return found

    def nobody_waits(holder):
        raise AssertionError(f"waits for {holder}")

    hold = locks.hold
    monkeypatch.setattr(vectorized.store, "look_up", late)
    monkeypatch.setattr(locks, "hold", lambda folder, tell=nobody_waits, **more: hold(folder, nobody_waits, **more))
    assert pool.fill(2, ignore).rows() == [0, 1] and looked == [None]


def test_a_chunk_that_does_not_fit_into_memory_is_halved(tmp_path, monkeypatch):
    work = workplace(tmp_path)
    indices, seeds = halves(work, 4)
    own, asked = vectorized._train_chunk, []

    def limited(work, chunk, report):
        asked.append(len(chunk))
        if len(chunk) > 2:
            raise torch.OutOfMemoryError("no room")
        return own(work, chunk, report)

    monkeypatch.setattr(vectorized, "_train_chunk", limited)
    assert len(vectorized.train_many(work, indices, seeds, ignore)) == 4
    assert asked == [4, 2, 2]


def test_a_pool_is_filled_and_what_it_unlearns_starts_there(tmp_path):
    work = workplace(tmp_path)
    Pool(work, "original").fill(2, ignore)
    cache = Pool(work, "unlearned").fill(2, ignore)
    assert cache.rows() == [0, 1] and cache.manifest["executor"] == "vectorized"
    assert len(list(tmp_path.glob("train-*"))) == 2
    records = [json.loads(path.read_text()) for path in tmp_path.glob("train-*/record.json")]
    starts = {json.loads(path.read_text())["identity"]["original"] for path in tmp_path.glob("unlearn-*/record.json")}
    assert starts == {record["weights"] for record in records}


def test_what_the_model_says_is_collected_in_one_pass():
    models, stream = make_models(MODELS["batch norm"]), make_streams()[0]
    together(models, make_streams(), TINY)
    found = vectorized.outputs_together(models, stream, 32)
    for logits, model in zip(found, models, strict=True):
        assert np.allclose(logits.numpy(), evidence.outputs(model, stream, 32), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["model=mlp"], None),
        (["model=mlp", "model.dropout=0.1"], "draws random numbers"),
        (["model=mlp", "train=standard", "train.sam_radius=1", "train.precision=float32"], "perturb"),
        (["model=mlp", "train=standard", "train.precision=bfloat16"], "rounds too coarsely"),
    ],
)
def test_a_trial_tells_what_is_available(words, reason, tmp_path):
    found = vectorized.available(workplace(tmp_path, *words))
    assert found is None if reason is None else reason in found
    if reason:
        with pytest.raises(BadInput, match="evaluate.executor"):
            vectorized.chosen(workplace(tmp_path, *words), 4, ignore)


def test_the_trial_sees_a_layer_that_is_not_what_it_seems(tmp_path, monkeypatch):
    counted_padding(monkeypatch)
    monkeypatch.setattr(vectorized, "_AVAILABLE", {})
    assert "differ from models trained alone" in vectorized.available(workplace(tmp_path, "model=small_cnn", "model.width=4"))


def test_the_measurement_is_taken_once_and_decides(tmp_path, monkeypatch):
    work, taken = workplace(tmp_path), []
    monkeypatch.setattr(vectorized, "_FASTER", {})
    monkeypatch.setattr(vectorized, "seconds_together", lambda work, models: taken.append(models) or 4.0)
    monkeypatch.setattr(vectorized, "seconds_alone", lambda work: 2.0)
    assert vectorized.faster(work, 4, workers=1) and vectorized.faster(work, 4, workers=1) and taken == [4]
    assert not vectorized.faster(work, 4, workers=2) and taken == [4, 4]


def test_auto_keeps_its_decision_for_the_folder(tmp_path, monkeypatch):
    work = workplace(tmp_path)
    monkeypatch.setattr(vectorized, "_setting", lambda work: "auto")
    for answer in (False, True):
        monkeypatch.setattr(vectorized, "faster", lambda work, models, answer=answer: answer)
        assert not vectorized.chosen(work, 4, ignore) and vectorized.promise(work) == {}
    other = workplace(tmp_path / "other")
    assert vectorized.chosen(other, 4, ignore) and vectorized.promise(other)["executor"] == "vectorized"


def test_worker_processes_stay_the_choice_on_a_processor(tmp_path):
    work = Workplace(config.resolve(config.read(None, [*WORDS, "model=mlp", f"out={tmp_path}"])))
    assert not vectorized.chosen(work, 4, ignore) and vectorized.promise(work) == {}


def test_chunks_are_bounded_by_memory(tmp_path, monkeypatch):
    work = workplace(tmp_path)
    monkeypatch.setattr(trial, "_memory_bytes", lambda device: 0.0)
    assert trial.chunk_size(work) == 1
    monkeypatch.setattr(trial, "_memory_bytes", lambda device: 1e15)
    assert trial.chunk_size(work) == trial.LARGEST_CHUNK


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_the_same_holds_on_a_gpu(name):
    made = make_source()
    source = TensorSource(made._stored.permute(0, 3, 1, 2), made.labels, "cuda", Augmentation(pad=2))
    streams = make_streams(source=source)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        alone = make_models(MODELS[name], dtype=dtype, device="cuda")
        at_once = copy.deepcopy(alone)
        with torch.backends.cudnn.flags(allow_tf32=False):
            for seed, (model, stream) in enumerate(zip(alone, streams, strict=True)):
                loop(model, stream, seed, TINY)
            together(at_once, streams, TINY)
        assert sorted(differences(alone, at_once))[-2] < tolerance


def test_short_recipes_count_their_steps():
    class Short(Recipe):
        def steps(self, ctx: Context, stream: str = "train"):
            yield from (step.but(steps=3) for step in TINY.steps(ctx, stream))

    outcomes = together(make_models(MODELS["mlp"]), make_streams(), Short())
    assert [outcome.phases[0]["steps"] for outcome in outcomes] == [3] * 4
