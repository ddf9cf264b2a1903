"""Request -> forget, retain, validation and test: one file that every model of a comparison shares."""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from expunge.data.dataset import Data
from expunge.data.scenario import Alteration, Choice, Scenario
from expunge.data.split_file import alteration_from, alteration_tree, from_ranges, hash_tree, to_ranges
from expunge.engine import randomness
from expunge.engine.stream import Stream
from expunge.errors import BadInput
from expunge.runs import atomic_write, read_json

if TYPE_CHECKING:
    from expunge.data.ranking import Ranking

__all__ = ["PARTS", "Alteration", "Scenario", "Split", "make_split", "validation_split"]

PARTS = ("forget", "retain", "validation", "test", "unseen", "test_forgotten", "validation_forgotten", "unknown")
FORMAT = "expunge split 1"


@dataclass(frozen=True, eq=False)
class Split:
    """Which examples are what, as canonical indices (int64 arrays, ascending).

    ``forget``, ``retain``, ``unknown``, ``validation``, ``validation_forgotten`` and the training examples of ``unseen``, if it has any,
    are together all training examples, ``test`` and ``test_forgotten`` all test examples; no example is in two of them.

    Attributes:
        forget: what is to be forgotten.
        retain: what is left of the training set: what a retrained model is trained on.
        validation: trains no model; for decisions.
        test: trains no model; for results. Without the classes that are forgotten as a whole.
        unseen: what the forget set is compared with, which no model has seen: test examples of the same classes, or the training
            examples that a scenario excludes.
        test_forgotten: test examples of the classes that are forgotten as a whole.
        validation_forgotten: likewise of the validation examples. A stopping rule that saw them would reward not forgetting.
        forget_classes: the classes that are forgotten as a whole.
        kind: ``class`` when the forget set is whole classes, whatever the scenario is called; otherwise the scenario's kind.
        scenario: the scenario's name and fields.
        seed: of the choice.
        validation_fraction: share of each class in the validation part.
        data_fingerprint: of the data set that the indices are about.
        duplicates: how many examples have an exact copy elsewhere: ``forget_in_retain``, ``forget_in_test``, ``retain_in_test``;
            empty for a dataset of the user's own, whose content is not read for it.
        alteration: how training data differs from the data set; None for not at all.
        unknown: trained on and manipulated like the forget set, but not in the request: methods get them as retained data, and retrained
            models are trained without them. Empty unless a scenario says that only a part was found.
        notes: plain values about the choice: how it was made and what independent models say about it.
    """

    forget: np.ndarray
    retain: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    unseen: np.ndarray
    test_forgotten: np.ndarray
    validation_forgotten: np.ndarray
    forget_classes: tuple[int, ...]
    kind: str
    scenario: dict[str, Any]
    seed: int
    validation_fraction: float
    data_fingerprint: str
    duplicates: dict[str, int]
    alteration: Alteration | None = None
    unknown: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def train(self) -> np.ndarray:
        """What the original model is trained on: forget, retain and unknown."""
        return np.sort(np.concatenate([self.forget, self.kept]))

    @property
    def kept(self) -> np.ndarray:
        """What a method is given as retained data: retain and unknown."""
        return np.sort(np.concatenate([self.retain, self.unknown]))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all that the split file says, as 64 hexadecimal digits."""
        return hash_tree(_to_tree(self))

    @property
    def fingerprint(self) -> str:
        """The first 16 digits of the content hash."""
        return self.content_hash[:16]

    def training_fingerprint(self, part: str) -> str:
        """Return 16 digits that two splits share exactly when a model trained on this part of either sees the same examples.

        Args:
            part: ``train`` for the original model, ``retain`` for a retrained one.
        """
        altered = alteration_tree(self.alteration, within=self.index(part))
        return hash_tree({"data": self.data_fingerprint, "index": to_ranges(self.index(part)), "altered": altered})[:16]

    def index(self, part: str) -> np.ndarray:
        """Return the indices of a part: one of ``PARTS``, or ``train``."""
        if part != "train" and part not in PARTS:
            raise KeyError(f"no part is called {part!r}; there are train, {', '.join(PARTS)}")
        return getattr(self, part)

    def stream(self, part: str, data: Data) -> Stream:
        """Return a part of the data as trained on: altered if the scenario alters it.

        Raises:
            BadInput: the split is about other data.
        """
        return Stream(part, self.apply(data).source, torch.from_numpy(self.index(part)))

    def apply(self, data: Data) -> Data:
        """Return the data with the scenario's labels and triggers. Data that already has them is returned as it is.

        Raises:
            BadInput: the split is about other data.
        """
        altered_fingerprint = self._altered_fingerprint()
        if data.fingerprint == altered_fingerprint:
            return data
        self.check(data)
        if self.alteration is None:
            return data
        labels = data.labels.clone()
        labels[torch.from_numpy(self.alteration.index)] = torch.from_numpy(self.alteration.labels)
        triggered = torch.zeros(len(labels), dtype=torch.bool)
        triggered[torch.from_numpy(self.alteration.index)] = True
        source = data.source.altered(labels, self.alteration.trigger or self.alteration.noise, triggered)
        return replace(data, source=source, fingerprint=altered_fingerprint)

    def _altered_fingerprint(self) -> str:
        if self.alteration is None:
            return self.data_fingerprint
        return hash_tree({"data": self.data_fingerprint, "altered": alteration_tree(self.alteration)})

    def triggered_test(self, data: Data) -> Stream | None:
        """Return test pictures with the trigger, labelled with its target class: the accuracy on them is the attack's success rate.

        Pictures of the target class are left out, because they are in it without any attack. None when nothing was poisoned. The indices
        are those of the clean test pictures, whose outputs must not be taken for these.
        """
        if self.alteration is None or self.alteration.trigger is None:
            return None
        source = self.apply(data).source
        index = self.test[source.labels[torch.from_numpy(self.test)].numpy() != self.alteration.target]
        labels, triggered = source.labels.clone(), torch.zeros(len(source), dtype=torch.bool)
        chosen = torch.from_numpy(index)
        labels[chosen] = int(self.alteration.target or 0)
        triggered[chosen] = True
        return Stream("triggered_test", source.altered(labels, self.alteration.trigger, triggered), chosen)

    def swapped_test(self, data: Data) -> np.ndarray | None:
        """Return the test examples of two confused classes, int64, ascending; None where no labels are swapped."""
        if self.alteration is None or self.alteration.swapped is None:
            return None
        return self.test[np.isin(data.labels.numpy()[self.test], self.alteration.swapped)]

    def check(self, data: Data) -> None:
        """Compare the split with data.

        Raises:
            BadInput: it is about other data.
        """
        if data.fingerprint not in (self.data_fingerprint, self._altered_fingerprint()):
            raise BadInput(
                "data",
                f"the split is about data with the fingerprint {self.data_fingerprint[:12]}, {data.name} has {data.fingerprint[:12]}.",
                "Use the data set, the limits and the files that the split was made with, or make a new split.",
            )

    def save(self, path: Path) -> None:
        """Write the split file, atomically: readable JSON, about 10 bytes for each forgotten example."""
        tree = _to_tree(self)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({**tree, "content_hash": hash_tree(tree)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, data: Data | None = None) -> Self:
        """Return the split of a file.

        Args:
            path: what `save` wrote.
            data: the data that it must be about; not checked if None.

        Raises:
            BadInput: not a split file, changed since it was written, or about other data.
        """
        if not path.is_file():
            raise BadInput(str(path), "there is no such split file.")
        tree = read_json(path)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise BadInput(str(path), "this is not a split file of this version.", "Make the split again.")
        stated = tree.pop("content_hash", None)
        if hash_tree(tree) != stated:
            raise BadInput(
                str(path),
                "the split file was changed or damaged: its content does not fit its hash.",
                "Restore it or make the split again.",
            )
        parts: dict[str, Any] = {part: from_ranges(tree["parts"].get(part, "")) for part in PARTS}
        split = cls(
            **parts,
            **{key: tree[key] for key in ("kind", "scenario", "seed", "validation_fraction", "data_fingerprint", "duplicates")},
            forget_classes=tuple(tree["forget_classes"]),
            alteration=alteration_from(tree["alteration"]),
            notes=tree.get("notes", {}),
        )
        if data is not None:
            split.check(data)
        return split


def make_split(
    data: Data,
    scenario: Scenario,
    seed: int,
    validation_fraction: float = 0.1,
    ranking: "Ranking | None" = None,
    forget_seed: int | None = None,
) -> Split:
    """Return which examples are forgotten, kept, and held out.

    Validation depends on the data, the seed and the fraction only, so that one original model serves every scenario.

    Args:
        data: the data set.
        scenario: what is forgotten.
        seed: any integer from 0.
        validation_fraction: share of each class that is held out of training, at least one example where a class has two.
        ranking: what models say about the candidates, for scenarios that declare ``ranks``.
        forget_seed: of the scenario's choice, where another than ``seed``, which then decides the validation part alone.

    Raises:
        BadInput: the forget set is empty, everything, or not part of the training set; or nothing is left to compare it with.
    """
    candidates, validation = validation_split(data, seed, validation_fraction)
    labels = data.labels.numpy()
    drawn = seed if forget_seed is None else forget_seed
    choice = scenario.divide(data, candidates, drawn, ranking)
    forget = _checked_forget(np.asarray(choice.forget, dtype=np.int64), data, candidates, validation)
    retain, named = _checked_rest(choice, forget, candidates)
    touched = np.unique(labels[forget])
    whole = np.setdiff1d(touched, labels[retain])
    test = data.test_index.numpy()
    compared = compared_classes(touched, whole, data.num_classes)
    held_out = {
        "test": test[~np.isin(labels[test], whole)],
        "test_forgotten": test[np.isin(labels[test], whole)],
        "unseen": np.sort(choice.excluded) if len(choice.excluded) else test[np.isin(labels[test], compared)],
        "validation": validation[~np.isin(labels[validation], whole)],
        "validation_forgotten": validation[np.isin(labels[validation], whole)],
    }
    _check_evidence(held_out, data, compared)
    return Split(
        forget=forget,
        retain=retain,
        **held_out,
        forget_classes=tuple(whole.tolist()),
        kind=_kind(scenario, touched, whole),
        scenario=scenario.tree(),
        seed=drawn,
        validation_fraction=validation_fraction,
        data_fingerprint=data.fingerprint,
        duplicates=_count_duplicates(data, forget, retain, test),
        alteration=scenario.alter(data, named, drawn),
        unknown=np.sort(choice.unknown),
        notes=choice.notes,
    )


def validation_split(data: Data, seed: int, validation_fraction: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices that an original model trains on and those of validation, both ascending, before anything is forgotten.

    Raises:
        BadInput: the seed or the fraction is out of range.
    """
    _check_numbers(seed, validation_fraction)
    train = data.train_index.numpy()
    validation = _balanced_validation(data.labels.numpy()[train], validation_fraction, seed)
    return np.setdiff1d(train, validation), validation


def _check_numbers(seed: int, validation_fraction: float) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BadInput("seed", f"expected an integer of at least 0, got {seed!r}.")
    if not 0 <= validation_fraction < 1:
        raise BadInput("validation_fraction", f"expected a number from 0 to below 1, got {validation_fraction!r}.")


def _balanced_validation(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the indices of a share of each class; a class keeps at least one example for training."""
    if fraction == 0:
        return np.empty(0, dtype=np.int64)
    parts = []
    for label in np.unique(labels):
        members = torch.from_numpy(np.flatnonzero(labels == label))
        count = min(len(members) - 1, max(1, round(fraction * len(members))))
        parts.append(randomness.shuffle(seed, "validation", 0, members).numpy()[:count])
    return np.sort(np.concatenate(parts))


def _checked_forget(forget: np.ndarray, data: Data, candidates: np.ndarray, validation: np.ndarray) -> np.ndarray:
    """Return the forget set ascending, or raise what is wrong with it."""
    if not len(forget):
        raise BadInput("forget", "the forget set is empty.", "Choose a larger count or fraction.")
    outside = forget[(forget < 0) | (forget >= len(data.labels))]
    if len(outside):
        raise BadInput("forget", f"{_some(outside)} out of range: training examples are 0 to {data.train_size - 1}.")
    tested = forget[forget >= data.train_size]
    if len(tested):
        raise BadInput("forget", f"{_some(tested)} in the test part: training examples are 0 to {data.train_size - 1}.", "Leave them out.")
    unique, counts = np.unique(forget, return_counts=True)
    if len(unique) < len(forget):
        raise BadInput("forget", f"{_some(unique[counts > 1])} named more than once.", "Name each example once.")
    held_out = np.intersect1d(unique, validation)
    if len(held_out):
        remedy = "Leave them out, or use another seed or data.validation_fraction=0."
        raise BadInput(
            "forget", f"{_some(held_out)} in the validation part, which no model is trained on: there is nothing to forget.", remedy
        )
    if len(unique) == len(candidates):
        raise BadInput(
            "forget", f"the forget set is the whole training set of {len(candidates)} examples.", "Keep some: a model needs data."
        )
    return unique


def _checked_rest(choice: Choice, forget: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what is retained, and all that the scenario names, both ascending."""
    named = np.sort(np.concatenate([forget, choice.unknown, choice.excluded]))
    if (np.diff(named) == 0).any() or not np.isin(named, candidates).all():
        raise BadInput("forget", "the scenario names an example twice, or one that no model may be trained on.", "Mend the scenario.")
    retain = np.setdiff1d(candidates, named)
    if not len(retain):
        raise BadInput("forget", "nothing is left for a retrained model.", "Choose a smaller count or fraction: a model needs data.")
    return retain, named


def _some(index: np.ndarray) -> str:
    shown = ", ".join(map(str, index[:5].tolist()))
    if len(index) == 1:
        return f"the index {shown} is"
    return f"{len(index)} indices ({shown}{', ...' if len(index) > 5 else ''}) are"


def compared_classes(touched: np.ndarray, whole: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the classes whose test examples the forget set is compared with.

    A set within at most half of the classes is compared with these classes, because others differ from it in more than membership.
    """
    few = len(touched) == len(whole) or len(touched) <= num_classes // 2
    return touched if few else np.arange(num_classes)


def _kind(scenario: Scenario, touched: np.ndarray, whole: np.ndarray) -> str:
    if len(whole) == len(touched):
        return "class"
    return "subclass" if scenario.kind_from_content and len(touched) == 1 else scenario.kind


def _check_evidence(held_out: dict[str, np.ndarray], data: Data, compared: np.ndarray) -> None:
    names = ", ".join(data.class_names[label] for label in compared[:5])
    if not len(held_out["unseen"]):
        raise BadInput(
            "forget", f"no test example is of the forgotten classes ({names}), so forgetting cannot be measured.", "Use more test data."
        )
    if not len(held_out["test"]):
        raise BadInput("forget", "no test example is of the classes that are kept.", "Use more test data.")


def _count_duplicates(data: Data, forget: np.ndarray, retain: np.ndarray, test: np.ndarray) -> dict[str, int]:
    known = next((part for part in (data.source, getattr(data.source, "dataset", None)) if hasattr(part, "digests")), None)
    if known is None:
        return {}
    digests = known.digests()

    def copies(of: np.ndarray, among: np.ndarray) -> int:
        return int(np.isin(number[of], number[among]).sum())

    _, number = np.unique(digests, return_inverse=True)
    return {
        "forget_in_retain": copies(forget, retain),
        "forget_in_test": copies(forget, test),
        "retain_in_test": copies(retain, test),
    }


def _to_tree(split: Split) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "scenario": split.scenario,
        "kind": split.kind,
        "seed": split.seed,
        "validation_fraction": split.validation_fraction,
        "data_fingerprint": split.data_fingerprint,
        "forget_classes": list(split.forget_classes),
        "duplicates": split.duplicates,
        "sizes": {part: len(getattr(split, part)) for part in PARTS},
        "parts": {part: to_ranges(getattr(split, part)) for part in PARTS},
        "alteration": alteration_tree(split.alteration),
        "notes": split.notes,
    }
