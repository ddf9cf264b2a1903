"""Residual networks: the thin ones for CIFAR, and torchvision's with a choice of stem.

Source: He et al., Deep Residual Learning, CVPR 2016, arXiv 1512.03385: section 4.2 for the thin ones, table 1 for the others.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from expunge.config import PositiveInt, hyper
from expunge.models.model import Model


class ThinResidual(Model):
    """Configuration of a thin residual network for small pictures, 6n + 2 layers deep."""

    shortcut: Literal["pad", "projection"] = hyper("pad", "where widths change: zeros in the new channels (option A) or a 1x1 convolution")
    width: PositiveInt = hyper(16, "channels of the first stage; the others have 2 and 4 times as many")


class StemmedResidual(Model):
    """Configuration of a residual network of torchvision."""

    stem: Literal["cifar", "imagenet"] = hyper("cifar", "3x3 convolution and no pooling, or 7x7 with stride 2 and max-pooling")


class PadShortcut(nn.Module):
    """Every second pixel, with zeros in the new channels, half of them on each side."""

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, C + new_channels, H / stride, W / stride]``."""
        before = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))


class ThinBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs and shortcut == "pad":
            self.downsample = PadShortcut(outputs - inputs, stride)
        elif inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, outputs, H / stride, W / stride]``."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ThinResNet(nn.Module):
    """Stem, three stages of widths ``width * (1, 2, 4)``, mean over pixels, linear head.

    Args:
        depth: number of weight layers, 6n + 2.
        num_classes: number of logits.
        channels: channels of the pictures.
        shortcut: ``pad`` or ``projection``.
        width: channels of the first stage.
    """

    def __init__(self, depth: int, num_classes: int, channels: int = 3, shortcut: str = "pad", width: int = 16):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, shortcut)
        self.layer2 = _stage(width, 2 * width, blocks, 2, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, shortcut)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for normalised pictures ``[B, C, H, W]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    first = ThinBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(ThinBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


def stemmed_resnet(name: str, num_classes: int, channels: int, stem: str) -> nn.Module:
    """Return torchvision's residual network ``name`` with another stem, convolutions drawn by Kaiming's rule (fan-out)."""
    import torchvision

    net = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    if stem == "cifar":
        net.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net
