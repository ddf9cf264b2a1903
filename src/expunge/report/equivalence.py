"""Whether a row is as good as retraining within a margin that was declared beforehand: two one-sided tests, at 5 %.

A band that models have made shrinks with their number: with enough of them the smallest difference falls outside, and a perfect method
fails as often as it is tested. A declared margin does not move. It is about the mean over training seeds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge import registry
from expunge.metrics.table import shared_start

LEVEL = 0.05
Plain = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """One declared margin against one row.

    Attributes:
        label: of the metric or audit.
        margin: declared, in its unit.
        unit: "%", "nats" or "".
        difference: of the row from retraining; None where it was not measured.
        low: lower end of the 90 % interval of the difference; None for a distance to retraining, which fails above alone.
        high: upper end.
        shown: whether the difference is shown to be inside the margin.
        reason: why it is not; empty if it is.
    """

    label: str
    margin: float
    unit: str
    difference: float | None
    low: float | None
    high: float | None
    shown: bool
    reason: str = ""

    @property
    def words(self) -> str:
        """The margin as declared, for example ``RA ± 1 %``."""
        return f"{self.label} ± {self.margin:g}{f' {self.unit}' if self.unit else ''}"


def judge(record: Plain, row: Plain, name: str, margin: float) -> Judged:
    """Return whether a row of a record is equivalent to retraining in one metric or audit."""
    audits = record["audits"].get("audits", {})
    if name in audits:
        return _audit(audits[name], audits[name]["rows"].get(row["name"]), margin)
    head = record["table"]["metrics"].get(name)
    cell = row["cells"].get(name)
    if head is None or cell is None:
        reason = _why_missing(record, row, name)
        return Judged(
            head["label"] if head else name, margin, "", None, None, None, False, f"not measured{f': {reason}' if reason else ''}"
        )
    if shared := _shared(record["table"], row):
        reason = f"an equivalence test needs several training seeds: {shared}"
        return Judged(head["label"], margin, head["unit"], None, None, None, False, reason)
    differences, error = _pair(cell, head) if head["pair"] else _paired(record, row, name, cell)
    return _tested(head, margin, differences, error, _resolution(name, cell))


def _why_missing(record: Plain, row: Plain, name: str) -> str | None:
    reason = row.get("unmeasured", {}).get(name) or record["table"]["skipped"].get(name)
    return reason or record["audits"].get("skipped", {}).get(name) or record["audits"].get("reason")


def _shared(table: Plain, row: Plain) -> str:
    """Return why the models of a row are no replicates; a record that does not count originals has a row of them."""
    first = next((other for other in table["rows"] if other["role"] == "original"), None)
    originals = table.get("originals", first["seeds"] if first else None)
    return "" if originals is None or row["role"] == "retrained" else shared_start(originals, row["seeds"])


def _resolution(name: str, cell: Plain) -> float:
    """Return the smallest spread to believe, as for the retrained band: models that agree exactly do not show that the next ones will."""
    return registry.find("metrics", name).resolution(cell["n"])  # type: ignore[attr-defined]


def _paired(record: Plain, row: Plain, name: str, cell: Plain) -> tuple[np.ndarray, float]:
    """Return the difference of each seed to the retrained model of the same seed."""
    reference = next((other for other in record["table"]["rows"] if other["role"] == "retrained"), None)
    if reference is None or name not in reference["cells"]:
        return np.empty(0), 0.0
    pairs = zip(cell["per_seed"], reference["cells"][name]["per_seed"], strict=False)
    return np.array([ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]), 0.0


def _pair(cell: Plain, head: Plain) -> tuple[np.ndarray, float]:
    """Return each seed's distance to its retrained model over the mean distance of two retrained ones, and the error of that mean.

    The mean over n (n - 1) pairs has at most 2 / n of a pair's variance, and the band is as wide as that and the row's own error give. The
    metric's limits may have cut one end of it off, so that the longer half counts.
    """
    from scipy import stats

    band = head["band"]
    if band is None:
        return np.empty(0), 0.0
    values = np.array([value for value in cell["per_seed"] if value is not None])
    half = max(band["high"] - band["mean"], band["mean"] - band["low"]) / float(stats.t.ppf(0.975, band["n"] - 1))
    return values - band["mean"], half * float(np.sqrt((2 / band["n"]) / (1 / len(values) + 2 / band["n"])))


def _tested(head: Plain, margin: float, differences: np.ndarray, error: float, resolution: float) -> Judged:
    from scipy import stats

    label, unit, count = head["label"], head["unit"], len(differences)
    if count < 2:
        return Judged(label, margin, unit, None, None, None, False, f"an equivalence test needs 2 pairs of seeds, there are {count}")
    mean = float(differences.mean())
    spread = float(np.hypot(max(differences.std(ddof=1), resolution) / np.sqrt(count), error))
    half = float(stats.t.ppf(1 - LEVEL, count - 1)) * spread
    return _within(head, margin, mean, mean - half, mean + half)


def _audit(head: Plain, cell: Plain | None, margin: float) -> Judged:
    """Return the judgement of an audit by its interval around the value that retrained models have on average."""
    from scipy import stats

    label, unit = head["label"], head["unit"]
    if cell is None or cell["value"] is None or cell["standard_error"] is None or cell["interval"] is None:
        reason = "not measured" if cell is None or cell["value"] is None else "its error is not known"
        return Judged(label, margin, unit, None, None, None, False, reason)
    # A Student quantile falls faster from 97.5 to 95 % than the normal one, so that this half is rather too long.
    ratio = float(stats.norm.ppf(1 - LEVEL) / stats.norm.ppf(0.975))
    difference = cell["value"] - head["null"]["mean"]
    reach = max(cell["interval"][1] - cell["value"], cell["value"] - cell["interval"][0])
    return _within(head, margin, difference, difference - ratio * reach, difference + ratio * reach)


def _within(head: Plain, margin: float, difference: float, low: float, high: float) -> Judged:
    """Return whether an interval lies inside a margin: a distance to retraining below it, and anything else on both sides of 0."""
    lower = None if head["target"] == "zero_up_to_band" else low
    shown = high < margin and (lower is None or lower > -margin)
    return Judged(head["label"], margin, head["unit"], difference, lower, high, shown, "" if shown else _why(difference, lower, high))


def _why(difference: float, low: float | None, high: float) -> str:
    spread = f"at most {high:+.3g}" if low is None else f"{low:+.3g} to {high:+.3g}"
    return f"the difference is {difference:+.3g} (90 % interval: {spread})".replace("-", "−")
