"""What is there of a data set and what is missing: ``expunge data check``."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from expunge.data.dataset import Dataset
from expunge.data.picture_set import Listing, PictureDataset
from expunge.data.pictures import Pictures
from expunge.engine import randomness
from expunge.errors import BadInput

SHOWN = 5


def check(config: Dataset, sample: int | None = 200) -> Iterator[str]:
    """Yield what is found, a line at a time.

    Args:
        config: the data set.
        sample: pictures of each part that are decoded, drawn at random; None decodes all.

    Raises:
        BadInput: something needed is missing, or a picture cannot be decoded; all that could be found out has been said by then.
    """
    if not isinstance(config, PictureDataset):
        yield from _loaded(config)
        return
    yield from _layout(config)
    listing = config.limited(config.listing())
    yield from _counts(config, listing)
    damaged = []
    for part, start, stop in _parts(listing):
        chosen = _drawn(start, stop, sample)
        found = list(_damaged(Pictures(listing.raw, config.size, config.central), chosen))
        yield f"{part}: {len(chosen)} of {stop - start} pictures decoded, {len(found)} of them damaged"
        yield from (f"  {message}" for message in found[:SHOWN])
        damaged += found
    if damaged:
        raise BadInput("data", f"{len(damaged)} of the pictures that were decoded are damaged, {damaged[0]}")
    yield f"ready: expunge train data={config.name} data.root={config.root}"


def _loaded(config: Dataset) -> Iterator[str]:
    """Yield what a data set is once it has been read: those of tensors are small."""
    data = config.load()
    labels = data.labels.numpy()
    for part, index in (("training", data.train_index), ("test", data.test_index)):
        counts = np.bincount(labels[index.numpy()], minlength=data.num_classes)
        yield f"{part}: {len(index)} examples of {data.num_classes} classes, {counts.min()} to {counts.max()} of each"
    yield f"inputs: {' x '.join(map(str, data.input_shape))}; fingerprint {data.fingerprint[:12]}"
    yield f"ready: expunge train data={config.name}"


def _layout(config: PictureDataset) -> Iterator[str]:
    root = config.folder()
    for place in config.layout:
        found = place.found(root)
        state = "found  " if found else "MISSING" if place.needed else "absent "
        where = found.relative_to(root).as_posix() if found else " or ".join(place.names[:3])
        yield f"{state} {where}: {place.about}"


def _counts(config: PictureDataset, listing: Listing) -> Iterator[str]:
    for part, start, stop in _parts(listing):
        counts = listing.counts("train" if part == "training" else "test")
        yield f"{part}: {stop - start} pictures of {len(counts)} classes, {counts.min()} to {counts.max()} of each"
        empty = [listing.class_names[label] for label in np.flatnonzero(counts == 0)]
        if empty:
            yield f"  {len(empty)} classes have none: {', '.join(empty[:SHOWN])}"
    needed = len(listing.labels) * 3 * config.size**2 / 1e9
    kept = config.crop == "shift" and needed <= config.memory_limit_gb
    yield f"{needed:.2f} GB at {config.size} pixels: {'kept on the device' if kept else f'streamed by {config.workers} processes'}"


def _parts(listing: Listing) -> tuple[tuple[str, int, int], ...]:
    return ("training", 0, listing.train_size), ("test", listing.train_size, len(listing.labels))


def _drawn(start: int, stop: int, sample: int | None) -> list[int]:
    whole = torch.arange(start, stop)
    if sample is None or sample >= len(whole):
        return whole.tolist()
    return sorted(randomness.shuffle(0, "check", 0, whole)[:sample].tolist())


def _damaged(pictures: Pictures, chosen: list[int]) -> Iterator[str]:
    def problem(position: int) -> str:
        try:
            pictures.decoded(position)
        except BadInput as error:
            return error.problem
        return ""

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(chosen), 4096):
            yield from filter(None, pool.map(problem, chosen[start : start + 4096]))
