import os
import pickle
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.config import build
from expunge.errors import BadInput
from expunge.models import checkpoint
from expunge.models.model import create

DATA = SimpleNamespace(num_classes=10, input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.2,) * 3)
TREE = {"model": {"name": "resnet20"}, "seed": 0, "text": "ü", "train": {"lr": 0.1}}


def made(seed=0, name="resnet20", **fields):
    return create(build("models", {"name": name, **fields}, "model"), DATA, seed)


def net_hash(model):
    return checkpoint.weights_hash(model.net)


def as_published(model):
    """The names that other implementations use."""
    state = {name.replace("fc.", "linear.").replace("downsample.", "shortcut."): value for name, value in model.net.state_dict().items()}
    return {name: value for name, value in state.items() if "num_batches" not in name}


FOREIGN = {
    "bare": lambda model: model.net.state_dict(),
    "whole": lambda model: model.state_dict(),
    "state_dict and module": lambda model: {"best": 91.7, "state_dict": {"module." + k: v for k, v in as_published(model).items()}},
    "model": lambda model: {"model": as_published(model), "epoch": 3},
    "compiled": lambda model: {"_orig_mod.module." + k: v for k, v in model.net.state_dict().items()},
    "with its own normalisation": lambda model: {**as_published(model), "normalize.mean": torch.zeros(3), "normalize.std": torch.ones(3)},
}


def test_configuration_and_bytes(tmp_path):
    model = made()
    for name in ("a", "b"):
        checkpoint.save(model, tmp_path / "new folder" / f"{name}.safetensors", TREE)
    a, b = sorted((tmp_path / "new folder").iterdir())
    assert a.read_bytes() == b.read_bytes()
    assert checkpoint.read_config(a) == TREE
    assert load_file(a).keys() == model.state_dict().keys()


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint.save(made(), path, TREE)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.save(made(1), path, {"not": object()})
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".safetensors"])
@pytest.mark.parametrize("layout", FOREIGN)
def test_weights_of_others(layout, suffix, tmp_path):
    model = made(0, shortcut="projection")
    path = tmp_path / f"weights{suffix}"
    content = FOREIGN[layout](model)
    if suffix == ".safetensors":
        nested = content.get("state_dict", content.get("model", content))
        save_file({name: value.clone() for name, value in nested.items()}, path)
    else:
        torch.save(content, path)
    other = made(1, shortcut="projection")
    checkpoint.load_into(other, path)
    assert net_hash(other) == net_hash(model)
    assert torch.equal(other.normalize.mean, torch.zeros(3) if "normalisation" in layout else model.normalize.mean)


def test_half_precision_weights_are_widened(tmp_path):
    torch.save({name: value.half() for name, value in made().net.state_dict().items()}, tmp_path / "half.pt")
    other = made(1)
    checkpoint.load_into(other, tmp_path / "half.pt")
    assert other.net.fc.weight.dtype == torch.float32
    assert torch.equal(other.net.fc.weight, made().net.fc.weight.half().float())


def test_a_bare_network_refuses_to_lose_the_normalisation(tmp_path):
    model = made()
    checkpoint.save(model, tmp_path / "weights.safetensors", TREE)
    with pytest.raises(BadInput, match="has besides normalize.mean, normalize.std"):
        checkpoint.load_into(model.net, tmp_path / "weights.safetensors")


def test_hash_sees_every_value_and_name():
    model = made()
    first = checkpoint.weights_hash(model)
    assert checkpoint.weights_hash(made()) == first
    model.net.bn1.running_mean[3] += 1e-6
    second = checkpoint.weights_hash(model)
    model.net.bn1.num_batches_tracked += 1
    assert len({first, second, checkpoint.weights_hash(model), checkpoint.weights_hash(model.net)}) == 4


class Malicious:
    def __reduce__(self):
        return os.system, ("echo executed > executed",)


def write(path, state):
    torch.save(state, path)


def changed(**changes):
    state = dict(made().net.state_dict())
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


BAD = {
    "missing": (lambda path: None, "no such weights file"),
    "folder": (lambda path: path.mkdir(), "no such weights file"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "text": (lambda path: path.write_text("hello, not weights"), "damaged"),
    "no tensors": (lambda path: write(path, {"epoch": 3}), "no state dict"),
    "a list": (lambda path: write(path, [torch.zeros(2)]), "no state dict"),
    "code": (lambda path: path.write_bytes(pickle.dumps(Malicious(), protocol=2)), r"posix.system\), which could run code"),
    "code in a PyTorch file": (lambda path: torch.save({"state_dict": Malicious()}, path), r"posix.system\), which could run code"),
    "a pickled model": (lambda path: torch.save(made(), path), r"Normalized\), which could run code"),
    "numbers for names": (lambda path: write(path, dict(enumerate(made().net.state_dict().values()))), "a name that is no text: 0"),
    "sparse": (lambda path: write(path, changed(fc__weight=made().net.fc.weight.detach().to_sparse())), "not dense .* 'fc.weight'"),
    "whole numbers": (
        lambda path: write(path, changed(fc__weight=made().net.fc.weight.detach().long())),
        "fc.weight holds int64, not real",
    ),
    "complex": (lambda path: write(path, changed(fc__weight=made().net.fc.weight.detach() * 1j)), "fc.weight holds complex64, not real"),
    "lacks one": (lambda path: write(path, changed(conv1__weight=None)), "lacks net.conv1.weight[.]"),
    "has one more": (lambda path: write(path, changed(extra=torch.zeros(1))), "has besides net.extra[.]"),
    "other architecture": (lambda path: write(path, made(name="mlp").net.state_dict()), "lacks .* and 9[0-9] more and has besides"),
    "other shape": (
        lambda path: write(path, changed(conv1__weight=torch.zeros(16, 1, 3, 3))),
        r"wrong shape for net.conv1.weight \[16, 1, 3, 3\] instead of \[16, 3, 3, 3\]",
    ),
    "other width": (lambda path: write(path, made(width=8).net.state_dict()), r"wrong shape for .* and \d+ more"),
    "other classes": (
        lambda path: write(path, changed(fc__weight=torch.zeros(100, 64), fc__bias=torch.zeros(100))),
        "net.fc has 100 outputs in the file and 10 in the model",
    ),
    "not finite": (
        lambda path: write(path, changed(bn1__bias=torch.full((16,), torch.nan))),
        "net.bn1.bias holds values that are not finite",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line_and_change_nothing(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = BAD[case]
    path = tmp_path / "weights.pt"
    make(path)
    model = made(5)
    before = checkpoint.weights_hash(model)
    with pytest.raises(BadInput, match=message) as caught:
        checkpoint.load_into(model, path)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value) and str(path) in str(caught.value)
    assert checkpoint.weights_hash(model) == before
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files_are_refused(suffix, kept, tmp_path):
    model, path = made(), tmp_path / f"weights{suffix}"
    checkpoint.save(model, path, TREE) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(BadInput, match="damaged"):
        checkpoint.load_into(model, path)
    with pytest.raises(BadInput, match="damaged"):
        checkpoint.read_config(path)


def test_legacy_format_truncated(tmp_path):
    path = tmp_path / "weights.th"
    torch.save(made().state_dict(), path, _use_new_zipfile_serialization=False)
    other = made(1)
    checkpoint.load_into(other, path)
    assert checkpoint.weights_hash(other) == checkpoint.weights_hash(made())
    whole = path.read_bytes()
    for kept in (0.01, 0.5, 0.99):
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(BadInput, match="damaged"):
            checkpoint.load_into(other, path)


def test_a_file_of_others_has_no_configuration(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(BadInput, match="no configuration"):
        checkpoint.read_config(tmp_path / "weights.safetensors")


def test_weights_of_the_configuration_are_loaded(tmp_path):
    checkpoint.save(made(3), tmp_path / "weights.safetensors", TREE)
    assert checkpoint.weights_hash(made(0, weights=str(tmp_path / "weights.safetensors"))) == checkpoint.weights_hash(made(3))
