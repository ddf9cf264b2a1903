"""What was found inside a model, as the metrics take it."""

import numpy as np

from expunge.metrics.view import View
from expunge.representation.features import Reading, join
from expunge.statistics import NotEnoughEvidence


def names(*parts: str) -> tuple[str, ...]:
    """Return what a metric that reads the features of some parts declares in ``inspection``."""
    return tuple(name for part in parts for name in (f"features_{part}", f"rows_{part}"))


def reading(view: View, part: str) -> Reading:
    """Return features, logits and labels of the examples of a part that were read.

    Raises:
        BadInput: nobody looked, or the view does not hold the part.
    """
    rows = np.asarray(view.inspected(f"rows_{part}"))
    logits, labels = view.of(part)
    return Reading(np.asarray(view.inspected(f"features_{part}")), logits[rows], labels[rows])


def taught(view: View) -> tuple[Reading, Reading]:
    """Return the few forget examples of each class that are shown, and the others."""
    forget, shown = reading(view, "forget"), np.asarray(view.inspected("taught"))
    return forget.take(shown), forget.take(~shown)


def returned(view: View) -> tuple[np.ndarray, int]:
    """Return forget accuracy before and after each epoch of training on retain examples alone, 0 to 1, and over how many examples it is.

    Raises:
        NotEnoughEvidence: that training diverged, so that nobody knows what it would have brought back.
    """
    if not view.inspected("retain_only_finite"):
        raise NotEnoughEvidence("not measurable: training on retain examples alone diverged")
    return np.asarray(view.inspected("retain_only")), len(view.inspected("retain_only_rows"))


def whole_classes(view: View) -> bool:
    """Return whether no example of a forgotten class stays."""
    return not np.isin(view.of("forget")[1], view.of("retain")[1]).any()


def both(view: View) -> np.ndarray:
    """Return the features of forget and retain examples, ``[n, D]``."""
    return join(reading(view, "forget"), reading(view, "retain")).features
