"""Forget whole classes."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from expunge.config import Integer, PositiveInt, Text, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Scenario, class_number, pick, unnamed
from expunge.errors import BadInput


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) and not isinstance(value, bool) else value


Classes = Annotated[tuple[Integer | Text, ...], BeforeValidator(_listed)]


class Class(Scenario):
    """Forget all training examples of one or several classes.

    Test examples of these classes are kept apart, so that test accuracy is about the classes that are left.
    """

    kind = "class"
    prefix_field = "classes"

    classes: Classes | None = hyper(None, "names or numbers, one or a list")
    count: PositiveInt | None = hyper(None, "this many classes at random, instead of a list")
    file: Path | None = hyper(None, "a text file with one name or number a line, instead of a list")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices to forget; see `expunge.data.scenario.Scenario.choose`."""
        labels = self._labels(data, seed)
        return candidates[np.isin(data.labels.numpy()[candidates], labels)]

    def _labels(self, data: Data, seed: int) -> np.ndarray:
        given = [field for field in ("classes", "count", "file") if getattr(self, field) is not None]
        if len(given) > 1:
            raise BadInput(f"forget.{given[1]}", f"got {' and '.join(given)}; one of them is allowed.", "Leave the others out.")
        if self.count is not None:
            if self.count >= data.num_classes:
                raise BadInput(
                    "forget.count", f"{data.name} has {data.num_classes} classes, got {self.count}.", "At least one must be left."
                )
            return pick(np.arange(data.num_classes), self.count, seed, "forget/classes")
        if self.file is None and self.classes is None:
            raise unnamed(data, "forget.classes", "class")
        wanted = _read(self.file) if self.file else self.classes or ()
        labels = [class_number(data, name, f"forget.{given[0] if given else 'classes'}") for name in wanted]
        if len(set(labels)) < len(labels):
            raise BadInput("forget.classes", f"a class is named more than once: {', '.join(map(str, wanted))}.", "Name each class once.")
        return np.array(labels, dtype=np.int64)


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("forget.file", f"{path} cannot be read: {error}.", "Give a text file with one class a line.") from None
    return [line.strip() for line in lines if line.strip()]
