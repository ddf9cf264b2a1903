"""The demonstration: two requests on the bundled pictures, and what nine methods make of each."""

from pathlib import Path
from typing import Any

from expunge import config
from expunge.bench.compare import Request, Row
from expunge.errors import BadInput

BASE: dict[str, Any] = {"data": "fashion_mnist", "model": "small_cnn", "train": "tiny", "evaluate": {"seeds": 4}, "seed": 0}

REQUESTS: dict[str, dict[str, Any]] = {
    "A random tenth of the training data": {"name": "random", "fraction": 0.1},
    "Every picture of one class": {"name": "class", "classes": ["Shirt"]},
}

METHODS: dict[str, list[dict[str, Any]]] = {
    "random": [
        {"name": "finetune", "lr": 0.03, "epochs": 3, "batch_size": 64},
        {"name": "gradient_ascent", "lr": 0.005, "epochs": 2, "batch_size": 64},
        {"name": "neggrad_plus", "lr": 0.03, "epochs": 1, "batch_size": 64, "alpha": 0.8},
        {"name": "random_label", "lr": 0.003, "epochs": 2, "batch_size": 64},
        {"name": "salun", "lr": 0.003, "epochs": 2, "batch_size": 64},
        {"name": "bad_teacher", "lr": 2e-4, "epochs": 1, "batch_size": 64},
        {"name": "scrub", "lr": 0.007, "epochs": 3, "batch_size": 64, "forget_batch_size": 64},
        {"name": "ssd", "alpha": 1.5},
        {"name": "msg", "lr": 0.05, "epochs": 3, "batch_size": 64, "slow": 1.0},
    ],
    "class": [
        {"name": "finetune", "lr": 0.05, "epochs": 3, "batch_size": 64},
        {"name": "neggrad_plus", "lr": 0.01, "epochs": 1, "batch_size": 64, "alpha": 0.99},
        {"name": "random_label", "lr": 0.003, "epochs": 2, "batch_size": 64},
        {"name": "salun", "lr": 0.003, "epochs": 2, "batch_size": 64},
        {"name": "boundary_shrink", "lr": 2e-4, "epochs": 3, "batch_size": 64},
        {"name": "delete", "lr": 2e-4, "epochs": 10, "batch_size": 64},
        {"name": "ssd", "alpha": 4.0},
        {"name": "msg", "lr": 0.05, "epochs": 3, "batch_size": 64, "slow": 1.0},
        {"name": "head_distillation", "lr": 0.02, "epochs": 2, "batch_size": 64},
    ],
}
"""The methods of each kind of request, with settings for nets of this size where the published ones are for ResNet-18 on CIFAR.

Each was chosen from two to nine settings by one run on another seed (1000), looking at forget, retain and validation examples only: for
the random request, forget accuracy and loss near those of validation examples while retain accuracy stays; for the class, forget
accuracy near zero while validation accuracy of the other classes stays. No test example and no retrained model decided.
"""


def tree(file: Path | None, overrides: list[str]) -> dict[str, Any]:
    """Return the shared configuration: the demonstration's, changed by a file and by ``key=value``."""
    return config.read(file, overrides, base=BASE)


def requests(file: Path | None, overrides: list[str]) -> list[Request]:
    """Return the requests to serve. ``forget=`` asks for one request instead of two, ``method=`` for one method instead of all.

    Raises:
        BadInput: the configuration does not fit.
    """
    shared = tree(file, overrides)
    asked = {"Your request": shared.pop("forget")} if "forget" in shared else dict(REQUESTS)
    if "Every picture of one class" in asked and config.as_choice(shared["data"])["name"] != "fashion_mnist":
        asked["Every picture of one class"] = {"name": "class", "count": 1}
    method, addons = shared.pop("method", None), shared.pop("addons", None) or []
    if method is None and addons:
        raise BadInput("addons", "there is no method to add to.", "Write method=NAME too.")
    found = []
    for title, forget in asked.items():
        base = config.resolve({**shared, "forget": forget})
        plain = {key: value for key, value in base.tree().items() if key not in ("method", "addons")}
        if base.forget.kind != "class" and "retrained" not in shared["evaluate"]:
            plain["evaluate"]["retrained"] = 2 * base.evaluate.seeds  # for the audits; for classes that costs too much here
        if method is not None:
            names = [config.as_choice(item)["name"] for item in (method, *addons)]
            rows = [Row("+".join(names), config.as_choice(method), addons)]
        else:
            rows = [Row(choice["name"], choice) for choice in METHODS["class" if base.forget.kind == "class" else "random"]]
        found.append(Request(title, plain, rows))
    return found
