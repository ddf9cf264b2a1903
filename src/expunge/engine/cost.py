"""What a run costs: forward and backward passes of single examples, seconds, memory."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

COUNTS = ("forward", "backward", "teacher", "teacher_backward")
"""The counts of examples in a `CostMeter`."""


@dataclass
class CostMeter:
    """Counts at the models themselves, so that scoring passes and teachers cannot be forgotten.

    Attributes:
        forward: examples passed forward through the student.
        backward: examples whose output (logits, or the features that a term reads) was differentiated, once per backward pass.
        teacher: examples passed forward through teachers.
        teacher_backward: examples whose teacher output was differentiated, as attacks on the original do.
        seconds: wall time while `running`, monotonic clock, device synchronised.
        peak_memory_bytes: on a GPU the most that the run held; on a CPU the most that the process has ever held.
    """

    forward: int = 0
    backward: int = 0
    teacher: int = 0
    teacher_backward: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    _paused: bool = field(default=False, repr=False)
    _together: list[tuple[int, Tensor]] | None = field(default=None, repr=False)
    _handles: list[Any] = field(default_factory=list, repr=False)

    def watch(self, model: nn.Module, role: str = "student") -> None:
        """Count every forward of a model from now on, and for the student every backward from its output."""
        repeated: list[Any] = [module for module in model.modules() if hasattr(module, "passes_per_example")]

        def count(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if self._paused or not inputs or not isinstance(inputs[0], Tensor):
                return
            examples = len(inputs[0])
            for module in repeated:  # a net that averages over mirror images says so
                examples *= module.passes_per_example
            if role == "student":
                self.forward += examples
            else:
                self.teacher += examples
            if not isinstance(output, Tensor) or not output.requires_grad:
                return
            if self._together is None:
                output.register_hook(lambda _gradient: self._add_backward(examples, role))
            else:
                self._together.append((examples, output))

        self._handles.append(model.register_forward_hook(count))

    @contextmanager
    def counted_together(self) -> Iterator[list[Tensor]]:
        """Count one backward for the forward inside when its logits, or any tensor added to the yielded list, is differentiated."""
        others: list[Tensor] = []
        self._together, before = [], self._together
        try:
            yield others
        finally:
            seen, self._together = self._together, before
        for examples, output in seen:
            outputs = [output, *(other for other in others if other.requires_grad)]
            register_multi_grad_hook(outputs, lambda _gradient, examples=examples: self._add_backward(examples), mode="any")

    def _add_backward(self, examples: int, role: str = "student") -> None:
        if self._paused:
            return
        if role == "student":
            self.backward += examples
        else:
            self.teacher_backward += examples

    def add(self, *, forward: int = 0, backward: int = 0) -> None:
        """Add passes of work whose hooks cannot count, such as per-example gradients under vmap."""
        self.forward += forward
        self.backward += backward

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing inside; the caller adds what was done."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Measure wall time and peak memory, and take the hooks off at the end."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        _synchronise(device)
        start = time.monotonic()
        try:
            yield
        finally:
            _synchronise(device)
            self.seconds += time.monotonic() - start
            self.peak_memory_bytes = max(self.peak_memory_bytes, _peak_memory(device))
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    @property
    def passes(self) -> int:
        """Passes of single examples, a backward counted as two forwards."""
        return self.forward + 2 * self.backward + self.teacher + 2 * self.teacher_backward

    def tree(self) -> dict[str, float | int]:
        """Return the counts as plain values. ``passes`` counts a backward as two forwards."""
        return {
            "forward": self.forward,
            "backward": self.backward,
            "teacher": self.teacher,
            "teacher_backward": self.teacher_backward,
            "passes": self.passes,
            "seconds": round(self.seconds, 4),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
