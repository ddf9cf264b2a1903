"""Lower the confidence of every answer."""

from expunge.config import PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.edits import scale
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import leaves


class Tempered(Method):
    """Divide the logits by a temperature, in the head's weights: the same answers with less confidence, and nothing forgotten.

    A control: it moves every score that reads confidence, and no order of examples within a class.
    """

    source = "control; confidence capping as a defence against membership attacks"

    temperature: PositiveFloat = hyper(3.0, "what the logits are divided by", low=1.5, high=10.0, log=True)

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit of the head."""
        parameters = leaves(ctx.model)
        yield scale({name: parameters[name].new_full(parameters[name].shape, 1 / self.temperature) for name in ctx.free_head()})
