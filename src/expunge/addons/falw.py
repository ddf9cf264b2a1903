"""Forget each example as hard as it is still known."""

from collections.abc import Callable

import torch
from torch import Tensor

from expunge.addons.applicability import scores_no_forgotten_data, takes_no_gradient_step
from expunge.addons.example_weights import Weigh, weigh_forgotten
from expunge.config import NonNegativeFloat, hyper
from expunge.engine.context import Context
from expunge.engine.measure import logits_of
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward
from expunge.errors import NotApplicable

_SMALLEST_DEVIATION = 1e-3


class Falw(Addon):
    """Multiplies the loss of every forgotten example by 0 to 2, according to how its confidence compares with held-out data of its class.

    With the probability p that the model gives its true class, and mean and deviation of that of held-out examples of the class,
    ``z = (p - mean) / deviation`` and the weight is ``1 + sign(z) tanh(|z|)^(1 / B)``: what is known better than unseen data is forgotten
    harder, what is known less is left alone. ``B = (n / (C n_y))^balance``, with n forgotten examples, n_y of the class and C classes of
    the model, makes weights of rare classes react more. Means and deviations are measured anew at the first batch of every pass over the
    forgotten data.

    Source: Yu et al., FaLW: A Forgetting-aware Loss Reweighting for Long-tailed Unlearning, ICLR 2026, arXiv 2601.18650. It is refused
    where a forgotten class has fewer than two held-out examples.
    """

    aliases = ("FaLW",)
    source = "Yu et al., FaLW: A Forgetting-aware Loss Reweighting for Long-tailed Unlearning, ICLR 2026, arXiv 2601.18650"
    deviations = (
        "held-out confidences are measured once for each pass over the forgotten data, in eval mode; p is that of the step, in train mode",
        "the published value of balance was not available",
        "deviations below 1e-3 count as 1e-3.",
    )
    needs = {"forget", "validation"}
    scenarios = {"random", "subclass"}
    scenario_reason = "forgotten examples are compared with held-out ones of their class, and whole classes have none."

    balance: NonNegativeFloat = hyper(1.0, "how much more the weights of rare classes react; 0 treats all classes alike", low=0.0, high=2.0)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, losses on forgotten data weighted.

        Raises:
            NotApplicable: a forgotten class has fewer than two held-out examples, or no phase had a loss on forgotten data.
        """
        yield from weigh_forgotten(self.name, steps, ctx, self.weights(ctx))

    def weights(self, ctx: Context) -> Weigh:
        """Return the function that weighs examples."""
        forget, validation = ctx.stream("forget"), ctx.stream("validation")
        check_held_out(self.name, forget.labels, validation.labels)
        balances = class_balances(forget.labels, ctx.num_classes, self.balance).to(ctx.device)
        labels = forget.source.labels.to(ctx.device)
        held_out = held_out_confidence(self.needs, validation)

        def weigh(context: Context, batch: Batch, student: Forward, losses: Tensor) -> Tensor:
            y = labels[batch.index]  # the true ones, whatever the method teaches
            p = student.logits.detach().softmax(1).gather(1, y[:, None])[:, 0]
            mean, deviation = held_out(context, batch.epoch)
            return forgetting_weight((p - mean[y]) / deviation[y], balances[y])

        return weigh

    def refuse(self, method: Method) -> str:
        """Refuse methods without a loss on forgotten data."""
        return takes_no_gradient_step(method) or scores_no_forgotten_data(method)


def forgetting_weight(z: Tensor, balance: Tensor) -> Tensor:
    """Return ``1 + sign(z) tanh(|z|)^(1 / balance)``, in [0, 2], ``[B]``."""
    return 1 + z.sign() * z.abs().tanh() ** (1 / balance)


def class_balances(labels: Tensor, classes: int, exponent: float) -> Tensor:
    """Return ``(n / (C n_c))^exponent`` of every class of n labels, ``[C]``; 1 where there is none."""
    count = torch.bincount(labels, minlength=classes)
    return torch.where(count > 0, (len(labels) / (classes * count.clamp_min(1))) ** exponent, torch.ones(classes))


def held_out_confidence(needs: set[str] | frozenset[str], validation: Stream) -> Callable[[Context, int], tuple[Tensor, Tensor]]:
    """Return the function that gives mean and deviation of the confidence in the true class, by class, ``[C]`` each.

    They are measured once for each pass over the forgotten data, in eval mode.
    """
    measured: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def confidence(context: Context, epoch: int) -> tuple[Tensor, Tensor]:
        key = (context.phase, epoch)
        if key not in measured:
            measured.clear()
            with context.granted(needs):  # the phase around it is granted what its method declares
                logits, labels = logits_of(context, validation)
            p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
            count = torch.bincount(labels, minlength=context.num_classes)
            mean = torch.bincount(labels, p, context.num_classes) / count
            variance = torch.bincount(labels, (p - mean[labels]) ** 2, context.num_classes) / (count - 1)
            measured[key] = mean.to(context.device), variance.sqrt().clamp_min(_SMALLEST_DEVIATION).to(context.device)
        return measured[key]

    return confidence


def check_held_out(addon: str, forgotten: Tensor, held_out: Tensor) -> None:
    """Raise unless every forgotten class has two held-out examples.

    Raises:
        NotApplicable: one has fewer.
    """
    for label in forgotten.unique().tolist():
        count = int((held_out == label).sum())
        if count < 2:
            raise NotApplicable(
                f"addons={addon}",
                f"forgotten examples of class {label} are compared with held-out ones of their class, of which validation has {count}.",
                "Give more validation data, or leave the add-on out; whole classes have no held-out examples.",
            )
