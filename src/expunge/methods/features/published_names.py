"""The names that source 004 has for combinations of an unlearning pass and a restoring pass."""

from typing import Any, Literal

PUBLISHED: dict[str, dict[str, Any]] = {
    "SPKD": {"unlearn": "gradient_ascent", "restore": "spkd"},
    "RKD": {"unlearn": "gradient_ascent", "restore": "rkd"},
    "AKD": {"unlearn": "gradient_ascent", "restore": "akd"},
    "GA_KD": {"unlearn": "gradient_ascent", "restore": "kd"},
    "PL": {"unlearn": "pseudo_label", "restore": "none"},
    "PL_SPKD": {"unlearn": "pseudo_label", "restore": "spkd"},
    "PL_RKD": {"unlearn": "pseudo_label", "restore": "rkd"},
    "PL_AKD": {"unlearn": "pseudo_label", "restore": "akd"},
    "PL_KD": {"unlearn": "pseudo_label", "restore": "kd", "label_weight": 1.0, "restore_weight": 1.0},
    "RL_SPKD": {"unlearn": "random_label", "restore": "spkd"},
    "SPKD_IL": {"unlearn": "gradient_ascent", "restore": "spkd", "interleaved": True},
    "AKD_IL": {"unlearn": "gradient_ascent", "restore": "akd", "interleaved": True},
    "RKD_IL": {"unlearn": "gradient_ascent", "restore": "rkd", "interleaved": True, "label_weight": 20.0, "restore_weight": 20.0},
    "SPKD_AL": {"unlearn": "gradient_ascent", "restore": "spkd", "layers": "all"},
    "AKD_AL": {"unlearn": "gradient_ascent", "restore": "akd", "layers": "all"},
    "SPKD_aug": {"unlearn": "gradient_ascent", "restore": "spkd", "crop": 0.9},
    "AKD_aug": {
        "unlearn": "gradient_ascent", "restore": "akd", "restore_on": "forget", "label_weight": 0.0, "restore_weight": 1.0, "crop": 0.5,
    },
    "GA_CKA": {"unlearn": "gradient_ascent", "restore": "cka", "label_weight": 1.0, "restore_weight": 100.0, "crop": 0.9},
    "GA_CKA_SPKD": {"unlearn": "gradient_ascent", "restore": "cka_spkd", "restore_weight": 100.0, "crop": 0.9},
    "PL_SPKD_df": {
        "unlearn": "pseudo_label", "restore": "spkd", "restore_on": "forget", "interleaved": True, "label_weight": 0.0,
        "unlearn_weight": 10.0,
    },
    "RL_imagenet": {"unlearn": "random_label", "restore": "none"},
}  # fmt: skip
"""The names of the source, and the fields that each stands for."""

Name = Literal[
    "SPKD", "RKD", "AKD", "GA_KD", "PL", "PL_SPKD", "PL_RKD", "PL_AKD", "PL_KD", "RL_SPKD",
    "SPKD_IL", "AKD_IL", "RKD_IL", "SPKD_AL", "AKD_AL",
    "SPKD_aug", "AKD_aug", "GA_CKA", "GA_CKA_SPKD", "PL_SPKD_df", "RL_imagenet",
]  # fmt: skip
