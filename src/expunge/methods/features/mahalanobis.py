"""Draw the forget set to other classes in Mahalanobis distance and imitate the original elsewhere: what both forms of SCAR share."""

import torch
from torch import Tensor

from expunge.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Term, match
from expunge.engine.update import adam
from expunge.methods.features.class_statistics import Gaussians, features_of
from expunge.methods.features.forget_accuracy import fallen_to


class Nearing(Method):
    """The hyper-parameters of SCAR, and its phase."""

    scenario_defaults = {"random": {"target": None}, "subclass": {"target": None}}

    forget_weight: NonNegativeFloat = hyper(1.0, "weight of the squared distance on the forget set", low=0.1, high=10.0, log=True)
    retain_weight: PositiveFloat = hyper(5.0, "weight of the divergence from the original elsewhere", low=0.5, high=10.0, log=True)
    power: Fraction = hyper(0.5, "power transform of the features", low=0.3, high=1.0, gt=0)
    shrinkage: NonNegativeFloat = hyper(3.0, "how much mean variance and mean covariance are added, twice", low=0.5, high=10.0, log=True)
    target: Fraction | None = hyper(0.01, "stop when the forget accuracy is at most this; nothing: the original's on validation data")
    lr: PositiveFloat = hyper(5e-4, "learning rate of Adam", low=1e-5, high=1e-2, log=True)
    epochs: PositiveInt = hyper(30, "most passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def phase(self, ctx: Context, elsewhere: str) -> Phase:
        """Return the phase that imitates the original on one stream while the forget set moves."""
        gaussians = Gaussians.fit(*features_of(ctx, "retain"), power=self.power, shrink=self.shrinkage)
        return Phase(
            [
                Term("forget", to_the_nearest(gaussians), weight=self.forget_weight, features=True, name="distance on forget"),
                Term(elsewhere, match(floored_original, kl()), weight=self.retain_weight, name=f"divergence on {elsewhere}"),
            ],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            stop=fallen_to(ctx, self.target),
            name="draw to other classes",
        )


def to_the_nearest(gaussians: Gaussians) -> Loss:
    """Return the squared Mahalanobis distance to the nearest class that is not the example's own."""

    def distance(context: Context, batch: Batch, student: Forward) -> Tensor:
        found = gaussians.distances(student.features)
        return found.masked_fill(batch.y[:, None] == gaussians.classes, torch.inf).amin(1)

    return distance


def floored_original(context: Context, batch: Batch) -> Tensor:
    """Return the original's logits with those of forgotten classes lowered to the smallest of the example."""
    logits = context.logits_of("original", batch.x)
    if context.forget_classes:
        logits[:, list(context.forget_classes)] = logits.amin(1, keepdim=True)
    return logits
