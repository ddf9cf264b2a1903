"""Any classifier of torchvision."""

import inspect
from typing import Any

import torch
from torch import nn

from expunge.config import Flag, Text, hyper
from expunge.engine.architecture import Architecture
from expunge.models.model import Model
from expunge.models.published import attempt, check_known, require


class Torchvision(Model):
    """A classifier of torchvision by its name there, for example ``torchvision:convnext_tiny``."""

    source = "https://docs.pytorch.org/vision/stable/models.html"
    prefix_field = "architecture"
    packages = ("torchvision",)

    architecture: Text
    pretrained: Flag = hyper(
        False, "start from published ImageNet weights; the head is new, and so is the stem unless pictures have 3 channels"
    )

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network; transformers are resized to the pictures.

        Raises:
            BadInput: no such architecture, or it cannot take these pictures.
        """
        models = require("torchvision", "torchvision").models
        check_known("torchvision", self.architecture, models.list_models(module=models), "torchvision.models.list_models()")

        def make() -> nn.Module:
            options = _options(models.get_model_builder(self.architecture), self.architecture, input_shape)
            if not self.pretrained:
                return models.get_model(self.architecture, weights=None, num_classes=num_classes, **options)
            net = models.get_model(self.architecture, weights="DEFAULT", **options)
            size = input_shape[1:] if "image_size" in options else (224, 224)
            return _replace_head(net, torch.zeros(1, 3, *size), num_classes)

        net = attempt(f"torchvision:{self.architecture}", input_shape, make)
        return net if input_shape[0] == 3 else _replace_stem(net, input_shape[0])


def _options(builder: Any, name: str, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what an architecture must be told beside the number of classes."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": input_shape[1]}
    if "input_size" in inspect.signature(builder).parameters or name.startswith("maxvit"):
        return {"input_size": tuple(input_shape[1:])}
    return {}


def _replace_head(net: nn.Module, example: torch.Tensor, num_classes: int) -> nn.Module:
    found = Architecture(net, example)
    parent, _, attribute = found.head_name.rpartition(".")
    setattr(net.get_submodule(parent), attribute, nn.Linear(found.num_features, num_classes))
    return net


def _replace_stem(net: nn.Module, channels: int) -> nn.Module:
    """Give the first convolution another number of input channels, with new weights."""
    name, old = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    shape: dict[str, Any] = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    new = nn.Conv2d(channels, old.out_channels, **shape, bias=old.bias is not None)
    parent, _, attribute = name.rpartition(".")
    setattr(net.get_submodule(parent), attribute, new)
    return net
