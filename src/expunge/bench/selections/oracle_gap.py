"""Distance to retrained models, which somebody who must unlearn does not have."""

from typing import ClassVar

import numpy as np

from expunge.bench.selections import readings
from expunge.bench.selections.selection import Score, Selection, Sight
from expunge.errors import BadInput
from expunge.metrics.view import View


class OracleGap(Selection):
    """Come as close as possible to retrained models: an upper limit of what tuning can do. Its results are labelled oracle-tuned.

    The mean distance in percentage points from the mean of retrained models over four numbers: accuracy on forget, retain and validation
    data, and an attack by the loss on forget against validation data. The retrained models are of other seeds than those that judge.

    Source: Cadet et al., Deep Unlearn, 2024, arXiv 2410.01276 (accuracies on three sets, and indiscernibility).
    """

    source = "Cadet et al., Deep Unlearn: Benchmarking Machine Unlearning, 2024, arXiv 2410.01276"
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "validation", "validation_forgotten")
    needs_retrained: ClassVar[bool] = True

    def score(self, sight: Sight) -> Score:
        """Return the mean of the four distances."""
        if not sight.retrained:
            raise BadInput("tune.rule", "oracle_gap compares with retrained models and there are none.", "Use tune.rule=validation.")
        aims = [_numbers(view) for view in sight.retrained]
        mine = _numbers(sight.unlearned)
        found = {name: abs(value - float(np.mean([aim[name] for aim in aims]))) for name, value in mine.items()}
        return Score(sum(found.values()) / len(found), found)


def _numbers(view: View) -> dict[str, float]:
    return {
        **{part: readings.accuracy(view, part) for part in ("forget", "retain", "validation")},
        "membership": readings.membership(view),
    }
