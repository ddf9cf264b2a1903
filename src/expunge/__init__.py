"""Remove the influence of chosen training data from a trained classifier, and show how close the result is to one that never saw it.

The public interface is `unlearn`, `evaluate`, `train` and `catalogue`; they are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.api import Unlearned, evaluate, train, unlearn
    from expunge.components import catalogue

__all__ = ["Unlearned", "catalogue", "evaluate", "train", "unlearn"]
__version__ = "0.1.0"

_HOMES = {"unlearn": "expunge.api", "evaluate": "expunge.api", "train": "expunge.api", "Unlearned": "expunge.api"}


def __getattr__(name: str) -> Any:
    if name == "catalogue":
        from expunge.components import catalogue

        return catalogue
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'expunge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
