"""A classifier as a component, and the module that is made of it: pictures in [0, 1] to logits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from expunge.config import Component
from expunge.engine.randomness import derive
from expunge.errors import BadInput

if TYPE_CHECKING:
    from expunge.data.dataset import Data

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Model(Component):
    """A classifier: its architecture, where its weights come from, and how its input is normalised.

    Attributes:
        weights: a weights file (safetensors, or a PyTorch state dict) to start from; random weights if None. A file that
            holds its own normalisation keeps it.
        normalization: constants that centre and scale the pixels: those of the data set, ImageNet's, or none.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """Packages beside torch whose code is the architecture; their versions are part of what a run is."""

    weights: Path | None = None
    normalization: Literal["data", "imagenet", "none"] = "data"

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network with random weights: normalised pictures ``[B, *input_shape]`` to logits ``[B, num_classes]``.

        Raises:
            BadInput: the architecture cannot take this shape.
        """
        raise NotImplementedError


class Normalize(nn.Module):
    """Centred and scaled pixels, ``(x - mean) / std`` for each channel.

    The constants are saved with the weights, because a network with other constants is another function.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised pixels, shape of ``x``: ``[B, C, ...]``."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        return (x - self.mean.view(shape)) / self.std.view(shape)


class Normalized(nn.Module):
    """A classifier of pictures in [0, 1]: a normalisation, then a network.

    Args:
        net: the network, normalised pictures to logits.
        mean: mean of each channel, pixels in [0, 1].
        std: standard deviation of each channel.
    """

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for pictures ``[B, C, H, W]`` in [0, 1]."""
        return self.net(self.normalize(x))


def create(config: Model, data: "Data", seed: int) -> nn.Module:
    """Return the classifier that ``config`` describes, for ``data``, on the CPU and in training mode.

    The random weights depend on ``seed`` and the architecture only; the random numbers of the caller are left as they are.

    Raises:
        BadInput: the architecture cannot take these pictures, or the weights file does not fit it.
    """
    from expunge.models import checkpoint

    mean, std = normalization(config.normalization, data)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "initial weights"))
        model = Normalized(config.build(data.num_classes, data.input_shape), mean, std).train()
        check_output(model, data.num_classes, data.input_shape, _title(config))
    if config.weights is not None:
        checkpoint.load_into(model, config.weights)
    return model


def _title(config: Model) -> str:
    chosen = getattr(config, config.prefix_field, None) if config.prefix_field else None
    return ":".join(part for part in (config.name or type(config).__name__, chosen) if part)


def normalization(name: str, data: "Data") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel.

    Raises:
        BadInput: ImageNet's constants for pictures that are neither grey nor coloured, or a channel without any variation.
    """
    channels = data.input_shape[0]
    if name == "none":
        return (0.0,) * channels, (1.0,) * channels
    if name == "data":
        if min(data.std) <= 0:
            raise BadInput("model.normalization", "a channel of the data is constant.", "Write model.normalization=none.")
        return tuple(data.mean), tuple(data.std)
    if channels == 1:
        return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
    if channels != 3:
        raise BadInput(
            "model.normalization",
            f"imagenet has constants for 1 or 3 channels, the data has {channels}.",
            "Write model.normalization=data.",
        )
    return IMAGENET_MEAN, IMAGENET_STD


def check_output(model: nn.Module, num_classes: int, input_shape: tuple[int, ...], name: str) -> None:
    """Run the model once, in evaluation mode, on two black pictures.

    Raises:
        BadInput: it cannot take pictures of this shape, or does not return ``[2, num_classes]``.
    """
    shape = "x".join(map(str, input_shape))
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, *input_shape))
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, ZeroDivisionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:160]
        raise BadInput(
            "model", f"{name} cannot take pictures of {shape}: {reason}.", "Choose another model, or larger pictures."
        ) from error
    finally:
        for module, flag in training.items():
            module.training = flag
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = f"a {type(logits).__name__}" if not isinstance(logits, Tensor) else f"shape {list(logits.shape)}"
        raise BadInput("model", f"{name} returns {found} for 2 pictures, expected logits [2, {num_classes}].", "Wrap it so that it does.")
