"""Which test catches which model: every test of this package on a list of models, beside the band of the retrained models.

A test gives one number for a model. Those of retrained models make the band (Student t) in which another retrained model's would lie; a
test catches a model when its number lies outside. At a level of 0.95 one test in twenty catches an honest retrained model.

What the tests claim was measured on small nets (see the end-to-end tests): a claim holds where the original and the retrained models
differ at all. Where a retrained model classifies the forget set as well as the original, there is nothing to catch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from expunge.engine.architecture import Architecture
from expunge.engine.stream import Stream
from expunge.engine.update import sgd
from expunge.metrics import accuracy, roc, scores
from expunge.representation import cka, controls, distances, features, neighborhood, neighbors, outputs, probe, relearn
from expunge.representation.features import Reading, join
from expunge.representation.neighbors import Downstream
from expunge.statistics import Band, NotEnoughEvidence, prediction_band

IDENTITY, RETRAINED, HEAD = "identity", "retrained", "head_only_edit"
NOISE, TEMPERATURE, FRESH = "output_noise", "temperature", "reinitialised"
_NOTHING, _LOST = frozenset[str](), frozenset({FRESH})
_KEPT, _KEPT_INSIDE = frozenset({IDENTITY}), frozenset({IDENTITY, HEAD})


@dataclass
class World:
    """What the tests may look at.

    Attributes:
        architecture: of the original; all models are copies of it.
        original: the model before unlearning.
        retrained: at least 3 models that never saw the forget set, of other seeds than any model that is judged.
        retain: the rest of the training data.
        forget: the forget set.
        unseen: unseen examples that the forget set is compared with; for a class request, of the forgotten classes.
        validation: unseen examples that choose the probe's regularisation; disjoint from ``unseen``.
        test: unseen examples of the kept classes.
        kind: ``random``, ``class`` or ``subclass``.
        downstream: sets for transfer; may be empty.
        training: how copies are trained in retain-only relearning.
        epochs: of retain-only relearning.
        relearning: how copies are trained on the forget set.
        budget: steps after which relearning is given up.
        alpha: relearned is (1 - alpha) of the original's forget accuracy.
        shots: examples of each forgotten class for the prototype and the few-shot probe.
        neighbours: k.
        seed: of folds, shots and random teachers.
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
    relearning: relearn.Training = field(default_factory=lambda: relearn.Training(optimizer=sgd(0.001, weight_decay=0.0)))
    budget: int = 100
    alpha: float = 0.05
    shots: int = 5
    neighbours: int = 20
    seed: int = 0
    _readings: dict[tuple[nn.Module, str], Reading] = field(default_factory=dict, repr=False)

    def read(self, model: nn.Module, part: str) -> Reading:
        """Return features and logits of a model on a part, read once."""
        key = model, part
        if key not in self._readings:
            self._readings[key] = features.read(self.architecture, model, getattr(self, part))
        return self._readings[key]

    def taught(self, model: nn.Module) -> tuple[Reading, Reading]:
        """Return a few forget examples of each class, and the others; the same for every model."""
        few, _ = relearn.split_shots(self.forget, self.shots, self.seed)
        places = torch.isin(self.forget.index, few.index).numpy()
        reading = self.read(model, "forget")
        return reading.take(places), reading.take(~places)

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
        claims: controls that it claims to catch; None where it does not apply.
        class_claims: the same for a request of whole classes.
        pair: whether it compares with a retrained model; the value is then the mean over these.
        judged: whether a value outside of the band means anything.
        resolution: smallest spread of retrained models to believe.
    """

    measure: Callable[..., float]
    claims: frozenset[str] | None
    class_claims: frozenset[str] | None
    pair: bool = False
    judged: bool = True
    resolution: Callable[[World], float] = lambda world: 1e-3

    def claims_in(self, kind: str) -> frozenset[str] | None:
        """Return what the test claims to catch under a kind of request; None where it does not apply."""
        return self.class_claims if kind == "class" else self.claims


def _one_forgotten(world: World) -> float:
    return 1 / len(world.forget)


def _one_unseen(world: World) -> float:
    return 1 / len(world.unseen)


def _one_step(world: World) -> float:
    return 1.0


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


def _likelihood(world: World, model: nn.Module) -> float:
    reading = world.read(model, "test")
    return outputs.calibration(reading.logits, reading.labels).negative_log_likelihood


def _signed_margin(world: World, model: nn.Module, reference: nn.Module) -> float:
    ours, theirs = world.read(model, "forget"), world.read(reference, "forget")
    return outputs.signed_gap(ours.logits, theirs.logits, ours.labels).margin


def _neighbourhood(world: World, model: nn.Module, reference: nn.Module) -> float:
    return neighborhood.residual_knowledge(model, reference, world.forget, draws=2, seed=world.seed).gap


def _redistribution(world: World, model: nn.Module, reference: nn.Module) -> float:
    return outputs.redistribution(world.read(model, "unseen").logits, world.read(reference, "unseen").logits).probability_distance


def _label_probe(world: World, model: nn.Module) -> float:
    retain, validation, forget, unseen = (world.read(model, part) for part in ("retain", "validation", "forget", "unseen"))
    return probe.label_probe(retain, validation, forget, unseen, taught=world.taught(model)[0] if world.kind == "class" else None).accuracy


def _membership_probe(world: World, model: nn.Module) -> float:
    return probe.membership_probe(world.read(model, "forget").features, world.read(model, "unseen").features, seed=world.seed).value


def _refitted_membership(world: World, model: nn.Module) -> float:
    return probe.refitted_membership(world.read(model, "retain"), world.read(model, "forget"), world.read(model, "unseen")).value


def _alignment(world: World, model: nn.Module, reference: nn.Module) -> float:
    ours, theirs = (join(world.read(net, "forget"), world.read(net, "retain")).features for net in (model, reference))
    return cka.unbiased(ours, theirs)


def _alignment_with_original(world: World, model: nn.Module) -> float:
    return _alignment(world, model, world.original)


def _transfer(world: World, model: nn.Module) -> float:
    if not world.downstream:
        raise NotEnoughEvidence("there is no downstream set")
    found = [neighbors.transfer(world.architecture, model, part, k=world.neighbours) for part in world.downstream]
    return float(np.mean(found))


def _retain_only(world: World, model: nn.Module) -> float:
    curve = relearn.retain_only(model, world.retain, world.forget, world.epochs, world.training)
    return relearn.area_between(curve, relearn.Curve(curve.epochs, np.zeros(len(curve.epochs))))


def _retain_only_fresh_head(world: World, model: nn.Module) -> float:
    return _retain_only(world, relearn.with_fresh_head(model, world.architecture, world.seed))


def _relearn_steps(world: World, model: nn.Module) -> float:
    retain = world.retain if world.kind == "class" else None
    found = relearn.relearn_time(model, world.forget, world.target, retain=retain, budget=world.budget, training=world.relearning)
    return float(found.steps)


def _prototype(world: World, model: nn.Module) -> float:
    few, others = world.taught(model)
    return relearn.prototype_accuracy(world.read(model, "retain"), few, others)


def _encoder_distance(world: World, model: nn.Module) -> float:
    return distances.overall(model, world.original, without=tuple(world.architecture.class_rows(0)))


TESTS: dict[str, Test] = {
    "forget_accuracy": Test(_accuracy_on("forget"), _KEPT, _KEPT, resolution=_one_forgotten),
    "retain_accuracy": Test(_accuracy_on("retain"), _LOST, _LOST),
    "test_accuracy": Test(_accuracy_on("test"), _LOST, _LOST),
    "loss_auc": Test(_loss_auc, _KEPT, _NOTHING),
    "zrf": Test(_zrf, _KEPT, _KEPT),
    "likelihood": Test(_likelihood, _NOTHING, _NOTHING),
    "signed_margin": Test(_signed_margin, _KEPT, _KEPT, pair=True),
    "neighbourhood": Test(_neighbourhood, _KEPT, _KEPT, pair=True, resolution=_one_forgotten),
    "redistribution": Test(_redistribution, None, _KEPT, pair=True),
    "label_probe": Test(_label_probe, _KEPT_INSIDE, _KEPT_INSIDE, resolution=_one_unseen),
    "membership_probe": Test(_membership_probe, _NOTHING, _NOTHING),
    "refitted_membership": Test(_refitted_membership, _KEPT_INSIDE, None),
    "alignment": Test(_alignment, _LOST, _LOST, pair=True),
    "alignment_with_original": Test(_alignment_with_original, _KEPT_INSIDE, _KEPT_INSIDE),
    "transfer": Test(_transfer, _NOTHING, _NOTHING),
    "prototype": Test(_prototype, _KEPT_INSIDE, _KEPT_INSIDE, resolution=_one_forgotten),
    "retain_only": Test(_retain_only, _KEPT, _KEPT, resolution=_one_forgotten),
    "retain_only_fresh_head": Test(_retain_only_fresh_head, _KEPT_INSIDE, None, resolution=_one_forgotten),
    "relearn_steps": Test(_relearn_steps, _KEPT, _KEPT_INSIDE, resolution=_one_step),
    "encoder_distance": Test(_encoder_distance, _NOTHING, _NOTHING, judged=False),
}
"""Every test. What it does not claim is as much a result: alignment with retrained models did not catch the head-only edit, nor did the
membership probe; alignment with the original catches every model whose encoder stayed near the original's, honest ones too."""


def control_models(world: World, retrained: nn.Module) -> dict[str, nn.Module]:
    """Return the control models by name.

    Args:
        world: the world.
        retrained: a fresh one, of another seed than those of the band.
    """
    return {
        IDENTITY: controls.identity(world.original),
        RETRAINED: retrained,
        HEAD: controls.head_only_edit(world.original, retrained, world.architecture, [world.forget, world.retain]),
        NOISE: controls.noisy(world.original, 2.0, world.seed),
        TEMPERATURE: controls.tempered(world.original, world.architecture, 3.0),
        FRESH: controls.reinitialised(world.original, world.seed),
    }


def run(world: World, models: Mapping[str, nn.Module], tests: Mapping[str, Test] | None = None, level: float = 0.95) -> dict[str, Any]:
    """Return which test catches which model, as plain values.

    Args:
        world: what the tests look at.
        models: name -> model, for example `control_models`.
        tests: name -> test; all that apply to the kind of request if None.
        level: of the bands.

    Returns:
        ``{kind, level, retrained_models, tests: {name: {claims, judged, low, high, retrained, models: {name: {value, p_value, caught}},
        reason}}}``; ``caught`` is None where the test is not judged, and ``reason`` says why a test has no numbers.

    Raises:
        NotEnoughEvidence: fewer than 3 retrained models.
    """
    if len(world.retrained) < 3:
        raise NotEnoughEvidence(f"a band needs 3 retrained models, there are {len(world.retrained)}")
    chosen = {name: test for name, test in (tests or TESTS).items() if test.claims_in(world.kind) is not None}
    columns = {name: _column(world, models, test, level) for name, test in chosen.items()}
    return {"kind": world.kind, "level": level, "retrained_models": len(world.retrained), "tests": columns}


def _column(world: World, models: Mapping[str, nn.Module], test: Test, level: float) -> dict[str, Any]:
    head = {"claims": sorted(test.claims_in(world.kind) or ()), "judged": test.judged, "reason": None, "models": {}}
    try:
        band, null = _null(world, test, level)
        values = {name: _value(world, test, model) for name, model in models.items()}
    except NotEnoughEvidence as missing:
        return head | {"low": None, "high": None, "retrained": [], "reason": str(missing)}
    cells = {name: _cell(test, band, value, level) for name, value in values.items()}
    return head | {"low": band.low, "high": band.high, "retrained": null, "models": cells}


def _cell(test: Test, band: Band, value: float, level: float) -> dict[str, Any]:
    p_value = band.p_value(value)
    return {"value": value, "p_value": p_value, "caught": p_value < 1 - level if test.judged else None}


def _value(world: World, test: Test, model: nn.Module) -> float:
    if not test.pair:
        return float(test.measure(world, model))
    return float(np.mean([test.measure(world, model, other) for other in world.retrained]))


def _null(world: World, test: Test, level: float) -> tuple[Band, list[float]]:
    if not test.pair:
        values = [float(test.measure(world, model)) for model in world.retrained]
        return prediction_band(values, resolution=test.resolution(world), level=level), values
    pairs = [[np.nan if one is two else test.measure(world, one, two) for two in world.retrained] for one in world.retrained]
    return mean_pair_band(np.array(pairs), test.resolution(world), level)


def mean_pair_band(pairs: np.ndarray, resolution: float = 0.0, level: float = 0.95) -> tuple[Band, list[float]]:
    """Return the band for one new model's mean over all retrained references, and each retrained model's mean over the others.

    The retrained models' means share their references, which shrinks their differences by (n - 2) / (n - 1) where a pair's value is
    a sum of two models' parts; the band is widened by that factor.

    Args:
        pairs: ``[n, n]``, entry (j, k) is model j against reference k; the diagonal is not read.
        resolution: the smallest spread to believe.
        level: coverage.

    Raises:
        NotEnoughEvidence: fewer than 3 models, or values that do not vary and no resolution.
    """
    n = len(pairs)
    if n < 3:
        raise NotEnoughEvidence(f"a retrained-against-retrained band needs 3 retrained models, there are {n}")
    means = np.where(np.eye(n, dtype=bool), 0, pairs).sum(axis=1) / (n - 1)
    centre = means.mean()
    return prediction_band(centre + (means - centre) * (n - 1) / (n - 2), resolution=resolution, level=level), list(map(float, means))


def missed(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (test, model) of every claim that does not hold in a table."""
    return [
        (name, model)
        for name, column in table["tests"].items()
        for model in column["claims"]
        if model in column["models"] and not column["models"][model]["caught"]
    ]


def catches(table: Mapping[str, Any], model: str) -> list[str]:
    """Return the names of the tests that catch a model."""
    return [name for name, column in table["tests"].items() if column["models"].get(model, {}).get("caught")]


def text(table: Mapping[str, Any]) -> str:
    """Return a table as lines of text; a star marks what a test catches, brackets mark what it claims to."""
    names = list(dict.fromkeys(name for column in table["tests"].values() for name in column["models"]))
    lines = [f"{'test':26}{'retrained band':>18}" + "".join(f"{name:>16}" for name in names)]
    for name, column in table["tests"].items():
        if column["reason"]:
            lines.append(f"{name:26}{column['reason']}")
            continue
        cells = [_shown(column, model) for model in names]
        lines.append(f"{name:26}{column['low']:>9.3f}{column['high']:>9.3f}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def _shown(column: Mapping[str, Any], model: str) -> str:
    cell = column["models"][model]
    value = f"{cell['value']:.3f}" + ("*" if cell["caught"] else " ")
    return f"[{value}]" if model in column["claims"] else f"{value} "
