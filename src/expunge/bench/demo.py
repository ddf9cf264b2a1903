"""The demonstration: two requests on the bundled pictures, and what each of a dozen methods makes of them."""

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
        {"name": "finetune"},
        {"name": "l1_sparse"},
        {"name": "gradient_ascent"},
        {"name": "neggrad_plus"},
        {"name": "random_label"},
        {"name": "salun"},
        {"name": "bad_teacher"},
        {"name": "scrub"},
        {"name": "ssd"},
        {"name": "msg"},
    ],
    "class": [
        {"name": "finetune"},
        {"name": "neggrad_plus"},
        {"name": "random_label"},
        {"name": "salun"},
        {"name": "boundary_shrink"},
        {"name": "delete"},
        {"name": "scrub"},
        {"name": "ssd"},
        {"name": "msg"},
        {"name": "head_distillation"},
    ],
}
"""The methods of each kind of request, with settings for nets of this size where the published ones are for ResNet-18 on CIFAR."""


def tree(file: Path | None, overrides: list[str]) -> dict[str, Any]:
    """Return the shared configuration: the demonstration's, changed by a file and by ``key=value``."""
    return config.read(file, overrides, base=BASE)


def requests(file: Path | None, overrides: list[str]) -> list[Request]:
    """Return the requests to serve. ``forget=`` asks for one request instead of two, ``method=`` for one method instead of all.

    Raises:
        BadInput: the configuration does not fit.
    """
    shared = tree(file, overrides)
    asked = {"Your request": shared.pop("forget")} if "forget" in shared else REQUESTS
    method, addons = shared.pop("method", None), shared.pop("addons", None) or []
    if method is None and addons:
        raise BadInput("addons", "there is no method to add to.", "Write method=NAME too.")
    found = []
    for title, forget in asked.items():
        base = config.resolve({**shared, "forget": forget})
        plain = {key: value for key, value in base.tree().items() if key not in ("method", "addons")}
        if method is not None:
            names = [config._choice(item)["name"] for item in (method, *addons)]
            rows = [Row("+".join(names), config._choice(method), addons)]
        else:
            rows = [Row(choice["name"], choice) for choice in METHODS["class" if base.forget.kind == "class" else "random"]]
        found.append(Request(title, plain, rows))
    return found
