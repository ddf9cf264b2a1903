"""What a training recipe is, and what all recipes share."""

from expunge.config import Component
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.engine.stream import Stream


class Recipe(Component):
    """How a model is trained: frozen hyper-parameters and one generator of phases and edits, like a method.

    An original, a model retrained without the forget set and the method `retrain` all run the same recipe; only the stream differs.
    """

    def steps(self, ctx: Context, stream: str = "train") -> Steps:
        """Yield what trains the context's model from its current weights on a stream.

        Args:
            ctx: the context; ``stream`` must be declared.
            stream: name of the stream to learn, for example ``retain``.
        """
        raise NotImplementedError


def training_stream(ctx: Context, stream: str) -> Stream:
    """Return a stream under the name ``train``.

    Order and augmentation are keyed by the name, so a model that is retrained on ``retain`` sees its examples in the order
    in which the original saw them on ``train``: leaving examples out changes nothing for the others.
    """
    found = ctx.stream(stream)
    return found.subset(found.index, "train")
