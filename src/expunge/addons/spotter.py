"""Spotter: protect what lies near the forgotten class, and scatter the class itself."""

import dataclasses
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.addons.applicability import has_forget_term, scores_no_forgotten_data, takes_no_gradient_step
from expunge.addons.pairs import is_forgotten
from expunge.config import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Penalty, Term, Weight
from expunge.methods.relabeling.picture_attacks import somewhere_in_box, towards_in_box


class Spotter(Addon):
    """Adds two terms on the forgotten class to any method: distillation next to it, and dispersion of its features.

    The method's own terms count ``own_share`` in every phase that has a loss on forgotten data. The rest of the weight goes to
    ``KL(original without the forgotten classes || model)`` on pictures moved to the nearest other class by a few steps of the sign of a
    gradient, within ``epsilon`` of every pixel: what a model should keep right beside the class. The second term is the mean cosine between
    features of one forgotten class in a batch, which draws them apart, so that a prototype of a few examples no longer brings the class
    back. Other phases and one-shot edits are not touched.

    Source: Ha et al., Spotter, ICML 2026, arXiv 2506.01318, and the released code: share 0.7, dispersion 1 (0.1 in another row of the
    paper), epsilon 0.03 in 3 steps of 0.01 from a random place.
    """

    aliases = ("Spotter",)
    source = "Ha et al., Unlearning's Blind Spots: Over-Unlearning and Prototypical Relearning Attack, ICML 2026, arXiv 2506.01318"
    deviations = (
        "pictures are moved towards the nearest other class; the released code climbs the loss of that class, away from it",
        "pictures are moved anew in every step, from a random place for each epoch, in pixels; the code does it once, after normalisation",
        "the share applies to all terms of a phase with forgotten data, to its terms on retained data too",
    )
    needs = {"forget"}
    scenarios = {"class"}
    scenario_reason = "what the original says without the forgotten classes is held on to, and no whole class is forgotten."

    own_share: Fraction = hyper(0.7, "weight of the method's own terms; the distillation has the rest", low=0.1, high=0.9)
    dispersion: NonNegativeFloat = hyper(1.0, "weight of the dispersion", low=0.01, high=3.0, log=True)
    epsilon: PositiveFloat = hyper(0.03, "how far a picture is moved in every pixel, of the [0, 1] range", low=0.005, high=0.1, log=True)
    step: PositiveFloat = hyper(0.01, "length of a move in every pixel")
    moves: NonNegativeInt = hyper(3, "moves; 0 leaves the random place")

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases with forgotten data with two more terms."""
        for step in steps:
            yield self.protected(ctx, step) if isinstance(step, Phase) and has_forget_term(ctx, step) else step

    def protected(self, ctx: Context, phase: Phase) -> Phase:
        """Return a phase with its weights scaled and both terms beside its first loss on forgotten data, in the same steps."""
        first = next(term for term in phase.terms if isinstance(term, Term) and is_forgotten(ctx, term))
        place = partial(Term, first.stream, group=first.group_name, every=first.every, reduction=first.reduction)
        more = [
            place(distil_nearby(self.epsilon, self.step, self.moves), 1 - self.own_share, name="distillation nearby"),
            place(alike(ctx.stream("forget").source.labels.to(ctx.device)), self.dispersion, features=True, name="likeness within a class"),
        ]
        return phase.but(terms=[*(_scaled(term, self.own_share) for term in phase.terms), *more])

    def refuse(self, method: Method) -> str:
        """Refuse methods without a loss on forgotten data."""
        return takes_no_gradient_step(method) or scores_no_forgotten_data(method)


def _scaled(term: Term | Penalty, factor: float) -> Term | Penalty:
    weight = term.weight
    scaled: Weight = (lambda progress: factor * weight(progress)) if callable(weight) else factor * weight
    return dataclasses.replace(term, weight=scaled)


def without_forgotten(context: Context, x: Tensor, outputs: int) -> Tensor:
    """Return the original's logits, minus infinity for forgotten classes and for those that only the student has, ``[B, outputs]``."""
    logits = context.logits_of("original", x)
    logits[:, list(context.forget_classes)] = -torch.inf
    return F.pad(logits, (0, outputs - logits.shape[1]), value=-torch.inf)


def distil_nearby(epsilon: float, step: float, moves: int) -> Loss:
    """Return ``KL(original without the forgotten classes || student)`` on moved pictures, ``[B]``; see `towards_others`."""

    def distillation(context: Context, batch: Batch, student: Forward) -> Tensor:
        moved = dataclasses.replace(batch, x=towards_others(context, batch, epsilon, step, moves))
        logits = Forward(context, moved, student.precision).logits
        return kl()(without_forgotten(context, moved.x, logits.shape[1]), logits)

    return distillation


def towards_others(context: Context, batch: Batch, epsilon: float, step: float, moves: int) -> Tensor:
    """Return the pictures moved to the best other class of the original, within epsilon in every pixel and within [0, 1].

    They start at uniformly random places, keyed by seed, phase, epoch, example and pixel.
    """
    target = without_forgotten(context, batch.x, context.num_classes).argmax(1)
    start = somewhere_in_box(context, batch, epsilon, "spotter")
    return towards_in_box(context.teacher("original"), batch.x, start, target, radius=epsilon, step=step, moves=moves)


def alike(labels: Tensor) -> Loss:
    """Return how alike the features of one class are, ``[B]``: the mean over the batch is the mean cosine over pairs of one class.

    Args:
        labels: true label by data set index; a method may train on others.
    """

    def cosines(context: Context, batch: Batch, student: Forward) -> Tensor:
        features, own = F.normalize(student.features, dim=1), labels[batch.index]
        pairs = (own[:, None] == own) & ~torch.eye(len(batch), dtype=torch.bool, device=own.device)
        return torch.where(pairs, features @ features.T, 0.0).sum(1) * len(batch) / pairs.sum().clamp_min(1)

    return cosines
