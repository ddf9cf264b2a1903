"""Every method on CIFAR-10, one table for a class and one for a random tenth, under one budget.

Methods keep their defaults but for one thing: no method reads more of the training data than a quarter of what training reads, since a
method that costs as much as retraining has nothing to offer. Methods that read only the forget set keep their epochs. With
``--size whole`` the nets are of 90 % and trained in four epochs (400 s each on one processor); with ``--size small`` they are small, see
10,000 pictures 16 times (20 s each) and remember them. Run folders are kept, so a run that is stopped goes on, and tables appear after
each group of methods.

    python benchmarks/cifar10_methods.py --root data/cifar10 --out runs/cifar10 [--size small] [--methods ssd,salun]
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from expunge import registry
from expunge.bench.compare import Request, Row, compare
from expunge.report import terminal

BUDGET = 0.25
"""Share of the training's epochs that a method may read the retain set for."""
SIZES: dict[str, dict[str, object]] = {
    "whole": {"data": {}, "model": "whitened_cnn", "train": {"name": "fast", "epochs": 4}},
    "small": {
        "data": {"train_limit": 10000, "augment": False},
        "model": "small_cnn",
        "train": {"name": "fast", "epochs": 16, "label_smoothing": 0, "augment": "data"},
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
REQUESTS = {
    "A random tenth of CIFAR-10": {"name": "random", "fraction": 0.1},
    "Every airplane of CIFAR-10": {"name": "class", "classes": ["airplane"]},
}


def budgeted(name: str, epochs: int) -> dict[str, object]:
    """Return a method's configuration with its passes over retained data cut to so many epochs."""
    method = registry.find("methods", name)
    fields = [field for field in ("epochs", "repair_epochs", "warm_up_epochs", "prune_epochs") if field in method.model_fields]
    cut = {field: epochs for field in fields if method.model_fields[field].default > epochs}
    return {"name": name, **(cut if "retain" in method.needs else {})}


def requests(args: argparse.Namespace, names: list[str]) -> list[Request]:
    """Return both requests with those of the methods that serve them."""
    found, size = [], SIZES[args.size]
    epochs = int(BUDGET * size["train"]["epochs"])  # type: ignore[index]
    for title, forget in REQUESTS.items():
        tree = {
            "data": {"name": "cifar10", "root": args.root, **size["data"]},  # type: ignore[dict-item]
            "model": size["model"],
            "train": size["train"],
            "forget": forget,
            "evaluate": {"seeds": args.seeds, "workers": args.workers},
            "out": args.out,
        }
        kind = "class" if forget["name"] == "class" else "random"
        rows = [Row(name, budgeted(name, epochs)) for name in names if kind in registry.find("methods", name).scenarios]
        found.append(Request(title, tree, rows))
    return found


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
    args = parser.parse_args()
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
