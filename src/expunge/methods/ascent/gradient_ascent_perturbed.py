"""Climb the loss of the forget set on pictures that have been moved."""

from typing import Literal

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps, needs_by_settings
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd
from expunge.methods.ascent.gradient_ascent import at_ceiling
from expunge.methods.ascent.moved_pictures import Move, away_in_features, noise, on_moved


class GradientAscentPerturbed(Method):
    """Raise the cross entropy on moved copies of the forget set: noisy ones, or such as the original takes to be far from retained data.

    Ten steps of the sign of a gradient carry the pictures away from the features of the retained data, in Mahalanobis distance to their
    mean or in maximum mean discrepancy (Gaussian kernel of width 1); the original in eval mode says where they are.

    Source: code of Are We Truly Forgetting?, arXiv 2503.06991 (``GA_noise``: deviation 0.1; ``GA_pp``: steps of 1e-4; ``GA_mmd``: steps of
    1e-5, all of the [0, 1] pixel range). With steps that small the pictures hardly change, and GA_pp and GA_mmd are plain ascent; besides,
    a kernel of width 1 is flat where features are more than a few units apart. Noise is another thing: a net that was not trained with it
    has a large loss on noisy pictures, and the published rates destroy small_cnn for a random tenth (retain accuracy 51 %).
    """

    presets = {
        "GA_noise": {"move": "noise", "size": 0.1},
        "GA_pp": {"move": "mahalanobis", "size": 1e-4},
        "GA_mmd": {"move": "discrepancy", "size": 1e-5},
    }
    source = "code of Are We Truly Forgetting?, arXiv 2503.06991"
    deviations = (
        "pictures move away from the retained data, as the code's comments say; its sign is turned round: fidelity=reference",
        "the discrepancy is to 2000 retained examples drawn by the seed; the code takes all in every step",
        "BatchNorm is frozen: in train mode, as in the code, its statistics become those of the forget set",
    )
    needs = needs_by_settings("forget", retain=lambda method: method.move != "noise")
    scenario_defaults = {"random": {"lr": 5e-4, "ceiling": 1.0}, "subclass": {"ceiling": 1.0}}

    move: Literal["noise", "mahalanobis", "discrepancy"] = hyper("noise", "how the pictures are moved")
    size: PositiveFloat = hyper(0.1, "deviation of the noise, or length of one of the steps, in units of the [0, 1] pixel range", le=1)
    moves: PositiveInt = hyper(10, "steps of a picture, for mahalanobis and discrepancy")
    lr: PositiveFloat = hyper(1e-4, "learning rate", low=1e-5, high=1e-1, log=True)
    epochs: PositiveInt = hyper(5, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    ceiling: PositiveFloat | None = hyper(None, "see gradient_ascent")
    fidelity: Literal["paper", "reference"] = hyper("paper", "reference: pictures move towards the retained data, as released")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the forget set."""
        yield Phase(
            [Term("forget", on_moved(self.mover(ctx), cross_entropy), weight=-1.0)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            norm="frozen",
            stop=at_ceiling(self.ceiling),
            name="ascend on moved pictures",
        )

    def mover(self, ctx: Context) -> Move:
        """Return what moves the pictures of a batch."""
        if self.move == "noise":
            return noise(self.size)
        step = self.size if self.fidelity == "paper" else -self.size
        return away_in_features(ctx, self.move, step, self.moves)
