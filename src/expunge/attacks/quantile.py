"""The quantile-regression attack: no shadow models; a regression of non-members' margins on what the example looks like.

An example is called a member when its margin lies above the quantile that non-members like it have. The non-members are split three
ways: to fit, to calibrate, to evaluate. A conformal step makes the false positive rate hold whatever the regression is worth.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence

Regression = Literal["boosting", "linear"]


class Fitted(NamedTuple):
    """Fitted regression for the conditional law of non-members' margins.

    Attributes:
        center: predicts the quantile, or the mean of a normal law.
        variance: predicts the variance of a normal law, or is that number; None for a quantile.
    """

    center: Any
    variance: Any


def fit_quantile(features: np.ndarray, margins: np.ndarray, at: float, regression: Regression = "boosting", seed: int = 0) -> Fitted:
    """Return a regression for the 1 - at quantile of non-members' margins.

    Args:
        features: of non-members, ``[n, d]``: an INDEPENDENT encoder's features and the class, one-hot. Not the audited model's.
        margins: theirs under the audited model, ``[n]``.
        at: false positive rate.
        regression: ``boosting`` (histogram gradient boosting) or ``linear`` (linear programme; small n).
        seed: of the boosting.

    Source: Bertran et al., NeurIPS 2023 (pinball loss).
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import QuantileRegressor

    _check(features, margins)
    if not 0 < at < 1:
        raise BadInput("at", f"expected a false positive rate between 0 and 1, got {at}.")
    if regression == "linear":
        return Fitted(QuantileRegressor(quantile=1 - at, alpha=0.0).fit(features, margins), None)
    return Fitted(HistGradientBoostingRegressor(loss="quantile", quantile=1 - at, random_state=seed).fit(features, margins), None)


def fit_normal(features: np.ndarray, margins: np.ndarray, regression: Regression = "boosting", seed: int = 0) -> Fitted:
    """Return regressions for mean and variance of non-members' margins, which serve every false positive rate at once.

    The variance is fitted on squared residuals of held-out folds with the gamma deviance, which is the normal law's likelihood in it.
    ``linear`` fits the mean by least squares and one variance for all.

    Raises:
        BadInput: features and margins that do not fit.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import cross_val_predict

    _check(features, margins)
    mean = LinearRegression() if regression == "linear" else HistGradientBoostingRegressor(random_state=seed)
    squares = np.maximum((margins - cross_val_predict(mean, features, margins, cv=5)) ** 2, 1e-12)
    if regression == "linear":
        return Fitted(mean.fit(features, margins), float(squares.mean()))
    variance = HistGradientBoostingRegressor(loss="gamma", max_iter=50, learning_rate=0.05, min_samples_leaf=100, random_state=seed)
    return Fitted(mean.fit(features, margins), variance.fit(features, squares))


def score(fitted: Fitted, features: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return the margin's excess over the quantile, or its standard score under the normal law, float64 ``[n]``."""
    _check(features, margins)
    excess = margins.astype(np.float64) - fitted.center.predict(features)
    if fitted.variance is None:
        return excess
    if isinstance(fitted.variance, float):
        return excess / np.sqrt(fitted.variance)
    return excess / np.sqrt(fitted.variance.predict(features))


def conformal_threshold(scores: np.ndarray, at: float) -> float:
    """Return the ceil((n + 1)(1 - at))-th smallest score of other non-members: a new one exceeds it with chance at most ``at``.

    The order statistic itself; interpolating quantiles miss it by one in places.

    Raises:
        NotEnoughEvidence: fewer than 1 / at - 1 scores: no threshold has that guarantee.
    """
    rank = int(np.ceil((len(scores) + 1) * (1 - at) - 1e-9))
    if rank > len(scores):
        raise NotEnoughEvidence(
            f"not measurable at n = {len(scores)}: a false positive rate of {at:g} needs {int(np.ceil(1 / at)) - 1} scores"
        )
    return float(np.partition(scores, rank - 1)[rank - 1])


def rearranged(quantiles: np.ndarray) -> np.ndarray:
    """Return quantile predictions ``[n, levels]`` (levels ascending) without crossings: each row sorted.

    Source: Chernozhukov, Fernandez-Val & Galichon, Econometrica 2010.
    """
    return np.sort(quantiles, axis=1)


def _check(features: np.ndarray, margins: np.ndarray) -> None:
    if features.ndim != 2 or margins.shape != features.shape[:1] or not np.isfinite(margins).all():
        found = f"features {list(features.shape)} and margins {list(margins.shape)}"
        raise BadInput("quantile", f"expected features [n, d] and finite margins [n], got {found}.")
