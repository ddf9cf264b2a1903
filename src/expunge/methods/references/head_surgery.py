"""Control that silences a class."""

from expunge.config import Number, hyper
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import leaves
from expunge.errors import NotApplicable


class HeadSurgery(Method):
    """Zero the head's row of each forgotten class and lower its bias, so that the class is never predicted.

    A control: forget accuracy falls to zero and nothing has been forgotten. It reads no data. On the model `class_attention` it drops the
    key of a class, and the other classes share its attention.
    """

    aliases = ("class_key_removal", "CSA")
    source = "control; the least that a metric of class unlearning must see through. Key removal: an idea of sachit3022/unlearning"
    scenarios = {"class"}
    scenario_reason = "it silences whole classes; the examples of another request share their class with examples that stay."

    bias: Number = hyper(-1e4, "bias of a forgotten class; finite, so that losses stay finite", lt=0)

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit of the head.

        Raises:
            NotApplicable: the head has no bias.
        """
        ctx.free_head()
        if ctx.architecture.head.bias is None:
            raise NotApplicable("method=head_surgery", "the model's head has no bias to lower.", "Use method=head_distillation.")
        yield Edit("silence the forgotten classes", self._silence)

    def _silence(self, ctx: Context) -> None:
        parameters = leaves(ctx.model)
        for label in ctx.forget_classes:
            for name, row in ctx.architecture.class_rows(label).items():
                parameters[name][row] = self.bias if name.endswith("bias") else 0.0
