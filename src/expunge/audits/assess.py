"""All audits of all rows, with what they would find between retrained models, as plain values.

A row's p-value comes from dividing its models and the reference's anew: exact, whatever the law of the margins. The null that is printed
and its band come from dividing the control and the reference: one for all rows. Statistics of which few divisions can be computed take
both from the second, by Student's law.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from expunge import statistics
from expunge.audits import relabelling
from expunge.audits.audit import Audit, Finding, Panel, Shadows
from expunge.audits.claim import Claim, from_margins
from expunge.audits.relabelling import LEVEL, Null
from expunge.errors import BadInput
from expunge.metrics.metric import Target
from expunge.statistics import NotEnoughEvidence

RETRAINED = "retrained"
POWER = 0.8
Plain = dict[str, Any]


def assess(
    rows: Mapping[str, Panel],
    control: Panel,
    reference: Panel,
    labels: Mapping[str, np.ndarray],
    audits: Sequence[Audit],
    shadows: Mapping[str, Shadows] | None = None,
    kind: str = "random",
    seed: int = 0,
    scenario: str = "",
    swaps: Mapping[str, Shadows] | None = None,
    tests: int = 0,
    claims: Mapping[str, Claim] | None = None,
) -> Plain:
    """Return what every applicable audit says about every row.

    Args:
        rows: label -> models of a row, one for each training seed; ``original`` may be among them.
        control: retrained models; become the row ``retrained``.
        reference: retrained models of other seeds, with which all rows are compared.
        labels: part -> true classes, int64 ``[n]``.
        audits: the components of a tier.
        shadows: label -> shadow models of a row.
        kind: of the request.
        seed: of everything that is drawn.
        scenario: name of the request's scenario, for audits that need a certain one.
        swaps: label -> pairs of models with exchanged requests.
        tests: other tests of a row that its verdict counts beside the audits: how small a leak is noticed depends on how many there are.
        claims: label -> the (epsilon, delta) that a row's method claims.

    Returns:
        ``audits``: name -> head, null, rows, detectable; ``skipped``: name -> reason; ``models``: of control and reference;
        ``certificates``: label -> what the pools say about the row's claim.

    Raises:
        BadInput: control or rows share models with the reference, or a panel holds a model twice.
    """
    panels = {**rows, RETRAINED: control}
    _check(rows, panels, reference)
    case = Case(panels, control, reference, labels, {"shadow": shadows or {}, "swap": swaps or {}}, seed)
    found: dict[str, Plain] = {}
    skipped: dict[str, str] = {}
    for audit in audits:
        if not {kind, scenario} & set(audit.scenarios):
            skipped[audit.name] = f"is for {' or '.join(audit.scenarios)} requests"
            continue
        try:
            found[audit.name] = case.game(audit) if audit.is_game() else case.comparison(audit)
        except NotEnoughEvidence as reason:
            skipped[audit.name] = str(reason)
    _adjust(found)
    _adjust_power(found, case, {audit.name: audit for audit in audits}, tests)
    held = {label: _examined(claim, rows.get(label), reference, seed) for label, claim in (claims or {}).items()}
    sizes = {"control": control.models, "reference": reference.models}
    return plain({"audits": found, "skipped": skipped, "models": sizes, "certificates": held})


def _examined(claim: Claim, row: Panel | None, reference: Panel, seed: int) -> Plain:
    """Return what the margins of the forget set say about a claim; a reason where there are too few models to say anything."""
    try:
        if row is None:
            raise NotEnoughEvidence("there are no models of this row to compare")
        return from_margins(claim, row.of("forget"), reference.of("forget"), seed).tree()
    except NotEnoughEvidence as reason:
        return {"claim": asdict(claim), "refuted": None, "verdict": f"not examined: {reason}"}


@dataclass(frozen=True)
class Case:
    """What all audits of one request look at; see `assess`."""

    panels: Mapping[str, Panel]
    control: Panel
    reference: Panel
    labels: Mapping[str, np.ndarray]
    pools: Mapping[str, Mapping[str, Shadows]]
    seed: int
    nulls: dict[tuple[str, int], Null] = field(default_factory=dict)

    def comparison(self, audit: Audit) -> Plain:
        """Return the entry of an audit that compares rows with the reference."""
        enough(audit, self.control, self.reference)
        missing = [part for part in audit.parts if part not in self.control.margins or not self.control.margins[part].shape[1]]
        if missing:
            raise NotEnoughEvidence(f"needs examples of {' and '.join(missing)}, and there are none")
        null = self._null(audit, self.control.models)
        entries = {label: self._row(partial(self._compared, audit, panel)) for label, panel in self.panels.items()}
        smallest = audit.smallest_p_value(self.control.models, self.reference.models)
        entry = {
            **_head(audit),
            "null": {**_described(null), "source": "divisions of control and reference"},
            "smallest_p_value": smallest if null.counted else null.smallest_p_value or None,
            "rows": entries,
        }
        return {**entry, "detectable": _noticed(audit, entry, self, LEVEL)}

    def game(self, audit: Audit) -> Plain:
        """Return the entry of a game on shadow models."""
        pools = self.pools[audit.pool]
        if not pools:
            raise NotEnoughEvidence(f"needs a {audit.pool} pool, and there is none")
        if audit.game == "membership":
            first = "original" if "original" in pools else next(iter(pools))
            pools = {"original": pools[first]}
        entries = {label: self._row(partial(self._played, audit, shadow)) for label, shadow in pools.items()}
        if all(entry["value"] is None for entry in entries.values()):
            raise NotEnoughEvidence(next(iter(entries.values()))["note"])
        entry = {
            **_head(audit),
            "null": {"mean": audit.null_value, "sd": None, "low": None, "high": None, "draws": 0, "source": "no leak, by definition"},
            "smallest_p_value": min((row["smallest_p_value"] for row in entries.values() if row["smallest_p_value"]), default=None),
            "rows": entries,
        }
        return {**entry, "detectable": _noticed(audit, entry, self, LEVEL)}

    def _row(self, measure: Callable[[], Plain]) -> Plain:
        try:
            return measure()
        except NotEnoughEvidence as reason:
            return {**_entry(Finding(float("nan"), note=f"not measured: {reason}"), None, None, Target.REPORT), "value": None}

    def _played(self, audit: Audit, shadows: Shadows) -> Plain:
        return _judged(audit, audit.play(shadows, self.seed))

    def _compared(self, audit: Audit, panel: Panel) -> Plain:
        enough(audit, panel, self.reference)
        finding = audit.describe(panel, self.reference, self.labels, self.seed)
        null = self._null(audit, panel.models)
        p_value = None if audit.target == Target.REPORT else self._p_value(audit, panel, finding, null)
        entry = _entry(finding, p_value, null.holds(finding.value), audit.target, _side(finding.value, null.mean, audit.target))
        over = finding.value / null.mean if audit.relative and null.mean > 0 else None
        return {**entry, "models": panel.models, "over_null": over}

    def _p_value(self, audit: Audit, panel: Panel, finding: Finding, null: Null) -> float:
        if finding.p_value is not None:
            return finding.p_value
        if not null.counted:
            return null.p_value(finding.value)
        values = audit.relabel(panel, self.reference, self.labels, audit.null_draws, self.seed)
        return relabelling.counted_p_value(_finite(values), audit.target)

    def null(self, audit: Audit) -> Null:
        """Return the law of the statistic for rows of as many models as the control has."""
        return self._null(audit, self.control.models)

    def _null(self, audit: Audit, models: int) -> Null:
        """Return the law of the statistic for rows of so many models."""
        key = audit.name, min(models, self.control.models)
        if key not in self.nulls:
            first, second = self.control.take(np.arange(key[1])), self.reference
            self.nulls[key] = null_of(audit, first, second, self.labels, self.seed)
        return self.nulls[key]


def null_of(audit: Audit, control: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int) -> Null:
    """Return the law of an audit's statistic over divisions of retrained models.

    Raises:
        NotEnoughEvidence: some divisions have no value.
    """
    values = _finite(audit.relabel(control, reference, labels, audit.null_draws, seed))
    counted = relabelling.is_counted(values, control.models, reference.models)
    return Null(values, control.models + reference.models, counted, audit.target)


def enough(audit: Audit, candidate: Panel, reference: Panel) -> None:
    """Refuse fewer models than the audit needs.

    Raises:
        NotEnoughEvidence: saying how many there are.
    """
    if min(candidate.models, reference.models) < audit.minimum:
        raise NotEnoughEvidence(f"needs {audit.minimum} models on each side, there are {candidate.models} and {reference.models}")


def plain(value: Any) -> Any:
    """Return a value made of dicts, lists, texts, numbers, booleans and None alone; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value if value is None else str(value)


def _check(rows: Mapping[str, Panel], panels: Mapping[str, Panel], reference: Panel) -> None:
    """Refuse panels that share models with the reference, or repeat one: their models would not be independent."""
    if RETRAINED in rows:
        raise BadInput("rows", f"{RETRAINED!r} is the name of the control's row.", "Give the control as `control`.")
    known = _marks(reference)
    for label, marks in {**{label: _marks(panel) for label, panel in panels.items()}, "reference": known}.items():
        if len(set(marks)) < len(marks):
            found = f"{len(marks)} models, of which {len(set(marks))} are different."
            raise BadInput(f"rows.{label}", found, "Each model needs a training seed of its own; copies are no evidence.")
        if label != "reference" and set(marks) & set(known):
            found = f"{len(set(marks) & set(known))} of its models are reference models as well."
            raise BadInput(f"rows.{label}", found, "The reference must hold models of other seeds than every row, the control included.")


def _marks(panel: Panel) -> list[int]:
    """Return a number for each model that two models share only when all their margins are equal."""
    tables = [np.ascontiguousarray(values) for values in panel.margins.values()]
    return [hash(tuple(table[row].tobytes() for table in tables)) for row in range(panel.models)]


def _head(audit: Audit) -> Plain:
    names = ("label", "unit", "target", "tier", "game", "above", "below", "limits", "minimum", "source")
    return {**{name: getattr(audit, name) for name in names}, "summary": audit.summary()}


def _described(null: Null) -> Plain:
    low, high = null.band
    return {"mean": null.mean, "sd": null.deviation, "low": low, "high": high, "draws": len(null.values), "counted": null.counted}


def _judged(audit: Audit, finding: Finding) -> Plain:
    """Return the entry of a game: its error is known, and so is what it gives without a leak."""
    if audit.target == Target.REPORT or audit.null_value is None:
        return _entry(finding, None, None, audit.target)
    gap = finding.value - audit.null_value
    p_value = _of_gap(gap, _least_error(finding), finding.degrees) if finding.p_value is None else finding.p_value
    return _entry(finding, p_value, None if p_value is None else p_value >= LEVEL, audit.target, _side(gap, 0.0, audit.target))


def _of_gap(gap: float, error: float | None, degrees: float | None) -> float | None:
    """Return the chance of so large a gap without a leak; None without an error.

    An error of 0 says that all its units agree: without a leak, each would as soon have moved the other way.
    """
    from scipy import stats

    if error is None:
        return None
    if error == 0:
        return 1.0 if gap <= 0 else 0.0 if degrees is None else 2 ** -(degrees + 1)
    return float(stats.norm.sf(gap / error) if degrees is None else stats.t.sf(gap / error, degrees))


def _least_error(finding: Finding) -> float | None:
    """Return the smaller of the errors around the value and without a leak.

    Without a leak they agree, but that the first is on the safe side. A leak enlarges the second, since exchanging the hypotheses
    measures it as well, and leaves the first as it is or smaller.
    """
    return min((error for error in (finding.standard_error, finding.null_error) if error is not None), default=None)


def _entry(finding: Finding, p_value: float | None, in_band: bool | None, target: Target, side: str | None = None) -> Plain:
    return {
        "value": finding.value,
        "standard_error": finding.standard_error,
        "interval": finding.interval,
        "p_value": None if p_value is None or not math.isfinite(p_value) else p_value,
        "p_holm": None,
        "in_band": in_band,
        "null_error": finding.null_error,
        "degrees": finding.degrees,
        "smallest_p_value": finding.smallest_p_value,
        "side": side,
        "finding": None,
        "details": finding.details,
        "note": finding.note,
    }


def _side(value: float, middle: float, target: Target) -> str:
    if target == Target.RETRAINED:
        return "above" if value >= middle else "below"
    return "below" if target == Target.HIGHER else "above"


def _adjust(found: Mapping[str, Plain]) -> None:
    """Fill in p-values adjusted over the audits of each row, and the findings that stay."""
    labels = dict.fromkeys(label for entry in found.values() for label in entry["rows"])
    for label in labels:
        judged = [entry for entry in found.values() if label in entry["rows"] and entry["rows"][label]["p_value"] is not None]
        adjusted = statistics.holm([entry["rows"][label]["p_value"] for entry in judged])
        for entry, p_value in zip(judged, adjusted, strict=True):
            row = entry["rows"][label]
            row["p_holm"] = float(p_value)
            row["finding"] = (entry[row["side"]] or None) if p_value < LEVEL else None


def _adjust_power(found: Mapping[str, Plain], case: Case, audits: Mapping[str, Audit], tests: int) -> None:
    """Say beside what one test alone notices what is noticed at the level that counts over all tests of a row.

    Holm's procedure asks the smallest of m p-values to be below 5 % / m; so much a leak that only one test sees must overcome.
    """
    labels = dict.fromkeys(label for entry in found.values() for label in entry["rows"])
    counts = [sum(label in entry["rows"] and entry["rows"][label]["p_value"] is not None for entry in found.values()) for label in labels]
    count = max(counts, default=0) + tests
    for name, entry in found.items():
        if entry["detectable"] is not None and count:
            entry["detectable"]["adjusted"] = {"tests": count, **(_noticed(audits[name], entry, case, LEVEL / count) or {})}


def _noticed(audit: Audit, entry: Plain, case: Case, level: float) -> Plain | None:
    """Return what an audit notices in 80 % of cases at a level; None for a game without an error."""
    smallest = entry["smallest_p_value"]
    if smallest is not None and smallest >= level:
        few = "models" if audit.is_game() or case.null(audit).counted else "divisions"
        words = f"nothing: with so few {few} no p-value is below {smallest:.2g}, and {level:.2g} is needed"
        return {"above": None, "below": None, "power": POWER, "words": words}
    if audit.is_game():
        return _noticed_by_game(audit, entry["rows"].values(), level)
    null = case.null(audit)
    return _detectable(audit, *null.edges(level), null.deviation)


def _noticed_by_game(audit: Audit, rows: Iterable[Plain], level: float) -> Plain | None:
    """Return what a game notices in a row that leaks little.

    The error is that of the row with the lowest value: a leak enlarges the error without a leak, since exchanging the hypotheses
    measures it as well. The smallest error would be the luckiest of many estimates. Of that row's two errors it is the larger, since the
    leak that is to be noticed will have enlarged the smaller. Where all rows leak the power is understated.
    """
    known = [row for row in rows if row["value"] is not None and (row["null_error"] or row["standard_error"])]
    if audit.null_value is None or not known:
        return None
    clean = min(known, key=lambda row: row["value"])
    error, degrees = max(clean["null_error"] or 0.0, clean["standard_error"] or 0.0), clean["degrees"]
    return _detectable(audit, None, audit.null_value + _quantile(1 - level, degrees) * error, error, degrees)


def _quantile(share: float, degrees: float | None) -> float:
    """Return Student's quantile; the normal one where an error is taken as exact."""
    from scipy import stats

    return float(stats.norm.ppf(share) if degrees is None else stats.t.ppf(share, degrees))


def _detectable(audit: Audit, low: float | None, high: float | None, deviation: float, degrees: float | None = None) -> Plain:
    """Return the values that fall outside the band in 80 % of cases, in the audit's unit and in words."""
    reach = _quantile(POWER, degrees) * deviation
    if deviation == 0:
        words = "the retrained models do not vary in this; any value outside the band would be noticed"
        return {"above": None, "below": None, "power": POWER, "words": words}
    above, below = None if high is None else high + reach, None if low is None else low - reach
    if audit.limits is not None:
        above = None if above is not None and above > audit.limits[1] else above
        below = None if below is not None and below < audit.limits[0] else below
    return {"above": above, "below": below, "power": POWER, "words": _words(audit, above, below)}


def _words(audit: Audit, above: float | None, below: float | None) -> str:
    unit = "" if audit.unit in ("", "AUC") else f" {audit.unit}"
    sides = [f"{value:.3g}{unit} or {word}" for value, word in ((above, "more"), (below, "less")) if value is not None]
    if not sides:
        return "no value that there is would be noticed in 80 % of cases; more models are needed"
    text = f"noticed in 80 % of cases: {', and '.join(sides)}"
    if not audit.area or above is None:
        return text
    return f"{text} ({shift_of(above):.2g} standard deviations of a margin over training seeds)"


def shift_of(area: float) -> float:
    """Return the shift in standard deviations between two normal laws with this AUC."""
    from scipy import stats

    return float(np.sqrt(2) * stats.norm.ppf(min(max(area, 1e-9), 1 - 1e-9)))


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise NotEnoughEvidence(f"{int((~np.isfinite(values)).sum())} of {len(values)} divisions have no value")
    return values
