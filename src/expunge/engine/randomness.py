"""Random numbers that depend on (seed, purpose, epoch, example) and on nothing else.

A value never depends on batch size, batch order, number of workers or ranks, nor on which other examples are in the set, so
leaving an example out changes nothing for the others. The generator is the 64-bit SplitMix finaliser (Steele et al., 2014).
"""

import hashlib
import math

import torch
from torch import Tensor

_GAMMA, _M1, _M2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # the three SplitMix constants as int64


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts are arithmetic; the mask makes them logical


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _M1
    z = (z ^ _shift(z, 27)) * _M2
    return z ^ _shift(z, 31)


def derive(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for one purpose, for example ``derive(0, "teacher", 3)``. Seed 0 is a seed like any other."""
    text = "\x1f".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def bits(seed: int, purpose: str, epoch: int, index: Tensor, draw: int = 0) -> Tensor:
    """Return 64 random bits per example as int64, shape of ``index``.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for; different purposes are independent.
        epoch: epoch number; values are redrawn each epoch.
        index: data set indices, int64.
        draw: number of the draw, when one example needs several.
    """
    key = derive(seed, purpose, epoch, draw)
    return _mix(_mix(index.to(torch.int64) * _GAMMA + key) + key)


def uniform(seed: int, purpose: str, epoch: int, index: Tensor, draw: int = 0) -> Tensor:
    """Return one float64 in [0, 1) per example."""
    return _shift(bits(seed, purpose, epoch, index, draw), 11).to(torch.float64) * 2.0**-53


def integers(seed: int, purpose: str, epoch: int, index: Tensor, high: int, draw: int = 0) -> Tensor:
    """Return one int64 in {0, ..., high - 1} per example."""
    return (uniform(seed, purpose, epoch, index, draw) * high).to(torch.int64)


def normal(seed: int, purpose: str, epoch: int, index: Tensor, draw: int = 0) -> Tensor:
    """Return one standard normal float64 per example (Box-Muller)."""
    u = 1.0 - uniform(seed, purpose + "/radius", epoch, index, draw)
    angle = uniform(seed, purpose + "/angle", epoch, index, draw) * (2 * math.pi)
    return torch.sqrt(-2 * torch.log(u)) * torch.cos(angle)


def shuffle(seed: int, purpose: str, epoch: int, index: Tensor) -> Tensor:
    """Return ``index`` in the random order of an epoch; the relative order of two examples never depends on a third."""
    keys = bits(seed, f"{purpose}/order", epoch, index)
    return index[torch.argsort(keys, stable=True)]


def generator(device: torch.device | str, seed: int, *purpose: object) -> torch.Generator:
    """Return a torch generator for one purpose, for noise on parameters and new weights."""
    made = torch.Generator(device=device)
    made.manual_seed(derive(seed, *purpose))
    return made
