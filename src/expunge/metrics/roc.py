"""The area under the ROC curve, and the operating points on it: `expunge.attacks.roc` under the name that metrics use."""

from expunge.attacks.roc import (
    Area,
    Rate,
    advantage,
    area,
    auc,
    midranks,
    null_standard_error,
    tpr_at_fpr,
    true_positive_rate,
    true_positive_rate_error,
)

__all__ = [
    "Area",
    "Rate",
    "advantage",
    "area",
    "auc",
    "midranks",
    "null_standard_error",
    "tpr_at_fpr",
    "true_positive_rate",
    "true_positive_rate_error",
]
