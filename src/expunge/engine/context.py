"""All that a method may touch: declared streams, the original, teachers, generators, the cost meter."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from expunge.engine import randomness
from expunge.engine.architecture import Architecture
from expunge.engine.cost import CostMeter
from expunge.engine.divided import divide
from expunge.engine.parameters import Snapshot, at_least_single, leaves
from expunge.engine.stream import Stream
from expunge.errors import BadInput, UndeclaredAccess

if TYPE_CHECKING:
    from expunge.engine.gauges import Detail

TeacherKind = Literal["original", "random", "retrained"]


class Context:
    """The world of a method and its add-ons. It holds no test data, and no stream that none of them has declared.

    Args:
        model: the model to change, in place.
        streams: what exists: ``forget``, ``retain``, ``validation``, ``train``, ``surrogate``.
        needs: what the method and its add-ons declare; everything else raises `UndeclaredAccess`. A run narrows it to what the part
            that is at work declares, see `granted`.
        seed: seeds every random choice.
        num_classes: outputs of the model.
        forget_classes: classes that are to be forgotten as a whole; empty for other requests.
        kind: ``random``, ``class`` or ``subclass``.
        initialise: returns a freshly initialised state dict for a seed; by default every layer's own ``reset_parameters``.
        recipe: how the original was trained, for methods that declare ``recipe``.
        oracle: a retrained model, for diagnostics that declare ``oracle``.
        head: name of the layer that makes the logits, where detection fails.
        report: called with one mapping for each event, such as the end of an epoch.
        detail: how closely its phases are watched, for trackers; None for losses alone.
    """

    def __init__(
        self,
        model: nn.Module,
        streams: Mapping[str, Stream],
        *,
        needs: Iterable[str],
        seed: int,
        num_classes: int,
        forget_classes: tuple[int, ...] = (),
        kind: str = "random",
        initialise: Callable[[int], Mapping[str, Tensor]] | None = None,
        recipe: Any = None,
        oracle: nn.Module | None = None,
        head: str | None = None,
        report: Callable[[dict[str, Any]], None] | None = None,
        detail: "Detail | None" = None,
    ):
        self.model, self.seed, self.num_classes = divide(model), seed, num_classes
        self.forget_classes, self.kind = forget_classes, kind
        self.needs = self._run_needs = frozenset(needs)
        self.fixed = _fixed(model)
        self.cost = CostMeter()
        self.original = Snapshot(model)
        self.report = report or (lambda event: None)
        self.detail = detail
        self.phase = 0
        self.memory: dict[str, Tensor] = {}
        """What the rules of the running phase keep between steps, tensors by name; a checkpoint holds them."""
        self.mask: Mapping[str, Tensor] = {}
        """The mask of the running phase, by base name: zero where nothing moves."""
        self._blank = copy.deepcopy(model)
        self._streams, self._recipe, self._oracle = dict(streams), recipe, oracle
        self._initialise, self._head = initialise, head
        self._teachers: dict[tuple[str, int], nn.Module] = {}

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @contextmanager
    def granted(self, needs: Iterable[str]) -> Iterator[None]:
        """Let only these streams and artefacts be read inside: what the method, or an add-on, declares for itself."""
        before, self.needs = self.needs, frozenset(needs)
        try:
            yield
        finally:
            self.needs = before

    def stream(self, name: str | Stream) -> Stream:
        """Return a declared stream; a stream that the method has built itself passes through.

        Raises:
            UndeclaredAccess: the method does not declare it, or has built it of examples that it does not declare.
            BadInput: it is declared, but the request came without it.
        """
        if isinstance(name, Stream):
            self._check_built(name)
            return name
        self._declared(name)
        if name not in self._streams:
            raise BadInput(name, f"the method needs {name} data and there is none.", f"Give {name}=..., or choose a method without it.")
        return self._streams[name]

    @contextmanager
    def narrowed(self, **streams: Stream) -> Iterator[None]:
        """Put streams of declared examples in the place of others while the steps of another method run: for methods made of methods."""
        for stream in streams.values():
            self._check_built(stream)
        before, self._streams = self._streams, {**self._streams, **streams}
        try:
            yield
        finally:
            self._streams = before

    def _declared(self, name: str) -> None:
        if name not in self.needs:
            raise UndeclaredAccess(f"the method, or an add-on, reads {name!r} but declares only {sorted(self.needs)}")

    def _check_built(self, stream: Stream) -> None:
        given = {name: part for name, part in self._streams.items() if part.source is stream.source}
        if not given or any(part is stream for name, part in given.items() if name in self.needs):
            return
        allowed = [part.index for name, part in given.items() if name in self.needs]
        if not allowed or not bool(torch.isin(stream.index, torch.cat(allowed)).all()):
            raise UndeclaredAccess(f"the stream {stream.name!r} holds examples outside of what its reader declares, {sorted(self.needs)}")

    def is_forgotten(self, stream: Stream) -> bool:
        """Return whether all examples of a stream are to be forgotten."""
        forget = self._streams.get("forget")
        if forget is None or stream.source is not forget.source:
            return stream.name == "forget"
        return stream is forget or bool(torch.isin(stream.index, forget.index).all())

    @property
    def recipe(self) -> Any:
        """How the original was trained."""
        self._declared("recipe")
        if self._recipe is None:
            raise BadInput(
                "recipe", "the method trains from scratch and was given no recipe.", "Give recipe=..., for example recipe='tiny'."
            )
        return self._recipe

    @cached_property
    def architecture(self) -> Architecture:
        """Where the model's head, features and blocks are."""
        x = self.example(2)
        with self.cost.paused():
            return Architecture(self.model, x, head=self._head) if self._head else Architecture(self.model, x)

    def example(self, count: int) -> Tensor:
        """Return a few inputs, ``[count, ...]`` or what there is, to see how the model works."""
        present = [name for name in ("retain", "forget", "train", "validation") if name in self._streams]
        name = next((name for name in present if name in self._run_needs), present[0])
        stream = self._streams[name]
        return next(stream.subset(stream.index[:count]).batches(count)).x

    def generator(self, *purpose: object) -> torch.Generator:
        """Return a generator on the model's device for one purpose, for example ``generator("noise", 3)``."""
        return randomness.generator(self.device, self.seed, *purpose)

    def free_head(self) -> frozenset[str]:
        """Return the names of the parameters of the layer that makes the logits.

        Raises:
            BadInput: the model's author has frozen one of them.
        """
        names = frozenset(self.architecture.class_rows(0))
        if names & self.fixed:
            found = f"the head would have to change, and is frozen: {', '.join(sorted(names & self.fixed))} needs no gradient."
            raise BadInput("model", found, "Call requires_grad_(True) on it, or choose another method.")
        return names

    def fresh_state(self, *purpose: object) -> dict[str, Tensor]:
        """Return newly initialised weights and buffers, by name.

        Where the caller has not said how a model starts, layers that its author has frozen start as they are: they have learned nothing
        here. A layer that is frozen in part starts as its own ``reset_parameters`` says.

        Raises:
            BadInput: a parameter belongs to a layer that cannot initialise itself.
        """
        seed = randomness.derive(self.seed, "initialise", *purpose)
        if self._initialise is not None:
            return {name: value.to(self.device) for name, value in self._initialise(seed).items()}
        fresh = copy.deepcopy(self._blank)
        return reset_parameters(fresh, seed, frozen=False).state_dict()

    def adopt(self) -> None:
        """Make the model as it is now the original, to which teachers and distances refer."""
        self.original = Snapshot(self.model)
        self._teachers.clear()

    def teacher(self, kind: TeacherKind = "original", number: int = 0) -> nn.Module:
        """Return a frozen model in eval mode: the original, a randomly initialised one, or a retrained one (diagnostics only)."""
        if (kind, number) not in self._teachers:
            self._teachers[kind, number] = self._make_teacher(kind, number)
        return self._teachers[kind, number]

    def _make_teacher(self, kind: TeacherKind, number: int) -> nn.Module:
        if kind == "retrained":
            self._declared("oracle")
            if self._oracle is None:
                raise BadInput("oracle", "the method imitates a retrained model and was given none.", "Give oracle=MODEL.")
            made = divide(copy.deepcopy(self._oracle).to(self.device))
            return self._watched(made)
        return self.frozen(self.original if kind == "original" else Snapshot.of(self.fresh_state("teacher", number)))

    def frozen(self, state: Snapshot) -> nn.Module:
        """Return a copy of the model with given weights, frozen and in eval mode, whose passes count as a teacher's."""
        made = copy.deepcopy(self._blank)
        state.restore(made)
        return self._watched(made)

    def _watched(self, teacher: nn.Module) -> nn.Module:
        teacher.eval().requires_grad_(False)
        self.cost.watch(teacher, "teacher")
        return teacher

    def logits_of(self, kind: TeacherKind, x: Tensor, number: int = 0) -> Tensor:
        """Return a teacher's logits ``[B, C]`` without gradients."""
        with torch.no_grad():
            return at_least_single(self.teacher(kind, number)(x))


def _fixed(model: nn.Module) -> frozenset[str]:
    """Return the parameters that the model's author has frozen: no phase moves them, and no score ranks them."""
    found = leaves(model)
    fixed = frozenset(name for name, parameter in found.items() if not parameter.requires_grad)
    if len(fixed) == len(found):
        raise BadInput("model", "none of its parameters requires a gradient, so nothing could change.", "Call model.requires_grad_(True).")
    return fixed


def reset_parameters(model: nn.Module, seed: int, *, frozen: bool = True) -> nn.Module:
    """Initialise every layer of a model anew, in place, by the layer's own ``reset_parameters``.

    Args:
        model: the model.
        seed: of the random numbers.
        frozen: whether layers none of whose parameters requires a gradient are initialised too.

    Raises:
        BadInput: a parameter belongs to a module that has none.
    """
    devices = [parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            own = list(module.parameters(recurse=False))
            if own and not frozen and not any(parameter.requires_grad for parameter in own):
                continue
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif own:
                raise BadInput(
                    "model",
                    f"{f'the layer {name!r}' if name else 'the module itself'} ({type(module).__name__}) cannot be initialised anew.",
                    "Give it a reset_parameters() method, or pass initialise= to expunge.unlearn.",
                )
    return model
