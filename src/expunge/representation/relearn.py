"""Recovery tests: train a copy of a model a little more and watch what comes back.

A retrained model is trained in the same way, with the same order of examples; what an unlearned model recovers faster is knowledge
that it had kept. Forgotten examples are looked at in evaluation mode; whether any of them is trained on is said by each function.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from expunge.engine import randomness
from expunge.engine.architecture import Architecture
from expunge.engine.context import Context
from expunge.engine.loop import run_phase
from expunge.engine.parameters import modes_kept
from expunge.engine.phase import NormPolicy, Phase
from expunge.engine.stream import Stream, scoring_size
from expunge.engine.terms import Progress, Term, cross_entropy
from expunge.engine.update import Optimizer, sgd
from expunge.errors import BadInput
from expunge.representation.features import Reading
from expunge.statistics import Interval, NotEnoughEvidence, mean_interval

MARKS = (1, 2, 5)
"""Epochs at which retain-only relearning is reported."""


@dataclass(frozen=True)
class Training:
    """How a copy is trained in a recovery test; the same for all models that are compared.

    Attributes:
        optimizer: the optimiser; SGD of 0.01 without weight decay if not given.
        batch_size: examples of each stream in a step.
        seed: of the order of the examples and of new heads.
        augment: whether pictures are augmented.
        norm: what running statistics do; the engine's own choice if None.
    """

    optimizer: Optimizer = sgd(0.01, weight_decay=0.0)
    batch_size: int = 64
    seed: int = 0
    augment: bool = False
    norm: NormPolicy | None = None


class Curve(NamedTuple):
    """Accuracy on watched examples along retain-only relearning.

    Attributes:
        epochs: 0, 1, ..., int64 ``[E + 1]``.
        accuracy: fraction after each epoch; entry 0 is before any training.
    """

    epochs: np.ndarray
    accuracy: np.ndarray

    def at(self, marks: Sequence[int] = MARKS) -> dict[int, float]:
        """Return the accuracy after some epochs."""
        return {epoch: float(self.accuracy[epoch]) for epoch in marks if epoch < len(self.accuracy)}

    @property
    def recovered(self) -> float:
        """How far the accuracy rises above its start, on average over the epochs; negative if it falls."""
        return float(_area(self.accuracy - self.accuracy[0]))


def retain_only(
    model: nn.Module,
    retain: Stream,
    watched: Stream,
    epochs: int = max(MARKS),
    training: Training | None = None,
    note: Callable[[float], None] | None = None,
) -> Curve:
    """Return the accuracy on watched examples while a copy is trained on retain examples alone.

    No watched example is trained on, so that any rise beyond a retrained model's is knowledge that was there. A wholly forgotten class
    has no retain example that would raise its logit, so that an encoder that still knows it need not show: ask `relearn_time` and
    `prototype_accuracy` there.

    Args:
        model: left as it is.
        retain: what the copy is trained on.
        watched: the forget set, or unseen examples of its class; disjoint from retain.
        epochs: how long.
        training: how.
        note: hears each accuracy as it is found, so that those before a divergence are known.

    Raises:
        BadInput: an example is in both streams, or one is empty.
        Diverged: the training stopped being finite.

    Source: Siddiqui et al., arXiv 2505.22310 (retain-only fine-tuning restores forget accuracy).
    """
    _check_apart(retain, watched)
    work = copy.deepcopy(model)
    curve: list[float] = []

    def measure(net: nn.Module) -> bool:
        curve.append(accuracy(net, watched))
        if note is not None:
            note(curve[-1])
        return False

    measure(work)
    _train(work, None, retain, epochs, training or Training(), stop=lambda context, progress: measure(context.model))
    return Curve(np.arange(epochs + 1), np.array(curve))


def area_between(curve: Curve, reference: Curve) -> float:
    """Return the mean over the epochs of (accuracy - reference's accuracy), trapezoidal; above 0 the model recovers more.

    Where the model starts counts too. `Curve.recovered` leaves the start out.

    Raises:
        ValueError: curves of different lengths.
    """
    if len(curve.epochs) != len(reference.epochs):
        raise ValueError(f"expected curves of equal length, got {len(curve.epochs)} and {len(reference.epochs)}")
    return _area(curve.accuracy - reference.accuracy)


def _area(values: np.ndarray) -> float:
    return float(np.trapezoid(values) / max(1, len(values) - 1))


class RelearnTime(NamedTuple):
    """How long a copy took to know the forget set again.

    Attributes:
        steps: optimiser steps; 0 if it knew it from the start; the budget if it never did.
        censored: whether the budget ended first, so that the true time is larger.
        accuracy: on the forget set at the end, a fraction.
    """

    steps: int
    censored: bool
    accuracy: float


def relearn_time(
    model: nn.Module,
    forget: Stream,
    target: float,
    *,
    retain: Stream | None = None,
    budget: int = 200,
    every: int = 1,
    training: Training | None = None,
) -> RelearnTime:
    """Return how many steps of training on the forget set bring a copy to a target accuracy on it.

    With ``retain`` each step uses a batch of both sets. Without, answering the forgotten class always is enough, which any model learns
    at once: for a whole class give retain.

    Args:
        model: left as it is. Give every model a fresh head (`with_fresh_head`) to ask about its encoder alone: an edited head can make
            relearning as slow as its author likes.
        forget: what is relearned.
        target: accuracy, a fraction; usually (1 - alpha) times the original's, alpha 0.05 or 0.1, as `relearn_target` gives.
        retain: trained on at the same time.
        budget: steps after which the time is censored.
        every: steps between looks at the accuracy; a time is a multiple of it.
        training: how.

    Source: Golatkar et al., CVPR 2020 and Chundawat et al., arXiv 2201.05629 (relearn time, in mini-batches).
    """
    work = copy.deepcopy(model)
    reached = [accuracy(work, forget)]
    target -= 1e-9  # 0.9 of 40 is 36, whatever the last bit says
    if reached[0] >= target:
        return RelearnTime(0, False, reached[0])

    def know_again(context: Context, progress: Progress) -> bool:
        reached.append(accuracy(context.model, forget))
        return reached[-1] >= target

    steps = _train(work, forget, retain, budget, training or Training(), stop=know_again, steps=budget, stop_every=every)
    return RelearnTime(steps, reached[-1] < target, reached[-1])


def relearn_target(original_accuracy: float, alpha: float = 0.05) -> float:
    """Return ``(1 - alpha)`` times the original's accuracy on the forget set: what counts as known again."""
    return (1 - alpha) * original_accuracy


class Ratio(NamedTuple):
    """A ratio of times of which one may be censored.

    Attributes:
        value: unlearned over retrained.
        bound: ``exact``; ``at_least`` when the unlearned model never got there, ``at_most`` when the retrained one did not.
    """

    value: float
    bound: Literal["exact", "at_least", "at_most"]


def anamnesis_index(unlearned: RelearnTime, retrained: RelearnTime) -> Ratio:
    """Return relearn time over the retrained model's: 1 is ideal, below 1 knowledge is left, far above 1 it was made hard to learn.

    One step is added to both, so that a model that needs none has a finite logarithm; the published index has none added.

    Raises:
        NotEnoughEvidence: both are censored; nothing is known then.

    Source: Chundawat et al., Zero-Shot Machine Unlearning, arXiv 2201.05629 (AIN).
    """
    if unlearned.censored and retrained.censored:
        raise NotEnoughEvidence(f"neither model relearned within the budget ({unlearned.steps} and {retrained.steps} steps); raise it")
    value = (unlearned.steps + 1) / (retrained.steps + 1)
    if unlearned.censored:
        return Ratio(value, "at_least")
    return Ratio(value, "at_most" if retrained.censored else "exact")


def log_ratio_interval(pairs: Sequence[tuple[RelearnTime, RelearnTime]], level: float = 0.95) -> Interval:
    """Return the Student t interval of the mean log ratio over training seeds, (unlearned, retrained) for each, natural logarithm.

    Raises:
        NotEnoughEvidence: fewer than 2 pairs, or a censored time: an interval that ignores it would be too narrow and off.
    """
    ratios = [anamnesis_index(*pair) for pair in pairs]
    censored = sum(ratio.bound != "exact" for ratio in ratios)
    if censored:
        raise NotEnoughEvidence(f"{censored} of {len(ratios)} relearn times are censored; raise the budget")
    return mean_interval([math.log(ratio.value) for ratio in ratios], level)


def few_shot(
    model: nn.Module, forget: Stream, *, shots: int = 5, steps: int = 10, retain: Stream | None = None, training: Training | None = None
) -> float:
    """Return the accuracy on the rest of the forget set after a few steps on a few of its examples, a fraction.

    Args:
        model: left as it is.
        forget: the forget set; ``shots`` examples of each of its classes are trained on, the others are asked about.
        shots: examples of each class, drawn by the training's seed.
        steps: optimiser steps.
        retain: trained on at the same time; needed for a whole class, as in `relearn_time`.
        training: how.

    Raises:
        NotEnoughEvidence: no example of the forget set is left to ask about.

    Source: Ha et al., arXiv 2506.01318 (few-shot relearning); the steps are our setting.
    """
    settings = training or Training()
    taught, asked = split_shots(forget, shots, settings.seed)
    work = copy.deepcopy(model)
    _train(work, taught, retain, steps, settings, steps=steps)
    return accuracy(work, asked)


def split_shots(forget: Stream, shots: int, seed: int = 0) -> tuple[Stream, Stream]:
    """Return the streams of a few examples of each class, named ``taught``, and of the others, named ``asked``.

    Raises:
        NotEnoughEvidence: nothing is left to ask about.
    """
    order = randomness.shuffle(seed, "shots", 0, forget.index)
    labels = forget.subset(order).labels
    taken = torch.cat([order[labels == label][:shots] for label in labels.unique()])
    rest = forget.index[~torch.isin(forget.index, taken)]
    if not len(rest):
        raise NotEnoughEvidence(f"{shots} shots of each class leave none of the {len(forget)} forget examples to ask about")
    return forget.subset(taken, "taught"), forget.subset(rest, "asked")


def prototype_predictions(known: Reading, shots: Reading, asked: Reading) -> np.ndarray:
    """Return the class whose mean is nearest by cosine, for each example that is asked about.

    The means of kept classes are those of retain features, those of forgotten classes of a few shots. No training: what it finds is in the
    encoder. Features are centred at the mean of the class means first.

    Args:
        known: features of retain examples.
        shots: a few examples of the forgotten classes.
        asked: others of the forgotten classes.

    Source: Ha et al., arXiv 2506.01318 (prototypical relearning attack); the published form of the head was not available, this one
        is ours.
    """
    features = np.concatenate([known.features, shots.features]).astype(np.float64)
    labels = np.concatenate([known.labels, shots.labels])
    classes = np.unique(labels)
    means = np.stack([features[labels == label].mean(axis=0) for label in classes])
    centre = means.mean(axis=0)
    cosine = _unit(asked.features - centre) @ _unit(means - centre).T
    return classes[cosine.argmax(axis=1)]


def prototype_accuracy(known: Reading, shots: Reading, asked: Reading) -> float:
    """Return the share of examples whose nearest class mean by cosine is that of their class; see `prototype_predictions`."""
    return float(np.mean(prototype_predictions(known, shots, asked) == asked.labels))


@torch.no_grad()
def with_fresh_head(model: nn.Module, architecture: Architecture, seed: int = 0) -> nn.Module:
    """Return a copy whose head is initialised anew by its own rule; equal for all copies of one architecture and seed."""
    work = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.derive(seed, "fresh head"))
        head = architecture.on(work).head
        fresh = copy.deepcopy(head).cpu()
        fresh.reset_parameters()  # type: ignore[operator]
    head.load_state_dict(fresh.state_dict())
    return work


def _train(
    work: nn.Module,
    forget: Stream | None,
    retain: Stream | None,
    epochs: int,
    training: Training,
    stop: Callable[[Context, Progress], bool] | None = None,
    steps: int | None = None,
    stop_every: int | None = None,
) -> int:
    """Train a copy through the engine on the given streams, beyond which it can reach nothing, and return the steps taken."""
    streams = {name: stream for name, stream in (("forget", forget), ("retain", retain)) if stream is not None}
    streams = {name: stream.subset(stream.index, name) for name, stream in streams.items()}
    context = Context(work.requires_grad_(True), streams, needs=set(streams), seed=training.seed, num_classes=0)
    phase = Phase(
        [Term(name, cross_entropy) for name in streams],
        epochs=epochs,
        optimizer=training.optimizer,
        batch_size=training.batch_size,
        steps=steps,
        stop=stop,
        stop_every=stop_every,
        norm=training.norm,
        augment=training.augment,
        name="relearning",
    )
    return run_phase(context, phase).steps


@torch.no_grad()
def accuracy(model: nn.Module, stream: Stream, size: int = 0) -> float:
    """Return the share of a stream that a model classifies right: evaluation mode, no augmentation; the model stays as it is."""
    right = 0
    with modes_kept(model):
        model.eval()
        for batch in stream.batches(scoring_size(model, size)):
            right += int((model(batch.x).argmax(1) == batch.y).sum())
    return right / len(stream)


def _check_apart(retain: Stream, watched: Stream) -> None:
    if not len(watched):
        raise BadInput("watched", "the stream holds no example.", "Choose a part of the split that does.")
    if retain.source is watched.source:
        shared = int(torch.isin(watched.index, retain.index).sum())
        if shared:
            raise BadInput("watched", f"{shared} of {len(watched)} watched examples are in the retain set.", "Take them from one split.")


def _unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)
