"""The headline card of a row: how well an attacker tells the model from one that never saw the data, how sure that is, what it cost.

Only what the record holds is said. A part that nobody measured is named as such, with what would measure it.
"""

import re
from dataclasses import dataclass
from typing import Any

from expunge import statistics
from expunge.report import declaration, equivalence
from expunge.report.columns import MARKS, percent, side
from expunge.report.equivalence import Judged
from expunge.report.numerals import typeset

RELEARNING = "retain_only_relearning"
LABELS = {
    "set": "the whole forget set at once",
    "example": "one example at a time",
    "privacy": "unlearned or never seen",
    "utility": "accuracy against retraining",
    "relearning": "what comes back",
    "cost": "cost",
}
"""The parts of a card, in order, in a few words."""
MEASURES = {
    "set": ("set_classifier",),
    "example": ("example_auc",),
    "utility": ("retain_accuracy", "test_accuracy"),
    "relearning": (RELEARNING,),
}
"""Part of a card that a claim rests on -> its metrics and audits."""
MARGIN_DOSE = 0.1
"""A configuration that cannot notice a tenth of the forget set left in cannot support a claim."""


@dataclass(frozen=True)
class Entry:
    """One part of a card.

    Attributes:
        key: set, example, privacy, utility, relearning, cost.
        label: a few words.
        short: the number with its interval, for a table; "–" where nobody measured it.
        sentence: in plain words.
        inside: whether it lies where retrained models lie; None where that was not judged.
        mark: ▲ above or ▼ below them; empty inside, where that was not judged, and where the number carries it.
        retrained: where they lie, for a table; empty where nobody measured it.
    """

    key: str
    label: str
    short: str
    sentence: str
    inside: bool | None
    mark: str = ""
    retrained: str = ""


@dataclass(frozen=True)
class Card:
    """The headline of one row.

    Attributes:
        row: name.
        entries: the six parts, in order.
        power: what would have been noticed.
        claim: ``matches retraining`` or ``not claimed``.
        unmet: why it is not claimed; empty if it is.
        comparable: the published single numbers, for comparison with other papers.
        declared: what the row's difference from retraining is in every metric with a declared margin; empty where none was declared.
        when: when these margins were declared, and what was there to be seen then; empty without margins.
        certificate: what the pools say about the (epsilon, delta) that the row's method claims; empty without a claim.
    """

    row: str
    entries: tuple[Entry, ...]
    power: str
    claim: str
    unmet: tuple[str, ...]
    comparable: str
    declared: tuple[Judged, ...] = ()
    certificate: str = ""
    when: str = ""

    @property
    def sentence(self) -> str:
        """Whether it is claimed that the row matches retraining, with the margins that this is about."""
        margins = ", ".join(each.words for each in self.declared) + (f"; {self.when}" if self.when else "")
        if self.unmet:
            about = f" (declared margins: {margins})" if margins else ""
            return f"That it matches retraining is not claimed{about}: {'; '.join(self.unmet)}."
        return f"It matches retraining within {f'the declared margins ({margins})' if margins else 'the margins of this evaluation'}."


def card(record: dict[str, Any], name: str) -> Card:
    """Return the headline card of one row of a record."""
    row = next(row for row in record["table"]["rows"] if row["name"] == name)
    if not row["cells"]:
        return _lost(record, row)
    entries = (
        _at_once(record, name),
        _one_by_one(record, name),
        _privacy(record, name),
        _utility(record, row),
        _relearning(record, row),
        _cost(record, name),
    )
    margins = record["request"].get("margins") or {}
    declared = tuple(equivalence.judge(record, row, measure, margin) for measure, margin in margins.items())
    when, late = declaration.told(record, row) if margins else ("", "")
    unmet = (*_unmet(record, row, entries, declared, set(margins)), *([late] if late else []))
    claim = "not claimed" if unmet else "matches retraining"
    certificate = record["audits"].get("certificates", {}).get(name, {}).get("verdict", "")
    return Card(name, entries, power(record), claim, unmet, _comparable(record, row), declared, certificate, when)


def _lost(record: dict[str, Any], row: dict[str, Any]) -> Card:
    """Return the card of a row of which no run gave a model."""
    entries = tuple(_missing(key, "no run of this row gave a model") for key in LABELS)
    return Card(row["name"], entries, power(record), "not claimed", ("no run of this row gave a model",), "")


def _audit(record: dict[str, Any], audit: str, row: str) -> tuple[dict[str, Any], dict[str, Any]] | str:
    """Return head and cell of an audit, or why there is none."""
    held = record["audits"]
    if held.get("reason"):
        return held["reason"]
    if audit in held["audits"] and row in held["audits"][audit]["rows"]:
        head = held["audits"][audit]
        cell = head["rows"][row]
        return str(cell["note"]).removeprefix("not measured: ") if cell["value"] is None else (head, cell)
    return held["skipped"].get(
        audit, f"the {record['request'].get('tier', 'fast')} tier does not play this game (evaluate.tier=rigorous does)"
    )


def _missing(key: str, reason: str) -> Entry:
    label = LABELS[key]
    return Entry(key, label, "–", f"{label[0].upper()}{label[1:]}: not measured, {reason[0].lower()}{reason[1:].rstrip('.')}.", None)


def _number(value: float, digits: int = 2) -> str:
    text = typeset(f"{value:.{digits}f}")
    return re.sub(r"^(−?)0\.", r"\1.", text) if digits == 2 else text


def _spread(cell: dict[str, Any], digits: int = 2) -> str:
    interval = cell.get("interval")
    return f" ({_number(interval[0], digits)} to {_number(interval[1], digits)})" if interval else ""


def _null(head: dict[str, Any]) -> str:
    return f"retrained models among themselves give {_range(head['null'])}"


def _range(null: dict[str, Any]) -> str:
    low, high = (None if null[end] is None else _number(null[end]) for end in ("low", "high"))
    if low is None or high is None:
        return f"{high} at most" if low is None else f"{low} at least"
    return f"{low} to {high}"


def _mark(cell: dict[str, Any]) -> str:
    return MARKS[cell["side"]] if _inside(cell) is False else ""


def _inside(cell: dict[str, Any]) -> bool | None:
    """Return whether a value is as without a leak: inside the null's band, and not too far out for chance over all audits."""
    return None if cell["in_band"] is None else bool(cell["in_band"] and not cell["finding"])


def _band(head: dict[str, Any]) -> str:
    band = head["band"]
    return "no band" if band is None else f"{_number(band['low'], 1)} to {_number(band['high'], 1)} {head['unit']}".rstrip()


def _at_once(record: dict[str, Any], name: str) -> Entry:
    found = _audit(record, "set_classifier", name)
    if isinstance(found, str):
        return _missing("set", found)
    head, cell = found
    sentence = (
        f"An attacker who learns from most of {record['request']['seeds']} models of each kind, and sees what another one says about the "
        f"whole forget set, tells whether it was retrained with an AUC of {_number(cell['value'])}{_spread(cell)}; {_null(head)}."
    )
    return Entry("set", LABELS["set"], _number(cell["value"]) + _spread(cell), sentence, _inside(cell), _mark(cell), _range(head["null"]))


def _one_by_one(record: dict[str, Any], name: str) -> Entry:
    found = _audit(record, "example_auc", name)
    if isinstance(found, str):
        return _missing("example", found)
    head, cell = found
    tail = cell["details"].get("either_direction", {}).get("q95")
    exposed = f" The most exposed twentieth of the examples reach {_number(tail)} or more." if tail is not None else ""
    where = f": {cell['finding']} (p = {cell['p_holm']:.2g} over all audits)" if cell["finding"] else ""
    sentence = f"From a single example the mean AUC is {_number(cell['value'])}{_spread(cell)}{where}; {_null(head)}.{exposed}"
    return Entry(
        "example", LABELS["example"], _number(cell["value"]) + _spread(cell), sentence, _inside(cell), _mark(cell), _range(head["null"])
    )


def _privacy(record: dict[str, Any], name: str) -> Entry:
    found = _audit(record, "ulira_privacy", name)
    if isinstance(found, str):
        return _missing("privacy", found)
    head, cell = found
    rate = cell["details"]["true_positive_rate"].get("0.01")
    words = (
        f"At one false alarm in a hundred he finds {100 * rate['value']:.1f} % of the unlearned examples. "
        if isinstance(rate, dict)
        else f"The rate at one false alarm in a hundred is {rate}. "
    )
    bound = cell["details"]["epsilon"]
    certified = (
        f"With 95 % confidence epsilon is at least {bound['clopper_pearson']['value']:.2f} at delta = {cell['details']['delta']:g}, if "
        "trials of different models are independent; a perfect attack with as many models would show "
        f"{bound['clopper_pearson']['ceiling']:.2f}."
        if isinstance(bound, dict)
        else ""
    )
    start = f"Given shadow models, an attacker tells unlearned examples from ones never seen with an AUC of {_number(cell['value'])}"
    return Entry(
        "privacy",
        LABELS["privacy"],
        _number(cell["value"]) + _spread(cell),
        f"{start}{_spread(cell)}. {words}{certified}".strip(),
        _inside(cell),
        _mark(cell),
        f"{_number(head['null']['mean'])} without a leak",
    )


def _utility(record: dict[str, Any], row: dict[str, Any]) -> Entry:
    reference = _row(record, "retrained")
    names = [name for name in ("retain_accuracy", "test_accuracy") if reference and name in row["cells"] and name in reference["cells"]]
    if reference is None or not names:
        return _missing("utility", "there is no retrained model")
    parts, shorts = [], []
    for name in names:
        cell = row["cells"][name]
        change, half = _change(cell, reference["cells"][name])
        spread = f" ± {half:.1f}" if half is not None else ""
        parts.append(f"{_signed(change)}{spread} points on {'retained' if name == 'retain_accuracy' else 'test'} data")
        shorts.append(_signed(change) + MARKS[side(cell)])
    inside = all(row["cells"][name]["in_band"] is not False for name in names)
    sentence = f"Accuracy changes by {' and '.join(parts)}, against retrained models."
    bands = " / ".join(_band(record["table"]["metrics"][name]) for name in names)
    return Entry("utility", LABELS["utility"], " / ".join(shorts), sentence, inside, retrained=bands)


def _change(cell: dict[str, Any], reference: dict[str, Any]) -> tuple[float, float | None]:
    """Return the mean difference to the retrained models of the same seeds, and half of its 95 % interval; the plain one without pairs.

    A row without intervals has none here either: its seeds share an original.
    """
    if cell["interval"] is None:
        return cell["value"] - reference["value"], None
    pairs = [
        ours - theirs
        for ours, theirs in zip(cell["per_seed"], reference["per_seed"], strict=False)
        if ours is not None and theirs is not None
    ]
    try:
        found = statistics.mean_interval(pairs)
    except statistics.NotEnoughEvidence:
        return cell["value"] - reference["value"], None
    return found.mean, (found.high - found.low) / 2


def _relearning(record: dict[str, Any], row: dict[str, Any]) -> Entry:
    reference = _row(record, "retrained")
    if RELEARNING not in row["cells"] or reference is None or RELEARNING not in reference["cells"]:
        reason = row.get("unmeasured", {}).get(RELEARNING) or record["table"]["skipped"].get(RELEARNING)
        return _missing("relearning", reason or "nobody trained the models on")
    cell: dict[str, Any] = row["cells"][RELEARNING]
    other: dict[str, Any] = reference["cells"][RELEARNING]
    sentence = (
        f"An epoch of training on retained data alone changes forget accuracy by {_signed(cell['value'])} points, in a retrained model by "
        f"{_signed(other['value'])}."
    )
    short = f"{_signed(cell['value'])} pts"
    return Entry(
        "relearning",
        LABELS["relearning"],
        short,
        sentence,
        cell["in_band"],
        MARKS[side(cell)],
        _band(record["table"]["metrics"][RELEARNING]),
    )


def _cost(record: dict[str, Any], name: str) -> Entry:
    cost = record["cost"].get(name) or {}
    ratio = cost.get("seconds_ratio")
    if ratio is None:
        return _missing("cost", "there is no retrained model to compare with")
    return Entry(
        "cost", LABELS["cost"], percent(ratio), f"It took {percent(ratio)} of the time of retraining.", None, retrained=percent(1.0)
    )


SEEN_BY = {"set_classifier": "by the whole forget set", "example_auc": "by single examples"}
"""Audit -> how an attacker looks."""


def power(record: dict[str, Any]) -> str:
    """Return how strong a leak would have to be for these models to show it: to one test alone, and over all tests of a row."""
    held = record["audits"].get("audits", {}) if not record["audits"].get("reason") else {}
    known = {words: detectable for name, words in SEEN_BY.items() if (detectable := held.get(name, {}).get("detectable"))}
    alone = [f"an AUC of {_number(found['above'])} {words}" for words, found in known.items() if found["above"] is not None]
    left = noticed_dose(record)
    if left is not None:
        alone.append(f"{100 * left:.0f} % of the forget set left in")
    if not alone:
        return "How small a leak would have been noticed was not measured."
    text = f"With this many models one such test alone would have noticed, four times in five, {' or '.join(alone)}, or more."
    return f"{text} {_adjusted(known, noticed_dose(record, among=True))}".strip()


def _adjusted(known: dict[str, Any], left: float | None) -> str:
    """Return the same at the level that counts over all tests of a row; empty where the record does not say."""
    adjusted = {words: found["adjusted"] for words, found in known.items() if "adjusted" in found}
    if not adjusted:
        return ""
    count = max(found["tests"] for found in adjusted.values())
    parts = [f"an AUC of {_number(found['above'])} {words}" for words, found in adjusted.items() if found["above"] is not None]
    parts += [] if left is None else [f"{100 * left:.0f} % of the forget set left in"]
    told = f"{' or '.join(parts)}, or more" if parts else "no leak at all"
    return f"As one of the {count} tests that a verdict counts together, it would have noticed {told}."


def noticed_dose(record: dict[str, Any], among: bool = False) -> float | None:
    """Return the smallest share of the forget set that the set classifier or the per-example AUC notices; None where neither does.

    These two are the ones that a claim rests on. The best of all metrics would be a choice after the fact.

    Args:
        record: of a comparison.
        among: notices as one of all tests of a row, at the level that a verdict takes; as one test alone otherwise.
    """
    held = [record.get("doses", {}).get(name) for name in ("set_classifier", "example_auc")]
    rising = [entry for entry in held if entry and (entry["spearman"] or 0) > 0]
    found = [(entry.get("adjusted") or {}).get("detectable") if among else entry["detectable"] for entry in rising]
    return min((share for share in found if share is not None), default=None)


def _tests(record: dict[str, Any]) -> int:
    """Return how many tests of a row a verdict counts together, as far as the doses say; 0 where they do not."""
    return max(((entry.get("adjusted") or {}).get("tests", 0) for entry in record.get("doses", {}).values()), default=0)


def _unmet(
    record: dict[str, Any], row: dict[str, Any], entries: tuple[Entry, ...], declared: tuple[Judged, ...], names: set[str]
) -> list[str]:
    """Return what stands between a row and the claim that it matches retraining; ``names`` have declared margins."""
    if row["status"] != "finished":
        return ["not every run gave a model"]
    found = [] if row["verdict"].startswith("no evidence of failure") else ["the verdict is not free of findings"]
    for entry in entries:
        measures = MEASURES.get(entry.key, ())
        if entry.inside is False and not (measures and names >= set(measures)):
            found.append(f"{entry.label}: outside what retrained models give")
        if measures and entry.short == "–":
            found.append(f"{entry.label}: not measured")
    found += [f"{each.words} (declared) is not shown: {each.reason}" for each in declared if not each.shown]
    found += _without_margins(record, row, names)
    if record["audits"].get("certificates", {}).get(row["name"], {}).get("refuted"):
        found.append("its certificate is refuted")
    control = _row(record, "retrained")
    if control is None or not control["verdict"].startswith("no evidence of failure"):
        found.append("the retrained control does not pass")
    noticed = noticed_dose(record, among=True)
    if noticed is None or noticed > MARGIN_DOSE:
        among = f" among {tests} tests" if (tests := _tests(record)) else ""
        found.append(f"it is not shown that a leak of {100 * MARGIN_DOSE:.0f} % of the forget set would be noticed{among} (evaluate.doses)")
    return found


def _without_margins(record: dict[str, Any], row: dict[str, Any], names: set[str]) -> list[str]:
    """Return which of the measures without a declared margin are not inside what retrained models of this number give."""
    found = []
    for audit in ("set_classifier", "example_auc"):
        held = _audit(record, audit, row["name"])
        if audit not in names and not isinstance(held, str) and not _within(held[1].get("interval"), held[0]["null"]):
            found.append(f"{held[0]['label']}: its interval is not inside the null's")
    for name in ("retain_accuracy", "test_accuracy", RELEARNING):
        cell: dict[str, Any] | None = row["cells"].get(name)
        if name not in names and cell and not (cell["interval"] and cell["band"] and _cell_within(cell)):
            found.append(f"{cell['label']}: its interval is not inside the retrained band")
    return found


def _within(interval: Any, null: dict[str, Any]) -> bool:
    if not interval:
        return False
    return (null["high"] is None or interval[1] <= null["high"]) and (null["low"] is None or interval[0] >= null["low"])


def _cell_within(cell: dict[str, Any]) -> bool:
    return cell["band"]["low"] <= cell["interval"]["low"] and cell["interval"]["high"] <= cell["band"]["high"]


def _comparable(record: dict[str, Any], row: dict[str, Any]) -> str:
    parts = []
    for name in ("average_gap", "tug_of_war"):
        if name in row["cells"]:
            cell = row["cells"][name]
            parts.append(f"{cell['label']} {cell['value']:.2f}")
    for name in ("klom", "forgetting_quality"):
        found = _audit(record, name, row["name"])
        if not isinstance(found, str):
            parts.append(f"{found[0]['label']} {found[1]['value']:.2f} (retrained {_range(found[0]['null'])})")
    return ", ".join(parts)


def _row(record: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((row for row in record["table"]["rows"] if row["name"] == name), None)


def _signed(value: float) -> str:
    return typeset(f"{value:+.1f}")
