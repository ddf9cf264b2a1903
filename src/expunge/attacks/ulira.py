"""The likelihood-ratio attack on unlearned models, as four games, with attack models and target models kept apart.

- privacy: was the example unlearned, or never seen? Both under unlearned models.
- efficacy: is the model unlearned, or retrained? Margins of the same example.
- membership: was the example trained on? Both under originals; no unlearning. The "before" number.
- collateral: membership of *retained* examples under unlearned models, beside the same under originals.

Scoring models with parameters that were fitted on them is biased even without a leak (per-example AUC .62 at 16 models; .43 with
leave-one-out). Here every model is scored by an attack fitted on the other folds, and areas are taken within folds, since pooling scores
of different folds brings a bias back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from expunge.attacks import lira, per_example, roc
from expunge.attacks import margins as matrices
from expunge.attacks.margins import FORGET, IN, OUT
from expunge.attacks.moments import moments
from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence

Score = Callable[[np.ndarray, slice], np.ndarray]
"""(margins of some examples, which examples) -> scores of the same shape."""


@dataclass(frozen=True)
class Game:
    """Margins under two hypotheses.

    Attributes:
        name: of the game.
        positive: margins under the first hypothesis where its mask holds, ``[models, n]``.
        positive_mask: bool of its shape.
        negative: margins under the second hypothesis where its mask holds, ``[models, n]``; may be the same array.
        negative_mask: bool of its shape.
    """

    name: str
    positive: np.ndarray
    positive_mask: np.ndarray
    negative: np.ndarray
    negative_mask: np.ndarray

    @property
    def paired(self) -> bool:
        """Whether row k of both sides comes from one training seed, so that they share a fold."""
        return len(self.positive) == len(self.negative)


class Fold(NamedTuple):
    """Scores of one fold's target models, float32 ``[targets, n]`` a side, with the masks of what counts.

    ``scores`` are log likelihood ratios; ``calibrated`` have nearly one law for all examples under the second hypothesis.
    """

    scores: tuple[np.ndarray, np.ndarray]
    calibrated: tuple[np.ndarray, np.ndarray]
    masks: tuple[np.ndarray, np.ndarray]


class Measured(NamedTuple):
    """A number with the standard errors from the choice of models and of examples."""

    value: float
    models_error: float
    examples_error: float

    @property
    def standard_error(self) -> float:
        """Both together."""
        return float(np.hypot(self.models_error, self.examples_error))


@dataclass(frozen=True)
class Attacked:
    """A game after the attack.

    Attributes:
        game: name of the game.
        folds: one entry each.
        paired: whether row k of both sides comes from one training seed.
    """

    game: str
    folds: tuple[Fold, ...]
    paired: bool

    @cached_property
    def _fold_areas(self) -> np.ndarray:
        return np.stack([per_example.auc(*fold.scores, *fold.masks) for fold in self.folds])

    @cached_property
    def _pairs(self) -> np.ndarray:
        return np.stack([fold.masks[0].sum(axis=0) * fold.masks[1].sum(axis=0) for fold in self.folds]).astype(np.float64)

    def example_auc(self) -> np.ndarray:
        """Return each example's AUC, within folds, averaged over folds by their numbers of pairs; NaN without a pair in any fold."""
        weights = np.where(np.isnan(self._fold_areas), 0.0, self._pairs)
        total = weights.sum(axis=0)
        with np.errstate(invalid="ignore"):
            return np.where(total > 0, (weights * np.nan_to_num(self._fold_areas)).sum(axis=0) / np.where(total > 0, total, 1), np.nan)

    def mean_auc(self) -> Measured:
        """Return the mean per-example AUC with its errors over models and over examples.

        Examples share models, so an error over examples alone would be far too small. Each model's influence is summed over
        all its examples and both hypotheses. Together the two are on the safe side, since the spread over examples holds some of
        the models' noise as well (1.3 to 1.5 times too large with random forget sets).

        Raises:
            NotEnoughEvidence: no example has a pair of models in any fold, or only one does.
        """
        areas = self.example_auc()
        known = ~np.isnan(areas)
        if known.sum() < 2:
            raise NotEnoughEvidence(f"the {self.game} game has models on both sides of a fold for {int(known.sum())} examples; it needs 2")
        mean = float(areas[known].mean())
        shares = np.where(known, self._pairs / np.maximum(self._pairs.sum(axis=0), 1), 0.0) / known.sum()
        variance = sum(self._variance(fold, share, mean) for fold, share in zip(self.folds, shares, strict=True))
        return Measured(mean, float(np.sqrt(variance)), float(areas[known].std(ddof=1) / np.sqrt(known.sum())))

    def _variance(self, fold: Fold, share: np.ndarray, mean: float) -> float:
        """Return the fold's part of the variance of the mean AUC over models; ``share`` is each example's weight in the mean."""
        sides = []
        for values, mask in zip(per_example.placements(*fold.scores, *fold.masks), fold.masks, strict=True):
            weights = mask * (share / np.maximum(mask.sum(axis=0), 1))
            sides.append(((values - mean) * weights).sum(axis=1))
        if self.paired:
            sides = [sides[0] + sides[1]]
        return float(sum((side**2).sum() * len(side) / max(len(side) - 1, 1) for side in sides))

    def concatenated(self, calibrated: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return all positive and all negative scores, flat. Only calibrated scores of different examples and folds are comparable."""
        entries = [self._entries(fold, calibrated) for fold in self.folds]
        return np.concatenate([positive for positive, _ in entries]), np.concatenate([negative for _, negative in entries])

    def concatenated_auc(self, calibrated: bool = False) -> float:
        """Return the AUC over all entries of a fold together, averaged over folds. Never compare it with the per-example one."""
        return float(np.mean([roc.auc(*self._entries(fold, calibrated)) for fold in self.folds]))

    def true_positive_rate(self, at: float, calibrated: bool = True) -> roc.Rate:
        """Return the true positive rate over all entries at a false positive rate, measured within folds and averaged.

        The standard error takes entries as independent and is too small when many examples share few models.
        """
        rates = [roc.tpr_at_fpr(*self._entries(fold, calibrated), at) for fold in self.folds]
        for rate in rates:
            if rate.value is None or rate.standard_error is None:
                return rate
        error = np.sqrt(sum((rate.standard_error or 0.0) ** 2 for rate in rates)) / len(rates)
        return roc.Rate(float(np.mean([rate.value for rate in rates])), float(error), "")

    @staticmethod
    def _entries(fold: Fold, calibrated: bool) -> tuple[np.ndarray, np.ndarray]:
        positive, negative = fold.calibrated if calibrated else fold.scores
        return positive[fold.masks[0]], negative[fold.masks[1]]

    def balanced_accuracy(self) -> float:
        """Return the mean recall of both sides when a likelihood ratio above 1 is called positive; ties count half."""
        recalls = []
        for side, sign in ((0, 1), (1, -1)):
            signs = np.concatenate([np.sign(fold.scores[side][fold.masks[side]]) for fold in self.folds])
            recalls.append(0.5 + sign * float(signs.mean()) / 2)
        return float(np.mean(recalls))


def privacy_game(unlearned: np.ndarray, states: np.ndarray) -> Game:
    """Return unlearned against never seen, both under unlearned models."""
    _checked(unlearned, states)
    return Game("privacy", unlearned, states == FORGET, unlearned, states == OUT)


def efficacy_game(unlearned: np.ndarray, retrained: np.ndarray, states: np.ndarray) -> Game:
    """Return unlearned models against retrained ones on the same examples.

    Args:
        unlearned: margins, ``[models, n]``.
        retrained: margins of models trained on what model k keeps (its examples with state IN), ``[models, n]``.
        states: uint8 ``[models, n]``, of both.
    """
    _checked(unlearned, states)
    _checked(retrained, states)
    return Game("efficacy", unlearned, states == FORGET, retrained, states != IN)


def fixed_efficacy_game(unlearned: np.ndarray, retrained: np.ndarray) -> Game:
    """Return the efficacy game on one forget set: all unlearned models against all retrained ones, in any numbers.

    This conditions on the data and the forget set, as the definition of (epsilon, delta)-unlearning does; `efficacy_game` averages over
    forget sets.
    """
    matrices.check_pair(unlearned, retrained)
    return Game("efficacy, one forget set", unlearned, np.ones(unlearned.shape, bool), retrained, np.ones(retrained.shape, bool))


def membership_game(original: np.ndarray, states: np.ndarray) -> Game:
    """Return trained on (kept or to be forgotten) against never seen, under originals."""
    _checked(original, states)
    return Game("membership", original, states != OUT, original, states == OUT)


def collateral_games(unlearned: np.ndarray, original: np.ndarray, states: np.ndarray) -> tuple[Game, Game]:
    """Return retained against never seen, under unlearned models and under originals; their difference is what unlearning did."""
    _checked(unlearned, states)
    _checked(original, states)
    pair = (("collateral, after", unlearned), ("collateral, before", original))
    after, before = (Game(name, margins, states == IN, margins, states == OUT) for name, margins in pair)
    return after, before


def cross_fit(
    game: Game, folds: int = 4, seed: int = 0, block: int = 1, variance: lira.Variance = "auto", sides: lira.Sides = "auto"
) -> Attacked:
    """Return every model's scores by an attack that was fitted on the models of the other folds.

    Args:
        game: see the functions above.
        folds: number of folds.
        seed: of the folds.
        block: consecutive models that stay in one fold: 3 for the design with three states, 2 for antithetic halves.
        variance: see `lira.spreads`.
        sides: see `lira.spreads`; the two variances may differ from 64 models a side.

    Raises:
        BadInput: fewer models than folds, or margins that are not finite.
        NotEnoughEvidence: an example without a model on a side of an attack pool.
    """
    assigned = _assign(game, folds, seed, block)
    return Attacked(game.name, tuple(_score_fold(game, assigned, each, variance, sides) for each in range(folds)), game.paired)


def independent_trials(attacked: Attacked, fold: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return one calibrated score for each model and side, of an example drawn at random: trials that a bound on epsilon may count.

    Entries of one model share its randomness; counting them all would certify more than was seen. Models without an entry on a side
    are left out there.

    Args:
        attacked: a game after the attack.
        fold: take this fold alone: given its attack, its models are independent, and a bound holds as stated. None takes all folds:
            more trials, which depend on each other a little, as each fold's models are in the others' attacks.
        seed: of the examples.
    """
    generator = np.random.default_rng(seed)
    sides: tuple[list[float], list[float]] = ([], [])
    for each in attacked.folds if fold is None else attacked.folds[fold : fold + 1]:
        for side in (0, 1):
            for scores, mask in zip(each.calibrated[side], each.masks[side], strict=True):
                if mask.any():
                    sides[side].append(scores[generator.choice(np.flatnonzero(mask))])
    return np.array(sides[0]), np.array(sides[1])


def _checked(margins: np.ndarray, states: np.ndarray) -> None:
    matrices.check_states(states, matrices.check(margins).shape)


def _assign(game: Game, folds: int, seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    if game.positive is game.negative and not game.paired:
        raise BadInput("game", "one array cannot have two numbers of models.")
    first = matrices.folds(len(game.positive), folds, seed, block)
    return first, first if game.paired else matrices.folds(len(game.negative), folds, seed, block)


def _score_fold(game: Game, assigned: tuple[np.ndarray, np.ndarray], each: int, variance: lira.Variance, sides: lira.Sides) -> Fold:
    pools = (game.positive, game.positive_mask, assigned[0]), (game.negative, game.negative_mask, assigned[1])
    inside, outside = (moments(values[fold != each], mask[fold != each]) for values, mask, fold in pools)
    lira.check_counts(inside, "inside")
    lira.check_counts(outside, "outside")
    one, zero = lira.spreads(inside, outside, variance, sides)

    def ratio(x: np.ndarray, part: slice) -> np.ndarray:
        return lira.log_ratio(x, inside.of(part), outside.of(part), _part(one, part), _part(zero, part))

    def standard(x: np.ndarray, part: slice) -> np.ndarray:
        return lira.standardised(x, inside.of(part), outside.of(part), _part(zero, part))

    positive, negative = (values[fold == each] for values, _, fold in pools)
    if game.positive is game.negative:
        negative = positive
    masks = game.positive_mask[assigned[0] == each], game.negative_mask[assigned[1] == each]
    return Fold(_both(positive, negative, ratio), _both(positive, negative, standard), masks)


def _both(positive: np.ndarray, negative: np.ndarray, score: Score) -> tuple[np.ndarray, np.ndarray]:
    first = _by_chunks(positive, score)
    return first, first if negative is positive else _by_chunks(negative, score)


def _by_chunks(values: np.ndarray, score: Score) -> np.ndarray:
    result = np.empty(values.shape, dtype=np.float32)
    for part in matrices.chunks(values.shape):
        result[:, part] = score(values[:, part], part)
    return result


def _part(spread: np.ndarray, part: slice) -> np.ndarray:
    return spread if spread.shape[-1] == 1 else spread[..., part]
