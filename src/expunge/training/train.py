"""Train a model with a recipe, through the same engine that unlearns."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from expunge.engine.context import Context
from expunge.engine.gauges import Detail
from expunge.engine.loop import Checkpoints
from expunge.engine.method import Method, Steps
from expunge.engine.run import Outcome, run
from expunge.engine.stream import Stream
from expunge.training.recipe import Recipe


class Training(Method):
    """Run a recipe on the stream ``train``: what the engine runs for originals and retrained models."""

    needs: ClassVar[frozenset[str] | set[str]] = frozenset({"train"})

    recipe: Recipe

    def steps(self, ctx: Context) -> Steps:
        """Yield the recipe's steps."""
        yield from self.recipe.steps(ctx)


def train(
    model: nn.Module,
    data_stream: Stream,
    recipe: Recipe,
    *,
    seed: int,
    num_classes: int,
    checkpoints: Checkpoints | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
    detail: Detail | None = None,
) -> Outcome:
    """Train a model in place, from its current weights, and leave it in evaluation mode.

    Args:
        model: pictures ``[B, ...]`` to logits ``[B, num_classes]``, on the device of the stream.
        data_stream: the examples to learn; its name does not matter.
        recipe: how.
        seed: decides the order of the examples and their augmentation, not the initial weights.
        num_classes: number of logits.
        checkpoints: where the state after every epoch is kept, and where a killed run goes on.
        report: called with one mapping for each event.
        detail: how closely it is watched, for trackers.

    Returns:
        Steps, epochs and losses of each phase, and the cost.

    Raises:
        Diverged: a loss or a weight stopped being finite.
        BadInput: the recipe cannot train on these inputs.
    """
    context = Context(model, {"train": data_stream}, needs={"train"}, seed=seed, num_classes=num_classes, report=report, detail=detail)
    return run(context, Training(recipe=recipe), checkpoints=checkpoints)
