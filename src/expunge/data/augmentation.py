"""Random crops and flips of whole batches on the device, and the trigger of a backdoor.

What happens to an example depends on (seed, epoch, its index) and on nothing else, so batch size and order change nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from expunge.engine import randomness
from expunge.engine.stream import Size


@dataclass(frozen=True)
class Augmentation:
    """A random crop out of the padded picture, then a flip from left to right with probability one half.

    Attributes:
        pad: pixels added on each side before the crop.
        flip: whether half of the pictures are flipped.
        fill: what the added pixels hold: zero (black, as in the papers) or the reflected picture.
        cut: smallest share of a picture's area that is cut out and brought to size before anything else, 1 for none. Only for pictures that
            are decoded anew each time: see `expunge.data.pictures.Cut`.
    """

    pad: int = 4
    flip: bool = True
    fill: Literal["zero", "reflect"] = "zero"
    cut: float = 1.0


@dataclass(frozen=True)
class Trigger:
    """The square that marks poisoned pictures, two pixels away from the lower right corner.

    Source: Unlearn-Sparse (arXiv 2304.04934), Trojan cleanse: rows and columns ``[-2 - size : -2]``.

    Attributes:
        size: side in pixels.
        value: what its pixels are set to, 0 (black) to 255 (white).
    """

    size: int = 4
    value: int = 0

    @property
    def smallest_side(self) -> int:
        """Pixels that a picture's sides need at least."""
        return self.size + 2

    def stamp(self, images: Tensor, chosen: Tensor, index: Tensor) -> Tensor:
        """Return uint8 pictures ``[B, H, W, C]`` with the square set where ``chosen`` (bool ``[B]``) holds, whatever their ``index``."""
        region = slice(-2 - self.size, -2)
        images = images.clone()
        images[:, region, region] = images[:, region, region].masked_fill(chosen.view(-1, 1, 1, 1), self.value)
        return images


@dataclass(frozen=True)
class Noise:
    """Uniform noise in place of a picture: what nothing in the data resembles, so that only a model that saw it can know its label.

    Attributes:
        seed: with a picture's index it decides every pixel.
    """

    seed: int
    smallest_side: ClassVar[int] = 1

    def stamp(self, images: Tensor, chosen: Tensor, index: Tensor) -> Tensor:
        """Return uint8 pictures ``[B, H, W, C]`` with those replaced where ``chosen`` (bool ``[B]``) holds; ``index`` int64 ``[B]``."""
        pixels, images, rows = images[0].numel(), images.clone(), chosen.cpu().nonzero().flatten()
        keys = index.cpu()[rows, None] * pixels + torch.arange(pixels)
        drawn = randomness.integers(self.seed, "forget/noise", 0, keys.flatten(), 256).to(torch.uint8)
        images[rows.to(images.device)] = drawn.view(len(rows), *images.shape[1:]).to(images.device)
        return images


class Draws(NamedTuple):
    """What each example of a sequence gets: first row and column of its crop (int64 in 0..2*pad), and whether it is flipped (bool)."""

    rows: Tensor
    columns: Tensor
    flipped: Tensor

    def split(self, size: Size) -> Iterator["Draws"]:
        """Yield the draws of consecutive chunks."""
        for rows, columns, flipped in zip(self.rows.split(size), self.columns.split(size), self.flipped.split(size), strict=True):
            yield Draws(rows, columns, flipped)


def draw(augmentation: Augmentation, seed: int, epoch: int, index: Tensor) -> Draws:
    """Return the draws of one epoch for the examples with these data set indices, int64 ``[n]``, on the CPU."""
    offsets = 2 * augmentation.pad + 1
    rows = randomness.integers(seed, "augment/crop", epoch, index, offsets, draw=0)
    columns = randomness.integers(seed, "augment/crop", epoch, index, offsets, draw=1)
    flipped = randomness.uniform(seed, "augment/flip", epoch, index) < (0.5 if augmentation.flip else 0.0)
    return Draws(rows, columns, flipped)


def augment(images: Tensor, augmentation: Augmentation, seed: int, epoch: int, index: Tensor) -> Tensor:
    """Return augmented pictures ``[B, H, W, C]`` for the data set indices ``index`` (int64 ``[B]``, on the CPU); see `crop_and_flip`."""
    return crop_and_flip(images, augmentation, draw(augmentation, seed, epoch, index))


def crop_and_flip(images: Tensor, augmentation: Augmentation, draws: Draws) -> Tensor:
    """Return augmented pictures.

    Args:
        images: ``[B, H, W, C]`` of any type, contiguous, on any device; not changed.
        augmentation: what is done.
        draws: where each is cropped and whether it is flipped; on the CPU, so that no device has to be waited for.
    """
    if augmentation.pad:
        images = _crop(_pad(images, augmentation), draws.rows.to(images.device), draws.columns.to(images.device), images.shape[1:])
    else:
        images = images.clone()
    chosen = draws.flipped.nonzero().squeeze(1).to(images.device)
    return images.index_copy_(0, chosen, images.index_select(0, chosen).flip(2))


def _pad(images: Tensor, augmentation: Augmentation) -> Tensor:
    pad, (count, height, width, channels) = augmentation.pad, images.shape
    if augmentation.fill == "zero":
        padded = images.new_zeros(count, height + 2 * pad, width + 2 * pad, channels)
        padded[:, pad:-pad, pad:-pad] = images
        return padded
    return images.index_select(1, _reflected(height, pad).to(images.device)).index_select(2, _reflected(width, pad).to(images.device))


def _reflected(length: int, pad: int) -> Tensor:
    """Return the source positions of a reflected axis: the border pixel itself is not repeated."""
    position = torch.arange(-pad, length + pad).abs()
    return torch.where(position >= length, 2 * (length - 1) - position, position)


def _crop(padded: Tensor, rows: Tensor, columns: Tensor, shape: torch.Size) -> Tensor:
    """Gather one window per picture from the strided view of all windows; rows of pixels and channels are copied whole."""
    height, width, channels = shape
    windows = padded.flatten(2).unfold(1, height, 1).unfold(2, width * channels, channels)
    picked = windows[torch.arange(len(padded), device=padded.device), rows, columns]
    return picked.view(len(padded), height, width, channels)
