"""Keep entries of the parameters where they are, through every later phase and edit."""

import torch
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.method import Steps
from expunge.engine.parameters import leaves
from expunge.engine.phase import Phase
from expunge.engine.select import Mask, multiply
from expunge.errors import NotApplicable


def under(mask: Mask, steps: Steps) -> Steps:
    """Yield the steps with a mask multiplied into every phase and applied to every edit."""
    for step in steps:
        yield step.but(mask=multiply(step.mask, mask)) if isinstance(step, Phase) else within(mask, step)


def within(mask: Mask, edit: Edit) -> Edit:
    """Return the edit followed by ``theta = before + mask * (after - before)``; entries with mask 0 stay bit for bit.

    Raises:
        NotApplicable: when applied, if the edit has changed the shape of a masked parameter.
    """

    def apply(context: Context) -> None:
        before = {name: leaves(context.model)[name].detach().clone() for name in mask}
        edit.apply(context)
        after = leaves(context.model)
        for name, old in before.items():
            if after[name].shape != old.shape:
                raise NotApplicable(f"addons ({edit.name})", f"the step reshapes {name!r}, and a mask no longer fits it.")
            after[name].copy_(blend(old, after[name], mask[name]))

    return Edit(edit.name, apply, edit.reshapes)


def blend(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """Return ``before + mask * (after - before)``, bit for bit ``before`` where the mask is 0 and ``after`` where it is 1."""
    between = before + mask * (after - before)
    return torch.where(mask == 0, before, torch.where(mask == 1, after, between))
