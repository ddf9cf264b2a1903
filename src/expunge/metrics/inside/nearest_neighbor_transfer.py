"""How well features serve other data."""

from typing import ClassVar, Literal

import numpy as np

from expunge.config import hyper
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class NearestNeighborTransfer(Metric):
    """Percentage that the 20 nearest neighbours of a model's features name right on downstream sets, averaged over the sets.

    Each set is split once, a fifth of each class asked about, the same for every model. It asks whether the encoder is as useful as a
    retrained one. What it does not catch: an edit of the head alone has the original's encoder and the original's value, and one or a few
    classes more or less in training hardly change a small encoder's transfer, so that on small nets the original lies in the band too.
    """

    label: ClassVar[str] = "kNN transfer"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("transfer_features", "transfer_logits", "transfer_size")
    source: ClassVar[str] = "Kim et al., Are We Truly Forgetting?, arXiv 2503.06991"
    deviations: ClassVar[tuple[str, ...]] = ("k of 20, the published protocol has 5", "split by class with a fixed seed")
    above: ClassVar[str] = "features serve other data better than a retrained model's do"
    below: ClassVar[str] = "features serve other data worse than a retrained model's do"

    level: Literal["features", "logits"] = hyper("features", "what is compared; the published code takes logits, its paper features")

    def measure(self, view: View) -> Estimate:
        """Return the mean over the downstream sets, each weighing the same."""
        rates, sizes = np.asarray(view.inspected(f"transfer_{self.level}")), np.asarray(view.inspected("transfer_size"))
        error = float(np.sqrt(np.sum(rates * (1 - rates) / sizes)) / len(rates))
        return Estimate(100 * float(np.mean(rates)), 100 * error, int(sizes.sum()))
