"""The error on the forget set should be that on validation data of its distribution, as in SCRUB's rewind."""

from typing import ClassVar

from expunge.bench.selections import readings
from expunge.bench.selections.selection import Score, Selection, Sight
from expunge.config import NonNegativeFloat, hyper


class ForgetValidation(Selection):
    """Forget exactly as far as unseen data of the forget set's distribution, within a budget of accuracy.

    The distance in percentage points between the error on the forget set and the error on validation data whose classes are as frequent,
    plus what the validation accuracy falls below the original's beyond the budget. Without the budget a model that knows nothing would win.

    Source: Kurmanji et al., NeurIPS 2023, arXiv 2302.09880, section 4.2 (the rewind of SCRUB+R chooses an epoch so; the budget is ours).
    """

    source = "Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023, arXiv 2302.09880"
    parts: ClassVar[tuple[str, ...]] = ("forget", "validation", "validation_forgotten")
    scenarios: ClassVar[frozenset[str] | set[str]] = frozenset({"random", "subclass"})
    scenario_reason: ClassVar[str] = "where a whole class is forgotten, an error as on unseen data of the class is not the aim."

    utility_budget: NonNegativeFloat = hyper(2.0, "points of validation accuracy that may be lost without counting")

    def score(self, sight: Sight) -> Score:
        """Return the distance of the errors, and what is lost beyond the budget."""
        error, wanted = (
            100 - value for value in (readings.accuracy(sight.unlearned, "forget"), readings.matched_accuracy(sight.unlearned))
        )
        lost = readings.accuracy(sight.original, "validation") - readings.accuracy(sight.unlearned, "validation")
        found = {"forget_error": error, "wanted_error": wanted, "beyond_budget": max(0.0, lost - self.utility_budget)}
        return Score(abs(error - wanted) + found["beyond_budget"], found)
