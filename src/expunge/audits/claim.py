"""A claimed (epsilon, delta) against what an attack shows: `refuted` when a lower bound exceeds the claim, else what could have been shown.

An attack can only refute. That a bound stays below the claim is no evidence that the claim holds: the attack may be weak, the models few,
or the leak of a kind that it does not look for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from expunge.attacks import epsilon
from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence

LEAST = 16
"""Models of each kind below which nothing is tried. Their bound can be 0.5 at most with 32, 1.0 with 48, and nothing with 16."""


@dataclass(frozen=True)
class Claim:
    """What a procedure promises: its models and retrained ones are (epsilon, delta)-indistinguishable.

    Attributes:
        epsilon: claimed, natural logarithm.
        delta: claimed.
        examples: removed together, or over a sequence of requests; a claim for one example says nothing about ten.
        about: what an observer sees and which randomness counts, in words.
    """

    epsilon: float
    delta: float
    examples: int = 1
    about: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise BadInput("claim.epsilon", f"expected a number of at least 0, got {self.epsilon}.")
        if not 0 <= self.delta < 1:
            raise BadInput("claim.delta", f"expected a number from 0 to below 1, got {self.delta}.")
        if self.examples < 1:
            raise BadInput("claim.examples", f"expected a positive integer, got {self.examples}.")


class Certified(Protocol):
    """A procedure with a claim, of which many models can be made. Equal seeds of the two verbs must be independent of each other."""

    @property
    def claim(self) -> Claim:
        """What is promised."""
        ...

    def unlearned(self, models: int, seed: int) -> np.ndarray:
        """Return what an observer sees of each model after the removal, float ``[models, d]``."""
        ...

    def retrained(self, models: int, seed: int) -> np.ndarray:
        """Return the same of models that never saw the removed examples, float ``[models, d]``."""
        ...


@dataclass(frozen=True)
class Examined:
    """What an audit of a claim found.

    Attributes:
        claim: that was examined.
        bounds: the four readings of the attack's scores; `epsilon.Conversions.clopper_pearson` decides.
        models: of each kind that were made; half of them trained the attack.
        tail: chance that a claim that holds is called refuted.
    """

    claim: Claim
    bounds: epsilon.Conversions
    models: int
    tail: float

    @property
    def refuted(self) -> bool:
        """Whether the lower bound, valid for any attack, exceeds the claim."""
        return self.bounds.clopper_pearson.value > self.claim.epsilon

    @property
    def ceiling(self) -> float:
        """The largest epsilon that so many models could have shown."""
        return self.bounds.clopper_pearson.ceiling

    @property
    def verdict(self) -> str:
        """The finding in a sentence."""
        claim, bound = self.claim, self.bounds.clopper_pearson
        said = f"epsilon {claim.epsilon:.3g} at delta {claim.delta:.3g}"
        if self.refuted:
            return f"refuted: {said} is claimed, and with {1 - self.tail:.0%} confidence epsilon is at least {bound.value:.2f}"
        largest = f"largest epsilon that this audit could have shown = {bound.ceiling:.2f}"
        if bound.ceiling <= claim.epsilon:
            return f"not examined: {said} is claimed, and {largest}, which is no more; make more models"
        return f"not refuted: {largest}; shown {bound.value:.2f}, claimed {said}"

    def tree(self) -> dict[str, Any]:
        """Return everything as plain values; an infinite point estimate is None."""
        point, one = self.bounds.point, self.bounds.one_run
        return {
            "claim": {
                "epsilon": self.claim.epsilon,
                "delta": self.claim.delta,
                "examples": self.claim.examples,
                "about": self.claim.about,
            },
            "models": self.models,
            "tail": self.tail,
            "point": point if np.isfinite(point) else None,
            "clopper_pearson": self.bounds.clopper_pearson._asdict(),
            "gaussian": self.bounds.gaussian._asdict(),
            "one_run": one._asdict() if one else None,
            "refuted": self.refuted,
            "verdict": self.verdict,
        }


def examine(procedure: Certified, models: int = 512, seed: int = 0, tail: float = 0.05) -> Examined:
    """Return whether a procedure's claim stands up to an attacker who knows everything but the models' random numbers.

    A linear discriminant is fitted on half of the models and scores the others, each once, so that the scores are independent trials.
    It sees all that an observer sees of a model, the whole weights for example, and takes the best direction between the two means: the
    best attack there is where both laws are normal with one covariance, and a mere attempt elsewhere.

    Args:
        procedure: with its claim.
        models: of each kind.
        seed: of the models and of the choice of a threshold.
        tail: chance that a claim that holds is called refuted.

    Raises:
        NotEnoughEvidence: fewer than 16 models.
        BadInput: the two kinds of models show vectors of different lengths.
    """
    if models < LEAST:
        raise NotEnoughEvidence(f"an audit of a claim needs {LEAST} models of each kind, got {models}")
    first, second = (np.asarray(make(models, seed), dtype=np.float64) for make in (procedure.unlearned, procedure.retrained))
    return judge(procedure.claim, *scores(first, second), models=models, seed=seed, tail=tail)


def judge(
    claim: Claim, positive: np.ndarray, negative: np.ndarray, models: int | None = None, seed: int = 0, tail: float = 0.05
) -> Examined:
    """Return what independent scores say about a claim.

    Args:
        claim: that is examined, at its own delta.
        positive: scores of unlearned models, one for each, ``[n]``, from an attack that was fitted on others.
        negative: of retrained models.
        models: made of each kind, those that trained the attack among them.
        seed: of the halves in which a threshold is chosen and certified.
        tail: chance that a claim that holds is called refuted.
    """
    delta = claim.delta or 1e-12  # the Gaussian reading has no delta of 0
    bounds = epsilon.convert(positive, negative, delta, tail, "split", seed)
    return Examined(claim, bounds, len(positive) if models is None else models, tail)


def scores(unlearned: np.ndarray, retrained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of the second half of each kind of models, by a discriminant that was fitted on the first half.

    Args:
        unlearned: ``[n, d]``.
        retrained: ``[m, d]``.
    """
    if unlearned.ndim != 2 or unlearned.shape[1:] != retrained.shape[1:]:
        raise BadInput("certificate", f"models show {list(unlearned.shape)} and {list(retrained.shape)}.", "Give [models, d] of one d.")
    cuts = len(unlearned) // 2, len(retrained) // 2
    direction = discriminant(unlearned[: cuts[0]], retrained[: cuts[1]])
    return unlearned[cuts[0] :] @ direction, retrained[cuts[1] :] @ direction


def discriminant(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the direction that best tells two sets of vectors apart, ``[d]``: a linear discriminant with shrinkage.

    Source: Ledoit & Wolf, JMVA 2004 (shrinkage).
    """
    from sklearn.covariance import ledoit_wolf

    scale = np.concatenate([first - first.mean(axis=0), second - second.mean(axis=0)]).std(axis=0)
    kept = scale > 0
    if not kept.any():
        raise NotEnoughEvidence("all models of a kind are the same; without randomness there is no epsilon to speak of")
    centred = np.concatenate([each - each.mean(axis=0) for each in (first, second)])[:, kept] / scale[kept]
    covariance, _ = ledoit_wolf(centred, assume_centered=True)
    direction = np.zeros(first.shape[1])
    gap = (first.mean(axis=0) - second.mean(axis=0))[kept] / scale[kept]
    direction[kept] = np.linalg.solve(covariance, gap) / scale[kept]
    return direction


def check_examples(claim: Claim, removed: int) -> None:
    """Refuse to hold a claim against the removal of more examples than it is about, which may leak more by right.

    Raises:
        NotEnoughEvidence: it is about fewer.
    """
    if claim.examples < removed:
        raise NotEnoughEvidence(f"it is claimed for {claim.examples} examples, and {removed} are removed together")


def from_margins(claim: Claim, unlearned: np.ndarray, retrained: np.ndarray, seed: int = 0, tail: float = 0.05) -> Examined:
    """Return what margins of the forget set say about a claim, for pools of networks: an observer of outputs, weaker than one of weights.

    Args:
        claim: that is examined; of as many examples as there are margins, or more.
        unlearned: margins, ``[n, examples]``, one row for each model.
        retrained: margins of retrained models of other seeds, ``[m, examples]``.
        seed: of the halves.
        tail: chance that a claim that holds is called refuted.

    Raises:
        NotEnoughEvidence: fewer than 16 models of a kind, or a claim about fewer examples.
    """
    check_examples(claim, unlearned.shape[1])
    count = min(len(unlearned), len(retrained))
    if count < LEAST:
        raise NotEnoughEvidence(f"an audit of a claim needs {LEAST} models of each kind, got {count}")
    positive, negative = scores(np.asarray(unlearned, np.float64), np.asarray(retrained, np.float64))
    return judge(claim, positive, negative, models=count, seed=seed, tail=tail)


def claim_of(method: object) -> Claim | None:
    """Return what a method claims by its attribute ``claim``: a `Claim`, a mapping with ``epsilon`` and ``delta``, or nothing.

    Raises:
        BadInput: something else, or numbers out of range.
    """
    found = getattr(method, "claim", None)
    if found is None or isinstance(found, Claim):
        return found
    if not isinstance(found, Mapping) or not {"epsilon", "delta"} <= set(found) <= {"epsilon", "delta", "examples", "about"}:
        raise BadInput("method.claim", f"expected epsilon and delta, got {found!r}.", "Declare expunge.audits.claim.Claim(epsilon, delta).")
    try:
        return Claim(**found)
    except TypeError:
        raise BadInput("method.claim", f"expected numbers, got {found!r}.", "Declare expunge.audits.claim.Claim(epsilon, delta).") from None
