"""What people hand over as data, tensors, a dataset or a loader, made into a stream."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate, default_convert
from torch.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler

from expunge.data.dataset import check_finite
from expunge.data.source import LoaderSource, TensorSource
from expunge.engine.stream import Stream
from expunge.errors import BadInput

Examples = Dataset | DataLoader | tuple[Tensor, Tensor]
"""A map-style dataset of (x, y), a DataLoader (its examples, each through its ``collate_fn``), or a pair of tensors."""


def stream_of(name: str, examples: Examples | None, device: torch.device) -> Stream:
    """Return examples as a stream; indices count from 0 in the order given.

    Raises:
        BadInput: none, empty, of a kind that cannot be used, or with values that are not finite.
    """
    try:
        return _stream_of(name, examples, device)
    except BadInput as error:
        if not error.where.startswith("data."):
            raise
        raise BadInput(error.where.replace("data", name, 1), error.problem, error.remedy) from None


def _stream_of(name: str, examples: Any, device: torch.device) -> Stream:
    if isinstance(examples, DataLoader):
        examples = _dataset_of(name, examples)
    if isinstance(examples, TensorDataset) and len(examples.tensors) == 2:
        examples = examples.tensors
    if isinstance(examples, tuple | list):
        source: Any = _from_pair(name, examples, device)
    elif isinstance(examples, Dataset) and hasattr(examples, "__len__") and not isinstance(examples, IterableDataset):
        source = _from_dataset(name, examples, device)
    else:
        raise BadInput(name, f"expected a map-style Dataset, a DataLoader or (x, y) tensors, got {type(examples).__name__}.")
    if len(source) == 0:
        raise BadInput(name, "is empty.", "Give at least one example.")
    return Stream(name, source, torch.arange(len(source)))


def duplicates(streams: Mapping[str, Stream]) -> dict[str, int]:
    """Return how many forget examples have an exact copy, input and label, in each other stream.

    Datasets are not read for it: of two parts of one dataset, the positions are compared; of others, nothing is said.

    Raises:
        BadInput: all of them have one: what is to be forgotten was not taken out. Or all held-out data are retained data.
    """
    found = {}
    contents = {name: _contents(stream) for name, stream in streams.items() if name != "surrogate"}
    forget, kind = contents["forget"]
    for name, (others, other_kind) in contents.items():
        if name == "forget" or other_kind != kind:
            continue
        other = set(others)
        found[f"forget_in_{name}"] = sum(content in other for content in forget)
        if found[f"forget_in_{name}"] == len(forget):
            raise BadInput(name, f"every forget example is also among the {name} examples.", f"Leave the forget set out of {name}.")
    _check_held_out(contents)
    return found


def _check_held_out(contents: Mapping[str, tuple[list[Any], Any]]) -> None:
    for name in ("validation", "test"):
        if "retain" not in contents or name not in contents or contents[name][1] != contents["retain"][1]:
            continue
        if set(contents[name][0]) <= set(contents["retain"][0]):
            raise BadInput(name, f"every {name} example is also among the retain examples.", "Give data that no model was trained on.")


def _contents(stream: Stream) -> tuple[list[Any], Any]:
    """Return what tells the examples apart, and what it can be compared within: tensors, or one dataset."""
    if isinstance(stream.source, TensorSource):
        return [(digest.tobytes(), label) for digest, label in zip(stream.source.digests(), stream.labels.tolist(), strict=True)], "tensors"
    dataset: Any = stream.source.dataset  # type: ignore[attr-defined]
    positions = list(range(len(dataset)))
    while isinstance(dataset, Subset | _Collated):
        positions = [dataset.indices[position] for position in positions] if isinstance(dataset, Subset) else positions
        dataset = dataset.dataset
    return [int(position) for position in positions], id(dataset)


def _from_pair(name: str, pair: Any, device: torch.device) -> TensorSource:
    if len(pair) != 2 or not all(isinstance(part, Tensor | np.ndarray) for part in pair):
        remedy = "Make a list of examples one pair: (torch.stack(xs), torch.tensor(ys)), or a torch Dataset."
        raise BadInput(name, f"expected a pair of tensors (x, y), got {type(pair).__name__} of {len(pair)}.", remedy)
    x, y = (torch.as_tensor(part) for part in pair)
    check_finite(name, x)
    return TensorSource(x, y, device)


def _from_dataset(name: str, dataset: Any, device: torch.device) -> LoaderSource:
    if len(dataset) == 0:
        raise BadInput(name, "is empty.", "Give at least one example.")
    example = dataset[0]
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise BadInput(name, f"expected examples (x, y), got {type(example).__name__}.", "Wrap the dataset so that it returns pairs.")
    return LoaderSource(dataset, device=device)


def _dataset_of(name: str, loader: DataLoader) -> Any:
    """Return what a loader yields in an epoch, as a dataset; its order and batches are of no consequence.

    Raises:
        BadInput: its sampler draws some of the examples in a way that only it knows.
    """
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        return dataset
    if isinstance(loader.sampler, SubsetRandomSampler):
        dataset = Subset(dataset, sorted(int(index) for index in loader.sampler.indices))
    elif (
        not isinstance(loader.sampler, SequentialSampler | RandomSampler)
        or len(loader.sampler) != len(dataset)
        or type(loader.batch_sampler) not in (BatchSampler, type(None))
    ):
        raise BadInput(name, "the DataLoader's own sampler may leave examples out.", "Give the dataset, or a Subset of it.")
    if loader.collate_fn not in (default_collate, default_convert):
        dataset = _Collated(dataset, loader.collate_fn)
    return dataset


class _Collated(Dataset):
    """A dataset as a loader's ``collate_fn`` shows it, one example at a time."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]):
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Any:
        batch = self.collate([self.dataset[position]])
        return tuple(part[0] for part in batch) if isinstance(batch, tuple | list) else batch
