"""Nets that are trained beside the model, kept where a checkpoint of the running phase holds them."""

import torch
from torch import Tensor, nn

from expunge.engine.context import Context
from expunge.engine.parameters import below


class Kept:
    """The weights of a net and the state of its optimiser, as part of what the running phase remembers.

    Args:
        name: under which they are remembered; no other rule of the phase has it.
        net: that is trained beside the model.
        optimizer: of its parameters.
    """

    def __init__(self, name: str, net: nn.Module, optimizer: torch.optim.Optimizer):
        self.name, self.net, self.optimizer = name, net, optimizer
        self.memory: dict[str, Tensor] | None = None

    def recall(self, context: Context) -> None:
        """Take over what the phase remembers, where it has been resumed; call it before the first use in a phase."""
        if context.memory is self.memory:
            return
        self.memory = context.memory
        found = below(f"{self.name}/", self.memory)
        if not found:
            return
        with torch.no_grad():
            for name, value in self.net.state_dict().items():
                value.copy_(found.pop(name))
        parameters = list(self.net.parameters())
        for name, value in found.items():
            number, key = name.split("/")[-2:]
            self.optimizer.state[parameters[int(number)]][key] = value.cpu() if key == "step" else value.clone()

    def remember(self) -> None:
        """Hand the present state to the phase; call it after each change."""
        assert self.memory is not None
        for name, value in self.net.state_dict().items():
            self.memory[f"{self.name}/{name}"] = value
        for number, parameter in enumerate(self.net.parameters()):
            for key, value in self.optimizer.state[parameter].items():
                self.memory[f"{self.name}/optimizer/{number}/{key}"] = value
