"""Unlearn, and restore the geometry of a model that never saw the forget set."""

from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.methods.features.two_phases import Restoring


class UnlearnRestoreOracle(Restoring):
    """Like unlearn_restore with a retrained model as the teacher: a diagnostic that says how much a better teacher could give.

    Whoever has the retrained model needs no unlearning.

    Source: Are We Truly Forgetting? (UUEF), arXiv 2503.06991 (``SPKD_retrained``, ``PL_SPKD_retrained``).
    """

    presets = {"SPKD_retrained": {"published": "SPKD"}, "PL_SPKD_retrained": {"published": "PL_SPKD"}}
    source = "Are We Truly Forgetting?, arXiv 2503.06991 (suffix _retrained)"
    needs = {"forget", "retain", "oracle"}

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase."""
        yield from self.phases(ctx, "retrained")
