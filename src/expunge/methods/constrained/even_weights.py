"""Weights of two losses under which their logarithms fall alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.engine.combine import Gradients, weighted
from expunge.engine.update import Step
from expunge.methods.constrained.latest_losses import LatestLosses

GOALS = ("retain", "forget")
_W, _BEFORE = "famo w", "famo losses"


@dataclass
class EvenProgress:
    """The weights of two losses; what they remember are tensors among the phase's rules, so that a checkpoint keeps them.

    Attributes:
        lr: step of the weights.
        decay: weight decay of the weights.
        floor: added to both losses.
        losses: where the losses of the step are found.
    """

    lr: float
    decay: float
    floor: float = 1e-8
    losses: LatestLosses = field(default_factory=LatestLosses)

    def combine(self, gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
        """Return the weighted sum of the groups' gradients."""
        losses = torch.stack([self.losses.mean(goal).cpu() for goal in GOALS])
        state[_BEFORE] = losses  # a second look at displaced weights (SAM) leaves the state of the first
        shares = torch.softmax(_kept(state, _W), 0) / (losses + self.floor)
        return weighted(**dict(zip(GOALS, (shares / shares.sum()).tolist(), strict=True)))(gradients, state)

    @torch.no_grad()
    def update(self, step: Step) -> None:
        """Move the weights of the losses by what the step has done to both: a rule that follows steps and moves nothing of the model."""
        w, after = _kept(step.state, _W), torch.stack([self.losses.remeasured(goal, step.context).cpu() for goal in GOALS])
        gain = (_kept(step.state, _BEFORE) + self.floor).log() - (after + self.floor).log()
        z = torch.softmax(w, 0)
        step.state[_W] = w - self.lr * _adam(z * (gain - z @ gain) + self.decay * w, step.state)


def _kept(state: dict[str, Any], name: str) -> Tensor:
    """Return a remembered pair of numbers, zeros at first, on the CPU: a checkpoint hands them back on the model's device."""
    return state[name].cpu() if name in state else torch.zeros(2, dtype=torch.float64)


def _adam(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Return the direction of Adam with its usual constants, and move its moments on."""
    count = _kept(state, "famo count") + 1
    first = 0.9 * _kept(state, "famo first") + 0.1 * gradient
    second = 0.999 * _kept(state, "famo second") + 0.001 * gradient.square()
    state.update({"famo count": count, "famo first": first, "famo second": second})
    return first / (1 - 0.9**count) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
