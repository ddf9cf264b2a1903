"""Examples as small pictures inside the page."""

import base64
import io
from collections.abc import Iterable

import torch

from expunge.data.dataset import Data

SIDE = 48
"""Pixels; larger pictures are made smaller."""


def data_links(data: Data, index: Iterable[int]) -> dict[str, str]:
    """Return a data link of each example by its index; nothing for data that are no pictures of one or three channels.

    Args:
        data: with the request's triggers, if any.
        index: canonical indices.
    """
    order = sorted(set(int(one) for one in index))
    if len(data.input_shape) != 3 or data.input_shape[0] not in (1, 3) or not order:
        return {}
    batches = data.source.batches(torch.tensor(order), 256, augment=False, seed=0, epoch=0)
    images = torch.cat([x.float().cpu() for x, _ in batches])
    if not (images.min() >= 0 and images.max() <= 1):
        return {}
    return {str(one): _link(image) for one, image in zip(order, images, strict=True)}


def _link(image: torch.Tensor) -> str:
    from PIL import Image

    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
