"""Records as the pipeline would make them, from Gaussian margins: nothing is trained."""

import numpy as np

from expunge import registry
from expunge.attacks.margins import FORGET, IN, OUT
from expunge.audits.assess import assess
from expunge.audits.audit import Audit, Shadows
from expunge.audits.doses import dose_response
from expunge.bench import audits as pipeline
from expunge.bench.doses import responses
from expunge.metrics.metric import in_tier
from expunge.metrics.table import Failure, default_metrics, evaluate, verdict
from expunge.metrics.view import View
from expunge.report.histograms import shares

SIZES = {"forget": 400, "retain": 900, "validation": 300, "test": 400, "unseen": 400}
TRAINED, UNTRAINED = 5.5, 2.2
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
METHODS = {
    "finetune": dict(forget=4.6, seconds=0.08),
    "gradient_ascent": dict(forget=-2.0, retain=3.2, unseen=0.3, seconds=0.004),
    "random_label": dict(forget=0.4, unseen=2.0, seconds=0.05),
    "bad_teacher": dict(forget=1.0, unseen=1.9, seconds=0.06),
    "scrub": dict(forget=3.0, unseen=2.2, seconds=0.11),
    "salun": dict(forget=2.05, unseen=2.15, seconds=0.09),
    "finetune_l1": dict(forget=2.2, retain=5.4, unseen=2.2, seconds=0.21),
    "fisher_forgetting": dict(forget=2.8, retain=4.1, unseen=1.4, seconds=0.6),
}
LEFT = {"finetune": 2.4, "gradient_ascent": -2.0}
"""What a method leaves in the margins of the shadow models' targets."""
METRICS = ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "loss_auc", "jensen_shannon", "churn", "tug_of_war")


def view(seed: int, forget: float, retain: float = TRAINED, unseen: float = UNTRAINED, scale: int = 1) -> View:
    """Return a model whose margins are normal around these means; what is hard is shared by all models, the rest by none."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    means = {"forget": forget, "retain": retain, "validation": unseen, "test": unseen, "unseen": unseen}
    logits, labels = {}, {}
    for part, mean in means.items():
        n = SIZES[part] // scale
        y = shared.integers(0, len(NAMES), n)
        noise = shared.normal(0, 1.0, (n, len(NAMES))) + own.normal(0, 0.6, (n, len(NAMES)))
        noise[np.arange(n), y] += mean + 2 + 0.1 * own.normal()
        logits[part], labels[part] = noise.astype(np.float32), y
    return View(logits, labels)


def record(title: str = "Random 10 % of CIFAR-10", names=NAMES, seeds: int = 4, retrained: int = 8, methods=METHODS, **more) -> dict:
    """Return one record.

    ``metrics=None`` takes every metric there is, ``failures`` adds rows that gave no model, ``tier`` plays its audits, ``doses`` leaves
    shares of the forget set in, ``shadows`` adds a pool of so many shadow models.
    """
    scale, failures, tier = more.get("scale", 1), more.get("failures", {}), more.get("tier", "fast")
    views = {
        "original": [view(100 + seed, TRAINED, scale=scale) for seed in range(seeds)],
        "retrained": [view(200 + seed, UNTRAINED, scale=scale) for seed in range(retrained)],
    }
    for number, (name, means) in enumerate(methods.items(), 3):
        where = {key: value for key, value in means.items() if key != "seconds"}
        views[name] = [view(100 * number + seed, scale=scale, **where) for seed in range(seeds)]
    outcomes = {**{name: views[name] for name in methods}, **failures}
    wanted = more.get("metrics", METRICS)
    chosen = [metric for metric in default_metrics("random") if wanted is None or metric.name in wanted]
    table = evaluate(views["original"], views["retrained"], outcomes, chosen, "random")
    losses = {row: {part: np.stack([v.loss(part) for v in held]) for part in ("forget", "unseen", "retain")} for row, held in views.items()}
    made = {
        "format": 2,
        "title": title,
        "request": {**_request(names, seeds, retrained, scale), "tier": tier},
        "table": table,
        "audits": _audits(views, seeds, tier, more.get("shadows", 0)),
        "doses": _doses(views, seeds, scale, chosen) if more.get("doses") else {},
        "methods": {name: _method(name) for name in outcomes},
        "cost": {"original": _cost(0.0), "retrained": _cost(1.0)} | {name: _cost(means["seconds"]) for name, means in methods.items()},
        "histograms": {"loss": shares(losses)},
        "provenance": _provenance(),
    }
    for row in table["rows"]:
        row["verdict"] = verdict(row, pipeline.tests(made["audits"], row["name"]))
    return made


def full(**more) -> dict:
    """Return a record of the highest tier: audits, games of shadow models, doses, completeness, and what could not be measured."""
    methods = {name: METHODS[name] for name in ("finetune", "gradient_ascent", "salun")}
    size = {"title": "A tenth of a hundred", "methods": methods, "seeds": 8, "retrained": 16, "scale": 4, "metrics": None}
    depth = {"tier": "rigorous", "doses": True, "shadows": 24, "failures": {"noisy_ascent": failure() * 2}}
    made = record(**{**size, **depth, **more})
    row = made["table"]["rows"][2]
    del row["cells"]["churn"]
    row["unmeasured"] = {"churn": "no two models of this row agree on what there is"}
    return made


def _audits(views: dict, seeds: int, tier: str, shadows: int) -> dict:
    """Return what the pipeline would hold: the second half of the retrained models is the reference."""
    panels = {label: pipeline.panel(held[:seeds] if label == "retrained" else held) for label, held in views.items()}
    models = len(views["retrained"]) - seeds
    if min(seeds, models) < 4:
        return {"reason": f"audits compare two halves of retrained models, 4 in each at least; here they have {seeds} and {models}."}
    known = [registry.find("audits", name) for name in registry.names("audits")]
    chosen = [audit() for audit in known if issubclass(audit, Audit) and in_tier(audit, tier)]
    labels = {part: views["retrained"][0].labels[part] for part in ("forget", "retain", "unseen", "test")}
    control, reference = panels.pop("retrained"), pipeline.panel(views["retrained"][seeds:])
    pools = {label: _shadows(shadows, LEFT.get(label, 0.0)) for label in panels if label != "original"} if shadows else {}
    return {"reason": None, **assess(panels, control, reference, labels, chosen, pools), "copies": []}


def _shadows(models: int, left: float, targets: int = 60) -> Shadows:
    """Return a pool in which every target is unlearned, kept and never seen in a third of the models; unlearning leaves ``left``."""
    generator = np.random.default_rng(7)
    order = np.stack([generator.permuted(np.tile([FORGET, IN, OUT], (models // 3, 1)), axis=1).ravel() for _ in range(targets)], axis=1)
    means = {OUT: UNTRAINED, FORGET: UNTRAINED + left, IN: TRAINED}
    noise = generator.normal(0, 1, (3, models, targets)) + generator.normal(0, 2, targets)
    mean = np.select([order == state for state in means], list(means.values()))
    original = np.where(order == OUT, UNTRAINED, TRAINED)
    kept = np.where(order == IN, TRAINED, UNTRAINED)
    made = [(level + drawn).astype(np.float32) for level, drawn in zip((original, mean, kept), noise, strict=True)]
    return Shadows(*made, order.astype(np.uint8))


def _doses(views: dict, seeds: int, scale: int, metrics: list) -> dict:
    shares_in = {dose: UNTRAINED + dose * (TRAINED - UNTRAINED) for dose in (0.05, 0.1, 0.25, 0.5)}
    left = {dose: [view(5000 + 100 * at + k, mean, scale=scale) for k in range(4)] for at, (dose, mean) in enumerate(shares_in.items())}
    judged = [metric for metric in metrics if metric.name in ("unlearning_accuracy", "test_accuracy", "loss_auc", "jensen_shannon")]
    given = {0.0: views["retrained"][:seeds], **left, 1.0: views["original"]}
    panels, reference = {dose: pipeline.panel(held) for dose, held in given.items()}, pipeline.panel(views["retrained"][seeds:])
    audit = registry.find("audits", "example_auc")()
    found = responses(judged, views["retrained"], left, views["original"], seeds, 12)
    return found | {audit.name: dose_response(audit, panels, reference, views["original"][0].labels, tests=12)}


def failure() -> list[Failure]:
    """Return a row of four seeds of which none gave a model."""
    return [Failure("diverged", "at step 41: forget is not finite; the last good state is epoch 1 of phase 1")] * 4


def _request(names, seeds: int, retrained: int, scale: int) -> dict:
    sizes = {part: size // scale for part, size in SIZES.items()}
    return {
        "scenario": {"name": "random", "fraction": 0.1},
        "kind": "random",
        "data": "cifar10",
        "model": "resnet18",
        **sizes,
        "forget_classes": [],
        "class_names": list(names),
        "duplicates": {"forget_in_retain": 3, "forget_in_test": 0},
        "seeds": seeds,
        "retrained": retrained,
    }


def _method(name: str) -> dict:
    return {
        "name": name,
        "summary": f"What {name.replace('_', ' ')} does, in one sentence.",
        "source": "Fan et al., SalUn, ICLR 2024, arXiv 2310.12508",
        "hyperparameters": {"lr": 0.013, "epochs": 10, "keep": 0.5, "momentum": 0.9},
        "addons": [{"name": "saliency_mask", "keep": 0.5}] if name == "salun" else [],
        "deviations": ["masks act on the update, not on the gradient"],
    }


def _cost(ratio: float) -> dict:
    return {
        "seconds": 812.0 * ratio,
        "passes": 5.4e6 * ratio * 0.8,
        "peak_memory_bytes": int(1.4e9 * (0.5 + ratio)),
        "seconds_ratio": ratio,
        "passes_ratio": 1.0 if ratio == 1 else ratio * 0.8,
    }


def _provenance() -> dict:
    return {
        "command": "expunge unlearn cifar10-random10.yaml method=salun evaluate.seeds=4",
        "config": "data: cifar10\nmodel: resnet18\nforget:\n  name: random\n  fraction: 0.1\nmethod:\n  name: salun\nseed: 0\n",
        "fingerprint": "3f1c9a5be0d27744",
        "environment": {
            "python": "3.12.4",
            "platform": "Linux-x86_64",
            "processor": "a processor",
            "accelerator": None,
            "versions": {"expunge": "0.1.0", "torch": "2.15.0", "numpy": "2.4.6"},
            "commit": "f862aa1",
            "dirty": False,
        },
        "seconds": 5123.4,
    }
