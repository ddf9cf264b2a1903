"""Every test of this package on a list of models, beside the retrained models' band: which test catches which model.

A test gives one number for a model. Numbers of retrained models make the band (95 %, Student t) in which another retrained model's
would lie; a test catches a model when its number lies outside of the band. One test in twenty catches an honest retrained model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from expunge import statistics
from expunge.engine.architecture import Architecture
from expunge.engine.stream import Stream
from expunge.metrics import accuracy, roc, scores
from expunge.representation import cka, controls, distances, features, neighborhood, neighbors, outputs, probe, relearn
from expunge.representation.features import Reading, join
from expunge.representation.neighbors import Downstream
from expunge.statistics import NotEnoughEvidence

Side = Literal["both", "above", "below", "none"]


@dataclass
class World:
    """What the tests may look at.

    Attributes:
        architecture: of the original; all models are copies of it.
        original: the model before unlearning.
        retrained: models that never saw the forget set, of other seeds than any model that is judged.
        retain: the rest of the training data.
        forget: the forget set.
        unseen: unseen examples that the forget set is compared with; for a class request, of the forgotten classes.
        validation: unseen examples that choose the probe's regularisation.
        test: unseen examples of the kept classes.
        kind: ``random``, ``class`` or ``subclass``.
        downstream: sets for transfer; may be empty.
        training: how copies are trained in recovery tests.
        epochs: of retain-only relearning.
        budget: steps after which relearning is given up.
        alpha: relearned is (1 - alpha) of the original's forget accuracy.
        shots: examples of each forgotten class for the prototype.
        neighbours: k.
        seed: of folds and random teachers.
    """

    architecture: Architecture
    original: nn.Module
    retrained: Sequence[nn.Module]
    retain: Stream
    forget: Stream
    unseen: Stream
    validation: Stream
    test: Stream
    kind: str = "random"
    downstream: Sequence[Downstream] = ()
    training: relearn.Training = field(default_factory=relearn.Training)
    epochs: int = max(relearn.MARKS)
    budget: int = 100
    alpha: float = 0.05
    shots: int = 5
    neighbours: int = 5
    seed: int = 0
    _readings: dict[tuple[nn.Module, str], Reading] = field(default_factory=dict, repr=False)

    def read(self, model: nn.Module, part: str) -> Reading:
        """Return features and logits of a model on a part, read once."""
        key = model, part
        if key not in self._readings:
            self._readings[key] = features.read(self.architecture, model, getattr(self, part))
        return self._readings[key]

    @cached_property
    def target(self) -> float:
        """The forget accuracy that counts as relearned."""
        return relearn.relearn_target(relearn.accuracy(self.original, self.forget), self.alpha)

    @cached_property
    def random_model(self) -> nn.Module:
        """The randomly initialised model that ZRF compares with."""
        return controls.reinitialised(self.original, seed=self.seed + 1)


class Test(NamedTuple):
    """One test of the battery.

    Attributes:
        measure: number of a model; for a pair test, of a model and a retrained one.
        claims: controls that it claims to catch.
        side: on which side of the band it catches; ``none`` for numbers that are shown and not judged.
        pair: whether it compares with a retrained model; the value is then the mean over these.
        resolution: smallest spread of retrained models to believe, as a function of the world.
        about: one line.
    """

    measure: Callable[..., float]
    claims: frozenset[str]
    side: Side = "both"
    pair: bool = False
    resolution: Callable[[World], float] = lambda world: 1e-3
    about: str = ""


def _one_forgotten(world: World) -> float:
    return 1 / len(world.forget)


def _one_unseen(world: World) -> float:
    return 1 / len(world.unseen)


def _accuracy_on(part: str) -> Callable[[World, nn.Module], float]:
    def measure(world: World, model: nn.Module) -> float:
        reading = world.read(model, part)
        return accuracy.accuracy(reading.logits, reading.labels)

    return measure


def _loss_auc(world: World, model: nn.Module) -> float:
    inside, outside = (world.read(model, part) for part in ("forget", "unseen"))
    return roc.auc(scores.margin(inside.logits, inside.labels), scores.margin(outside.logits, outside.labels))


def _zrf(world: World, model: nn.Module) -> float:
    return outputs.zero_retrain_forgetting(world.read(model, "forget").logits, world.read(world.random_model, "forget").logits)


def _calibration(world: World, model: nn.Module) -> float:
    reading = world.read(model, "test")
    return outputs.calibration(reading.logits, reading.labels).negative_log_likelihood


def _signed_margin(world: World, model: nn.Module, reference: nn.Module) -> float:
    ours, theirs = world.read(model, "forget"), world.read(reference, "forget")
    return outputs.signed_gap(ours.logits, theirs.logits, ours.labels).margin


def _neighbourhood(world: World, model: nn.Module, reference: nn.Module) -> float:
    return neighborhood.residual_knowledge(model, reference, world.forget, draws=3, seed=world.seed).gap


def _redistribution(world: World, model: nn.Module, reference: nn.Module) -> float:
    return outputs.redistribution(world.read(model, "unseen").logits, world.read(reference, "unseen").logits).probability_distance


def _label_probe(world: World, model: nn.Module) -> float:
    retain, forget, unseen, validation = (world.read(model, part) for part in ("retain", "forget", "unseen", "validation"))
    if world.kind == "class":
        return probe.linear_probe(join(retain, forget), validation, unseen).accuracy
    return probe.linear_probe(retain, validation, forget).accuracy


def _membership_probe(world: World, model: nn.Module) -> float:
    return probe.membership_probe(world.read(model, "forget").features, world.read(model, "unseen").features, seed=world.seed).value


def _alignment(world: World, model: nn.Module, reference: nn.Module) -> float:
    ours, theirs = (join(world.read(net, "forget"), world.read(net, "retain")).features for net in (model, reference))
    return cka.unbiased(ours, theirs)


def _alignment_on_forget(world: World, model: nn.Module, reference: nn.Module) -> float:
    return cka.unbiased(world.read(model, "forget").features, world.read(reference, "forget").features)


def _alignment_with_original(world: World, model: nn.Module) -> float:
    ours, theirs = (join(world.read(net, "forget"), world.read(net, "retain")).features for net in (model, world.original))
    return cka.unbiased(ours, theirs)


def _transfer(world: World, model: nn.Module) -> float:
    if not world.downstream:
        raise NotEnoughEvidence("there is no downstream set")
    found = [neighbors.transfer(world.architecture, model, part, k=world.neighbours) for part in world.downstream]
    return float(np.mean(found))


def _retain_only(world: World, model: nn.Module) -> float:
    curve = relearn.retain_only(model, world.retain, world.forget, world.epochs, world.training)
    return float(np.trapezoid(curve.accuracy) / world.epochs)


def _retain_only_fresh(world: World, model: nn.Module) -> float:
    return _retain_only(world, relearn.with_fresh_head(model, world.architecture, world.seed))


def _relearn_time(world: World, model: nn.Module) -> float:
    fresh = relearn.with_fresh_head(model, world.architecture, world.seed)
    retain = world.retain if world.kind == "class" else None
    time = relearn.relearn_time(fresh, world.forget, world.target, retain=retain, budget=world.budget, training=world.training)
    return float(np.log(time.steps + 1))


def _prototype(world: World, model: nn.Module) -> float:
    taught, asked = relearn.split_shots(world.forget, world.shots, world.seed)
    places = torch.isin(world.forget.index, taught.index).numpy()
    forget = world.read(model, "forget")
    return relearn.prototype_accuracy(world.read(model, "retain"), forget.take(places), forget.take(~places))


def _encoder_distance(world: World, model: nn.Module) -> float:
    return distances.overall(model, world.original, without=tuple(world.architecture.class_rows(0)))


IDENTITY, HEAD, OUTPUT, FRESH = "identity", "head_only_edit", "output_noise", "reinitialised"

TESTS: dict[str, Test] = {
    "forget_accuracy": Test(_accuracy_on("forget"), frozenset(), resolution=_one_forgotten),
    "retain_accuracy": Test(_accuracy_on("retain"), frozenset()),
    "test_accuracy": Test(_accuracy_on("test"), frozenset()),
    "loss_auc": Test(_loss_auc, frozenset()),
    "zrf": Test(_zrf, frozenset()),
    "calibration": Test(_calibration, frozenset()),
    "signed_margin": Test(_signed_margin, frozenset(), pair=True),
    "neighbourhood": Test(_neighbourhood, frozenset(), pair=True),
    "redistribution": Test(_redistribution, frozenset(), pair=True),
    "label_probe": Test(_label_probe, frozenset()),
    "membership_probe": Test(_membership_probe, frozenset()),
    "alignment": Test(_alignment, frozenset(), pair=True),
    "alignment_on_forget": Test(_alignment_on_forget, frozenset(), pair=True),
    "alignment_with_original": Test(_alignment_with_original, frozenset()),
    "transfer": Test(_transfer, frozenset()),
    "retain_only": Test(_retain_only, frozenset()),
    "retain_only_fresh_head": Test(_retain_only_fresh, frozenset()),
    "relearn_time": Test(_relearn_time, frozenset()),
    "prototype": Test(_prototype, frozenset()),
    "encoder_distance": Test(_encoder_distance, frozenset()),
}


def run(world: World, models: Mapping[str, nn.Module], tests: Mapping[str, Test] | None = None) -> dict[str, Any]:
    tests = TESTS if tests is None else tests
    return {name: _column(world, models, test) for name, test in tests.items()}


def _column(world: World, models: Mapping[str, nn.Module], test: Test) -> dict[str, Any]:
    if test.pair:
        others = world.retrained
        values = {name: float(np.mean([test.measure(world, model, other) for other in others])) for name, model in models.items()}
        null = [np.mean([test.measure(world, one, two) for two in others if two is not one]) for one in others]
    else:
        values = {name: test.measure(world, model) for name, model in models.items()}
        null = [test.measure(world, model) for model in world.retrained]
    return {"null": list(map(float, null)), "values": values}
