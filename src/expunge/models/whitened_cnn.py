"""Convolutional network that learns CIFAR-10 in a few epochs: its first layer whitens patches, its convolutions start as identities."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.config import Flag, PositiveInt, hyper
from expunge.errors import BadInput
from expunge.models.model import Model


class WhitenedCnn(Model):
    """Network for fast training on small pictures: a fixed whitening layer, then three groups of two convolutions."""

    source = "Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024, arXiv 2404.00498"
    deviations = ("before `whiten` has seen pictures, the first layer holds random orthogonal filters",)

    widths: tuple[PositiveInt, PositiveInt, PositiveInt] = hyper((64, 256, 256), "channels of the three groups")
    flip_average: Flag = hyper(False, "whether evaluation averages over the picture and its mirror image, at twice the cost")

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network.

        Raises:
            BadInput: pictures with a side below 25 pixels.
        """
        if min(input_shape[1:]) < 25:
            side = "x".join(map(str, input_shape[1:]))
            raise BadInput("model", f"whitened_cnn needs pictures of at least 25x25, got {side}.", "Choose model=small_cnn.")
        return WhitenedNet(num_classes, input_shape[0], self.widths, self.flip_average)


class Whitening(nn.Conv2d):
    """A 2x2 convolution with fixed filters, each with its negative, and a bias that learns."""

    def __init__(self, channels: int):
        super().__init__(channels, 8 * channels, 2)

    def reset_parameters(self) -> None:
        """Draw orthogonal filters anew; the bias starts at zero."""
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        size = self.weight[0].numel()
        self.set_filters(nn.init.orthogonal_(torch.empty(size, size)))

    @torch.no_grad()
    def set_filters(self, filters: Tensor) -> None:
        """Fix the filters, ``[4 C, 4 C]``, and their negatives."""
        self.weight.copy_(torch.cat([filters, -filters]).view_as(self.weight))
        self.weight.requires_grad_(False)


class IdentityConv(nn.Conv2d):
    """A 3x3 convolution whose first outputs start as copies of its inputs."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding="same", bias=False)

    def reset_parameters(self) -> None:
        """Draw the other filters anew."""
        super().reset_parameters()
        nn.init.dirac_(self.weight[: self.in_channels])


class ConvGroup(nn.Module):
    """Convolution, 2x2 max-pooling, BatchNorm, GELU, convolution, BatchNorm, GELU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = IdentityConv(inputs, outputs)
        self.norm1 = nn.BatchNorm2d(outputs, momentum=0.4)
        self.conv2 = IdentityConv(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs, momentum=0.4)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, outputs, H / 2, W / 2]``."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class WhitenedNet(nn.Module):
    """Whitening layer, three groups, max-pooling to one pixel, linear head without bias on features scaled by 1/9.

    Weights that the recipe keeps fixed (the whitening filters, BatchNorm's scales) have ``requires_grad=False``.

    Args:
        num_classes: number of logits.
        channels: channels of the pictures; the first layer has ``8 * channels`` filters of 2x2 pixels.
        widths: channels of the groups.
        flip_average: whether features are averaged over the picture and its mirror image in evaluation mode. The head is
            linear, so the logits are averaged as well, and the head stays the layer that makes them.
    """

    def __init__(self, num_classes: int, channels: int = 3, widths: tuple[int, int, int] = (64, 256, 256), flip_average: bool = False):
        super().__init__()
        self.flip_average = flip_average
        self.whitening = Whitening(channels)
        self.groups = nn.Sequential(*(ConvGroup(a, b) for a, b in zip((8 * channels, *widths[:2]), widths, strict=True)))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    @property
    def passes_per_example(self) -> int:
        """How often each example goes through the net in one call: twice while averaging over mirror images."""
        return 2 if self.flip_average and not self.training else 1

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for normalised pictures ``[B, C, H, W]``."""
        features = self._features(x)
        if self.passes_per_example == 2:
            features = (features + self._features(x.flip(3))) / 2
        return self.head(features)

    def _features(self, x: Tensor) -> Tensor:
        x = self.groups(F.gelu(self.whitening(x)))
        return F.max_pool2d(x, 3).amax((2, 3)) / 9

    @torch.no_grad()
    def whiten(self, images: Tensor, smallest: float = 5e-4) -> None:
        """Set the first layer so that its outputs on ``images`` are uncorrelated with variance 1, each with its negative.

        The layer then depends on these pictures: a model that must not know some examples must be whitened without them.

        Args:
            images: normalised pictures ``[N, C, H, W]``; some thousands are plenty.
            smallest: added to the variances, so that nearly constant directions are not blown up.
        """
        patches = F.unfold(images.float(), 2).transpose(1, 2).flatten(0, 1).double()
        centred = patches - patches.mean(0)
        variances, directions = torch.linalg.eigh(centred.T @ centred / (len(centred) - 1))
        filters = (directions / (variances + smallest).sqrt()).T.flip(0)
        sign = filters.gather(1, filters.abs().argmax(1, keepdim=True)).sign()
        self.whitening.set_filters(filters * sign)
