"""What two models' outputs say about unlearning: pure functions of cached logits, and one component a metric.

The functions are in `expunge.metrics.functional`, because a function and a component's module may share a name.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.metrics.metric import Estimate, Metric, Target
    from expunge.metrics.table import Failure, default_metrics, evaluate, verdict
    from expunge.metrics.view import View

_HOMES = {
    "Estimate": "metric",
    "Metric": "metric",
    "Target": "metric",
    "Failure": "table",
    "default_metrics": "table",
    "evaluate": "table",
    "verdict": "table",
    "View": "view",
}

__all__ = ["Estimate", "Failure", "Metric", "Target", "View", "default_metrics", "evaluate", "functional", "verdict"]


def __getattr__(name: str) -> Any:
    if name == "functional":
        return importlib.import_module("expunge.metrics.functional")
    if name in _HOMES:
        return getattr(importlib.import_module(f"expunge.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'expunge.metrics' has no attribute {name!r}")
