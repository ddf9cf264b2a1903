"""What the collections of published architectures (timm, torchvision, Hugging Face) have in common."""

import difflib
import importlib
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import nn

from expunge.errors import BadInput


def require(package: str, extra: str) -> ModuleType:
    """Return an optional package.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise BadInput("model", f"{package} is not installed.", f"Run: pip install 'expunge[{extra}]'.") from None


def check_known(collection: str, name: str, known: Iterable[str], listing: str) -> None:
    """Refuse an architecture that a collection does not have.

    Raises:
        BadInput: not in ``known``; the message names the nearest one, or how to list them all.
    """
    known = list(known)
    if name in known:
        return
    match = difflib.get_close_matches(name, known, n=1)
    raise BadInput("model", f"{collection} has no {name!r}.", f"Did you mean '{match[0]}'?" if match else f"{listing} lists them.")


PATIENCE_SECONDS = 3.0


@contextmanager
def without_vain_retries() -> Iterator[None]:
    """Use files that are here already, and no others, while the hub of Hugging Face cannot be reached.

    Its client retries for half a minute and more, whatever the reason. Behind a proxy nothing is known beforehand, and it has its way.
    """
    try:
        constants: Any = importlib.import_module("huggingface_hub.constants")
    except ModuleNotFoundError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not (getproxies() or reachable(constants.ENDPOINT))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def reachable(address: str) -> bool:
    """Return whether the host of a URL takes a connection within `PATIENCE_SECONDS`."""
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port or {"http": 80}.get(parts.scheme, 443)), PATIENCE_SECONDS):
            return True
    except OSError:
        return False


def attempt(name: str, input_shape: tuple[int, ...], make: Callable[[], nn.Module]) -> nn.Module:
    """Return ``make()``.

    Raises:
        BadInput: the collection refuses the shape of the pictures or an option, or its files cannot be had.
    """
    try:
        return make()
    except BadInput:
        raise
    except OSError as error:
        remedy = "Fetch them on a machine with network access, or write model.pretrained=false."
        raise BadInput("model", f"the files of {name} cannot be had: {_first_line(error)}.", remedy) from error
    except (RuntimeError, ValueError, AssertionError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        shape = "x".join(map(str, input_shape))
        raise BadInput(
            "model", f"{name} cannot be built for pictures of {shape}: {_first_line(error)}.", "Choose another model."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")[:160] or type(error).__name__
