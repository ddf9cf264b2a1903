"""Another optimiser for every phase."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from expunge.addons.applicability import changes_nothing, takes_no_gradient_step
from expunge.config import Fraction, NonNegativeFloat, PositiveFloat, hyper
from expunge.engine import update
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase

Kind = Literal["sgd", "adam", "adamw"]
_DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "weight_decay": 5e-4},
    "adam": {"weight_decay": 0.0},
    "adamw": {"weight_decay": 0.01},
}


class Optimizer(Addon):
    """Takes the steps of every phase with another optimiser, or with other settings of it.

    What is not given stays as the method has it; settings that only the old optimiser knows are dropped, and the new one's usual values
    take their place. A learning rate belongs to its optimiser: 1e-4 is usual for Adam where a method says 1e-2 for SGD, so give both.
    Schedules, and parameters with settings of their own, stay.
    """

    source = "Kingma and Ba, Adam, ICLR 2015, arXiv 1412.6980; Loshchilov and Hutter, AdamW, ICLR 2019, arXiv 1711.05101"

    kind: Kind | None = hyper(None, "sgd, adam or adamw; the method's own if not given")
    lr: PositiveFloat | None = hyper(None, "learning rate; the method's own if not given", low=1e-5, high=1e-1, log=True)
    momentum: Fraction | None = hyper(None, "of SGD; with Adam and AdamW the decay of the first moment", lt=1)
    weight_decay: NonNegativeFloat | None = hyper(None, "coupled for SGD and Adam, decoupled for AdamW", low=1e-6, high=1e-1, log=True)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases with the other optimiser."""
        for step in steps:
            yield step.but(optimizer=self.changed(step.optimizer)) if isinstance(step, Phase) else step

    def changed(self, own: update.Optimizer) -> update.Optimizer:
        """Return the optimiser with what was given in place of what the method has."""
        kind = self.kind or own.kind
        options = dict(own.options) if kind == own.kind else dict(_DEFAULTS[kind])
        if self.weight_decay is not None:
            options["weight_decay"] = self.weight_decay
        if self.momentum is not None and kind == "sgd":
            options["momentum"] = self.momentum
            options["nesterov"] = bool(options.get("nesterov")) and self.momentum > 0
        elif self.momentum is not None:
            options["betas"] = (self.momentum, 0.999)
        return dataclasses.replace(own, kind=kind, lr=self.lr or own.lr, options=options, scale=self._overrides(own, kind))

    def _overrides(self, own: update.Optimizer, kind: str) -> Any:
        """Return the method's settings for single parameters without those that the optimiser does not know."""
        if own.scale is None or kind == own.kind:
            return own.scale
        known = {"lr", "lr_factor", *_DEFAULTS[kind]}

        def overrides(name: str, parameter: nn.Parameter) -> Mapping[str, Any]:
            assert own.scale is not None
            return {key: value for key, value in own.scale(name, parameter).items() if key in known}

        return overrides

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps."""
        return changes_nothing(method) or takes_no_gradient_step(method)
