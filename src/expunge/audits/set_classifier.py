"""A classifier that sees a model's margins of the whole forget set at once."""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import epsilon, margins, set_level
from expunge.audits import relabelling, uncertainty
from expunge.audits.audit import Audit, Finding, Panel
from expunge.audits.games import bounds
from expunge.metrics.metric import Target, Tier

FITS = 200


class SetClassifier(Audit):
    """AUC of a linear classifier that tells held-out unlearned models from retrained ones by all forget margins at once; 0.5 if it cannot.

    A leak that no single example shows, a tenth of a standard deviation in each of 500 examples, gives an AUC of 0.94.
    """

    label: ClassVar[str] = "set classifier AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    tier: ClassVar[Tier] = "fast"
    minimum: ClassVar[int] = 8
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    symmetric: ClassVar[bool] = True
    source: ClassVar[str] = "Lopez-Paz & Oquab, Revisiting Classifier Two-Sample Tests, ICLR 2017"
    above: ClassVar[str] = "the forget set as a whole tells unlearned models from retrained ones"

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the held-out AUC."""
        return _test(candidate, reference, 0, seed).auc

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the AUC of divisions that keep each fold's numbers of both kinds; one factorisation serves all."""
        return _test(candidate, reference, draws - 1, seed).relabelled

    def smallest_p_value(self, first: int, second: int) -> float:
        """Return the smallest p-value, of divisions within folds: of 8 models against 8 there are 1,296, drawn with repetition.

        Other divisions may separate all folds by chance, so that a total leak among few models has a few times this.
        """
        count = _folds(first, second)
        sizes = [np.bincount(margins.folds(size, count), minlength=count) for size in (first, second)]
        drawn_from = math.prod(math.comb(int(one + other), int(one)) for one, other in zip(*sizes, strict=True))
        return relabelling.smallest_p_value(self.null_draws, first, second, self.target, self.symmetric, drawn_from)

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the AUC with its interval over held-out models, and bounds on epsilon from its scores."""
        found = _test(candidate, reference, FITS, seed)
        # DeLong's error takes the classifier as given; how much its fitting adds is seen in relabelled pools, whose true AUC is known.
        widening = max(1.0, float(found.relabelled[1:].std(ddof=1)) / found.null_standard_error)
        error = None if found.standard_error is None else found.standard_error * widening
        interval = uncertainty.interval(found.auc, error, float(min(candidate.models, reference.models) - 1), self.limits)
        details = {"epsilon": bounds(found.unlearned, found.retrained, seed), "delta": epsilon.DELTA}
        return Finding(found.auc, error, interval, details, None if error else "all held-out models are told apart: the AUC has no error")


def _test(candidate: Panel, reference: Panel, permutations: int, seed: int) -> set_level.ClassifierTest:
    folds = _folds(candidate.models, reference.models)
    return set_level.classifier_test(candidate.of("forget"), reference.of("forget"), folds=folds, permutations=permutations, seed=seed)


def _folds(first: int, second: int) -> int:
    return max(2, min(5, min(first, second) // 2))
