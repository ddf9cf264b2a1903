"""What may move in a phase: the parameters, the mask on them, and the modes of layers."""

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.utils import parametrize

from expunge.engine.context import Context
from expunge.engine.norms import layer_of, norms_apart_from
from expunge.engine.parameters import base_name, is_norm, leaves, owner_of
from expunge.engine.phase import Phase
from expunge.engine.select import Mask, frozen_names
from expunge.engine.stream import Stream
from expunge.errors import BadInput


def set_modes(context: Context, phase: Phase, parameters: Mapping[str, nn.Parameter], streams: Iterable[Stream]) -> None:
    """Set train mode and ``requires_grad``; statistics of normalisation follow the phase's policy, and rest where no weight can move.

    Args:
        context: of the phase.
        phase: with its policy, and its mask.
        parameters: that move.
        streams: that the phase reads; over forget data alone statistics are frozen unless the phase says otherwise.
    """
    context.model.train()
    moving = {id(parameter) for parameter in parameters.values()}
    for parameter in context.model.parameters():
        parameter.requires_grad_(id(parameter) in moving)
    policy = phase.norm or ("frozen" if all(map(context.is_forgotten, streams)) else "train")
    fixed = frozen_names(phase.mask) if phase.mask else set()
    free = {layer_of(name) for name in parameters if name not in fixed}
    for module in norms_apart_from(context.model, free) if policy != "frozen" else filter(is_norm, context.model.modules()):
        module.eval()


def movable(context: Context, trainable: frozenset[str] | None) -> dict[str, nn.Parameter]:
    """Return the parameters that move by name: all that require a gradient, or those among them that are asked for.

    Raises:
        ValueError: no parameter has such a name.
        BadInput: the model's author has frozen all that are asked for.
    """
    named = {base_name(name): parameter for name, parameter in context.model.named_parameters()}
    if trainable is not None:
        missing = trainable - named.keys()
        if missing:
            raise ValueError(f"no parameter is called {sorted(missing)[0]!r}")
        free = trainable - context.fixed
        if trainable and not free:
            found = f"the phase moves {', '.join(sorted(trainable)[:3])} alone, and all that it moves is frozen (needs no gradient)."
            raise BadInput("model", found, "Call requires_grad_(True) on it, or choose another method.")
        return {name: parameter for name, parameter in named.items() if name in free}
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}


def leaf_mask(model: nn.Module, mask: Mask | None, parameters: Mapping[str, nn.Parameter]) -> Mask:
    """Return the part of a mask that acts on moving leaves; entries of ones cost nothing and are left out."""
    if mask is None:
        return {}
    unknown = mask.keys() - leaves(model).keys()
    if unknown:
        raise ValueError(f"the mask names {sorted(unknown)[0]!r}, which is no parameter of the model")
    return {name: value for name, value in mask.items() if name in parameters and bool((value != 1).any())}


def hand_to_adapters(model: nn.Module, mask: Mask | None) -> None:
    """Give the mask to reparametrisations that carry an update of their own (LoRA). They keep it until they are merged."""
    for name, value in (mask or {}).items():
        owner, attribute = owner_of(model, name)
        if parametrize.is_parametrized(owner, attribute):
            for adapter in getattr(owner, "parametrizations")[attribute]:  # noqa: B009 - typed as a module otherwise
                if hasattr(adapter, "mask"):
                    adapter.mask = value
