"""Utility on validation data, and how much the forget set is like it."""

from typing import ClassVar

from expunge.bench.selections import readings
from expunge.bench.selections.selection import Score, Selection, Sight


class Validation(Selection):
    """Forget as far as unseen data of the same classes, and lose no accuracy: what can be seen without a retrained model.

    The mean of four distances in percentage points: of the forget accuracy from the accuracy on validation data of the same classes (from
    0 where whole classes are forgotten), of an attack by the loss from chance, and of validation and retain accuracy below the original's.
    """

    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "validation", "validation_forgotten")

    def score(self, sight: Sight) -> Score:
        """Return the mean of the four distances."""
        unlearned, original = sight.unlearned, sight.original
        aim = 0.0 if sight.kind == "class" else readings.matched_accuracy(unlearned)
        found = {
            "forgetting": abs(readings.accuracy(unlearned, "forget") - aim),
            "membership": abs(readings.membership(unlearned)),
            "validation_loss": max(0.0, readings.accuracy(original, "validation") - readings.accuracy(unlearned, "validation")),
            "retain_loss": max(0.0, readings.accuracy(original, "retain") - readings.accuracy(unlearned, "retain")),
        }
        return Score(sum(found.values()) / len(found), found)
