"""Everything that is found by looking inside one model, as named arrays: what comes back, what its features are, how far its weights lie.

All models of a comparison are asked about the same examples, in the same order, with the same seeds: these depend on the settings and on
the examples' indices only. The model and the original are left as they are.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from expunge.engine import randomness
from expunge.engine.architecture import Architecture
from expunge.engine.stream import Stream
from expunge.engine.update import sgd
from expunge.errors import Diverged
from expunge.representation import cka, distances, features, frechet, neighborhood, neighbors, probe, relearn
from expunge.representation.features import Reading, join
from expunge.representation.neighbors import Downstream
from expunge.statistics import NotEnoughEvidence

PARTS = ("forget", "retain", "unseen", "validation", "test")
"""Parts whose features are read."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What is looked for, and on how many examples; the same for all models of a comparison.

    Attributes:
        epochs: of retain-only relearning.
        retain_limit: most retain examples that it trains on; all if None.
        watched_limit: most forget examples whose accuracy it follows.
        lr: learning rate of retain-only relearning (SGD, momentum 0.9, no weight decay, no augmentation).
        batch_size: of all training.
        deep: whether features, relearning on forget examples, distances and neighbourhoods are looked at too.
        forget_limit: most forget examples that are read, relearned and perturbed.
        fitted_limit: most retain examples that are read.
        other_limit: most examples of every other part that are read.
        relearn_lr: learning rate of relearning on forget examples.
        budget: steps after which it is given up.
        alpha: it is done at (1 - alpha) of the original's forget accuracy.
        shots: forget examples of each class that few-shot relearning is taught.
        few_steps: its steps.
        draws: perturbations of each forget example.
        radius: of the perturbations, largest change of a pixel in [0, 1].
        block_examples: examples on which the outputs of all blocks are compared; 0 leaves them out.
        neighbours: k of transfer to downstream sets.
        probe_iterations: limit of the linear probe's solver; a head that has not converged is used as it is, for every model alike.
        seed: of every choice and order.
    """

    epochs: int = 1
    retain_limit: int | None = 2000
    watched_limit: int = 2000
    lr: float = 0.01
    batch_size: int = 64
    deep: bool = False
    forget_limit: int = 1000
    fitted_limit: int = 2000
    other_limit: int = 1000
    relearn_lr: float = 0.01
    budget: int = 200
    alpha: float = 0.05
    shots: int = 5
    few_steps: int = 10
    draws: int = 2
    radius: float = 0.03
    block_examples: int = 0
    neighbours: int = 20
    probe_iterations: int = 200
    seed: int = 0

    def but(self, **changes: object) -> "Settings":
        """Return a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def limit(self, part: str) -> int:
        """Return how many examples of a part are read at most."""
        return {"forget": self.forget_limit, "retain": self.fitted_limit}.get(part, self.other_limit)


SETTINGS = {
    "fast": Settings(),
    "standard": Settings(epochs=max(relearn.MARKS), retain_limit=None, deep=True),
    "rigorous": Settings(epochs=max(relearn.MARKS), retain_limit=None, deep=True),
}
"""Tier -> settings."""


class Subject(NamedTuple):
    """A model that is looked into.

    Attributes:
        model: itself.
        original: the original of the same seed; None where there is none, which leaves out all that compares with it.
        streams: part -> its examples, ``forget`` and ``retain`` at least; ``retain`` without the forget set.
        kind: of the request: random, class or subclass.
        downstream: sets for transfer; may be empty.
        untrained: the same net with new random weights, the same for all models of a comparison; None leaves ZRF out.
    """

    model: nn.Module
    original: nn.Module | None
    streams: Mapping[str, Stream]
    kind: Literal["random", "class", "subclass"] | str = "random"
    downstream: Sequence[Downstream] = ()
    untrained: nn.Module | None = None


def look(subject: Subject, settings: Settings) -> Arrays:
    """Return what is found, array by name.

    Always:
        ``retain_only`` float64 ``[epochs + 1]``: forget accuracy before and after each epoch of training on retain examples alone.
        ``retain_only_rows`` int64: the forget examples that it is over, by position in the part.
        ``retain_only_finite`` bool ``[]``: False where that training diverged; the accuracies after that repeat the last finite one.

    With ``deep``, for each part of `PARTS` that holds examples:
        ``rows_PART`` int64 ``[m]`` ascending, positions in the part; ``features_PART`` float32 ``[m, D]``, the head's inputs.

    With ``deep``:
        ``neighborhood`` float64 ``[m]``: share of each forget example's perturbations that is classified right; for pictures only.
        ``taught`` bool ``[m]``: the few forget examples of each class that few-shot relearning is taught; ``few_shot`` float64 ``[]``:
        accuracy on the others after a few steps. Both are left out where no other is left.
        ``linear_probe`` float64 and ``linear_probe_size`` int64, ``[]``: accuracy of a new head on frozen features, see
        `expunge.representation.probe.label_probe`; left out without validation or unseen examples.
        ``transfer_names`` text, ``transfer_size`` int64, ``transfer_features`` and ``transfer_logits`` float64, ``[sets]``: number of
        examples asked about and nearest-neighbour accuracy of each downstream set, if there is one.
        ``untrained_logits`` float32 ``[m, C]``: what a net with random weights says about the forget examples that are read.
        ``block_names`` text and ``block_grams`` float32 ``[blocks, n, n]``, for ``block_examples`` above 0.

    With ``deep`` and an original:
        ``relearn_steps`` int64, ``relearn_censored`` bool, ``relearn_accuracy`` and ``relearn_target`` float64, all ``[]``.
        ``alignment_with_original`` and ``frechet_to_original`` float64 ``[]``.
        ``weight_names`` text and ``weight_distances`` float64 ``[parameters]``; ``weight_distance`` and ``encoder_distance``
        float64 ``[]``; all relative to the original's length.

    Raises:
        BadInput: forget or retain is empty, they share an example, or features are not finite.
    """
    found = _retain_only(subject, settings)
    return found | _look_deeper(subject, settings) if settings.deep else found


def _look_deeper(subject: Subject, settings: Settings) -> Arrays:
    from threadpoolctl import threadpool_limits

    forget = chosen(subject.streams["forget"], settings.forget_limit, settings.seed)
    architecture = Architecture(subject.model, next(forget.batches(8)).x)
    read = _read(subject, settings)
    readings = {part: features.read(architecture, subject.model, stream) for part, stream in read.items()}
    found = _neighborhood(subject, forget, settings)
    for part, stream in read.items():
        found |= {f"features_{part}": readings[part].features, f"rows_{part}": positions(subject.streams[part], stream)}
    found |= _few_shot(subject, forget, settings)
    if subject.untrained is not None:
        found["untrained_logits"] = features.read(
            Architecture(subject.untrained, next(forget.batches(8)).x), subject.untrained, forget
        ).logits
    if subject.original is not None:
        found |= _relearn_time(subject, subject.original, forget, settings)
    # Many threads on matrices so small wait for each other, and every worker has a processor to itself.
    with threadpool_limits(1, user_api="blas"):
        found |= _transfer(subject, architecture, settings) | _blocks(subject, architecture, settings)
        if subject.kind != "class" or "taught" in found:
            found |= label_probe(readings, found["taught"] if subject.kind == "class" else None, settings.probe_iterations)
        if subject.original is not None:
            found |= _from_original(subject, subject.original, architecture, readings, settings)
    return found


def chosen(stream: Stream, limit: int | None, seed: int = 0) -> Stream:
    """Return a fixed random subset of at most ``limit`` examples, in the stream's order; everything if None."""
    if limit is None or len(stream) <= limit:
        return stream
    taken = randomness.shuffle(seed, "looked at", 0, stream.index)[:limit]
    return stream.subset(stream.index[torch.isin(stream.index, taken)])


def positions(stream: Stream, part: Stream) -> np.ndarray:
    """Return where the examples of a subset stand in a stream, int64 ascending."""
    return torch.isin(stream.index, part.index).nonzero().flatten().numpy()


def alignment(x: np.ndarray, y: np.ndarray) -> float:
    """Return unbiased CKA, and 0 where the features of either do not vary over the examples, as those of a dead network."""
    if not np.ptp(x, axis=0).any() or not np.ptp(y, axis=0).any():
        return 0.0
    return cka.unbiased(x, y)


def _read(subject: Subject, settings: Settings) -> dict[str, Stream]:
    streams = {part: subject.streams[part] for part in PARTS if part in subject.streams and len(subject.streams[part])}
    return {part: chosen(stream, settings.limit(part), settings.seed) for part, stream in streams.items()}


def _training(lr: float, settings: Settings) -> relearn.Training:
    return relearn.Training(optimizer=sgd(lr, weight_decay=0.0), batch_size=settings.batch_size, seed=settings.seed)


def _retain_only(subject: Subject, settings: Settings) -> Arrays:
    forget, retain = subject.streams["forget"], chosen(subject.streams["retain"], settings.retain_limit, settings.seed)
    watched = chosen(forget, settings.watched_limit, settings.seed)
    curve: list[float] = []
    try:
        relearn.retain_only(subject.model, retain, watched, settings.epochs, _training(settings.lr, settings), note=curve.append)
    except Diverged:
        finite = False
    else:
        finite = True
    curve += [curve[-1]] * (settings.epochs + 1 - len(curve))
    return {
        "retain_only": np.array(curve),
        "retain_only_rows": positions(forget, watched),
        "retain_only_finite": np.array(finite),
    }


def _kept_beside(subject: Subject, settings: Settings) -> Stream | None:
    """Return what is trained on beside forget examples: for whole classes a net would otherwise learn to answer that class always."""
    return chosen(subject.streams["retain"], settings.fitted_limit, settings.seed) if subject.kind == "class" else None


def _relearn_time(subject: Subject, original: nn.Module, forget: Stream, settings: Settings) -> Arrays:
    target = relearn.relearn_target(relearn.accuracy(original, forget), settings.alpha)
    training, retain = _training(settings.relearn_lr, settings), _kept_beside(subject, settings)
    try:
        time = relearn.relearn_time(subject.model, forget, target, retain=retain, budget=settings.budget, training=training)
    except Diverged:
        time = relearn.RelearnTime(settings.budget, True, relearn.accuracy(subject.model, forget))
    return {
        "relearn_steps": np.array(time.steps),
        "relearn_censored": np.array(time.censored),
        "relearn_accuracy": np.array(time.accuracy),
        "relearn_target": np.array(target),
    }


def _few_shot(subject: Subject, forget: Stream, settings: Settings) -> Arrays:
    training, retain = _training(settings.lr, settings), _kept_beside(subject, settings)
    try:
        few, others = relearn.split_shots(forget, settings.shots, settings.seed)
    except NotEnoughEvidence:
        return {}
    try:
        found = relearn.few_shot(subject.model, forget, shots=settings.shots, steps=settings.few_steps, retain=retain, training=training)
    except Diverged:
        found = relearn.accuracy(subject.model, others)
    return {"taught": torch.isin(forget.index, few.index).numpy(), "few_shot": np.array(found)}


def _neighborhood(subject: Subject, forget: Stream, settings: Settings) -> Arrays:
    x = next(forget.batches(1)).x
    if x.dim() != 4 or not x.is_floating_point():
        return {}
    return {"neighborhood": neighborhood.right_shares(subject.model, forget, settings.radius, settings.draws, seed=settings.seed)}


def label_probe(readings: Mapping[str, Reading], shown: np.ndarray | None, iterations: int) -> Arrays:
    """Return what a new head on frozen features finds; nothing where a part is missing.

    Args:
        readings: part -> features and labels.
        shown: the few forget examples that the head may learn where whole classes are forgotten, bool; None otherwise.
        iterations: limit of the solver.
    """
    if not {"retain", "validation", "forget", "unseen"} <= set(readings):
        return {}
    forget = readings["forget"]
    few = None if shown is None else forget.take(shown)
    found = probe.label_probe(readings["retain"], readings["validation"], forget, readings["unseen"], taught=few, iterations=iterations)
    return {"linear_probe": np.array(found.accuracy), "linear_probe_size": np.array(found.n)}


def _transfer(subject: Subject, architecture: Architecture, settings: Settings) -> Arrays:
    if not subject.downstream:
        return {}
    rates: dict[str, list[float]] = {"features": [], "logits": []}
    sizes = []
    for part in subject.downstream:
        reading = features.read_arrays(architecture, subject.model, part.x, part.labels)
        known, asked = neighbors.fixed_split(part.labels)
        for level, values in (("features", reading.features), ("logits", reading.logits)):
            right = neighbors.accuracy(values[known], part.labels[known], values[asked], part.labels[asked], settings.neighbours)
            rates[level].append(right)
        sizes.append(len(asked))
    names = np.array([part.name for part in subject.downstream])
    return {
        "transfer_names": names,
        "transfer_size": np.array(sizes),
        **{f"transfer_{key}": np.array(value) for key, value in rates.items()},
    }


def _blocks(subject: Subject, architecture: Architecture, settings: Settings) -> Arrays:
    if not settings.block_examples:
        return {}
    each = max(4, settings.block_examples // 2)
    streams = [chosen(subject.streams[part], each, settings.seed) for part in ("forget", "retain")]
    outputs = [next(features.block_batches(architecture, [subject.model], stream, size=len(stream)))[0] for stream in streams]
    names = list(outputs[0])
    return {"block_names": np.array(names), "block_grams": cka.grams(np.concatenate([part[name] for part in outputs]) for name in names)}


def _frechet(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the Frechet distance; NaN where a set has a single example."""
    return frechet.frechet(ours, theirs) if min(len(ours), len(theirs)) > 1 else float("nan")


def _from_original(
    subject: Subject, original: nn.Module, architecture: Architecture, readings: Mapping[str, Reading], settings: Settings
) -> Arrays:
    before = {part: features.read(architecture, original, _read(subject, settings)[part]) for part in ("forget", "retain")}
    ours, theirs = (join(part["forget"], part["retain"]).features for part in (readings, before))
    layers = distances.by_layer(subject.model, original)
    head = tuple(architecture.class_rows(0))
    return {
        "alignment_with_original": np.array(alignment(ours, theirs)),
        "frechet_to_original": np.array(_frechet(readings["forget"].features, before["forget"].features)),
        "weight_names": np.array(list(layers)),
        "weight_distances": np.array(list(layers.values())),
        "weight_distance": np.array(distances.overall(subject.model, original)),
        "encoder_distance": np.array(distances.overall(subject.model, original, without=head)),
    }
