"""Pictures in data sets of Hugging Face, from a folder or from the hub."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from expunge.config import Flag, Text, hyper
from expunge.data.dataset import numbered
from expunge.data.names import Names
from expunge.data.official import cache_folder
from expunge.data.picture_set import Listing, PictureDataset
from expunge.data.rows import Rows
from expunge.errors import BadInput, nearest

SPLITS = ("train", "test", "validation", "val", "valid")
"""What splits are usually called; of those after the first, the first that there is is tested."""


class Huggingface(PictureDataset):
    """Pictures in a table of the Hugging Face library: a folder that ``save_to_disk`` wrote, one of parquet files, or a name of the hub.

    The table is mapped from disk. Parquet files are converted once, into the library's cache.
    """

    aliases = ("hf",)
    source = "https://huggingface.co/docs/datasets"
    prefix_field = "root"

    root: Path | None = hyper(None, "a folder, or a name of the hub such as uoft-cs/cifar10")
    download: Flag = hyper(False, "fetch a name of the hub when it is not there")
    revision: Text | None = hyper(None, "of a name of the hub: a branch, a tag or, so that it never changes, a commit")
    train: Text = hyper("train", "split with the training rows")
    test: Text | None = hyper(None, "split with the test rows; test, or validation where there is none, if not given")
    image: Text | None = hyper(None, "picture column; the only one if not given")
    label: Text | None = hyper(None, "label column; label, fine_label or labels if not given")
    key: Text | None = hyper(None, "column by which rows are asked to be forgotten; their numbers if not given")

    def listing(self) -> Listing:
        """Return the rows in their order; see `expunge.data.picture_set.PictureDataset.listing`."""
        splits = self._splits()
        test = self.test or next((name for name in SPLITS[1:] if name in splits), "test")
        for field, name in (("train", self.train), ("test", test)):
            if name not in splits:
                raise BadInput(f"data.{field}", f"there is no split {name!r}.", nearest(name, splits))
        parts = {name: splits[name] for name in (self.train, test)}
        if len(parts) == 1:
            raise BadInput("data.test", f"{test!r} holds the training rows.", f"Name another split: {', '.join(splits)}.")
        image, label = (self._column(parts, field) for field in ("image", "label"))
        tables = [_undecoded(table, image) for table in parts.values()]
        labels, class_names = _labels(parts, label)
        rows = [np.arange(len(table)) for table in tables]
        table = np.repeat(np.arange(2, dtype=np.int32), [len(part) for part in rows])
        names = Names(name for table, part in zip(tables, ("train", "test"), strict=True) for name in self._names(table, part))
        return Listing(Rows(tables, image, names, table, np.concatenate(rows), self._roots()), labels, len(rows[0]), class_names)

    def folder(self) -> Path:
        """Return the root, which need not be a folder."""
        if self.root is None:
            raise BadInput("data.root", "nothing is given.", "Write data=huggingface:FOLDER, or data=huggingface:NAME for the hub.")
        return self.root

    def folder_of_converted(self) -> Path:
        """Return the cache folder: nothing is written beside a table."""
        return self.cache or cache_folder() / "huggingface" / str(self.root).replace("/", "--")

    def title(self) -> str:
        """Return the last part of the name."""
        return self.folder().name

    def _splits(self) -> dict[str, Any]:
        library = _library()
        root = self.folder()
        try:
            if (root / "dataset_dict.json").is_file():
                return dict(library.load_from_disk(str(root)))
            if (root / "state.json").is_file():
                raise BadInput("data.root", f"{root} is one split of a data set.", "Give the folder above it, with training and test rows.")
            if root.is_dir():
                files = _parquet(root, {self.train, self.test or "test"})
                return dict(library.load_dataset("parquet", data_files=files, cache_dir=self._library_cache()))
            return self._from_hub(library)
        except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError) as error:
            detail = " ".join(str(error).split())[:200]
            raise BadInput("data.root", f"{root} cannot be read: {detail}.", "Give a folder, or a name of the hub.") from None

    def _from_hub(self, library: Any) -> dict[str, Any]:
        name = str(self.root)
        if not self.download:
            raise BadInput(
                "data.root", f"there is no folder {name}.", "Write data.download=true to take it for a name of the Hugging Face hub."
            )
        return dict(library.load_dataset(name, revision=self.revision, cache_dir=self._library_cache()))

    def _roots(self) -> tuple[Path, ...]:
        """Return the folders in which pictures may lie that a table names by their path: its own, and where the library puts downloads."""
        config = _library().config
        given = [self.folder(), self.cache] if self.folder().is_dir() else [self.cache]
        return tuple(
            Path(root) for root in (*given, config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH) if root
        )

    def _library_cache(self) -> str | None:
        return None if self.cache is None else str(self.cache)

    def _column(self, parts: dict[str, Any], field: str) -> str:
        """Return the name of the picture or label column, which all parts have."""
        found = getattr(self, field) or self._only_column(parts[self.train], field)
        for part, table in parts.items():
            if found not in table.column_names:
                raise BadInput(f"data.{field}", f"{part} has no column {found!r}.", nearest(found, table.column_names))
        return found

    def _only_column(self, table: Any, field: str) -> str:
        if field == "image":
            found = [name for name, kind in table.features.items() if type(kind).__name__ == "Image"]
        else:
            found = [name for name in ("label", "fine_label", "labels") if name in table.column_names][:1]
        if len(found) != 1:
            raise BadInput(
                f"data.{field}", f"{len(found)} columns could be meant.", f"Set data.{field}; there are {', '.join(table.column_names)}."
            )
        return found[0]

    def _names(self, table: Any, part: str) -> list[str]:
        if self.key is None:
            return [f"{part}/{number}" for number in range(len(table))]
        if self.key not in table.column_names:
            raise BadInput("data.key", f"there is no column {self.key!r}.", nearest(self.key, table.column_names))
        return [str(value) for value in table[self.key]]


def _library() -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise BadInput("data", "the library datasets is not installed.", "Run: pip install 'expunge[streams]'.") from None
    datasets.disable_progress_bars()
    return datasets


def _parquet(root: Path, wanted: set[str]) -> dict[str, list[str]]:
    """Return the parquet files of each split: their names begin with it, or it is the folder that they lie in."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.parquet")):
        name = path.stem.partition("-")[0]
        by_name = name in wanted | set(SPLITS) or path.parent in (root, root / "data")
        found.setdefault(name if by_name else path.parent.name, []).append(str(path))
    if not found:
        raise BadInput("data.root", f"{root} holds neither dataset_dict.json nor parquet files.", "Write it with save_to_disk.")
    return found


def _undecoded(table: Any, column: str) -> Any:
    if type(table.features[column]).__name__ != "Image":
        return table
    return table.cast_column(column, type(table.features[column])(decode=False))


def _labels(parts: dict[str, Any], column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels, int64 ``[n]``, and class names: those of the training rows, or the numbers or texts that there are."""
    values = {part: _given(part, table[column]) for part, table in parts.items()}
    known = [getattr(table.features[column], "names", None) for table in parts.values()]
    every = [value for part in values.values() for value in part]
    if known[0] is None and all(isinstance(value, int) for value in every):
        return np.array(every, dtype=np.int64), numbered(max(every, default=-1), len(every), "data.label")
    names = known[0] or sorted(set(map(str, every)))
    number = {name: place for place, name in enumerate(names)}
    found = []
    for own, (part, given) in zip(known, values.items(), strict=True):
        for row, value in enumerate(given):
            if own and isinstance(value, int) and value >= len(own):
                raise BadInput("data.label", f"{part} row {row} has the label {value}, and there are {len(own)} class names.")
            name = (own or names)[value] if isinstance(value, int) and value < len(own or names) else str(value)
            if name not in number:
                raise BadInput("data.label", f"the {part} rows have the class {name!r}, which the training rows have not.")
            found.append(number[name])
    return np.array(found, dtype=np.int64), tuple(names)


def _given(part: str, column: Iterable[Any]) -> list[Any]:
    values = list(column)
    for row, value in enumerate(values):
        if value is None or (isinstance(value, int) and value < 0):
            problem = "has no label" if value is None else f"has the label {value}"
            raise BadInput("data.label", f"{part} row {row} {problem}.", "Choose a split whose rows are all labelled.")
        if not isinstance(value, int | str) or value == "":
            raise BadInput(
                "data.label", f"{part} row {row} has the label {value!r}, which is no class.", "Name a column of numbers or names."
            )
    return values
