"""Forget in directions that the inputs of the retained data do not span."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.combine import Combiner, Gradients, moving_names
from expunge.engine.context import Context
from expunge.engine.measure import accuracy
from expunge.engine.method import Method, Steps, needs_by_settings
from expunge.engine.parameters import Vector
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Progress, Term
from expunge.engine.update import sgd
from expunge.errors import NotApplicable
from expunge.methods.ascent.input_span import across, input_spans


class ProjectedAscent(Method):
    """Make the true class of the forget set unlikely by steps that leave every layer's output on the retain set nearly as it is.

    For each convolution and linear layer the main directions of its inputs on the retain set are found once; the gradient loses its
    component in their span, row by row, and nothing but these weights moves. The loss is ``-log(1 - (p_y - offset)) + entropy H``: bounded,
    and sharp answers. It ends when the forget set is answered no better than the validation set, or, for whole classes, when the retain
    accuracy has fallen by ``tolerance``.

    Source: Hoang et al., Learn to Unlearn for Deep Neural Networks (PGU), WACV 2024, arXiv 2312.04095, and the released code: share 0.95 of
    the singular values, plain gradient steps from 0.05 to 0.01, up to 100 passes, batches of 128 without augmentation, BatchNorm frozen.
    The loss is nearly flat where the forget set is fitted: in one run on 5,000 pictures of the bundled Fashion-MNIST a random tenth stayed
    at 100 %, and at ``lr=0.5`` went to 86 %.
    """

    aliases = ("PGU", "projected_gradient_unlearning")
    source = "Hoang et al., Learn to Unlearn for Deep Neural Networks: Minimizing Unlearning Interference, WACV 2024, arXiv 2312.04095"
    deviations = (
        "the retain set's inputs are read; the code subtracts those of the forget set from stored ones of all data",
        "the epoch that passes the validation accuracy is kept; the code takes the one before it where that is nearer",
    )
    needs = needs_by_settings("forget", "retain", validation=lambda method: method.stop == "validation")
    scenario_defaults = {"class": {"stop": "retain"}}

    share: Fraction = hyper(0.95, "share of the singular values of a layer's inputs that is protected", low=0.8, high=0.999)
    offset: PositiveFloat = hyper(0.05, "keeps the logarithm from zero: the loss at p_y = 1 is minus its logarithm", low=0.01, high=0.2)
    entropy: NonNegativeFloat = hyper(0.2, "weight of the entropy of the answers, which is lowered", low=0.0, high=1.0)
    lr: PositiveFloat = hyper(0.05, "learning rate at the start", low=1e-3, high=0.5, log=True)
    final: Fraction = hyper(0.2, "factor of the learning rate at the end, reached exponentially", low=0.05, high=1)
    epochs: PositiveInt = hyper(100, "most passes over the forget set", low=20, high=200)
    batch_size: PositiveInt = hyper(128, "examples in a step")
    stop: Literal["validation", "retain"] = hyper("validation", "accuracy that ends the run, read on whole sets after each epoch")
    tolerance: Fraction = hyper(0.05, "stop=retain: by how much the retain accuracy may fall", low=0.01, high=0.1)

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the forget set.

        Raises:
            NotApplicable: no layer's inputs can be told.
        """
        spans = input_spans(ctx, "retain", self.share)
        if not spans:
            problem = "it moves linear layers and 2-d convolutions padded with zeros, and the model has none that may move."
            raise NotApplicable("method=projected_ascent", problem, "Choose another method.")
        floor = accuracy(ctx, "retain") - self.tolerance if self.stop == "retain" else 0.0
        yield Phase(
            [Term("forget", unlikely(self.offset, self.entropy))],
            epochs=self.epochs,
            optimizer=sgd(self.lr, momentum=0.0, weight_decay=0.0),
            schedule=lambda progress: self.final ** (progress.epoch / progress.epochs),
            batch_size=self.batch_size,
            trainable=frozenset(spans),
            norm="frozen",
            combine=beside(ctx, spans),
            augment=False,
            stop=_no_better_than_unseen if self.stop == "validation" else lambda context, progress: accuracy(context, "retain") < floor,
            name="forget beside the retained inputs",
        )


def unlikely(offset: float, entropy: float) -> Loss:
    """Return the loss ``-log(1 - (p_y - offset)) + entropy * H(p)``, natural logarithms."""

    def loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        log_p = torch.log_softmax(student.logits, dim=1)
        p = log_p.exp()
        true = p.gather(1, batch.y[:, None])[:, 0]
        return -torch.log(1 + offset - true) - entropy * (p * log_p).sum(1)

    loss.__name__ = "unlikely true class"
    return loss


def beside(context: Context, spans: Vector) -> Combiner:
    """Return the combiner of one group that removes from each weight's gradient what lies in the span of its layer's inputs.

    Raises:
        NotApplicable: something moves that is no weight of the model.
    """

    def combine(gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
        (own,) = gradients.values()
        return [across(part, spans[name]) for name, part in zip(moving_names(context, own, "projected_ascent"), own, strict=True)]

    return combine


def _no_better_than_unseen(context: Context, progress: Progress) -> bool:
    return accuracy(context, "forget") <= accuracy(context, "validation")
