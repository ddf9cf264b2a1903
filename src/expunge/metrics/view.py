"""What one model says about every part of a split."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from expunge.errors import BadInput
from expunge.metrics import scores


@dataclass(frozen=True)
class Reference:
    """What the base pool says about one part: K models that were trained on random halves, none of which is judged.

    Attributes:
        margins: true-class margins, float32 ``[K, n]``.
        inside: whether each model was trained on each example, bool ``[K, n]``; all False for a part that no model is trained on.
    """

    margins: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class View:
    """One model's outputs, in evaluation mode and without augmentation.

    Attributes:
        logits: part of the split -> float32 ``[n, C]``, finite.
        labels: part of the split -> int64 ``[n]``, from 0 to C - 1.
        references: part -> what the base pool says about it; shared by all views of a request. Empty in the fast tier.
        inspection: what was found by looking inside the model (features of some examples, recovery curves), array by name; see
            `expunge.pools.inspection`. Empty where nobody looked.

    The parts are forget, retain, validation, test, unseen; test_forgotten where whole classes are forgotten; unknown, where only a part of
    the manipulated examples is to be forgotten; triggered, test pictures with a trigger that are labelled as its target class, where a
    backdoor is forgotten; and swapped, test pictures of two confused classes, each labelled as the other.
    Scores are computed when asked for, and once.

    Raises:
        BadInput: wrong type, shape or value; the message names the part.
    """

    logits: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    references: dict[str, Reference] = field(default_factory=dict, repr=False, compare=False)
    inspection: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    _kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        if set(self.logits) != set(self.labels):
            odd = sorted(set(self.logits) ^ set(self.labels))
            raise BadInput("view", f"logits and labels name different parts: {', '.join(odd)}.", "Give both for each part.")
        for part in self.logits:
            _check(part, self.logits[part], self.labels[part])
        widths = {part: logits.shape[1] for part, logits in self.logits.items()}
        if len(set(widths.values())) > 1:
            raise BadInput("view", f"the parts have different numbers of outputs: {widths}.", "All parts come from one model.")

    def size(self, part: str) -> int:
        """Return the number of examples of a part; 0 if the view has none."""
        return len(self.labels.get(part, ()))

    def of(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(logits, labels)`` of a part.

        Raises:
            BadInput: the view does not hold the part, or it is empty.
        """
        if not self.size(part):
            held = ", ".join(name for name in self.logits if self.size(name))
            raise BadInput(f"view.{part}", "the metric needs this part and it holds no examples.", f"Parts with examples: {held}.")
        return self.logits[part], self.labels[part]

    def reference(self, part: str) -> Reference:
        """Return what the base pool says about a part.

        Raises:
            BadInput: there is no base pool.
        """
        if part not in self.references:
            raise BadInput(f"view.{part}", "the metric needs a base pool and there is none.", "Use evaluate.tier=standard.")
        return self.references[part]

    def inspected(self, name: str) -> np.ndarray:
        """Return one finding of the inspection of this model.

        Raises:
            BadInput: nobody looked.
        """
        if name not in self.inspection:
            known = ", ".join(sorted(self.inspection)) or "nothing"
            raise BadInput(f"view.{name}", f"the inspection of this model found {known}.", "Use evaluate.tier=standard.")
        return self.inspection[name]

    def prediction(self, part: str) -> np.ndarray:
        """Return predicted classes, int64 ``[n]``."""
        return self._score("prediction", part, lambda logits, labels: scores.prediction(logits))

    def correct(self, part: str) -> np.ndarray:
        """Return whether each prediction is right, bool ``[n]``."""
        return self._score("correct", part, lambda logits, labels: self.prediction(part) == labels)

    def margin(self, part: str) -> np.ndarray:
        """Return log(p_y / (1 - p_y)), float64 ``[n]``."""
        return self._score("margin", part, scores.margin)

    def loss(self, part: str) -> np.ndarray:
        """Return the cross-entropy in nats, float64 ``[n]``."""
        return self._score("loss", part, lambda logits, labels: np.logaddexp(0.0, -self.margin(part)))

    def probability(self, part: str) -> np.ndarray:
        """Return the true class's probability, float64 ``[n]``."""
        return self._score("probability", part, lambda logits, labels: np.exp(-self.loss(part)))

    def entropy(self, part: str) -> np.ndarray:
        """Return the entropy in nats, float64 ``[n]``."""
        return self._score("entropy", part, lambda logits, labels: scores.entropy(logits))

    def modified_entropy(self, part: str) -> np.ndarray:
        """Return the modified entropy in nats, float64 ``[n]``."""
        return self._score("modified_entropy", part, scores.modified_entropy)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``, remembered under ``key``: for what several metrics share."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def _score(self, name: str, part: str, compute: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        values = self.once((name, part), lambda: compute(*self.of(part)))
        values.setflags(write=False)
        return values


def _check(part: str, logits: np.ndarray, labels: np.ndarray) -> None:
    where = f"view.{part}"
    if not isinstance(logits, np.ndarray) or logits.dtype != np.float32 or logits.ndim != 2 or logits.shape[1] < 2:
        raise BadInput(where, f"expected float32 logits [n, C] with C of at least 2, got {_describe(logits)}.")
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.shape != logits.shape[:1]:
        raise BadInput(where, f"expected int64 labels [{len(logits)}], got {_describe(labels)}.")
    if not np.isfinite(logits).all():
        rows = int((~np.isfinite(logits).all(axis=1)).sum())
        raise BadInput(where, f"{rows} of {len(logits)} rows of logits are not finite.", "The model diverged; report it as a failure.")
    if len(labels) and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        found = (
            f"labels lie from {labels.min()} to {labels.max()}, and the model has {logits.shape[1]} outputs (0 to {logits.shape[1] - 1})."
        )
        raise BadInput(where, found, "Build the model with as many outputs as the data has classes.")


def _describe(array: object) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
