"""SCAR that retains on surrogate data."""

from expunge.engine.context import Context
from expunge.engine.method import Steps, needs_by_settings
from expunge.methods.features.mahalanobis import Nearing


class ScarSurrogate(Nearing):
    """Draw forgotten examples to the nearest other class in Mahalanobis distance, and imitate the original on other, unlabelled pictures.

    The retain set is read once, for the classes' means and covariances, which an owner could have kept; no step is taken on it.

    Source: Bonato et al., Is Retain Set All You Need in Machine Unlearning?, ECCV 2024, arXiv 2404.12922; settings as in scar.
    """

    source = "Bonato et al., Is Retain Set All You Need in Machine Unlearning?, ECCV 2024, arXiv 2404.12922"
    deviations = (
        "statistics are computed from the retain set when the request comes; the paper stores them after training",
        "a constant is added under the power, whose slope at zero is infinite",
        "the nearest class is that of the current features; at most 30 passes over the forget set instead of 200",
    )
    needs = needs_by_settings("forget", "retain", "surrogate", validation=lambda method: method.target is None)

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield self.phase(ctx, "surrogate")
