"""The Python interface, as people with their own model and data use it."""

import copy
import json
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, SubsetRandomSampler, TensorDataset

import expunge
from conftest import CLASSES, SIZE, SOURCE, make_net, split, trained_net
from expunge.addons.sam import Sam
from expunge.errors import BadInput, Diverged, NotApplicable
from expunge.tracking.json_lines import JsonLines
from expunge.tracking.reading import series

X, Y = next(SOURCE.batches(torch.arange(len(SOURCE)), len(SOURCE), augment=False, seed=0, epoch=0))


def pairs(kind: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return forget and retain as pairs of tensors."""
    return {name: (X[index], Y[index]) for name, index in split(kind).items()}


class Pictures(Dataset):
    """A map-style dataset without any further help."""

    def __init__(self, index):
        self.index = index

    def __len__(self):
        return len(self.index)

    def __getitem__(self, position):
        return X[self.index[position]], int(Y[self.index[position]])


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_unlearn_returns_a_copy_and_a_record(kind):
    model, data = trained_net(), pairs(kind)
    before = state(model)
    done = expunge.unlearn(model, "finetune", forget=data["forget"], retain=data["retain"], epochs=1, lr=0.01)
    assert same(before, model.state_dict())
    assert not same(before, done.model.state_dict())
    assert done.record["kind"] == kind
    assert done.record["method"]["lr"] == 0.01
    assert done.record["sizes"] == {"forget": len(data["forget"][1]), "retain": len(data["retain"][1])}
    assert done.record["cost"]["backward"] == len(data["retain"][1])
    assert not done.model.training
    assert type(done.model) is type(model)


def test_inplace_writes_into_the_model():
    model, data = trained_net(), pairs("random")
    done = expunge.unlearn(model, "finetune", forget=data["forget"], retain=data["retain"], epochs=1, inplace=True)
    assert done.model is model
    assert not same(state(trained_net()), model.state_dict())


def test_tensors_datasets_and_loaders_give_the_same_weights():
    index, data = split("random"), pairs("random")
    forms = [
        (data["forget"], data["retain"]),
        (TensorDataset(*data["forget"]), TensorDataset(*data["retain"])),
        (Pictures(index["forget"]), Pictures(index["retain"])),
        (DataLoader(Pictures(index["forget"]), batch_size=3), DataLoader(Pictures(index["retain"]), batch_size=5, shuffle=True)),
        (Subset(TensorDataset(X, Y), index["forget"].tolist()), Subset(TensorDataset(X, Y), index["retain"].tolist())),
    ]
    results = [expunge.unlearn(trained_net(), "salun", forget=f, retain=r, epochs=1).model.state_dict() for f, r in forms]
    for other in results[1:]:
        assert same(results[0], other)


def test_seed_decides_the_result():
    data = pairs("random")

    def run(seed):
        return expunge.unlearn(
            trained_net(), "random_label", forget=data["forget"], retain=data["retain"], seed=seed, epochs=1
        ).model.state_dict()

    assert same(run(0), run(0))
    assert not same(run(0), run(1))


def test_addons_by_name_and_with_fields():
    data = pairs("random")
    done = expunge.unlearn(
        trained_net(),
        "finetune",
        forget=data["forget"],
        retain=data["retain"],
        epochs=1,
        addons=[{"name": "saliency_mask", "keep": 0.3}, "sam"],
    )
    assert [addon["name"] for addon in done.record["addons"]] == ["saliency_mask", "sam"]
    assert done.record["addons"][0]["keep"] == 0.3


def test_a_method_without_retain_data_runs_without_it():
    data = pairs("class")
    done = expunge.unlearn(trained_net(), "delete", forget=data["forget"], kind="class", epochs=1)
    assert done.record["kind"] == "class"


def test_kind_is_found_from_the_labels():
    data = pairs("subclass")
    assert expunge.unlearn(trained_net(), "finetune", forget=data["forget"], retain=data["retain"], epochs=1).record["kind"] == "subclass"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sallun"}, "Did you mean 'salun'"),
        ({"retain": None}, "needs retain data"),
        ({"epochs": 2.5}, "method.epochs: expected a positive integer, got 2.5"),
        ({"forget": (X[:0], Y[:0])}, "forget"),
        ({"forget": (X[:4], Y[:4] + 90)}, "labels go from"),
        ({"forget": (X[:4] * float("nan"), Y[:4])}, "not finite"),
        ({"forget": [1, 2, 3]}, "forget: expected a pair"),
        ({"forget": None}, "forget: expected a map-style Dataset"),
        ({"forget": [(X[0], Y[0]), (X[1], Y[1]), (X[2], Y[2])]}, "torch.stack"),
        ({"forget": (X[:4], Y[:4].float())}, "forget.y: labels are whole numbers"),
        ({"forget": ((X[:4] * 255).byte(), Y[:4]), "retain": (X[9:40] * 255, Y[9:40])}, "retain: its values go from .* forget is uint8"),
        (
            {"validation": (X[60:70], Y[60:70]), "retain": (X[60:90], Y[60:90])},
            "validation: every validation example is also among the retain",
        ),
        ({"kind": "sub"}, "kind"),
    ],
)
def test_wrong_input_teaches(change, message):
    data = pairs("random")
    arguments = {"method": "salun", "forget": data["forget"], "retain": data["retain"], **change}
    with pytest.raises(BadInput, match=message):
        expunge.unlearn(trained_net(), **arguments)


def test_weights_that_are_not_finite_are_refused():
    model, data = trained_net(), pairs("random")
    with torch.no_grad():
        model[0].weight[0] = float("inf")
    with pytest.raises(BadInput, match="0.weight"):
        expunge.unlearn(model, "salun", forget=data["forget"], retain=data["retain"])


def test_class_only_method_refuses_a_random_subset():
    data = pairs("random")
    with pytest.raises(NotApplicable, match="random"):
        expunge.unlearn(trained_net(), "head_surgery", forget=data["forget"], retain=data["retain"])


def test_divergence_leaves_the_model_as_it_was():
    model, data = trained_net(), pairs("random")
    before = state(model)
    with pytest.raises(expunge.errors.Diverged, match="diverged at step"):
        expunge.unlearn(model, "finetune", forget=data["forget"], retain=data["retain"], lr=1e9, epochs=5)
    assert same(before, model.state_dict())


def test_train_and_evaluate(tmp_path):
    data = pairs("random")
    train = (X[:SIZE], Y[:SIZE])
    originals, oracles = [], []
    for seed in range(8):
        original, oracle = make_net(seed), make_net(seed)
        expunge.train(oracle, data["retain"], "tiny", seed=seed, epochs=6)
        oracles.append(oracle)
        if seed < 4:
            expunge.train(original, train, "tiny", seed=seed, epochs=6)
            originals.append(original)
    unlearned = [
        expunge.unlearn(model, "finetune", forget=data["forget"], retain=data["retain"], seed=seed, epochs=2).model
        for seed, model in enumerate(originals)
    ]
    counted = []
    originals[0].register_forward_hook(lambda module, inputs, output: counted.append(len(inputs[0])))
    table = expunge.evaluate(
        originals, {"finetune": unlearned}, retrained=oracles, forget=data["forget"], retain=data["retain"], test=(X[SIZE:], Y[SIZE:])
    )
    assert [row["name"] for row in table["rows"]] == ["original", "retrained", "finetune"]
    original, oracle = (row["cells"]["loss_auc"] for row in table["rows"][:2])
    assert original["value"] > oracle["value"] + 0.1
    assert original["in_band"] is False
    assert sum(counted) == SIZE + 100 + 2, "each example once, and two to find the number of outputs"
    areas = {row: cell["value"] for row, cell in table["audits"]["audits"]["example_auc"]["rows"].items()}
    assert areas["original"] > areas["retrained"] + 0.1 and set(areas) == {"original", "retrained", "finetune"}
    assert "8 models on each side" in table["audits"]["skipped"]["set_classifier"]


def test_models_unlearned_from_one_original_are_not_audited_as_if_they_were_of_many_seeds():
    data, oracles = pairs("random"), [make_net(seed) for seed in range(10)]
    given = {"forget": data["forget"], "retain": data["retain"], "test": (X[SIZE:], Y[SIZE:])}
    unlearned = {"other": [make_net(20 + seed) for seed in range(5)]}
    table = expunge.evaluate(make_net(99), unlearned, retrained=oracles, **given)
    assert table["originals"] == 1 and table["audits"]["reason"].startswith("all rows start from one original")
    assert table["rows"][2]["cells"]["loss_auc"]["interval"] is None


def test_catalogue_lists_what_the_registry_has():
    from expunge import registry

    for kind in registry.PACKAGES:
        entries = expunge.catalogue(kind)
        assert [entry["name"] for entry in entries] == registry.names(kind)
        assert all(entry["summary"] for entry in entries)


def test_a_model_is_never_wrapped():
    model = copy.deepcopy(trained_net())
    data = pairs("random")
    done = expunge.unlearn(model, "finetune", forget=data["forget"], retain=data["retain"], epochs=1)
    assert list(done.model.state_dict()) == list(model.state_dict())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in [*done.model.modules(), *model.modules()])
    assert done.model[-1].out_features == CLASSES


class Mappings(Pictures):
    """Examples as mappings, which the loader's collate_fn turns into pairs."""

    def __getitem__(self, position):
        x, y = super().__getitem__(position)
        return {"image": x, "label": y}


def as_pairs(batch):
    return torch.stack([example["image"] for example in batch]), torch.tensor([example["label"] for example in batch])


def test_a_loader_gives_what_it_yields():
    index, data = split("random"), pairs("random")
    plain = expunge.unlearn(trained_net(), "finetune", forget=data["forget"], retain=data["retain"], epochs=1)
    retain = DataLoader(TensorDataset(X, Y), batch_size=7, sampler=SubsetRandomSampler(index["retain"].tolist()))
    forget = DataLoader(Mappings(index["forget"]), batch_size=5, collate_fn=as_pairs)
    done = expunge.unlearn(trained_net(), "finetune", forget=forget, retain=retain, epochs=1)
    assert done.record["sizes"] == plain.record["sizes"]
    assert same(done.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retain": (X[:SIZE], Y[:SIZE])}, "retain: every forget example is also among the retain examples"),
        ({"retain": (X[:9, :, :4], Y[:9])}, r"retain: its inputs have the shape \[3, 4, 8\]"),
        ({"forget": (X[:9, :1], Y[:9])}, r"model: cannot take forget inputs of shape \[1, 8, 8\]"),
        ({"forget": Mappings(torch.arange(4))}, "forget: expected examples"),
        ({"forget": TensorDataset(X[:4], X[:4], Y[:4])}, "forget.y: labels are whole numbers, example 0"),
        ({"forget": Subset(TensorDataset(X * float("nan"), Y), range(4))}, "example 0 holds values that are not finite"),
        (
            {"forget": DataLoader(TensorDataset(X, Y), sampler=RandomSampler(range(500), num_samples=9))},
            "forget: the DataLoader's own sampler",
        ),
        ({"device": "gpu"}, "device: no device is called 'gpu'"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not there"),
        ({"seed": -1}, "seed: expected an integer of at least 0"),
        ({"addons": "sam"}, "addons: expected a list, got 'sam'"),
        ({"addons": ["lora", "lora"]}, "addons=lora: is named more than once"),
        ({"addons": [Sam]}, r"addons.Sam: got the class Sam. Write Sam\(\)"),
        ({"addons": [5]}, "addons.int: got 5. Give a name"),
        ({"method": None}, "method: got None. Give a name"),
        ({"method": Sam()}, "method: got sam, which is of another kind"),
        ({"report": 5}, "report: expected a function, got 5"),
    ],
)
def test_mistakes_in_data_and_choices_are_named(change, message):
    data = pairs("random")
    with pytest.raises(BadInput, match=message):
        expunge.unlearn(trained_net(), **{"method": "salun", "forget": data["forget"], "retain": data["retain"], **change})


def test_nothing_to_prune_is_said_in_words():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(X[0].numel(), CLASSES))
    data = pairs("random")
    for method, addons in (("finetune", ["prune"]), ("gradient_ascent_pruned", None), ("interleaved_pruning", ())):
        with pytest.raises(BadInput, match="has no weights to prune"):
            expunge.unlearn(model, method, forget=data["forget"], retain=data["retain"], addons=addons)


def test_a_single_output_is_refused():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(X[0].numel(), 1))
    with pytest.raises(BadInput, match="model: has a single output, and needs one for each class"):
        expunge.unlearn(model, "finetune", forget=(X[:4], Y[:4] * 0), retain=(X[4:9], Y[4:9] * 0))


def unfit():
    net = make_net(0)
    net[7].weight.data.fill_(float("nan"))
    return net


class Wider(torch.nn.Sequential):
    """A net with more outputs than the data have classes."""

    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(X[0].numel(), CLASSES + 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retrained": None}, "retrained: got NoneType"),
        ({"retrained": [Wider()] * 2}, f"retrained: a model has {CLASSES + 3} outputs, the original {CLASSES}"),
        ({"original": []}, "original: there is no model"),
        ({"original": None}, "original: got NoneType"),
        ({"original": unfit()}, "original: its outputs are not finite"),
        ({"original": [make_net(0), Wider()], "unlearned": {}}, "original: a model has"),
        ({"unlearned": make_net(0)}, "unlearned: expected a mapping, got Sequential"),
        ({"unlearned": {"a": expunge.Unlearned(make_net(0), {})}}, r"unlearned.a: got Unlearned. Give its .model"),
        ({"unlearned": {"a": Wider()}}, "unlearned.a: a model has"),
        ({"unlearned": {"a": torch.nn.Linear(5, 2)}}, "unlearned.a: cannot take forget inputs"),
        ({"original": [make_net(0)] * 2, "unlearned": {"a": make_net(0)}}, "unlearned.a: 1 model for 2 seeds"),
        ({"test": None}, "test: expected a map-style Dataset"),
        ({"test": (X[40:60], Y[40:60]), "retain": (X[30:90], Y[30:90])}, "test: every test example is also among the retain"),
        ({"tier": "quick"}, "tier: got 'quick'. Allowed: fast, rigorous, standard"),
        ({"batch_size": -1}, "batch_size: expected an integer from 0 on, got -1"),
    ],
)
def test_mistakes_in_an_evaluation_are_named(change, message):
    given = {"original": make_net(0), "unlearned": {"a": make_net(0)}, "retrained": [make_net(1), make_net(2)]}
    parts = {"forget": (X[:20], Y[:20]), "retain": (X[20:90], Y[20:90]), "test": (X[SIZE:], Y[SIZE:])}
    with pytest.raises(BadInput, match=message):
        expunge.evaluate(**{**given, **parts, **change})


def test_what_is_no_module_is_refused():
    with pytest.raises(BadInput, match="model: got function"):
        expunge.unlearn(lambda x: x, "salun", forget=(X[:4], Y[:4]))


def test_copies_of_forgotten_examples_are_counted():
    data = pairs("random")
    retain = (torch.cat([data["retain"][0], data["forget"][0][:3]]), torch.cat([data["retain"][1], data["forget"][1][:3]]))
    done = expunge.unlearn(trained_net(), "finetune", forget=data["forget"], retain=retain, epochs=1)
    assert done.record["duplicates"] == {"forget_in_retain": 3}


def test_positions_shared_by_two_parts_of_a_dataset_are_counted():
    whole, index = Pictures(torch.arange(SIZE)), split("random")
    forget, retain = index["forget"].tolist(), index["retain"].tolist()
    done = expunge.unlearn(trained_net(), "finetune", forget=Subset(whole, forget), retain=Subset(whole, retain + forget[:2]), epochs=1)
    assert done.record["duplicates"] == {"forget_in_retain": 2}
    with pytest.raises(BadInput, match="retain: every forget example is also among the retain examples"):
        expunge.unlearn(trained_net(), "finetune", forget=Subset(whole, forget), retain=whole, epochs=1)


def test_a_model_that_diverged_is_marked_and_the_others_are_measured():
    data, broken = pairs("random"), trained_net()
    with torch.no_grad():
        broken[-1].weight.fill_(float("nan"))
    models = [trained_net()] * 3
    table = expunge.evaluate(
        models,
        {"broken": [broken] * 3, "whole": models},
        retrained=models,
        forget=data["forget"],
        retain=data["retain"],
        test=(X[SIZE:], Y[SIZE:]),
    )
    rows = {row["name"]: row for row in table["rows"]}
    assert rows["broken"]["status"] == "diverged" and rows["whole"]["status"] == "finished"
    with pytest.raises(BadInput, match="retrained.1: its outputs are not finite for 500 of 500 examples"):
        expunge.evaluate(
            models,
            {},
            retrained=[models[0], broken, models[0]],
            forget=data["forget"],
            retain=data["retain"],
            test=(X[SIZE:], Y[SIZE:]),
        )


class Encoder(torch.nn.Module):
    """Pictures as sequences of columns, for an encoder of torch's own, whose fused path has no forward derivatives."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(24, 2, 32, batch_first=True), 1)
        self.out = torch.nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.out(self.encoder(x.flatten(1, 2).transpose(1, 2)).mean(1))


def test_influence_goes_through_an_encoder_of_torch():
    data = pairs("random")
    forget, retain = ((x[:20], y[:20]) for x, y in (data["forget"], data["retain"]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Encoder()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        done = expunge.unlearn(model, "influence", forget=forget, retain=retain)
    assert not same(model.state_dict(), done.model.state_dict())


def test_the_public_names_are_listed():
    assert set(expunge.__all__) <= set(dir(expunge))


def rows_of(folder):
    """Return what the only run in a folder of JSON lines was told."""
    (path,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_call_is_told_to_trackers_and_has_the_same_weights(tmp_path):
    data, heard = pairs("random"), []
    fields = {"forget": data["forget"], "retain": data["retain"], "epochs": 2, "seed": 3}
    plain = expunge.unlearn(trained_net(), "neggrad_plus", **fields)
    track = {"name": "json_lines", "folder": str(tmp_path / "unlearn"), "every": 1}
    told = expunge.unlearn(trained_net(), "neggrad_plus", track=track, report=heard.append, **fields)
    assert same(plain.model.state_dict(), told.model.state_dict())
    first, *rows, last = rows_of(tmp_path / "unlearn")
    assert first["stage"] == "unlearn" and first["title"] == "neggrad_plus" and first["parameters"]["method.epochs"] == 2
    assert first["parameters"]["sizes.forget"] == len(data["forget"][1]) and first["parameters"]["run_seed"] == 3
    assert last["status"] == "ok" and len(last["weights_hash"]) == 64
    values = {(row["name"], row["step"]): row["value"] for row in rows}
    epochs = [event for event in heard if event["event"] == "epoch"]
    assert len(epochs) == 2 and {event["event"] for event in heard} >= {"phase", "steps", "epoch"}
    for number, event in enumerate(epochs, 1):
        for name, loss in event["losses"].items():
            assert values[f"epoch_loss/{series(name)}", number] == loss
    assert any(name == "top1/retain" for name, _ in values) and values["cost/passes", 0] == told.record["cost"]["passes"]


def test_a_training_is_told_and_so_is_one_that_diverges(tmp_path):
    data = pairs("random")["retain"]
    track = [JsonLines(folder=str(tmp_path / "train"))]
    expunge.train(make_net(), data, epochs=1, track=track)
    first, *_, last = rows_of(tmp_path / "train")
    assert first["stage"] == "train" and first["parameters"]["train.epochs"] == 1 and last["status"] == "ok"
    with pytest.raises(Diverged):
        expunge.train(make_net(), data, epochs=2, lr=1e30, track=[{"name": "json_lines", "folder": str(tmp_path / "diverged")}])
    last = rows_of(tmp_path / "diverged")[-1]
    assert last["status"] == "diverged" and "not finite" in last["reason"]


def test_a_tracker_that_fails_ends_no_call_and_wrong_ones_are_refused(tmp_path):
    data = pairs("random")["retain"]
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="track=json_lines: FileExistsError.*Not all of this call is there"):
        assert expunge.train(make_net(), data, epochs=1, track={"name": "json_lines", "folder": str(tmp_path / "file")})["cost"]
    with pytest.raises(BadInput, match="mlfow.*Did you mean 'mlflow'"):
        expunge.train(make_net(), data, track="mlfow")
    with pytest.raises(BadInput, match="track.json_lines.every"):
        expunge.unlearn(make_net(), **pairs("random"), track=[{"name": "json_lines", "every": 0}])
