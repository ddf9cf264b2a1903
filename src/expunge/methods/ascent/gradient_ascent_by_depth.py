"""Climb the loss of the forget set, some blocks faster or earlier than others."""

from typing import Literal

import numpy as np

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import Optimizer, sgd
from expunge.methods.ascent.gradient_ascent import at_ceiling

STAGE_RATES = (0.476, 0.3, 0.867, 1.635)
"""Factors for the four stages of a ResNet, from the CKA between the original and a retrained net; blocks in between are interpolated."""
HEAD_RATE = 1.14


class GradientAscentByDepth(Method):
    """Raise the cross entropy on the forget set, and let depth decide how much, or when, a block moves.

    ``order=rates`` gives blocks that a retrained net changes more a larger learning rate, 0.3 to 1.7 times as large, and leaves the stem
    as it is. ``order=stages`` moves the last quarter of the blocks first, then the third quarter with the head, then the first half, for a
    third of the passes each.

    Source: code of Are We Truly Forgetting?, arXiv 2503.06991 (``GA_layerwise`` and ``GA_sequential``), a ResNet-50 on ImageNet. Its
    ``GA_freeze`` is `gradient_ascent` with the add-on `last_k`.
    """

    presets = {"GA_layerwise": {"order": "rates"}, "GA_sequential": {"order": "stages"}}
    source = "code of Are We Truly Forgetting?, arXiv 2503.06991"
    deviations = (
        "blocks between the four stages get rates between theirs",
        "the stem is of the first half; in the code no stage freezes it",
        "BatchNorm is frozen: in train mode, as in the code, its statistics become those of the forget set",
    )
    needs = {"forget"}
    scenario_defaults = {"random": {"lr": 5e-4, "ceiling": 1.0}, "subclass": {"ceiling": 1.0}}

    order: Literal["rates", "stages"] = hyper("rates", "a learning rate for each block, or parts of the net one after the other")
    lr: PositiveFloat = hyper(1e-4, "learning rate, before the factor of a block", low=1e-5, high=1e-1, log=True)
    epochs: PositiveInt = hyper(9, "passes over the forget set; of order=stages each of the three takes a third, at least one")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    ceiling: PositiveFloat | None = hyper(None, "see gradient_ascent")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase, or one for each part that has parameters."""
        if self.order == "rates":
            rates = block_rates(ctx)
            optimizer = sgd(self.lr, scale=lambda name, _: {"lr_factor": rates[moved_by(name)]})
            yield self.ascend(self.epochs, optimizer, frozenset(rates), "all blocks")
            return
        for name, part in parts_by_depth(ctx).items():
            if part:
                yield self.ascend(max(1, self.epochs // 3), sgd(self.lr), part, name)

    def ascend(self, epochs: int, optimizer: Optimizer, trainable: frozenset[str], name: str) -> Phase:
        """Return the phase in which some parameters climb."""
        return Phase(
            [Term("forget", cross_entropy, weight=-1.0)],
            epochs=epochs,
            optimizer=optimizer,
            batch_size=self.batch_size,
            trainable=trainable,
            norm="frozen",
            stop=at_ceiling(self.ceiling),
            name=f"ascend in {name}",
        )


def block_rates(ctx: Context) -> dict[str, float]:
    """Return the factor of the learning rate of every parameter that moves, by base name; a net of two blocks moves its head alone."""
    *body, head = ctx.architecture.blocks
    inner = body[1:]
    places = np.linspace(0, len(STAGE_RATES) - 1, len(inner))
    factors = {**dict(zip(inner, np.interp(places, range(len(STAGE_RATES)), STAGE_RATES), strict=True)), head: HEAD_RATE}
    return {name: float(factor) for block, factor in factors.items() for name in movable(ctx, block)}


def parts_by_depth(ctx: Context) -> dict[str, frozenset[str]]:
    """Return the parameters of the last quarter of the blocks, of the third with the head, and of the first half, by base name."""
    *body, head = ctx.architecture.blocks
    last = body[-max(1, len(body) // 4) :]
    first = body[: min((len(body) + 1) // 2, len(body) - len(last))]
    middle = [block for block in body if block not in (*first, *last)]
    parts = {"the last blocks": last, "the middle and the head": [*middle, head], "the first half": first}
    return {name: frozenset(key for block in blocks for key in movable(ctx, block)) for name, blocks in parts.items()}


def movable(ctx: Context, block: str) -> list[str]:
    """Return the base names of a block's parameters, those that the model's author has frozen left out."""
    return [name for name in ctx.architecture.parameters_of(block) if name not in ctx.fixed]


def moved_by(name: str) -> str:
    """Return the base name of the parameter that one moves: its own, or for an adapter that of the weight it adds to."""
    path, marker, rest = name.partition("parametrizations.")
    return path + rest.partition(".")[0] if marker else name
