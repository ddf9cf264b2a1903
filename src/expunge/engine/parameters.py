"""Names, values and snapshots of a model's parameters, the same whether or not a tensor is reparametrised."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_ORIGINAL = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")

Vector = dict[str, Tensor]
"""One tensor per parameter, keyed by base name."""


def base_name(name: str) -> str:
    """Return the name a parameter has without reparametrisation: ``a.parametrizations.weight.original`` is ``a.weight``."""
    return _ORIGINAL.sub(r"\1\2", name)


def is_adapter(name: str) -> bool:
    """Return whether a parameter belongs to a reparametrisation and to no layer of the model itself.

    So do the parts of a tensor that is stored in several (``original0``, ``original1``, as in weight norm).
    """
    return "parametrizations." in name and not _ORIGINAL.search(name)


def leaves(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the model's own parameters by base name; adapters are left out."""
    return {base_name(name): parameter for name, parameter in model.named_parameters() if not is_adapter(name)}


def shared_names(model: nn.Module) -> dict[str, str]:
    """Return ``{any base name of a parameter: the one that it has in `leaves`}``; layers that share a tensor come under one name."""
    first: dict[int, str] = {}
    named = [(base_name(name), tensor) for name, tensor in model.named_parameters(remove_duplicate=False) if not is_adapter(name)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that reparametrisations have added, by full name."""
    return {name: parameter for name, parameter in model.named_parameters() if is_adapter(name)}


def effective(model: nn.Module) -> Vector:
    """Return what the layers compute with, by base name: the leaf itself, or the value of its reparametrisation."""
    values = {}
    for name, parameter in leaves(model).items():
        owner, attribute = owner_of(model, name)
        values[name] = getattr(owner, attribute) if parametrize.is_parametrized(owner, attribute) else parameter
    return values


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a parameter, and the attribute, for a base name."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def below(prefix: str, tensors: Mapping[str, Tensor]) -> Vector:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class Snapshot:
    """A copy of everything a model knows, buffers included, that later changes cannot reach."""

    def __init__(self, model: nn.Module):
        self.state: Vector = {base_name(name): value.detach().clone() for name, value in model.state_dict().items()}
        self._merged = {name: value.detach().clone() for name, value in effective(model).items()} if adapters(model) else {}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "Snapshot":
        """Return the snapshot that holds given values, by base name or full name; they are not copied."""
        made = cls.__new__(cls)
        made.state, made._merged = {base_name(name): value for name, value in state.items()}, {}
        return made

    def __getitem__(self, name: str) -> Tensor:
        return self.state[base_name(name)]

    def plain(self) -> Vector:
        """Return weights and buffers by base name, as they are when adapters are merged into them."""
        return {name: value for name, value in self.state.items() if not is_adapter(name)} | self._merged

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Write the snapshot back into the model; into plain weights if adapters that it has seen are merged by now."""
        present = {base_name(name): value for name, value in model.state_dict(keep_vars=True).items()}
        merged = any(is_adapter(name) and name not in present for name in self.state)
        for name, value in (self.plain() if merged else self.state).items():
            present[name].copy_(value)


def at_least_single(x: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, any other as it is: a model in float64 is differentiated in float64."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def is_norm(module: nn.Module) -> bool:
    """Return whether a module keeps running statistics of its input."""
    return getattr(module, "running_mean", None) is not None


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module's train/eval flag and every parameter's ``requires_grad`` back at the end."""
    training = {module: module.training for module in model.modules()}
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)


@contextmanager
def running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Normalise as the mode says but leave the running statistics as they are, for a second forward on the same batch."""
    norms: list[Any] = [module for module in model.modules() if is_norm(module) and module.track_running_stats]
    for module in norms:
        if module.training:
            module.track_running_stats = False
    try:
        yield
    finally:
        for module in norms:
            module.track_running_stats = True


def dot(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """Return the inner product over all tensors, as a float64 scalar tensor."""
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()


def norm(a: Iterable[Tensor]) -> Tensor:
    """Return the Euclidean norm over all tensors, float64."""
    a = list(a)
    return dot(a, a).sqrt()


def flat(vector: Mapping[str, Tensor]) -> Tensor:
    """Return all entries as one float vector, in the mapping's order."""
    return torch.cat([value.reshape(-1) for value in vector.values()])


def unflat(values: Tensor, like: Mapping[str, Tensor]) -> Vector:
    """Return the inverse of `flat` for the shapes of ``like``."""
    parts = values.split([value.numel() for value in like.values()])
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}
