"""Small vision transformer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.config import PositiveInt, hyper
from expunge.errors import BadInput
from expunge.models.model import Model


class Vit(Model):
    """Vision transformer without class token: fixed sine positions, mean over patches, linear head."""

    source = "Beyer et al., Better plain ViT baselines for ImageNet-1k, 2022, arXiv 2205.01580"

    patch: PositiveInt = hyper(4, "pixels on each side of a patch")
    depth: PositiveInt = hyper(12, "number of blocks")
    heads: PositiveInt = hyper(6, "attention heads of a block")
    width: PositiveInt = hyper(384, "numbers for each patch; the hidden layer of a block has 4 times as many")

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network.

        Raises:
            BadInput: pictures that no whole number of patches covers, or a width that the heads cannot share.
        """
        channels, height, pixels = input_shape
        if height % self.patch or pixels % self.patch:
            raise BadInput("model.patch", f"{self.patch} does not divide pictures of {height}x{pixels}.", "Choose a divisor.")
        if self.width % self.heads or self.width % 4:
            raise BadInput("model.width", f"expected a multiple of 4 and of {self.heads} heads, got {self.width}.")
        return VisionTransformer(num_classes, channels, (height, pixels), self.patch, self.depth, self.heads, self.width)


class Attention(nn.Module):
    """Multi-head self-attention with one linear layer each for queries, keys, values and output."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, patches, width]``."""
        query, key, value = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention, then a hidden layer for each patch, both with normalised input and added to it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, patches, width]``."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, fixed positions, blocks, mean over patches, linear head.

    Args:
        num_classes: number of logits.
        channels: channels of the pictures.
        size: height and width of the pictures.
        patch: pixels on each side of a patch.
        depth: number of blocks.
        heads: attention heads of a block.
        width: numbers for each patch.
    """

    positions: Tensor

    def __init__(self, num_classes: int, channels: int, size: tuple[int, int], patch: int, depth: int, heads: int, width: int):
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.register_buffer("positions", sine_positions(size[0] // patch, size[1] // patch, width), persistent=False)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for normalised pictures ``[B, C, H, W]``."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return ``[rows * columns, width]``: sine and cosine of each patch's column and row at ``width / 4`` wavelengths up to 10,000."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    exponent = torch.arange(width // 4) / max(width // 4 - 1, 1)
    frequencies = 10_000.0**-exponent
    angles = [place.flatten()[:, None] * frequencies for place in (x, y)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
