import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from expunge import registry
from expunge.config import build
from expunge.engine.architecture import Architecture
from expunge.engine.parameters import leaves
from expunge.errors import BadInput
from expunge.models.model import Model, Normalized, create

SMALL = {"vit": {"depth": 2, "width": 48, "heads": 3}}
COLLECTIONS = {"timm", "torchvision", "hf"}
BUILT_IN = [name for name in registry.names("models") if name not in COLLECTIONS and registry.find("models", name) is not Model]
TINY_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}
PUBLISHED = {  # name: (fields, side, head, number of blocks)
    "torchvision:resnet18": ({}, 32, "net.fc", 10),
    "torchvision:convnext_tiny": ({}, 32, "net.classifier.2", 23),
    "torchvision:swin_t": ({}, 32, "net.head", 17),
    "torchvision:vit_b_32": ({}, 32, "net.heads.head", 14),
    "torchvision:mobilenet_v2": ({}, 32, "net.classifier.1", 20),
    "torchvision:densenet121": ({}, 32, "net.classifier", 63),
    "timm:resnet18": ({}, 32, "net.fc", 10),
    "timm:vit_tiny_patch16_224": ({}, 32, "net.head", 14),
    "timm:convnext_atto": ({}, 32, "net.head.fc", 17),
    "timm:mobilenetv3_small_050": ({}, 32, "net.classifier", 15),
    "hf:vit": ({"options": TINY_VIT}, 32, "net.net.classifier", 4),
    "hf:resnet": ({"options": {"depths": [2, 2], "hidden_sizes": [8, 16], "embedding_size": 8}}, 32, "net.net.classifier.1", 6),
}


class Branches(nn.Module):
    """A head that is defined first, a layer that is never called, a squeezed output, free parameters, state in buffers."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 5)
        self.unused = nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.ones(8))
        self.right = nn.Conv2d(8, 8, 3)
        self.left = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        x = F.relu(self.norm(self.right(self.left(x)))).mean((2, 3)) * self.scale
        return self.head(x[:, None, :] + 0 * torch.rand(1)).squeeze(1)


class ConvolutionHead(nn.Sequential):
    def __init__(self, pooled_first):
        pool, head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1)
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), *((pool, head) if pooled_first else (head, pool)), nn.Flatten())


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.embed(x).flatten(2).transpose(1, 2)).mean(1)


class Auxiliary(nn.Module):
    """Returns a second output in training, as Inception does."""

    def __init__(self):
        super().__init__()
        self.embed, self.auxiliary, self.head = nn.Linear(3 * 16 * 16, 8), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x.flatten(1))
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def stages():
    unit = lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())  # noqa: E731
    body = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "stage1": nn.Sequential(unit(), unit()), "stage2": nn.Sequential(unit())})
    net = nn.Sequential(*body.values(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 5))
    return Normalized(net, (0.5,) * 3, (0.2,) * 3)


ODD = {
    "branches": (Branches, "head", ("left", "right", "head")),
    "pooled, then a convolution": (lambda: ConvolutionHead(True), "3", ("0", "3")),
    "convolution, then pooled": (lambda: ConvolutionHead(False), "2", ("0", "2")),
    "mean of logits over tokens": (Tokens, "head", ("embed", "head")),
    "second output in training": (Auxiliary, "head", ("embed", "head")),
    "stages": (stages, "net.7", ("net.0", "net.1.0", "net.1.1", "net.2.0", "net.7")),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)), "1", ("1",)),
}


def published(name):
    fields, side, *expected = PUBLISHED[name]
    data = SimpleNamespace(num_classes=7, input_shape=(3, side, side), mean=(0.5,) * 3, std=(0.2,) * 3)
    return create(build("models", {"name": name, **fields}, "model"), data, 0), torch.rand(2, 3, side, side), expected


def built_in(name):
    data = SimpleNamespace(num_classes=7, input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.2,) * 3)
    return create(build("models", {"name": name, **SMALL.get(name, {})}, "model"), data, 0), torch.rand(2, 3, 32, 32)


def check(model, x, classes):
    """Everything that must hold for any classifier."""
    model.train()
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    found = Architecture(model, x)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    model.eval()
    logits, features = found.forward_with_features(model, x)
    assert torch.equal(logits, model(x))
    assert features.shape == (len(x), found.num_features) and found.num_classes == classes
    assert torch.allclose(found.logits(features), logits, rtol=1e-4, atol=1e-5 * float(logits.detach().abs().max()))
    if len(found.blocks) > 1:
        features.square().sum().backward()
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())

    assert found.blocks[-1] == found.head_name
    head = [f"{found.head_name}.{name}" for name, _ in found.head.named_parameters()]
    assert found.last_blocks(1) == head
    counts = [len(found.last_blocks(k)) for k in range(1, len(found.blocks) + 1)]
    assert counts == sorted(set(counts)), "each block must add parameters"
    assert found.last_blocks(len(found.blocks)) == list(leaves(model))
    assert sum(len(found.parameters_of(block)) for block in found.blocks) == counts[-1]
    assert found.class_rows(classes - 1).keys() == set(head)
    return found


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name):
    model, x = built_in(name)
    found = check(model, x, 7)
    assert found.embed and found.head_name in {**found.linears, **found.convs}
    if name.startswith("resnet"):
        assert found.blocks[:2] == ("net.conv1", "net.layer1.0")
        assert found.members["net.conv1"] == ("net.conv1", "net.bn1")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name):
    model, x, (head, blocks) = published(name)
    found = check(model, x, 7)
    assert (found.head_name, len(found.blocks)) == (head, blocks)
    assert found.norms and len(found.embed) == 1


@pytest.mark.parametrize("name", ODD)
def test_odd(name):
    make, head, blocks = ODD[name]
    found = check(make(), torch.rand(3, 3, 16, 16), 5)
    assert (found.head_name, found.blocks) == (head, blocks)


def test_layers_are_listed_in_the_order_of_the_forward_pass():
    found = Architecture(Branches(), torch.rand(2, 3, 16, 16))
    assert list(found.convs) == ["left", "right"]
    assert list(found.linears) == ["head"], "a layer that is never called is not listed"
    assert list(found.norms) == ["norm"] and list(found.embed) == ["left"]
    assert "unused.weight" in found.parameters_of("left") and "scale" in found.parameters_of("left")


def test_attention_that_bypasses_its_output_layer_does_not_list_it():
    model, x, _ = published("torchvision:vit_b_32")
    assert not any("out_proj" in name for name in Architecture(model, x).linears)


def test_features_in_training_mode_follow_the_forward_pass():
    model, x = built_in("small_cnn")
    found = Architecture(model, x)
    model.train()
    before = model.net.layers[0][2].running_mean.clone()
    logits, features = found.forward_with_features(model, x)
    assert not torch.equal(model.net.layers[0][2].running_mean, before)
    assert torch.allclose(found.logits(features), logits, atol=1e-5)


def test_features_of_the_latest_forward_pass_are_captured():
    model, x = built_in("mlp")
    found = Architecture(model, x)
    with found.capture_features() as captured:
        assert captured.features is None
        model(x)
        first = captured.features
        model(1 - x)
        assert not torch.equal(first, captured.features)
    model(x)
    assert torch.equal(found.features(x), first)


def test_serves_copies_and_reparametrised_models():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, x = built_in("resnet20")
    found = Architecture(model, x)
    other = copy.deepcopy(model)
    parametrize.register_parametrization(other.net.conv1, "weight", Doubled())
    parametrize.register_parametrization(other.net.fc, "weight", Doubled())
    again = Architecture(other, x)
    assert (again.blocks, again.head_name, again.members) == (found.blocks, found.head_name, found.members)
    assert set(again.last_blocks(11)) == set(found.last_blocks(11)) and "net.conv1.weight" in again.parameters_of("net.conv1")
    bound = found.on(other)
    assert bound.head is other.net.fc and found.head is model.net.fc
    logits, features = found.forward_with_features(other.eval(), x)
    assert torch.allclose(bound.logits(features), logits, atol=1e-5)


def test_heads_that_give_zeros_are_not_told_apart():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)
            for parameter in self.parameters():
                nn.init.zeros_(parameter)

        def forward(self, x):
            return (self.a(x) + self.b(x)) / 2

    with pytest.raises(BadInput, match="a, b"):
        Architecture(Two(), torch.rand(2, 4))


def test_a_named_head_is_taken():
    class Scaled(nn.Sequential):
        def forward(self, x):
            return 3 * super().forward(x)

    model = Scaled(nn.Flatten(), nn.Linear(12, 6), nn.Linear(6, 5))
    x = torch.rand(2, 3, 2, 2)
    with pytest.raises(BadInput, match=r'no linear layer.*Layers that could be it: 2\..*head="net.fc"'):
        Architecture(model, x)
    assert Architecture(model, x, head="2").blocks == ("1", "2")


@pytest.mark.parametrize(
    ("head", "message"), [("fcc", "no module 'fcc'.*Did you mean 'fc'"), ("relu", "is a ReLU"), ("unused", "does not call 'unused'")]
)
def test_a_wrong_named_head_is_refused(head, message):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.relu, self.unused = nn.Linear(4, 2), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.relu(x))

    with pytest.raises(BadInput, match=message):
        Architecture(Net(), torch.rand(2, 4), head=head)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (nn.Softmax(1), "If the model ends with softmax"),
        (nn.Unflatten(1, (1, 2)), r"returns shape \[2, 1, 2\]"),
        (nn.Threshold(1e9, float("nan")), "not finite"),
    ],
    ids=["softmax", "shape", "nan"],
)
def test_what_does_not_return_logits_is_refused(last, message):
    with pytest.raises(BadInput, match=message):
        Architecture(nn.Sequential(nn.Linear(4, 2), last), torch.rand(2, 4))


def test_an_output_that_is_no_tensor_is_refused():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(BadInput, match="returns a tuple"):
        Architecture(Pair(4, 2), torch.rand(2, 4))


def test_blocks_and_classes_out_of_range_are_refused():
    found = Architecture(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.rand(2, 4))
    for call in (lambda: found.last_blocks(0), lambda: found.last_blocks(3), lambda: found.class_rows(2), lambda: found.parameters_of("2")):
        with pytest.raises(BadInput):
            call()
