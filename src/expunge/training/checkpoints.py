"""The state of a run after a late epoch, on disk, so that a killed run goes on as if nothing had happened."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from expunge.engine import parallel
from expunge.engine.context import Context
from expunge.engine.cost import COUNTS
from expunge.engine.loop import Checkpoints, PhaseResult
from expunge.engine.parameters import below
from expunge.runs import atomic_write

_METADATA = "expunge"
_SHARE = 20
"""A write may take one part in so many of the time."""


class DiskCheckpoints(Checkpoints):
    """One safetensors file that is replaced after every epoch, or after the first one that ends so many seconds after the last time.

    It holds, for the phase that is running and for those that are finished, the model, the optimiser's state, the state of the
    rules, and how far the phase has come. A run that is started again with the same file repeats the edits, takes finished
    phases from the file, and goes on after the last epoch that is in it, bit for bit as if it had never stopped.

    A file that is damaged, or that belongs to another run, is reported as a warning and not used: training starts again.

    Args:
        path: the file; its folder is made when needed.
        identity: plain values that tell runs apart, such as the recipe and the data; a file with other values is not used.
        every_seconds: least time between two writes, and if it is not 0, at least twenty times what the last one took. Epochs between
            two writes are lost with a kill; phases that have ended are in the next.
    """

    def __init__(self, path: Path, identity: Any = None, every_seconds: float = 0.0):
        self.path, self.identity, self.every_seconds = Path(path), json.loads(json.dumps(identity)), every_seconds
        self._phases: dict[int, dict[str, Any]] = {}
        self._tensors: dict[str, Tensor] = {}
        self._began: float | None = None
        self._written = self._pause = 0.0

    def load(self, context: Context, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> PhaseResult | None:
        """Restore weights, optimiser, rule state and cost in place, and return how far the phase had come; None to begin it."""
        if self._began is None:
            self._began = self._written = time.monotonic()
            self._pause = self.every_seconds
            self._read(context)
        header = self._phases.get(context.phase)
        if header is None:
            return None
        parts = {kind: below(f"{context.phase}/{kind}/", self._tensors) for kind in ("model", "optimizer", "rules")}
        problem = _misfit(parts["model"], context.model.state_dict())
        if problem:
            self._forget(context, problem)
            return None
        _copy(parts["model"], context.model.state_dict())
        _restore_optimizer(optimizer, parts["optimizer"])
        state.update({name: value.to(context.device) for name, value in parts["rules"].items()})
        for count in COUNTS:
            setattr(context.cost, count, header["cost"][count])
        context.cost.seconds = header["cost"]["seconds"]
        result = PhaseResult(**header["result"])
        context.report({"event": "resumed", "phase": context.phase, "epoch": result.epochs, "steps": result.steps})
        return result

    def save(
        self, context: Context, optimizer: torch.optim.Optimizer, state: dict[str, Tensor], result: PhaseResult, finished: bool = False
    ) -> None:
        """Replace the file by the state after an epoch, if it is time.

        Raises:
            BadInput: the file cannot be written.
        """
        if parallel.rank():
            return  # rank 0 writes, and all read
        start = time.monotonic()
        due = start - self._written >= self._pause
        if due or finished:
            self._take(context, optimizer, state, result)
        if due:
            self._write(context)
            self._written = time.monotonic()
            self._pause = max(self.every_seconds, _SHARE * (self._written - start)) if self.every_seconds else 0.0

    def _take(self, context: Context, optimizer: torch.optim.Optimizer, state: dict[str, Tensor], result: PhaseResult) -> None:
        phase = context.phase
        kept = {name: value for name, value in self._tensors.items() if not name.startswith(f"{phase}/") and "/optimizer/" not in name}
        made = {"model": context.model.state_dict(), "optimizer": _optimizer_state(optimizer), "rules": state}
        fresh = {f"{phase}/{kind}/{name}": value for kind, values in made.items() for name, value in values.items()}
        self._tensors = kept | {name: value.detach().cpu().contiguous().clone() for name, value in fresh.items()}
        self._phases = {number: header for number, header in self._phases.items() if number < phase}
        self._phases[phase] = {"result": asdict(result), "cost": self._cost(context)}

    def _write(self, context: Context) -> None:
        header = {"seed": context.seed, "identity": self.identity, "phases": self._phases, "digest": _digest(self._tensors)}
        with atomic_write(self.path) as temporary:
            save_file(self._tensors, temporary, {_METADATA: json.dumps(header, sort_keys=True)})

    def _cost(self, context: Context) -> dict[str, float]:
        counts = {count: getattr(context.cost, count) for count in COUNTS}
        assert self._began is not None
        return {**counts, "seconds": context.cost.seconds + time.monotonic() - self._began}

    def _read(self, context: Context) -> None:
        if not self.path.is_file():
            return
        try:
            header, tensors = _read_file(self.path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            self._forget(context, f"it is damaged ({(str(error).splitlines() or [''])[0][:120]})")
            return
        if (header["seed"], header["identity"]) != (context.seed, self.identity):
            self._forget(context, "it belongs to another run")
            return
        self._phases = {int(number): values for number, values in header["phases"].items()}
        self._tensors = tensors

    def _forget(self, context: Context, problem: str) -> None:
        self._phases, self._tensors = {}, {}
        message = f"{self.path} is not used, because {problem}; this part of the run starts again."
        context.report({"event": "warning", "message": message})


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as opened:
        header = json.loads((opened.metadata() or {})[_METADATA])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    if _digest(tensors) != header["digest"]:
        raise ValueError("its content has changed since it was written")
    return header, tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes; safetensors itself notices a short file but not a changed one."""
    hashed = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        hashed.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _misfit(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return why weights do not fit a model; empty if they do."""
    for name in sorted(found.keys() ^ own.keys()):
        return f"only one of it and the model has {name!r}"
    for name, value in found.items():
        if value.shape != own[name].shape:
            return f"it holds {name} of the shape {list(value.shape)}, the model {list(own[name].shape)}"
    return ""


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        into[name].copy_(value)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of each parameter as ``{"3/momentum_buffer": tensor}``, numbered in the order of the groups."""
    found = {}
    for number, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                found[f"{number}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return found


def _restore_optimizer(optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor]) -> None:
    parameters = list(_parameters(optimizer))
    for name, value in values.items():
        number, _, key = name.partition("/")
        parameter = parameters[int(number)]
        own = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
        optimizer.state[parameter][key] = own.detach().copy_(value)
