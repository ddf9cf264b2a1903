"""What lies inside the first model of every row: features block by block, distances of weights, a map of features, what comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from expunge.engine.architecture import Architecture
from expunge.engine.parameters import effective
from expunge.engine.stream import Stream
from expunge.errors import BadInput
from expunge.models import checkpoint
from expunge.report.figures.models import Models, short
from expunge.representation import cka, distances, features
from expunge.statistics import NotEnoughEvidence

WEIGHTS = 3_000_000
"""Most weights of a model that is looked into unasked."""
EACH = 100
"""Forget examples, and as many retain examples, that are looked at."""
RIDGE = 1e-3
"""Of the probe, as a share of the mean diagonal of its kernel."""


class Looked(NamedTuple):
    """What is kept of one model: the model, ``grams`` ``[blocks, n, n]`` and the head's inputs ``[n, D]``."""

    model: nn.Module
    grams: np.ndarray
    features: np.ndarray


def of(models: Models, deep: bool = False) -> dict[str, Any]:
    """Return what lies inside, for the first seed of which every row gave a model or else the first that a row has.

    Args:
        models: of the record.
        deep: look into models of any size.

    Returns:
        ``{blocks: [names], examples, rows: {row: {seed, cka_original, cka_retrained, distance_original, distance_retrained, moved, probe:
        [blocks]}}, floor: {cka, distance: [blocks]}, map, relearning}``. ``floor`` sets one retrained model beside another; moved is the
        share of a block's weights that differ from the original's; probe is the accuracy on forget examples of a ridge classifier that
        was fitted on other examples' outputs of the block. What cannot be said of a row is None.

    Raises:
        BadInput: the models are too large to be looked into unasked, or their weights are not there.
    """
    from threadpoolctl import threadpool_limits

    work, (index, fitted) = models.work, _examples(models)
    first = work.new_model(0, weights=False)
    size = sum(parameter.numel() for parameter in first.parameters())
    if size > WEIGHTS and not deep:
        raise BadInput(
            "report",
            f"models of {size:,} weights are not looked into unasked.",
            "`expunge report --inside FOLDER` does, in a minute or more.",
        )
    stream = Stream("looked at", models.data.source, torch.from_numpy(index))
    batch = next(stream.batches(len(index)))
    architecture = Architecture(first, batch.x[:8])
    # Many threads on matrices so small wait for each other.
    with threadpool_limits(1):
        return _found(models, architecture, batch.x, index, fitted)


def _found(models: Models, architecture: Architecture, x: torch.Tensor, index: np.ndarray, fitted: np.ndarray) -> dict[str, Any]:
    looked = {row: _look(models, row, architecture, x) for row in models.rows}
    reference = {name: held for name in ("original", "retrained") if (held := looked.get(name)) is not None}
    labels = models.data.labels.numpy()[index]
    asked = Asked(architecture, labels, fitted, reference)
    return {
        "blocks": list(architecture.blocks),
        "examples": len(index),
        "rows": {row: {"seed": next(iter(models.folders[row])), **_compare(found, asked)} for row, found in looked.items()},
        "floor": _floor(models, asked, x),
        "map": _map(models, looked, index, labels),
    }


class Asked(NamedTuple):
    """What every model is asked: the architecture, labels of the examples, which of them a probe learns from, and the references."""

    architecture: Architecture
    labels: np.ndarray
    fitted: np.ndarray
    reference: dict[str, Looked]


def _examples(models: Models) -> tuple[np.ndarray, np.ndarray]:
    """Return forget and neighbouring retain examples, int64 ``[n]``, and which of them a probe is fitted on, bool ``[n]``.

    Where whole classes are forgotten a quarter of their examples is fitted on, for no classifier names a class that it never saw.
    """
    draw = np.random.default_rng(2)
    forget = draw.permutation(models.index("forget"))[:EACH]
    retain = _neighbours(models, draw)
    known = np.arange(len(forget)) < (len(forget) // 4 if models.split.kind == "class" else 0)
    return np.concatenate([forget, retain]), np.concatenate([known, np.ones(len(retain), dtype=bool)])


def _neighbours(models: Models, draw: np.random.Generator) -> np.ndarray:
    """Return retain examples: of the classes that a retrained model takes the forget set for, and of all others after them."""
    index, labels = models.index("retain"), models.labels("retain")
    answers = [logits.argmax(axis=1) for logits in models.logits("retrained", models.index("forget"))]
    weight = np.bincount(np.concatenate(answers), minlength=models.data.num_classes) if answers else np.ones(models.data.num_classes)
    chance = weight[labels] / np.maximum(np.bincount(labels, minlength=models.data.num_classes)[labels], 1) + 1e-9
    return draw.choice(index, min(2 * EACH, len(index)), replace=False, p=chance / chance.sum())


def _models_of(models: Models, row: str) -> Iterator[nn.Module]:
    for folder in models.folders.get(row, {}).values():
        model = models.work.new_model(0, weights=False)
        checkpoint.load_into(model, folder / "weights.safetensors")
        yield model.eval()


@torch.no_grad()
def _look(models: Models, row: str, architecture: Architecture, x: torch.Tensor) -> Looked | None:
    """Return what is inside a row's first model; None for a model of another shape, such as a pruned one."""
    try:
        return _read(next(_models_of(models, row)), architecture, x)
    except (BadInput, StopIteration):
        return None


def _read(model: nn.Module, architecture: Architecture, x: torch.Tensor) -> Looked:
    last = {name: modules[-1] for name, modules in architecture.members.items()}
    with torch.no_grad(), features.capture_outputs(model, last) as found:
        _, head = architecture.forward_with_features(model, x)
    if not found.keys() >= last.keys():
        raise BadInput("blocks", "the forward pass does not call all of them.")
    return Looked(model, cka.grams(found[name] for name in architecture.blocks), head.numpy())


def _compare(found: Looked | None, asked: Asked) -> dict[str, Any]:
    if found is None:
        return {}
    said: dict[str, Any] = {"probe": short(_probe(found, asked))}
    for name, other in asked.reference.items():
        said[f"cka_{name}"] = short(_alignment(found, other))
        said[f"distance_{name}"] = short(list(distances.by_block(asked.architecture, found.model, other.model).values()))
    original = asked.reference.get("original")
    return said | ({"moved": short(_moved(found, original, asked.architecture))} if original is not None else {})


def _alignment(first: Looked, second: Looked) -> list[float | None]:
    values: list[float | None] = []
    for one, two in zip(first.grams, second.grams, strict=True):
        try:
            values.append(float(cka.of_grams(one[None], two[None])[0, 0]))
        except NotEnoughEvidence:
            values.append(None)
    return values


def _moved(found: Looked, original: Looked, architecture: Architecture) -> list[float]:
    """Return the share of each block's weights that are not those of the original, bit by bit: what a mask let through."""
    ours, theirs = effective(found.model), effective(original.model)
    shares = []
    for block in architecture.blocks:
        names = architecture.parameters_of(block)
        moved = sum(int((ours[name] != theirs[name]).sum()) for name in names)
        shares.append(moved / max(sum(ours[name].numel() for name in names), 1))
    return shares


def _probe(found: Looked, asked: Asked) -> list[float]:
    """Return how many forget examples a ridge classifier on each block's outputs names, fitted on the others; in dual form."""
    classes, known, held = np.unique(asked.labels), asked.fitted, ~asked.fitted
    targets = np.where(asked.labels[known][:, None] == classes, 1.0, -1.0)
    weight = 1 / np.bincount(np.searchsorted(classes, asked.labels[known]), minlength=len(classes))
    balance = np.sqrt(weight[np.searchsorted(classes, asked.labels[known])])
    rates = []
    for gram in found.grams.astype(np.float64):
        kernel = gram[np.ix_(known, known)] * np.outer(balance, balance)
        penalty = RIDGE * max(float(np.trace(kernel)), 1e-12) * np.eye(len(kernel))
        solved = np.linalg.solve(kernel + penalty, targets * balance[:, None])
        answers = classes[(gram[np.ix_(held, known)] @ (balance[:, None] * solved)).argmax(axis=1)]
        rates.append(float(np.mean(answers == asked.labels[held])))
    return rates


def _floor(models: Models, asked: Asked, x: torch.Tensor) -> dict[str, Any]:
    """Return how alike two retrained models are, block by block; nothing where there is only one."""
    if len(models.folders.get("retrained", {})) < 2 or asked.reference.get("retrained") is None:
        return {}
    held = _models_of(models, "retrained")
    next(held)
    try:
        second = _read(next(held), asked.architecture, x)
    except BadInput:
        return {}
    first = asked.reference["retrained"]
    apart = distances.by_block(asked.architecture, second.model, first.model)
    return {"cka": short(_alignment(second, first)), "distance": short(list(apart.values()))}


def _map(models: Models, looked: dict[str, Looked | None], index: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return two flat maps of each model's features: principal components and t-SNE, each of that model alone."""
    forget = np.isin(index, models.split.forget)
    shown = np.concatenate([np.flatnonzero(forget), np.flatnonzero(~forget)[: 2 * EACH - int(forget.sum())]])
    rows = {row: _flat(found.features[shown]) for row, found in looked.items() if found is not None}
    return {"index": index[shown].tolist(), "forget": forget[shown].tolist(), "label": labels[shown].tolist(), "rows": rows}


def _flat(values: np.ndarray) -> dict[str, Any]:
    from sklearn.manifold import TSNE

    centred = values.astype(np.float64) - values.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left * sizes
    start = scores[:, :2] / max(float(scores[:, 0].std()), 1e-12) * 1e-4
    near = TSNE(perplexity=min(25, (len(values) - 1) / 3), init=start, max_iter=300, random_state=0, learning_rate="auto")
    found = near.fit_transform(scores[:, :30].astype(np.float32))
    share = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-12)
    return {"pca": short(scores[:, :2], 3), "tsne": short(found, 3), "variance": short(share, 3)}


def relearning(models: Models) -> dict[str, Any]:
    """Return what training on retained data alone brings back, from the inspections in the run folders.

    Returns:
        ``{rows: {row: {curve: [epochs + 1] | None, spread: the same, steps, censored, models}}}``: mean forget accuracy over the models
        of a row with half of its 95 % interval, and the mean steps until an example set is relearned.

    Raises:
        BadInput: no folder holds an inspection.
    """
    rows = {}
    for row in models.rows:
        found = [arrays for folder in models.folders[row].values() if (arrays := inspected(folder))]
        if found:
            rows[row] = _returned(found)
    if not rows:
        raise BadInput("report", "nobody trained the models on to see what comes back.", "evaluate.tier=standard does.")
    return {"rows": rows}


def inspected(folder: Path) -> dict[str, np.ndarray]:
    """Return the latest inspection in a run folder; nothing where nobody looked."""
    from expunge.pools import inspection

    files = sorted(folder.glob("inspection-*.npz"), key=lambda path: path.stat().st_mtime)
    try:
        return inspection.read(files[-1]) if files else {}
    except BadInput:
        return {}


def _returned(found: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    from expunge.statistics import mean_interval

    length = min(len(arrays["retain_only"]) for arrays in found)
    curves = np.array([arrays["retain_only"][:length] for arrays in found])
    spread = None
    if len(curves) > 1:
        spread = [0.5 * (interval.high - interval.low) for interval in map(mean_interval, curves.T)]
    steps = [int(arrays["relearn_steps"]) for arrays in found if "relearn_steps" in arrays]
    return {
        "curve": short(curves.mean(axis=0)),
        "spread": short(spread) if spread else None,
        "steps": short(float(np.mean(steps))) if steps else None,
        "censored": int(sum(bool(arrays.get("relearn_censored", False)) for arrays in found)),
        "models": len(found),
    }
