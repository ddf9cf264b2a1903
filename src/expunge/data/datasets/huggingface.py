"""Pictures in data sets of Hugging Face, from a folder or from the hub."""

from pathlib import Path
from typing import Any

import numpy as np

from expunge.config import Flag, Text, hyper
from expunge.data.names import Names
from expunge.data.official import cache_folder
from expunge.data.picture_set import Listing, PictureDataset
from expunge.data.rows import Rows
from expunge.errors import BadInput, nearest


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
        test = self.test or next((name for name in ("test", "validation", "val", "valid") if name in splits), "test")
        for field, name in (("train", self.train), ("test", test)):
            if name not in splits:
                raise BadInput(f"data.{field}", f"there is no split {name!r}.", nearest(name, splits))
        tables = [splits[self.train], splits[test]]
        image, label = self._column(tables[0], "image"), self._column(tables[0], "label")
        tables = [_undecoded(table, image) for table in tables]
        labels, class_names = _labels(tables, label)
        rows = [np.arange(len(table)) for table in tables]
        table = np.repeat(np.arange(2, dtype=np.int32), [len(part) for part in rows])
        names = Names(name for table, part in zip(tables, ("train", "test"), strict=True) for name in self._names(table, part))
        return Listing(Rows(tables, image, names, table, np.concatenate(rows)), labels, len(rows[0]), class_names)

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
                return dict(library.load_dataset("parquet", data_files=_parquet(root), cache_dir=self._library_cache()))
            return self._from_hub(library)
        except (OSError, ValueError, RuntimeError) as error:
            detail = " ".join(str(error).split())[:200]
            raise BadInput("data.root", f"{root} cannot be read: {detail}.", "Give a folder, or a name of the hub.") from None

    def _from_hub(self, library: Any) -> dict[str, Any]:
        name = str(self.root)
        if not self.download:
            raise BadInput(
                "data.root", f"there is no folder {name}.", "Write data.download=true to take it for a name of the Hugging Face hub."
            )
        return dict(library.load_dataset(name, revision=self.revision, cache_dir=self._library_cache()))

    def _library_cache(self) -> str | None:
        return None if self.cache is None else str(self.cache)

    def _column(self, table: Any, field: str) -> str:
        """Return the name of the picture or label column."""
        given = getattr(self, field)
        if given is not None:
            if given not in table.column_names:
                raise BadInput(f"data.{field}", f"there is no column {given!r}.", nearest(given, table.column_names))
            return given
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


def _parquet(root: Path) -> dict[str, list[str]]:
    """Return the parquet files of each split, which their names begin with, or the folder that they lie in."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.parquet")):
        name = path.parent.name if path.parent not in (root, root / "data") else path.stem.partition("-")[0]
        found.setdefault(name, []).append(str(path))
    if not found:
        raise BadInput("data.root", f"{root} holds neither dataset_dict.json nor parquet files.", "Write it with save_to_disk.")
    return found


def _undecoded(table: Any, column: str) -> Any:
    if type(table.features[column]).__name__ != "Image":
        return table
    return table.cast_column(column, type(table.features[column])(decode=False))


def _labels(tables: list[Any], column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    values = [value for table in tables for value in table[column]]
    names = getattr(tables[0].features[column], "names", None)
    if names is None and all(isinstance(value, int) for value in values):
        names = [str(number) for number in range(max(values) + 1)]
    elif names is None:
        names = sorted({str(value) for value in values})
        values = [names.index(str(value)) for value in values]
    return np.array(values, dtype=np.int64), tuple(names)
