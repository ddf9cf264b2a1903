"""Move only weights that were drawn by lot."""

from expunge.addons.applicability import changes_nothing, trains_anew
from expunge.addons.masking import reshapes, under
from expunge.config import Fraction, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.parameters import leaves
from expunge.engine.select import Mask, random_score, select


class RandomMask(Addon):
    """Lets a method move only weights drawn at random: the control for every mask that chooses.

    Exactly ``floor(keep * count)`` of all parameter entries may move. The mask is drawn once and holds in every phase and every edit.

    Source: the control of Fan et al., SalUn, ICLR 2024, arXiv 2310.12508, and of Frankle and Carbin, ICLR 2019.
    """

    source = "the control of arXiv 2310.12508"

    keep: Fraction = hyper(0.5, "share of the weights that may move", low=0.1, high=0.9, gt=0)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps under the mask."""
        yield from under(self.mask(ctx), steps)

    def mask(self, ctx: Context) -> Mask:
        """Return ones where weights may move, by base name; what the model's author froze is not counted."""
        movable = {name: value.detach() for name, value in leaves(ctx.model).items() if name not in ctx.fixed}
        return select(random_score(ctx, movable), top=self.keep)

    def refuse(self, method: Method) -> str:
        """Refuse what rewrites nothing, trains a new model, or reshapes it."""
        return reshapes(method) or changes_nothing(method) or trains_anew(method)
