import copy
import socket
import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from expunge import registry
from expunge.config import build
from expunge.errors import BadInput
from expunge.models import checkpoint, published
from expunge.models.model import IMAGENET_MEAN, Model, Normalized, create

SMALL = {
    "vit": {"depth": 2, "width": 48, "heads": 3},
    "timm": {"architecture": "test_resnet"},
    "torchvision": {"architecture": "mnasnet0_5"},
    "hf": {"architecture": "resnet", "options": {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8}},
}
NAMES = [name for name in registry.names("models") if registry.find("models", name) is not Model]
PARAMETERS = {  # of networks for 10 classes and colour pictures, as published or as follows from the published layers
    ("resnet20", "pad"): 269_722,
    ("resnet32", "pad"): 464_154,
    ("resnet44", "pad"): 658_586,
    ("resnet56", "pad"): 853_018,
    ("resnet20", "projection"): 272_474,
    ("resnet18", "cifar"): 11_173_962,
    ("resnet18", "imagenet"): 11_181_642,
    ("resnet50", "cifar"): 23_520_842,
    ("vgg16_bn", "cifar"): 14_728_266,
    ("vgg16_bn", "imagenet"): 134_309_962,
    ("whitened_cnn", None): 1_972_792,
    ("vit", None): 21_317_002,
}


def data(*input_shape, num_classes=10):
    channels = input_shape[0]
    return SimpleNamespace(num_classes=num_classes, input_shape=input_shape, mean=(0.4,) * channels, std=(0.25,) * channels)


def config(name, **fields):
    return build("models", {"name": name, **SMALL.get(name, {}), **fields}, "model")


def made(name, seed=0, **fields):
    return create(config(name, **fields), data(3, 32, 32), seed)


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return made(request.param)


@pytest.fixture(scope="module")
def x():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def logits(model, x):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)


def test_the_list_of_models_is_not_empty():
    assert {"small_cnn", "mlp", "resnet18", "timm", "torchvision", "hf"} <= set(NAMES)


def test_returns_finite_logits_and_trains(model, x):
    model = copy.deepcopy(model)
    assert model.training
    output = model(x)
    assert output.shape == (4, 10) and output.isfinite().all()
    F.cross_entropy(output, torch.arange(4)).backward()
    moving = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not moving, "parameters that the logits do not depend on"


def test_a_copy_is_independent(model, x):
    before = logits(model, x)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for value in copied.state_dict().values():
            value.zero_()
    assert torch.equal(logits(model, x), before)


def test_weights_file_restores_the_model(model, x, tmp_path, request):
    name = request.node.callspec.params["model"]
    checkpoint.save(model, tmp_path / "weights.safetensors", {"name": name})
    other = made(name, seed=1, weights=tmp_path / "weights.safetensors")
    assert checkpoint.weights_hash(other) == checkpoint.weights_hash(model)
    assert torch.equal(logits(other, x), logits(model, x))


def test_weights_depend_on_the_seed_alone(model, request):
    name = request.node.callspec.params["model"]
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again, other = made(name), made(name, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert checkpoint.weights_hash(again) == checkpoint.weights_hash(model)
    assert checkpoint.weights_hash(other) != checkpoint.weights_hash(model)


def test_memory_format_does_not_matter(model, x):
    expected = logits(model, x)
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found = logits(channels_last, x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_works_as_a_function_of_its_parameters(model, x):
    evaluated = copy.deepcopy(model).eval()
    with torch.no_grad():
        found = torch.func.functional_call(evaluated, {**dict(evaluated.named_parameters()), **dict(evaluated.named_buffers())}, (x,))
    assert torch.equal(found, logits(model, x))


@pytest.mark.parametrize(("name", "variant"), list(PARAMETERS), ids=str)
def test_published_number_of_parameters(name, variant):
    field = {"resnet18": "stem", "resnet50": "stem", "vgg16_bn": "head"}.get(name, "shortcut")
    chosen = build("models", {"name": name, **({field: variant} if variant else {})}, "model")
    with torch.device("meta"):
        net = chosen.build(10, (3, 32, 32))
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[name, variant]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 9, 11), (3, 45, 40), (3, 41, 40)], ids=str)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_small_cnn_takes_small_pictures(shape, norm):
    net = create(config("small_cnn", norm=norm), data(*shape, num_classes=3), 0)
    assert net(torch.rand(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "timm", "torchvision", "hf", "whitened_cnn", "vit", "mlp"])
def test_grey_pictures(name):
    net = create(config(name), data(1, 32, 32, num_classes=3), 0)
    assert net.eval()(torch.rand(2, 1, 32, 32)).shape == (2, 3)


def test_mlp_without_hidden_layers_is_linear():
    net = create(config("mlp", hidden=()), data(5, 1, 1, num_classes=3), 0).net
    a, b = torch.randn(2, 4, 5, 1, 1)
    assert torch.allclose(net(a) + net(b), net(a + b) + net(torch.zeros_like(a)), atol=1e-5)


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_thin_residual_shortcuts(shortcut):
    block = config("resnet20", shortcut=shortcut).build(10, (3, 32, 32)).layer2[0]
    x = torch.rand(1, 16, 8, 8)
    shortened = block.downsample(x)
    assert shortened.shape == (1, 32, 4, 4)
    if shortcut == "pad":
        assert torch.equal(shortened[:, 8:24], x[:, :, ::2, ::2])
        assert not shortened[:, :8].any() and not shortened[:, 24:].any()


def test_attention_is_the_formula():
    attention = config("vit").build(10, (3, 32, 32)).blocks[0].attention
    x = torch.randn(2, 5, 48)
    heads = []
    for h in range(3):
        q, k, v = (layer(x)[..., 16 * h : 16 * (h + 1)] for layer in (attention.query, attention.key, attention.value))
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v)
    assert torch.allclose(attention(x), attention.out(torch.cat(heads, -1)), atol=1e-5)


def test_sine_positions_tell_all_patches_apart():
    positions = config("vit").build(10, (3, 32, 32)).positions
    distances = torch.cdist(positions, positions) + 9 * torch.eye(64)
    assert positions.shape == (64, 48) and distances.min() > 0.1


def test_whitening_decorrelates_patches():
    generator = torch.Generator().manual_seed(0)
    images = F.avg_pool2d(torch.rand(200, 3, 36, 36, generator=generator), 3, 1)
    net = config("whitened_cnn").build(10, (3, 34, 34))
    net.whiten(images, smallest=1e-9)
    with torch.no_grad():
        output = net.whitening(images).transpose(0, 1).flatten(1)
    half = output[:12]
    assert torch.allclose(torch.cov(half), torch.eye(12), atol=1e-2)
    assert torch.equal(output[12:], -half)
    assert not net.whitening.weight.requires_grad and net.whitening.bias.requires_grad


def test_whitened_convolutions_start_as_identities():
    group = config("whitened_cnn").build(10, (3, 32, 32)).groups[0]
    x = torch.randn(2, 24, 6, 6)
    assert torch.allclose(group.conv1(x)[:, :24], x, atol=1e-6)
    assert group.norm1.momentum == 0.4 and not group.norm1.weight.requires_grad


@pytest.mark.parametrize(
    ("choice", "mean"), [("data", (0.4,) * 3), ("imagenet", IMAGENET_MEAN), ("none", (0.0,) * 3)], ids=["data", "imagenet", "none"]
)
def test_normalization(choice, mean):
    model = create(config("mlp", normalization=choice), data(3, 8, 8), 0)
    assert torch.allclose(model.normalize.mean, torch.tensor(mean))
    black = model.normalize(torch.zeros(1, 3, 8, 8))
    assert torch.allclose(black[0, :, 0, 0], -model.normalize.mean / model.normalize.std)


def test_the_same_weights_under_another_normalization_are_the_same_function(tmp_path):
    model = create(config("mlp"), data(3, 8, 8), 0)
    checkpoint.save(model, tmp_path / "weights.safetensors", {})
    other = create(config("mlp", normalization="imagenet", weights=tmp_path / "weights.safetensors"), data(3, 8, 8), 0)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(model(x), other(x))


def test_normalized_takes_vectors():
    assert Normalized(torch.nn.Identity(), (1.0, 2.0), (1.0, 2.0))(torch.ones(3, 2)).tolist() == [[0.0, -0.5]] * 3


@pytest.mark.parametrize(
    ("name", "fields", "shape", "message"),
    [
        ("small_cnn", {}, (1, 6, 6), "at least 8x8, got 1x6x6"),
        ("vgg16_bn", {}, (1, 28, 28), "vgg16_bn cannot take pictures of 1x28x28"),
        ("whitened_cnn", {}, (1, 20, 20), "at least 25x25"),
        ("vit", {}, (3, 30, 30), "4 does not divide"),
        ("vit", {"width": 50}, (3, 32, 32), "multiple of 4 and of 3 heads"),
        ("mlp", {"normalization": "imagenet"}, (2, 8, 8), "the data has 2"),
        ("timm", {"architecture": "resnet19"}, (3, 32, 32), "Did you mean 'resnet18'?"),
        ("timm", {"architecture": "qqqq"}, (3, 32, 32), "lists them"),
        ("torchvision", {"architecture": "resnet19"}, (3, 32, 32), "Did you mean 'resnet18'?"),
        ("torchvision", {"architecture": "vit_b_32"}, (3, 28, 28), "torchvision:vit_b_32 cannot be built for pictures of 3x28x28"),
        ("torchvision", {"architecture": "alexnet"}, (3, 8, 8), "torchvision:alexnet cannot take pictures of 3x8x8"),
        ("hf", {"architecture": "vitt"}, (3, 32, 32), "Did you mean 'vit'?"),
    ],
)
def test_what_cannot_work_is_refused(name, fields, shape, message):
    with pytest.raises(BadInput, match=message.replace("?", r"\?")):
        create(config(name, **fields), data(*shape), 0)


def test_pretrained_weights_of_a_folder_get_a_new_head(tmp_path):
    given = create(config("hf"), data(3, 32, 32), 0).net.net
    given.save_pretrained(tmp_path)
    model = create(config("hf", architecture=str(tmp_path), options={}, pretrained=True), data(3, 32, 32, num_classes=4), 1)
    assert torch.equal(model.net.net.resnet.embedder.embedder.convolution.weight, given.resnet.embedder.embedder.convolution.weight)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 4) and model.net.training


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot be built"):
        create(config("hf", architecture=str(tmp_path), options={}), data(3, 32, 32), 0)


def test_pretrained_torchvision_gets_a_new_head_and_stem(monkeypatch):
    import torchvision

    original = torchvision.models.get_model
    given = original("resnet18", weights=None)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights=None: copy.deepcopy(given))
    model = create(config("torchvision", architecture="resnet18", pretrained=True), data(1, 32, 32, num_classes=4), 0)
    assert torch.equal(model.net.layer1[0].conv1.weight, given.layer1[0].conv1.weight)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 4)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(BadInput, match=r"pip install 'expunge\[timm\]'"):
        create(config("timm"), data(3, 32, 32), 0)


def test_a_constant_channel_cannot_be_normalised():
    constant = SimpleNamespace(num_classes=2, input_shape=(1, 8, 8), mean=(0.0,), std=(0.0,))
    with pytest.raises(BadInput, match="constant"):
        create(config("mlp"), constant, 0)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("timm", {"architecture": "resnet18", "pretrained": True}),
        ("hf", {"architecture": "google/vit-base-patch16-224", "pretrained": True}),
        ("hf", {"architecture": "google/vit-base-patch16-224"}),
    ],
)
def test_without_a_network_published_weights_are_refused_at_once(monkeypatch, tmp_path, kind, fields):
    constants = pytest.importorskip("huggingface_hub.constants")
    pytest.importorskip("timm" if kind == "timm" else "transformers")  # importing it takes longer than the refusal
    tried = []
    monkeypatch.setattr(published, "getproxies", dict)
    monkeypatch.setattr(published, "reachable", lambda address: tried.append(address) is not None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    before, start = constants.HF_HUB_OFFLINE, time.monotonic()
    with pytest.raises(BadInput, match=r"the files of .* cannot be had: .*\. Fetch them on a machine with network access"):
        config(kind, **fields).build(10, (3, 32, 32))
    assert time.monotonic() - start < 10 and tried == [constants.ENDPOINT] and constants.HF_HUB_OFFLINE == before


def test_an_address_that_nobody_serves_is_not_reachable():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert not published.reachable(f"http://127.0.0.1:{port}")
        free.listen()
        assert published.reachable(f"http://127.0.0.1:{port}")
