"""Every method on CIFAR-10, one table for a class and one for a random tenth, under one budget.

Methods keep their defaults but for one thing: no method, and no add-on, reads more of the training data than a quarter of what training
reads, since a method that costs as much as retraining has nothing to offer. Methods that read only the forget set keep their epochs. With
``--size whole`` the nets are of 90 %, trained in four epochs (400 s each on one processor), and methods pass forward in bfloat16, as the
training does; with ``--size small`` they are small, see 10,000 pictures 16 times (20 s each) and remember them. Run folders are kept, so a
run that is stopped goes on, and tables appear after each group of methods. A method may carry add-ons: ``finetune+prune``.

    python benchmarks/cifar10_methods.py --root data/cifar10 --out runs/cifar10 [--size small] [--methods ssd,salun]
    python benchmarks/cifar10_methods.py --markdown runs/cifar10/compare-*/record.json

The second command prints the tables of a finished comparison as Markdown, methods by their average gap, with the cost in passes through the
net, which do not depend on what else a machine does.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from expunge import config, registry
from expunge.bench.compare import Request, Row, compare
from expunge.report import terminal

BUDGET = 0.25
"""Share of the training's epochs that a method may read the retain set for."""
SIZES: dict[str, dict[str, Any]] = {
    "whole": {
        "data": {},
        "model": "whitened_cnn",
        "train": {"name": "fast", "epochs": 4},
        "addons": ["mixed_precision"],
    },
    "small": {
        "data": {"train_limit": 10000, "augment": False},
        "model": "small_cnn",
        "train": {"name": "fast", "epochs": 16, "label_smoothing": 0, "augment": "data"},
        "addons": [],
    },
}
GROUP = 3
"""Methods after which tables are written."""
FIRST = """finetune gradient_ascent random_label salun l1_sparse neggrad_plus msg ct ssd delete boundary_shrink head_distillation
bad_teacher scrub influence fisher_forgetting amnesiac_relabeling unsir jit sfron munba reload prmq cfw kde fcs rni fsf eu_k cf_k
salun_soft npo pcgrad mgda gradient_surgery task_vector neg_merge ugradsl ugradsl_plus boundary_expand lfssd assd
entropy_maximization""".split()
"""The order: what the published tables compare comes first; the rest follows by name."""
LEFT_OUT = ("original", "retrain", "oracle_match", "scar_surrogate", "streaming", "rum", "ensemble_draw", "sequential")
"""Rows of their own, diagnostics, and methods that need data or parts which this request does not bring."""
REQUESTS: dict[str, dict[str, Any]] = {
    "A random tenth of CIFAR-10": {"name": "random", "fraction": 0.1},
    "Every airplane of CIFAR-10": {"name": "class", "classes": ["airplane"]},
}


def budgeted(name: str, epochs: int, kind: str = "methods") -> dict[str, object]:
    """Return the configuration of a method, or of an add-on, with its passes over retained data cut to so many epochs."""
    part = registry.find(kind, name)
    fields = [field for field in ("epochs", "repair_epochs", "warm_up_epochs", "prune_epochs") if field in part.model_fields]
    cut = {field: epochs for field in fields if part.model_fields[field].default > epochs}
    return {"name": name, **(cut if "retain" in part.needs else {})}


def row(label: str, epochs: int, everywhere: list[str]) -> Row:
    """Return a method with its own add-ons, and of those meant for every method the ones that it takes."""
    name, *addons = label.split("+")
    method = budgeted(name, epochs)
    taken = [addon for addon in everywhere if not registry.find("addons", addon)().refuse(config.build("methods", method, "method"))]
    return Row(label, method, [budgeted(addon, epochs, "addons") for addon in [*addons, *taken]])


def requests(args: argparse.Namespace, names: list[str]) -> list[Request]:
    """Return both requests with those of the methods that serve them."""
    found, size = [], SIZES[args.size]
    epochs = int(BUDGET * size["train"]["epochs"])
    for title, forget in REQUESTS.items():
        tree = {
            "data": {"name": "cifar10", "root": args.root, **size["data"]},
            "model": size["model"],
            "train": size["train"],
            "forget": forget,
            "evaluate": {"seeds": args.seeds, "workers": args.workers},
            "out": args.out,
        }
        kind = "class" if forget["name"] == "class" else "random"
        fitting = [name for name in names if kind in registry.find("methods", name.partition("+")[0]).scenarios]
        rows = [row(name, epochs, size["addons"]) for name in fitting]
        found.append(Request(title, tree, rows))
    return found


COLUMNS = {
    "unlearning_accuracy": "UA %",
    "retain_accuracy": "RA %",
    "test_accuracy": "TA %",
    "svc_membership": "MIA %",
    "loss_auc": "loss AUC",
    "average_gap": "avg. gap %",
}


def markdown(record: dict[str, Any]) -> str:
    """Return the table of one request: original, retrained and band, then methods by their average gap, those that failed last."""
    rows = {row["name"]: row for row in record["table"]["rows"]}
    held = [key for key in COLUMNS if key in rows["retrained"]["cells"]]
    methods = sorted((name for name in rows if name not in ("original", "retrained")), key=lambda name: _gap(rows[name]))
    lines = [
        "|  | " + " | ".join([*(COLUMNS[key] for key in held), "passes", ""]) + " |",
        "| --- |" + " ---: |" * (len(held) + 1) + " :---: |",
    ]
    for name in ("original", "retrained", *methods):
        row = rows[name]
        cells = [_cell(row["cells"].get(key)) for key in held] if row["status"] == "finished" else [_failure(row), *[""] * (len(held) - 1)]
        passes = record["cost"].get(name, {}).get("passes_ratio") if row["status"] == "finished" else None
        sign = "○" if row["verdict"].startswith("no evidence") else "✕"
        lines.append(f"| {name} | " + " | ".join([*cells, "" if passes is None else f"{100 * passes:.3g} %", sign]) + " |")
        if name == "retrained":
            bands = {key: _band(rows["original"]["cells"][key]["band"], key) for key in held}
            lines.append("| band | " + " | ".join(bands.values()) + " |  |  |")
    return "\n".join(lines)


def _failure(row: dict[str, Any]) -> str:
    return f"{row['status']} ({row['failed_seeds']} of {row['seeds']} seeds)"


def _gap(row: dict[str, Any]) -> float:
    cell = row["cells"].get("average_gap") if row["status"] == "finished" else None
    return float("inf") if cell is None or cell["value"] is None else cell["value"]


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None or cell["value"] is None:
        return "–"
    places = 1 if cell["unit"] == "%" else 3
    half = f" ± {(cell['interval']['high'] - cell['interval']['low']) / 2:.{places}f}" if cell["interval"] else ""
    return f"{cell['value']:.{places}f}{half}"


def _band(band: dict[str, float] | None, key: str) -> str:
    places = 3 if COLUMNS[key].endswith("AUC") else 1
    return "" if band is None else f"{band['low']:.{places}f} to {band['high']:.{places}f}"


def main() -> None:
    """Run group by group and print the tables so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data/cifar10")
    parser.add_argument("--out", default="runs/cifar10")
    parser.add_argument("--size", choices=SIZES, default="whole")
    parser.add_argument("--group", type=int, default=GROUP, help="methods between tables")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--methods", default="", help="names with commas; all if empty")
    parser.add_argument("--markdown", type=Path, help="print this record.json as Markdown, and run nothing")
    args = parser.parse_args()
    if args.markdown:
        for record in json.loads(args.markdown.read_text()):
            print(f"{record['title']}:\n\n{markdown(record)}\n")
        return
    others = [name for name in registry.names("methods") if name not in FIRST and name not in LEFT_OUT]
    names = args.methods.split(",") if args.methods else [*FIRST, *others]
    for end in range(min(args.group, len(names)), len(names) + args.group, args.group):
        records, folder = compare(requests(args, names[:end]), lambda event: None, " ".join(sys.argv))
        print(f"\n{len(names[:end])} of {len(names)} methods: {Path(folder) / 'report.html'}", flush=True)
        for record in records:
            Console(width=220).print(terminal.table(record))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
