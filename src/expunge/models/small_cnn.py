"""Small convolutional network that trains in seconds on one processor."""

from typing import Literal

from torch import Tensor, nn

from expunge.config import PositiveInt, hyper
from expunge.errors import BadInput
from expunge.models.model import Model


class SmallCnn(Model):
    """Three convolutions for pictures of 8 to 64 pixels; about 12,000 pictures of 28 pixels a second train on one processor."""

    width: PositiveInt = hyper(16, "channels of the first convolution; the others have 2 and 4 times as many")
    norm: Literal["batch", "group"] = hyper("batch", "BatchNorm, or GroupNorm, whose result does not depend on the other pictures")

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network.

        Raises:
            BadInput: pictures with a side below 8 pixels.
        """
        if len(input_shape) != 3 or min(input_shape[1:]) < 8:
            shape = "x".join(map(str, input_shape))
            raise BadInput("model", f"small_cnn needs pictures of at least 8x8, got {shape}.", "Choose model=mlp.")
        return SmallCnnNet(num_classes, input_shape, self.width, self.norm)


class SmallCnnNet(nn.Module):
    """Three convolutions with max-pooling, a normalisation and ReLU, then a linear head on what is left of the picture.

    Pooling comes before the normalisation, which is cheaper and gives the same network up to the sign of its scale. Pictures
    below 16 pixels are not pooled first; those above 40 lose every second pixel at once.

    Args:
        num_classes: number of logits.
        input_shape: channels, height, width of the pictures.
        width: channels of the first convolution.
        norm: ``batch`` or ``group``.
    """

    def __init__(self, num_classes: int, input_shape: tuple[int, ...], width: int = 16, norm: str = "batch"):
        super().__init__()
        channels, side = input_shape[0], min(input_shape[1:])
        stride, first = (2 if side > 40 else 1), (2 if side >= 16 else 1)
        self.layers = nn.Sequential(
            _layer(channels, width, norm, stride, first), _layer(width, 2 * width, norm), _layer(2 * width, 4 * width, norm, pool=1)
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        rows, columns = (-(-(-(-size // stride) // first // 2) // 2) for size in input_shape[1:])
        self.head = nn.Linear(4 * width * rows * columns, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for normalised pictures ``[B, C, H, W]``."""
        return self.head(self.pool(self.layers(x)).flatten(1))


def _layer(inputs: int, outputs: int, norm: str, stride: int = 1, pool: int = 2) -> nn.Sequential:
    normalise = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(max(outputs // 8, 1), outputs)
    shrink = [nn.MaxPool2d(pool)] if pool > 1 else []
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), *shrink, normalise, nn.ReLU())
