"""Silence the channels that the forget set excites most, and fine-tune."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from expunge.config import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import zero_where
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import leaves, shared_names
from expunge.engine.phase import Phase
from expunge.engine.select import Mask
from expunge.engine.terms import Progress, Term, cross_entropy
from expunge.engine.update import Schedule, adamw
from expunge.methods.features.channel_activations import layers_and_norms, mean_activations

QUANTILES = (0.99, 0.975, 0.95, 0.925, 0.9)
"""From the stem over the stages of a ResNet to the last one; layers in between are interpolated by depth."""


class ActivationPruning(Method):
    """Before each of the first epochs, silence in every layer the channels whose mean activation on the forget set is highest.

    Activations are positive parts behind the layer's norm layer, averaged over the forget set and positions; in a layer those above the
    quantile of its depth go. A channel is silenced by zeroing the weights that make it, its bias, and its entries of the norm layer; they
    stay zero, and more come each time. Fine-tuning on the retain set goes on in between. The head is left alone.

    Source: the second unlearning repository (source 003, activation pruning): quantiles 0.99, 0.975, 0.95, 0.925, 0.9, AdamW 1e-3 / 1e-3
    along a cosine, 4 epochs of which the first 2 prune.
    """

    aliases = ("act_prune", "MaskedActivation", "activation-pruning")
    source = "source 003: unl_algorithms, activation pruning"
    deviations = (
        "whole channels are zeroed in the weights; the code masks single positions of activations, which no weights can express",
        "behind a residual addition the shortcut still feeds a silenced channel",
        "one pruning an epoch, by means over the whole forget set; the code prunes after batches, at intervals that a slip inverts",
    )
    needs = {"forget", "retain"}

    strength: PositiveFloat = hyper(1.0, "factor of the share 1 - quantile that is silenced each time", low=0.5, high=4, log=True, le=10)
    prune_epochs: PositiveInt = hyper(2, "the first epochs begin with a pruning")
    epochs: PositiveInt = hyper(4, "passes over the retain set")
    lr: PositiveFloat = hyper(1e-3, "learning rate of AdamW", low=1e-4, high=1e-2, log=True)
    weight_decay: Fraction = hyper(1e-3, "weight decay of AdamW")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    first: NonNegativeInt = hyper(0, "layers before this one are left alone; 0 begins with the stem")

    def steps(self, ctx: Context) -> Steps:
        """Yield pruning and fine-tuning in turn."""
        layers = dict(list(layers_and_norms(ctx).items())[self.first :])
        quantiles = quantiles_by_depth(len(layers), self.strength)
        mask: Mask = {}
        last = min(self.prune_epochs, self.epochs) - 1
        for epoch in range(last + 1):
            mask = silence(ctx, layers, quantiles, mask)
            yield zero_where(mask)
            yield Phase(
                [Term("retain", cross_entropy)],
                epochs=self.epochs - epoch if epoch == last else 1,
                optimizer=adamw(self.lr, weight_decay=self.weight_decay),
                schedule=cosine_from(epoch, self.epochs),
                batch_size=self.batch_size,
                mask=mask,
                name="fine-tune under the mask",
            )


def cosine_from(start: int, epochs: int) -> Schedule:
    """Return half a cosine over so many epochs, for a phase that begins with epoch ``start`` of them."""

    def factor(progress: Progress) -> float:
        return 0.5 * (1 + math.cos(math.pi * (start + progress.fraction * progress.epochs) / epochs))

    return factor


def quantiles_by_depth(count: int, strength: float) -> list[float]:
    """Return a quantile for each layer, from the stem to the last: `QUANTILES`, with shares above them times ``strength``."""
    places = np.linspace(0, len(QUANTILES) - 1, count) if count > 1 else np.zeros(count)
    shares = 1 - np.interp(places, np.arange(len(QUANTILES)), QUANTILES)
    return [float(quantile) for quantile in 1 - np.minimum(1, strength * shares)]


def silence(ctx: Context, layers: Mapping[str, str], quantiles: list[float], before: Mask) -> Mask:
    """Return the mask with the most excited channels of every layer added to those that are silent: zeros for what makes them."""
    mask = dict(before)
    parameters, shared = leaves(ctx.model), shared_names(ctx.model)
    activations = mean_activations(ctx, layers)
    for (name, norm), quantile in zip(layers.items(), quantiles, strict=True):
        kept = (activations[name] <= torch.quantile(activations[name], quantile)).float()
        for owner in filter(None, (name, norm)):
            for key in filter(None, map(shared.get, (f"{owner}.weight", f"{owner}.bias"))):
                if key not in ctx.fixed:
                    value = mask.get(key, torch.ones_like(parameters[key]))
                    mask[key] = value * kept.view(-1, *[1] * (value.dim() - 1)).to(value)
    return mask
