"""The columns of a table: which come first, what they aim at in words, and with how many digits they are printed."""

from dataclasses import dataclass
from typing import Any

from expunge import registry
from expunge.errors import BadInput
from expunge.report.numerals import typeset

KEY = (
    "unlearning_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "attack_success_rate",
    "forgotten_class_test_accuracy",
    "loss_auc",
    "rmia",
    "lira_online",
    "retain_only_relearning",
    "linear_probe",
    "jensen_shannon",
    "churn",
    "average_gap",
)
"""Metrics that are shown first, in this order, where a table has them."""

ATTACKS = ("entropy_auc", "loss_auc", "loss_overlap", "modified_entropy_auc", "svc_membership", "threshold_membership")
"""Membership attacks that do not stand in the folder of attacks."""

GROUPS = {"outputs": "accuracy and outputs", "attacks": "membership attacks", "inside": "inside the network"}
"""Group of metrics -> words."""

AIMS = {
    "retrained": ("as retrained", "Should equal the retrained models' value; above and below both count against it."),
    "zero_up_to_band": ("at most the band", "A distance to a retrained model; should be no larger than between two retrained models."),
    "higher": ("at least the band", "Should be no lower than for the retrained models."),
    "lower": ("at most the band", "Should be no higher than for the retrained models."),
    "report": ("not judged", "Shown for information; no value of it is right or wrong."),
}
"""Target -> what a reader should look for: short, and in a sentence."""


@dataclass(frozen=True)
class Column:
    """How a metric is shown.

    Attributes:
        name: of the metric.
        label: column head.
        unit: "%", "nats" or "".
        target: see `expunge.metrics.metric.Target`.
        tested: whether it counts in the verdict.
        band: ``{low, high, mean, n}`` of the retrained models, or None.
        band_reason: why there is no band.
        about: what the metric is; empty for a metric that this installation does not know.
        digits: decimals.
        key: whether it is among the metrics that are shown first.
        group: see ``GROUPS``.
    """

    name: str
    label: str
    unit: str
    target: str
    tested: bool
    band: dict[str, Any] | None
    band_reason: str | None
    about: str
    digits: int
    key: bool
    group: str = "outputs"

    @property
    def aim(self) -> str:
        """What a good value is, in a few words."""
        return AIMS[self.target][0]

    @property
    def aim_sentence(self) -> str:
        """What a good value is, in a sentence."""
        return AIMS[self.target][1]

    def text(self, value: float) -> str:
        """Return a value as it is printed, without its unit."""
        return typeset(f"{value:.{self.digits}f}")

    def band_text(self, band: dict[str, Any] | None) -> str:
        """Return a band as it is printed: low to high."""
        return f"{self.text(band['low'])} to {self.text(band['high'])}" if band else "none"


def columns(table: dict[str, Any]) -> list[Column]:
    """Return the columns of a table: the key metrics, then the others in the table's order."""
    first = [name for name in KEY if name in table["metrics"]]
    others = [name for name in table["metrics"] if name not in KEY]
    return [_column(name, table["metrics"][name]) for name in first + others]


def _column(name: str, head: dict[str, Any]) -> Column:
    fields = {key: head[key] for key in ("label", "unit", "target", "tested", "band", "band_reason")}
    return Column(name=name, about=_about(name), digits=_digits(head), key=name in KEY, group=group(name), **fields)


def group(name: str) -> str:
    """Return the group of a metric: that of its folder; ``outputs`` for one that this installation does not know."""
    if name in ATTACKS:
        return "attacks"
    try:
        folder = registry.find("metrics", name).__module__.split(".")[-2]
    except BadInput:
        return "outputs"
    return folder if folder in GROUPS else "outputs"


def _about(name: str) -> str:
    try:
        return registry.find("metrics", name).summary()
    except BadInput:
        return ""


def _digits(head: dict[str, Any]) -> int:
    width = head["band"]["high"] - head["band"]["low"] if head["band"] else float("inf")
    coarse, narrow = (1, 0.5) if head["unit"] == "%" else (3, 0.01)
    return coarse + (width < narrow)


def half_width(cell: dict[str, Any]) -> float | None:
    """Return half of the interval over seeds; None for a single seed."""
    interval = cell["interval"]
    return None if interval is None else (interval["high"] - interval["low"]) / 2


def side(cell: dict[str, Any]) -> str:
    """Return where a value lies: ``inside``, ``above``, ``below``, or ``unjudged`` where there is no band.

    The retrained row may be inside on average and yet have one model that is far from the others; that is ``apart``.
    """
    if cell["in_band"] is None:
        return "unjudged"
    if cell["in_band"]:
        return "inside"
    band = cell["band"]
    return "above" if cell["value"] > band["high"] else "below" if cell["value"] < band["low"] else "apart"


MARKS = {"inside": "", "above": "▲", "below": "▼", "apart": "◆", "unjudged": ""}
"""Side -> the mark beside a value, so that colour is never the only sign."""


def outside(row: dict[str, Any]) -> tuple[int, int]:
    """Return ``(tests outside their band, tests that have a band)`` of a row."""
    tests = [cell for cell in row["cells"].values() if cell["tested"] and cell["in_band"] is not None]
    return sum(not cell["in_band"] for cell in tests), len(tests)


def percent(ratio: float | None) -> str:
    """Return a cost ratio as a percentage of retraining with about two digits."""
    if ratio is None:
        return "–"
    share = 100 * ratio
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.1f} %" if share >= 1 else f"{share:.2g} %"


@dataclass(frozen=True)
class Ruling:
    """A row's verdict: ``kind`` (fails, open, none), a mark, a word, and the sentence that explains it."""

    kind: str
    mark: str
    word: str
    detail: str


def ruling(row: dict[str, Any]) -> Ruling:
    """Return the verdict of a row, split into the word and its explanation."""
    word, _, detail = row["verdict"].partition(": ")
    kind, mark = {"fails": ("fails", "✕"), "no evidence of failure": ("open", "○")}.get(word, ("none", "?"))
    return Ruling(kind, mark, word, detail)
