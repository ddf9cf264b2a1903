"""What a phase tells of itself while it runs, for trackers: accuracies, gradient norms, angles, multipliers. It reads, and changes nothing.

Values stay on the device until the losses are read there too, so that a step waits for nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from expunge.engine.combine import Gradients
from expunge.engine.context import Context
from expunge.engine.parameters import leaves
from expunge.engine.terms import Forward

_TINY = 1e-30
_BINS = 40


@dataclass(frozen=True)
class Detail:
    """How closely a phase is watched.

    Attributes:
        every: steps between two values; each is the mean over the steps since the last. A value is told at the end of an epoch too.
        apart: differentiate groups of terms one by one in the first of these steps, where the method adds them up: one more backward pass.
        histograms: tell how all weights are distributed after each epoch.
    """

    every: int = 10
    apart: bool = False
    histograms: bool = False

    @classmethod
    def of(cls, trackers: Sequence[Any]) -> "Detail | None":
        """Return how closely trackers together want phases to be watched; None without trackers. It decides no weights."""
        if not trackers:
            return None
        every = math.gcd(*(tracker.every for tracker in trackers))
        return cls(every, any(tracker.apart for tracker in trackers), any(getattr(tracker, "histograms", False) for tracker in trackers))


class Gauges:
    """The means of one phase, over a few steps and over an epoch; steps count from 1."""

    def __init__(self, context: Context, detail: Detail):
        self.context, self.detail = context, detail
        self._waiting: list[tuple[int, str, Tensor, float]] = []
        self._windows: dict[int, dict[str, _Mean]] = {}
        self._epoch: dict[str, _Mean] = {}
        self._before = 0

    def wants_groups(self, step: int) -> bool:
        """Return whether the groups' gradients are to be taken one by one in a step that does not need them so."""
        return self.detail.apart and (step - self._before - 1) % self.detail.every == 0

    def see_forwards(self, step: int, forwards: Mapping[str, Forward]) -> None:
        """Note how often the student is right on what it has just read, as it read it: augmented, in the mode of the phase."""
        for stream, forward in forwards.items():
            logits = forward.known_logits
            if logits is None or stream == "surrogate":
                continue
            hits = logits.detach().topk(min(5, logits.shape[1])).indices == forward.batch.y[:, None]
            self._wait(step, f"top1/{stream}", hits[:, 0].double().mean(), len(hits))
            if logits.shape[1] > 5:
                self._wait(step, f"top5/{stream}", hits.any(1).double().mean(), len(hits))

    def see_groups(self, step: int, groups: Mapping[str, Gradients]) -> None:
        """Note how long the gradients of the groups are, and the cosine of the angle between each two."""
        lengths = {group: _norm(parts) for group, parts in groups.items()}
        for group, length in lengths.items():
            self._wait(step, f"gradient_norm/{group}", length)
        for one, other in combinations(groups, 2):
            product = torch.stack([(a * b).sum(dtype=torch.float64) for a, b in zip(groups[one], groups[other], strict=True)]).sum()
            self._wait(step, f"cosine/{one} {other}", product / (lengths[one] * lengths[other]).clamp_min(_TINY))

    def see_update(self, step: int, gradients: Gradients, lr: float, rules: Mapping[str, Any]) -> None:
        """Note the length of the gradient that is followed, before clipping, the learning rate, and the rules' numbers of one word."""
        self._wait(step, "gradient_norm/update", _norm(gradients))
        self.add(step, "lr", lr)
        for name, value in rules.items():
            if isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point() and " " not in name and "/" not in name:
                self._wait(step, f"rule/{name}", value.detach())

    def add(self, step: int, name: str, value: float, weight: float = 1.0) -> None:
        """Note a number that is here already."""
        window = (step - self._before - 1) // self.detail.every
        for means in (self._windows.setdefault(window, {}), self._epoch):
            means.setdefault(name, _Mean()).add(value, weight)

    def read(self, step: int) -> None:
        """Read what waits on the device, with one synchronisation, and tell the windows that are over at this step."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            numbers = torch.stack([value for _, _, value, _ in waiting]).tolist()
            for (at, name, _, weight), number in zip(waiting, numbers, strict=True):
                self.add(at, name, number, weight)
        every = self.detail.every
        self._tell({self._before + (window + 1) * every: window for window in self._windows if self._before + (window + 1) * every <= step})

    def end_epoch(self, step: int) -> dict[str, float | None]:
        """Tell the rest, and return the means over the epoch."""
        self.read(step)
        self._tell(dict.fromkeys([step], max(self._windows)) if self._windows else {})
        found = {name: mean.value() for name, mean in self._epoch.items()}
        self._epoch, self._before = {}, step
        return found

    def begin(self, step: int) -> None:
        """Count epochs from this step, at which a phase begins or goes on."""
        self._before = step

    def _wait(self, step: int, name: str, value: Tensor, weight: float = 1.0) -> None:
        if value.device.type == "cpu":
            self.add(step, name, float(value), weight)
        else:
            self._waiting.append((step, name, value.double(), weight))

    def _tell(self, windows: Mapping[int, int]) -> None:
        if not windows:
            return
        means = [self._windows.pop(window) for window in windows.values()]
        names = list(dict.fromkeys(name for one in means for name in one))
        values = {name: [one[name].value() if name in one else None for one in means] for name in names}
        self.context.report({"event": "steps", "phase": self.context.phase, "steps": list(windows), "values": values})


class _Mean:
    """A weighted mean that is added up."""

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0.0

    def add(self, value: float, weight: float) -> None:
        self.total, self.weight = self.total + value * weight, self.weight + weight

    def value(self) -> float | None:
        """Return the mean; None where it is no number, which JSON does not have."""
        found = self.total / self.weight
        return found if math.isfinite(found) else None


def _norm(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(list(parts))).double().norm()


@torch.no_grad()
def histograms(context: Context) -> dict[str, dict[str, Any]]:
    """Return how the values of each parameter are distributed: the lowest, the highest, and counts in bins of equal width between."""
    found = {}
    for name, parameter in leaves(context.model).items():
        values = parameter.detach().float().cpu()
        low, high = float(values.min()), float(values.max())
        if math.isfinite(low) and math.isfinite(high):
            counts = torch.histc(values, _BINS, low, high) if low < high else torch.tensor([float(values.numel())])
            found[name] = {"low": low, "high": high, "counts": [int(count) for count in counts.tolist()]}
    return found
