"""Draw the forget set's features to wrong centroids."""

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps, needs_by_settings
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Term
from expunge.engine.update import adam
from expunge.methods.features.class_statistics import centroids, features_of, nearest_wrong
from expunge.methods.features.forget_accuracy import fallen_to


class Duck(Method):
    """Draw the features of each forgotten example to the nearest centroid of another class, and train on the retain set beside it.

    Source: Cotogni et al., DUCK, arXiv 2312.02052: ``l1 (1 - cos(features, centroid)) + l2 CE(logits / T)`` until the forget accuracy
    falls below 1 %. The defaults are the released ones (Adam 4e-4, l1 = 1, l2 = 1.4, T = 2), made for classes; arXiv 2503.06991 has
    l1 = l2 = 1.5. For other requests the run stops at the original's accuracy on unseen data of the same classes. On 2,800 pictures of
    the bundled Fashion-MNIST, 30 passes are few: a class goes from 100 to 74 %, a random tenth to 98 %, and nothing else is lost.
    """

    aliases = ("DUCK",)
    source = "Cotogni et al., DUCK: Distance-based Unlearning via Centroid Kinematics, arXiv 2312.02052"
    deviations = (
        "the wrong centroid is fixed for each example, by the original; the codes look it up by the number of the batch",
        "centroids go by label; in the codes their positions shift when a class is missing, and they average 50 batches",
        "each step has a new forget batch; the codes repeat one with several retain batches",
        "no second stage of repair with a tenth of the forget loss, and at most 30 passes instead of 200",
    )
    needs = needs_by_settings("forget", "retain", validation=lambda method: method.target is None)
    scenario_defaults = {"random": {"target": None}, "subclass": {"target": None}}

    forget_weight: NonNegativeFloat = hyper(1.0, "weight of the cosine distance on the forget set", low=0.1, high=3.0)
    retain_weight: PositiveFloat = hyper(1.4, "weight of the cross entropy on the retain set", low=0.5, high=3.0)
    temperature: PositiveFloat = hyper(2.0, "divides the logits of the retain set", low=1.0, high=4.0)
    target: Fraction | None = hyper(0.01, "stop when the forget accuracy is at most this; nothing: the original's on validation data")
    lr: PositiveFloat = hyper(4e-4, "learning rate of Adam", low=1e-5, high=1e-2, log=True)
    epochs: PositiveInt = hyper(30, "most passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield Phase(
            [
                Term("forget", towards_wrong_centroid(ctx), weight=self.forget_weight, features=True, name="distance on forget"),
                Term("retain", softened_cross_entropy(self.temperature), weight=self.retain_weight, name="cross entropy on retain"),
            ],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            stop=fallen_to(ctx, self.target),
            name="draw to wrong centroids",
        )


def towards_wrong_centroid(ctx: Context) -> Loss:
    """Return the cosine distance to the centroid that the original finds nearest among those of other classes, keyed by example."""
    centres, classes = centroids(*features_of(ctx, "retain"))
    forget = ctx.stream("forget")
    chosen = nearest_wrong(*features_of(ctx, forget), centres, classes)
    place = torch.full((int(forget.index.max()) + 1,), -1, dtype=torch.int64, device=chosen.device)
    place[forget.index.to(chosen.device)] = chosen

    def distance(context: Context, batch: Batch, student: Forward) -> Tensor:
        return 1 - F.cosine_similarity(student.features, centres[place[batch.index]], dim=1)

    return distance


def softened_cross_entropy(temperature: float) -> Loss:
    """Return the cross entropy of the logits divided by a temperature."""

    def softened(context: Context, batch: Batch, student: Forward) -> Tensor:
        return F.cross_entropy(student.logits / temperature, batch.y, reduction="none")

    return softened
