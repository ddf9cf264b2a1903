"""The models of a record, as far as their folders are still there: what each says about the parts of the request."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge import config, runs
from expunge.errors import BadInput
from expunge.pools import remote

if TYPE_CHECKING:
    from expunge.data.dataset import Data
    from expunge.data.split import Split
    from expunge.pools.workplace import Workplace

LIMIT = 2000
"""Most examples of a part that figures are drawn from; of more, as many are drawn at random, the same for all models."""

PARTS = ("forget", "retain", "unseen")


@dataclass(frozen=True, eq=False)
class Models:
    """The finished runs of one record.

    Attributes:
        record: one request's results.
        folders: row -> number of the seed -> folder of a run that gave a model and is still there.
        problems: what is not there, in sentences.
    """

    record: dict[str, Any]
    folders: dict[str, dict[int, Path]]
    problems: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        """The rows of which any model is there, in the order of the table."""
        return [row["name"] for row in self.record["table"]["rows"] if self.folders.get(row["name"])]

    @property
    def methods(self) -> list[str]:
        """Likewise without the two references."""
        return [row for row in self.rows if row not in ("original", "retrained")]

    @cached_property
    def work(self) -> "Workplace":
        """The request's workplace on the CPU.

        Raises:
            BadInput: the configuration does not fit this version.
        """
        from expunge.pools.workplace import Workplace

        tree = config.parse_yaml(self.record["provenance"]["config"], "the record's configuration")
        return Workplace(config.resolve({**tree, "device": "cpu"}))

    @cached_property
    def split(self) -> "Split":
        """Which examples are what, from the folder of any unlearned or retrained model.

        Raises:
            BadInput: no folder holds the request's split.
        """
        from expunge.data.split import Split

        wanted = self.record["provenance"]["fingerprint"]
        for row in [*self.methods, "retrained", "original"]:
            for folder in self.folders.get(row, {}).values():
                if (folder / "split.json").is_file():
                    found = Split.load(folder / "split.json")
                    if found.fingerprint == wanted:
                        return found
        raise BadInput("report", "no run folder holds the split of the request.", "Run the command of the record again.")

    @cached_property
    def data(self) -> "Data":
        """The data with the request's labels.

        Raises:
            BadInput: it is not on this machine, or it is other data.
        """
        return self.split.apply(self.work.plain_data)

    def index(self, part: str) -> np.ndarray:
        """Return the examples of a part that figures are drawn from, int64 ``[m]`` ascending."""
        everything = self.split.index(part)
        if len(everything) <= LIMIT:
            return everything
        return np.sort(np.random.default_rng(0).choice(everything, LIMIT, replace=False))

    def labels(self, part: str) -> np.ndarray:
        """Return their labels, int64 ``[m]``."""
        return self.data.labels.numpy()[self.index(part)]

    def logits(self, row: str, index: np.ndarray) -> Iterator[np.ndarray]:
        """Yield what each model of a row says about some examples, float32 ``[m, C]``.

        Raises:
            BadInput: a file is damaged, or is about other data.
        """
        from expunge.pools import evidence

        for folder in self.folders.get(row, {}).values():
            held = evidence.load(folder / "logits.npy")
            if len(held) != len(self.data.labels):
                raise BadInput(str(folder), f"holds outputs for {len(held)} examples, the data has {len(self.data.labels)}.")
            yield np.ascontiguousarray(held[index], dtype=np.float32)

    def margins(self, row: str, part: str) -> np.ndarray:
        """Return true-class margins, float64 ``[models, m]``; see `expunge.metrics.scores.margin`."""
        from expunge.metrics import scores

        key = ("margins", row, part)
        if key not in self._kept:
            index, labels = self.index(part), self.labels(part)
            found = [scores.margin(logits, labels) for logits in self.logits(row, index)]
            self._kept[key] = np.stack(found) if found else np.empty((0, len(index)))
        return self._kept[key]

    def losses(self, row: str, part: str) -> np.ndarray:
        """Return cross-entropies in nats, float64 ``[models, m]``."""
        return np.logaddexp(0.0, -self.margins(row, part))

    @cached_property
    def parts(self) -> list[str]:
        """The parts that hold examples: forget, retain, unseen."""
        return [part for part in PARTS if len(self.split.index(part))]

    @cached_property
    def _kept(self) -> dict[Any, np.ndarray]:
        return {}


def find(record: dict[str, Any], beside: Path | None) -> Models:
    """Return the models of a record.

    Args:
        record: one request's results.
        beside: folder of the record; a run that is not where the record says is looked for beside it.
    """
    folders: dict[str, dict[int, Path]] = {}
    missing: dict[str, int] = {}
    for key, stated in record["provenance"].get("runs", {}).items():
        row, seed = _row_of(key)
        folder = _place(stated, beside)
        if folder is None:
            missing[row] = missing.get(row, 0) + 1
        elif _gave_a_model(folder):
            folders.setdefault(row, {})[seed] = folder
    problems = [f"{count} run folder{'s' if count > 1 else ''} of {row}" for row, count in missing.items()]
    return Models(record, {row: dict(sorted(held.items())) for row, held in folders.items()}, problems)


def _row_of(key: str) -> tuple[str, int]:
    """Return row and number of the seed of a job's key: original/KEY/3, retrained/0/3 or unlearned/0/ROW/3."""
    before, _, seed = key.rpartition("/")
    stage, _, rest = before.partition("/")
    return (rest.partition("/")[2] if stage == "unlearned" else stage), int(seed)


def _place(stated: str, beside: Path | None) -> Path | None:
    candidates = [Path(stated)] if beside is None else [beside.parent / Path(stated).name, Path(stated)]
    if beside is not None and not (candidates[0] / "record.json").is_file():
        remote.pull(candidates[0])
    return next((folder for folder in candidates if (folder / "record.json").is_file()), None)


def _gave_a_model(folder: Path) -> bool:
    try:
        return runs.read_json(folder / "record.json").get("status") == "ok" and (folder / "logits.npy").is_file()
    except BadInput:
        return False


def short(values: Any, digits: int = 4) -> Any:
    """Return numbers with few significant digits, in nested lists; what is not finite becomes None."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [short(value, digits) for value in values]
    if isinstance(values, float):
        return float(f"{values:.{digits}g}") if np.isfinite(values) else None
    return values
