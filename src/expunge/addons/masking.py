"""Keep entries of the parameters where they are, through every later phase and edit."""

import dataclasses

import torch
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.method import Method, Steps
from expunge.engine.norms import layer_of, norms_apart_from
from expunge.engine.parameters import leaves
from expunge.engine.phase import Phase
from expunge.engine.select import Mask, frozen_names, multiply
from expunge.errors import NotApplicable


def reshapes(method: Method) -> str:
    """Return why a mask over all weights cannot go with a method; empty if it can."""
    return "it changes the shape of the model, and a mask over its weights no longer fits." if method.changes_shape else ""


def under(mask: Mask, steps: Steps) -> Steps:
    """Yield the steps with a mask multiplied into every phase and applied to every edit."""
    for step in steps:
        yield step.but(mask=multiply(step.mask, mask)) if isinstance(step, Phase) else within(mask, step)


def within(mask: Mask, edit: Edit) -> Edit:
    """Return the edit followed by ``theta = before + mask * (after - before)``; entries with mask 0 stay bit for bit.

    Norm layers in which nothing can move keep their running statistics, as in a phase.

    Raises:
        NotApplicable: when applied, if the edit has changed the shape of a masked parameter.
    """

    def apply(context: Context) -> None:
        before = {name: leaves(context.model)[name].detach().clone() for name in mask}
        movable = {layer_of(name) for name in leaves(context.model).keys() - frozen_names(mask)}
        statistics = [(buffer, buffer.clone()) for norm in norms_apart_from(context.model, movable) for buffer in norm.buffers()]
        edit.apply(context)
        for buffer, value in statistics:
            buffer.copy_(value)
        after = leaves(context.model)
        for name, old in before.items():
            if after[name].shape != old.shape:
                raise NotApplicable(f"addons ({edit.name})", f"the step reshapes {name!r}, and a mask no longer fits it.")
            after[name].copy_(blend(old, after[name], mask[name]))

    return dataclasses.replace(edit, apply=apply)


def blend(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """Return ``before + mask * (after - before)``, bit for bit ``before`` where the mask is 0 and ``after`` where it is 1."""
    between = before + mask * (after - before)
    return torch.where(mask == 0, before, torch.where(mask == 1, after, between))
