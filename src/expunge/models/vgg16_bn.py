"""VGG network with 16 layers and BatchNorm."""

from typing import Literal

import torch
from torch import nn

from expunge.config import hyper
from expunge.models.model import Model


class Vgg16Bn(Model):
    """VGG network with BatchNorm; the small head on 512 features (14.72 million weights for 10 classes) suits pictures of 32 pixels."""

    source = "Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556, configuration D"
    deviations = ("BatchNorm after each convolution", "head cifar: one linear layer on 512 features instead of three layers")

    head: Literal["cifar", "imagenet"] = hyper("cifar", "one linear layer on 512 features, or two hidden layers of 4096 units")

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network."""
        from torchvision.models import vgg

        features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
        if input_shape[0] != 3:
            features[0] = nn.Conv2d(input_shape[0], 64, 3, padding=1)
        if self.head == "imagenet":
            return vgg.VGG(features, num_classes)
        for module in features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.device("meta"):  # 124 million weights that are replaced at once
            net = vgg.VGG(features, num_classes, init_weights=False)
        net.avgpool = nn.AdaptiveAvgPool2d(1)
        net.classifier = nn.Linear(512, num_classes)
        return net
