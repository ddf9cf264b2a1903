"""Weights files: safetensors with the configuration inside, and state dicts that others wrote."""

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.runs import atomic_write

_METADATA = "expunge"
_NESTED = ("state_dict", "model_state_dict", "model", "net", "weights")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
_OTHER_NAMES = ((re.compile(r"^linear\.(weight|bias)$"), r"fc.\1"), (re.compile(r"\.shortcut\."), ".downsample."))
_OPTIONAL = re.compile(r"(^|\.)num_batches_tracked$|^normalize\.(mean|std)$")
_SHOWN = 3


def save(model: nn.Module, path: Path, config_tree: Any) -> None:
    """Write all weights and buffers, with the configuration as JSON in the metadata. Equal models give equal bytes.

    Raises:
        BadInput: the folder cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {_METADATA: json.dumps({"config": config_tree}, sort_keys=True)})


def is_whole(path: Path) -> bool:
    """Return whether a weights file is there and as long as its header says; the weights themselves are not read."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def read_config(path: Path) -> Any:
    """Return the configuration that `save` wrote into a weights file.

    Raises:
        BadInput: no such file, a damaged one, or one that holds no configuration.
    """
    _check_exists(path)
    try:
        with safe_open(path, framework="pt") as weights:
            metadata = weights.metadata() or {}
        return json.loads(metadata[_METADATA])["config"]
    except KeyError:
        raise BadInput(str(path), "holds weights but no configuration; expunge did not write it.", "Name the model yourself.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def load_into(model: nn.Module, path: Path) -> None:
    """Load a weights file into a model. Nothing changes unless the whole file fits.

    Names are matched up to the wrappers ``module.``, ``net.``, ``model.`` on either side and the names ``linear`` and
    ``shortcut`` for ``fc`` and ``downsample``. A file without BatchNorm's batch counters or without the normalisation of
    the input leaves those of the model as they are.

    Raises:
        BadInput: no such file; damaged; with code inside; weights that are not finite; names or shapes that do not fit.
    """
    path = Path(path)
    own = model.state_dict()
    found = _renamed(read_state(path), own)
    _check_names(path, own, found)
    _check_shapes(path, own, found)
    _check_kinds(path, own, found)
    for name, value in found.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise BadInput(str(path), f"{name} holds values that are not finite.", "Take an earlier checkpoint.")
    own.update(found)  # in place, which keeps the versions of the modules
    model.load_state_dict(own)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, on the CPU.

    Raises:
        BadInput: no such file; damaged; with code inside; or no tensors in it.
    """
    _check_exists(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Sparse|Validating sparse)", UserWarning)  # advice about tensors that are refused below
            content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused_pickle(path, str(error)) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AssertionError) as error:
        raise _damaged(path, error) from None
    while isinstance(content, dict) and (inner := next((key for key in _NESTED if isinstance(content.get(key), dict)), None)):
        content = content[inner]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise BadInput(str(path), "holds no state dict (names and tensors).", "Save it with torch.save(model.state_dict(), PATH).")
    for name, value in content.items():
        if not isinstance(name, str) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = (
                "a name that is no text"
                if not isinstance(name, str)
                else "a tensor that is not dense (sparse, quantised or without values)"
            )
            raise BadInput(str(path), f"holds {kind}: {name!r}.", "Save dense weights, with torch.save(model.state_dict(), PATH).")
    return content


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of all weights and buffers: names, types, shapes and bytes, sorted by name."""
    return tensors_hash(model.state_dict())


def tensors_hash(state: Mapping[str, Any]) -> str:
    """Return the same of tensors by name, such as those of a weights file."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise BadInput(str(path), "no such weights file.", "Give a .safetensors, .pt, .pth or .th file.")


def _damaged(path: Path, error: Exception) -> BadInput:
    detail = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
    return BadInput(str(path), f"cannot be read, the file is damaged or no weights file ({detail}).", "Copy or download it again.")


def _refused_pickle(path: Path, message: str) -> BadInput:
    """Explain PyTorch's refusal without its advice, which is to run the code in the file."""
    named = re.search(r"unsupported global: GLOBAL (\S+)|unsupported GLOBAL (\S+)", message, re.IGNORECASE)
    if named is None:
        return BadInput(str(path), "cannot be read, the file is damaged or no weights file.", "Copy or download it again.")
    problem = f"holds Python objects ({named[1] or named[2]}), which could run code when read; only tensors are read."
    return BadInput(str(path), problem, "Save it again with torch.save(model.state_dict(), PATH).")


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` under those of the possible names that fit the model best."""
    options = [_rename(state, own, *choice) for choice in product(_wrappings(state), _wrappings(own), (False, True))]
    return max(options, key=lambda option: len(option.keys() & own.keys()))


def _wrappings(names: dict[str, Tensor]) -> Iterator[str]:
    """Yield the prefixes that all names share, from none to the longest; the normalisation of the input has none."""
    inner = [name for name in names if not name.startswith("normalize.")]
    prefix = ""
    while True:
        yield prefix
        wrapper = next((w for w in _WRAPPERS if inner and all(name.startswith(prefix + w) for name in inner)), None)
        if wrapper is None:
            return
        prefix += wrapper


def _rename(state: dict[str, Tensor], own: dict[str, Tensor], strip: str, add: str, other_names: bool) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        plain = name.removeprefix(strip)
        if other_names:
            for pattern, replacement in _OTHER_NAMES:
                plain = pattern.sub(replacement, plain)
        renamed[plain if plain.startswith("normalize.") and plain in own else add + plain] = value
    return renamed


def _check_kinds(path: Path, own: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Refuse whole or complex numbers for weights, which would be cut without a word."""
    for name, value in found.items():
        if own[name].is_floating_point() and not value.is_floating_point():
            raise BadInput(str(path), f"{name} holds {str(value.dtype).removeprefix('torch.')}, not real numbers.", "Save float weights.")


def _check_names(path: Path, own: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    missing = [name for name in own if name not in found and not _OPTIONAL.search(name)]
    unexpected = [name for name in found if name not in own]
    if missing or unexpected:
        parts = [_listed("lacks", missing), _listed("has besides", unexpected)]
        problem = "does not fit the model: it " + " and ".join(part for part in parts if part) + "."
        raise BadInput(str(path), problem, "Choose the model that the weights were trained with.")


def _check_shapes(path: Path, own: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    wrong = [name for name in found if found[name].shape != own[name].shape]
    if not wrong:
        return
    if all(found[name].shape[1:] == own[name].shape[1:] and name.rpartition(".")[0] == wrong[0].rpartition(".")[0] for name in wrong):
        there, here = len(found[wrong[0]]), len(own[wrong[0]])
        problem = f"{wrong[0].rpartition('.')[0]} has {there} outputs in the file and {here} in the model."
        raise BadInput(str(path), problem, "Choose the data, and thereby the number of classes, that the weights were trained for.")
    shapes = [f"{name} {list(found[name].shape)} instead of {list(own[name].shape)}" for name in wrong]
    problem = "does not fit the model: it " + _listed("has the wrong shape for", shapes) + "."
    raise BadInput(str(path), problem, "Choose the model that the weights were trained with.")


def _listed(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{verb} {', '.join(names[:_SHOWN])}{more}"
