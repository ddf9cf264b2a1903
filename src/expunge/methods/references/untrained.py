"""Throw the model away."""

from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.method import Method, Steps


class Untrained(Method):
    """Give every weight a new random value: all is forgotten, and all use is lost.

    A control: a metric that likes it measures forgetting without its price.
    """

    source = "control"

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit."""
        yield reinitialise(None, "untrained")
