"""Which metric catches which control, how often each raises a false alarm on retrained models, and how small a leak it notices.

    python benchmarks/controls.py --out runs/controls [--seeds 10] [--kind random] [--markdown FILE] [--workers 2]

Rows: the original (nothing was done), a head that imitates the retrained model over the original's encoder, tempered confidence, an
untrained net, a net retrained with other settings (smoothed labels), and over-unlearning (strong random labels). The retrained models
are controls as well: each is judged by a band of the others, and the share outside is the false alarm rate.
Bold is outside at 5 %, without any correction.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from expunge.bench.compare import Request, Row, compare
from expunge.bench.demo import BASE
from expunge.progress import Progress
from expunge.runs import atomic_write
from expunge.statistics import prediction_band

ROWS = {
    "head only": {"name": "head_imitation"},
    "tempered": {"name": "tempered"},
    "untrained": {"name": "untrained"},
    "other settings": {"name": "retrain_smoothed"},
    "over-unlearned": {"name": "random_label", "lr": 0.03, "epochs": 6, "batch_size": 64},
}
REQUESTS = {"random": {"name": "random", "fraction": 0.1}, "class": {"name": "class", "classes": ["Shirt"]}}
SHOWN = ("original", *ROWS)


def request(args: argparse.Namespace) -> Request:
    """Return the request with its controls."""
    evaluate = {"tier": "standard", "seeds": args.seeds, "workers": args.workers, "doses": [0.05, 0.1, 0.25, 0.5]}
    if args.base_models:
        evaluate["base_models"] = args.base_models
    tree = {**BASE, "forget": REQUESTS[args.kind], "evaluate": evaluate, "out": args.out}
    return Request(f"Controls, {args.kind} request", tree, [Row(label, method) for label, method in ROWS.items()])


def false_alarms(head: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """Return how many retrained models lie outside the 95 % interval of the others, of how many, with the exact interval of the rate."""
    values = [value for value in cell["per_seed"] if value is not None]
    outside = sum(
        _outside(head["target"], value, [other for place, other in enumerate(values) if place != k]) for k, value in enumerate(values)
    )
    low, high = stats.binomtest(outside, len(values)).proportion_ci(method="exact")
    return f"{outside}/{len(values)} ({100 * low:.0f}–{100 * high:.0f} %)"


def _outside(target: str, value: float, others: Sequence[float]) -> bool:
    band = prediction_band(others, resolution=1e-12)
    above, below = value > band.high, value < band.low
    return {"higher": below, "lower": above, "zero_up_to_band": above}.get(target, above or below)


def lines(record: Mapping[str, Any]) -> list[str]:
    """Return the table as Markdown."""
    rows = {row["name"]: row for row in record["table"]["rows"]}
    shown = [name for name in SHOWN if name in rows]
    found = [f"| | false alarms | {' | '.join(shown)} | smallest leak noticed | Spearman |", f"|---|---|{'---|' * len(shown)}---|---|"]
    for name, head in record["table"]["metrics"].items():
        if head["target"] == "report" or head["band"] is None:
            continue
        cells = [rows[row]["cells"].get(name) for row in shown]
        found.append(_line(head["label"], false_alarms(head, rows["retrained"]["cells"][name]), cells, record["doses"].get(name), head))
    for name, head in record["audits"].get("audits", {}).items():
        control = head["rows"]["retrained"]
        alarm = "" if control["p_value"] is None else f"p = {control['p_value']:.2f}"
        found.append(_line(head["label"], alarm, [head["rows"].get(row) for row in shown], record["doses"].get(name), head))
    return found


def _line(label: str, alarm: str, cells: Sequence[Any], dose: Mapping[str, Any] | None, head: Mapping[str, Any]) -> str:
    leak = "" if dose is None else "none" if dose["detectable"] is None else f"{100 * dose['detectable']:.0f} %"
    spearman = "" if dose is None or dose["spearman"] is None else f"{dose['spearman']:+.2f}"
    unit = " %" if head["unit"] == "%" else ""
    return f"| {label}{unit} | {alarm} | {' | '.join(map(_cell, cells))} | {leak} | {spearman} |"


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["value"] is None:
        return "–"
    value = f"{cell['value']:.3g}"
    caught = cell["p_value"] is not None and cell["p_value"] < 0.05
    return f"**{value}**" if caught else value


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/controls")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--base-models", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(REQUESTS), default="random")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with Progress() as progress:
        (record,), folder = compare([request(args)], progress.report, " ".join(sys.argv))
    text = "\n".join(lines(record))
    print(text)
    print(f"\n{folder / 'report.html'}")
    if args.markdown:
        with atomic_write(args.markdown) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
