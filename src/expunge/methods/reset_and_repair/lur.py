"""LUR: draw the most sensitive weights anew, and forget where a step of retaining leads."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import reinitialise_where
from expunge.engine.kernels import soft_cross_entropy
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import at_least_single
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.targets import Target, random_label, true_label
from expunge.engine.terms import Forward, Loss, Term, cross_entropy
from expunge.engine.update import sgd
from expunge.methods.reset_and_repair.sensitive_weights import Where, most_sensitive


class Lur(Method):
    """Draw the weights anew that the forget set depends on most; then forget at the weights to which a step on the retain set would lead.

    The loss is ``CE(retain; w) + weight L_f(w - ahead dCE(retain)/dw)``, differentiated through the step. To first order that is both
    losses minus ``ahead`` times the product of their gradients, which draws the two gradients into one direction.

    Source: Patel and Qiu, Learning to Unlearn while Retaining, ICCV 2025, arXiv 2503.06339: look-ahead, and the reset of `scissorhands`
    before with 3 % for CIFAR-10, 1 % for a tenth and 10 % for half of CIFAR-100. The length of the look-ahead, the weight, learning rate
    and epochs were not available: those of `scissorhands` are taken, and ``ahead`` is the learning rate times two.
    """

    aliases = ("LUR",)
    source = "Patel and Qiu, Learning to Unlearn while Retaining, ICCV 2025, arXiv 2503.06339"
    deviations = (
        "which loss forgets was not available to us: ascent, or random labels by forget=random_label",
        "sensitivity is taken over the whole forget set, and forget batches are spread over the pass, as in scissorhands",
    )
    needs = {"forget", "retain"}

    reset: Fraction = hyper(0.03, "share of the weights that is drawn anew", low=0.005, high=0.2)
    where: Where = hyper("everywhere", "where weights are drawn anew: all blocks, or the later half of them")
    ahead: PositiveFloat = hyper(0.01, "length of the step on the retain set, in its gradients", low=1e-3, high=1e-1, log=True)
    forget: Literal["ascent", "random_label"] = hyper("ascent", "how the forget set is forgotten: ascent, or random wrong labels")
    weight: PositiveFloat = hyper(0.05, "weight of forgetting", low=0.01, high=1.0, log=True)
    lr: PositiveFloat = hyper(5e-3, "learning rate of the repair", low=1e-3, high=5e-2, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set", low=2, high=20)
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield the reset and the repair."""
        yield reinitialise_where(most_sensitive(ctx, self.reset, self.where), "lur")
        ascends = self.forget == "ascent"
        yield Phase(
            [
                Term(
                    "forget",
                    looking_ahead(self.ahead, true_label if ascends else random_label("epoch")),
                    weight=-self.weight if ascends else self.weight,
                    uses=("retain",),
                    every="pass",
                ),
                Term("retain", cross_entropy),
            ],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="retain",
            norm="train",
            name="forget where retaining leads",
        )


def looking_ahead(length: float, target: Target) -> Loss:
    """Return the cross entropy with a target at the weights ``w - length dCE(retain)/dw``, through which gradients flow.

    The retain batch is that of the step. Running statistics follow this forward pass as they follow any other.
    """

    def loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        moving = {name: parameter for name, parameter in context.model.named_parameters() if parameter.requires_grad}
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            retained = student.other("retain")
            value = F.cross_entropy(retained.logits, retained.batch.y)
            slopes = torch.autograd.grad(value, list(moving.values()), create_graph=True, allow_unused=True)
            ahead = {name: w if slope is None else w - length * slope for (name, w), slope in zip(moving.items(), slopes, strict=True)}
            with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=student.precision == "bfloat16"):
                logits = functional_call(context.model, ahead, (batch.x,))
        return soft_cross_entropy(target(context, batch), at_least_single(logits))

    loss.__name__ = "cross entropy a step ahead"
    return loss
