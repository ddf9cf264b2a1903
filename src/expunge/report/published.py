"""Published numbers, each with its source, to be shown beside ours. They are data: no mean, band, rank or test ever takes one in.

Every unlearning accuracy is the error on the forget set in percent, whichever way its paper prints it, and membership is the share of
the forget set that the attack calls non-members. Numbers are what was printed, rounded as there; a spread is left out where it was not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

UA, RA, TA, MIA, GAP = "unlearning_accuracy", "retain_accuracy", "test_accuracy", "svc_membership", "average_gap"


@dataclass(frozen=True)
class Setting:
    """One published table.

    Attributes:
        name: for ``--against``.
        source: where it was printed.
        data: name of the data set.
        model: name of the model.
        kind: of the request: random, class or subclass.
        forget: number of examples to forget.
        retain: number of examples to keep.
        rows: registry name of a method, or ``retrained`` -> metric -> printed value.
        minutes: the same rows -> run time in minutes, on the authors' machine.
        note: what a reader must know before comparing.
        original: fields that another setting of the original changes, such as a share of weights that is pruned.
    """

    name: str
    source: str
    data: str
    model: str
    kind: str
    forget: int
    retain: int
    rows: Mapping[str, Mapping[str, float]]
    minutes: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    original: str = ""

    def fits(self, request: Mapping[str, Any]) -> bool:
        """Return whether a record's request is this setting: same data, model, kind of request and sizes."""
        return not self.original and not self.differences(request)

    def differences(self, request: Mapping[str, Any]) -> list[str]:
        """Return in what a record's request differs from this setting, in words."""
        keys = ("data", "model", "kind", "forget", "retain")
        found = [f"{key} {request[key]}, published {getattr(self, key)}" for key in keys if request[key] != getattr(self, key)]
        return [*found, *([f"the published original is {self.original}"] if self.original else [])]


def _rows(columns: tuple[str, ...], rows: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    return {name: dict(zip(columns, values, strict=True)) for name, values in rows.items()}


SALUN = "SalUn, ICLR 2024 (arXiv:2310.12508), Table 1, mean of 10 trials"
SPARSE = "Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023 (arXiv:2304.04934), Table 3, mean of 10 trials"
RERUN = "rerun of the authors' code in Ali-Vahedifar/Matryoshka-Machine-Unlearning (github.com), 10 trials"
FEASIBLE = "results in the repository of Improving Unlearning with Model Updates Probably Aligned with Gradients (arXiv:2511.02435)"
LORA = "LoRA Unlearns More and Retains More, AAAI 2025 (arXiv:2411.11907), after 10 epochs"

TEN: dict[str, Any] = {"data": "cifar10", "model": "resnet18", "kind": "random", "forget": 4500, "retain": 40500}
HALF: dict[str, Any] = {**TEN, "forget": 22500, "retain": 22500}
CLASS: dict[str, Any] = {**TEN, "kind": "class"}

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "salun-random10",
        SALUN,
        **TEN,
        rows=_rows(
            (UA, RA, TA, MIA, GAP),
            {
                "retrained": (5.24, 100.0, 94.26, 12.88, 0.0),
                "finetune": (0.63, 99.88, 94.06, 2.70, 3.78),
                "random_label": (7.61, 99.67, 92.83, 37.36, 7.15),
                "gradient_ascent": (0.69, 99.50, 94.01, 1.70, 4.12),
                "influence": (1.07, 99.20, 93.20, 2.67, 4.06),
                "boundary_expand": (0.59, 99.42, 93.85, 7.47, 2.76),
                "boundary_shrink": (1.78, 98.29, 92.69, 8.96, 2.67),
                "l1_sparse": (4.19, 97.74, 91.59, 9.84, 2.26),
                "salun": (2.85, 99.62, 93.93, 14.39, 1.15),
                "salun_soft": (4.19, 99.74, 93.44, 19.49, 2.19),
            },
        ),
        minutes={
            "retrained": 43.29,
            "finetune": 2.37,
            "random_label": 2.64,
            "gradient_ascent": 0.13,
            "influence": 3.22,
            "boundary_expand": 0.26,
            "boundary_shrink": 0.43,
            "l1_sparse": 2.36,
            "salun": 2.66,
            "salun_soft": 2.71,
        },
        note="FT has UA 6.83 and RA 96.61 in sparse-random10, at another learning rate: neither is the number.",
    ),
    Setting(
        "salun-random50",
        SALUN,
        **HALF,
        rows=_rows(
            (UA, RA, TA, MIA, GAP),
            {
                "retrained": (7.91, 100.0, 91.72, 19.29, 0.0),
                "finetune": (0.44, 99.96, 94.23, 2.15, 6.79),
                "random_label": (4.80, 99.55, 91.31, 41.95, 6.65),
                "gradient_ascent": (0.40, 99.61, 94.34, 1.22, 7.15),
                "influence": (3.97, 96.21, 90.00, 7.29, 5.36),
                "boundary_expand": (3.08, 96.84, 90.41, 24.87, 3.72),
                "boundary_shrink": (9.76, 90.19, 83.71, 32.15, 8.13),
                "l1_sparse": (1.44, 99.52, 93.13, 4.76, 5.72),
                "salun": (7.75, 94.28, 89.29, 16.99, 2.65),
                "salun_soft": (3.41, 99.62, 91.82, 31.50, 4.30),
            },
        ),
        minutes={
            "retrained": 23.90,
            "finetune": 1.31,
            "random_label": 2.65,
            "gradient_ascent": 0.66,
            "influence": 3.25,
            "boundary_expand": 1.31,
            "boundary_shrink": 2.12,
            "l1_sparse": 1.31,
            "salun": 2.68,
            "salun_soft": 2.72,
        },
    ),
    Setting(
        "sparse-class",
        SPARSE,
        **CLASS,
        rows=_rows(
            (UA, MIA, RA, TA, GAP),
            {
                "retrained": (100.0, 100.0, 100.0, 94.83, 0.0),
                "finetune": (22.53, 75.00, 99.87, 94.31, 25.78),
                "gradient_ascent": (93.08, 94.03, 92.60, 86.64, 7.12),
                "fisher_forgetting": (79.93, 100.0, 99.45, 94.18, 5.32),
                "influence": (87.82, 95.96, 97.98, 91.42, 5.41),
            },
        ),
        minutes={"retrained": 43.23, "finetune": 2.52, "gradient_ascent": 0.33, "fisher_forgetting": 38.91, "influence": 3.25},
    ),
    Setting(
        "sparse-class-95",
        SPARSE,
        **CLASS,
        rows=_rows(
            (UA, MIA, RA, TA, GAP),
            {
                "retrained": (100.0, 100.0, 99.99, 91.80, 0.0),
                "finetune": (73.64, 83.02, 99.87, 94.32, 11.50),
                "gradient_ascent": (98.09, 97.74, 87.74, 82.58, 6.41),
                "fisher_forgetting": (94.83, 100.0, 99.48, 94.04, 1.98),
                "influence": (99.47, 99.93, 97.24, 90.76, 1.10),
            },
        ),
        original="pruned to 5 % of its weights (OMP)",
    ),
    Setting(
        "sparse-random10",
        SPARSE,
        **TEN,
        rows=_rows(
            (UA, MIA, RA, TA, GAP),
            {
                "retrained": (5.41, 13.12, 100.0, 94.42, 0.0),
                "finetune": (6.83, 14.97, 96.61, 90.13, 2.74),
                "gradient_ascent": (7.54, 10.04, 93.31, 89.28, 4.26),
                "fisher_forgetting": (7.84, 9.52, 92.05, 88.10, 5.08),
                "influence": (2.03, 5.07, 98.26, 91.33, 4.07),
            },
        ),
        minutes={"retrained": 42.15, "finetune": 2.33, "gradient_ascent": 0.31, "fisher_forgetting": 38.24, "influence": 3.22},
    ),
    Setting(
        "sparse-random10-95",
        SPARSE,
        **TEN,
        rows=_rows(
            (UA, MIA, RA, TA, GAP),
            {
                "retrained": (6.77, 14.17, 100.0, 93.33, 0.0),
                "finetune": (5.97, 13.36, 96.99, 90.29, 1.92),
                "gradient_ascent": (5.62, 11.76, 95.44, 89.26, 3.05),
                "fisher_forgetting": (8.16, 10.80, 92.29, 87.79, 4.50),
                "influence": (6.51, 11.93, 94.94, 88.74, 3.08),
            },
        ),
        note="the average of IU is printed as 3.08; the printed cells give 3.04.",
        original="pruned to 5 % of its weights (OMP)",
    ),
    Setting(
        "rerun-random10",
        RERUN,
        **TEN,
        rows={
            "retrained": {UA: 5.21, RA: 100.0, TA: 94.44, MIA: 13.29},
            "original": {GAP: 4.72},
            "finetune": {GAP: 4.43},
            "random_label": {GAP: 2.98},
            "gradient_ascent": {GAP: 4.71},
            "influence": {GAP: 4.49},
            "boundary_expand": {GAP: 4.72},
            "boundary_shrink": {GAP: 4.72},
            "l1_sparse": {GAP: 4.18},
            "salun": {UA: 0.62, RA: 99.99, TA: 94.34, MIA: 15.00, GAP: 1.60},
            "salun_soft": {GAP: 3.13},
        },
        minutes={"retrained": 16.4, "salun": 1.16},
        note="doing nothing has a gap of about 4.72, so that the whole range of this column is less than five points.",
    ),
    Setting(
        "rerun-random50",
        RERUN,
        **HALF,
        rows={
            name: {GAP: gap}
            for name, gap in {
                "finetune": 9.42,
                "random_label": 3.82,
                "gradient_ascent": 7.49,
                "influence": 8.26,
                "l1_sparse": 3.47,
                "salun": 4.57,
                "salun_soft": 1.71,
            }.items()
        },
    ),
    Setting(
        "prunelora-resnet50-class",
        LORA,
        **{**CLASS, "model": "resnet50"},
        rows=_rows(
            (UA, RA, TA),
            {
                "retrained": (100.0, 98.02, 96.70),
                "finetune": (100.0, 96.27, 91.44),
                "finetune+lora": (100.0, 97.19, 93.49),
                "finetune+prune": (100.0, 95.68, 90.72),
                "finetune+prune+lora": (99.98, 98.00, 95.41),
            },
        ),
        note="the class is number 3 (cat); its membership attack is another one than ours, and is left out.",
    ),
    Setting(
        "prunelora-vit-class",
        LORA,
        **{**CLASS, "model": "vit"},
        rows=_rows(
            (UA, RA, TA),
            {
                "retrained": (100.0, 96.90, 84.92),
                "finetune": (100.0, 86.80, 79.94),
                "finetune+lora": (95.58, 97.81, 85.16),
                "finetune+prune": (100.0, 86.14, 79.53),
                "finetune+prune+lora": (100.0, 97.63, 85.34),
            },
        ),
        note="the class is number 3 (cat), the net a SimpleViT of 12 blocks and width 384; its membership attack is another one than ours.",
    ),
    Setting(
        "feasible-vgg16-random10",
        f"{FEASIBLE}, one seed, after one epoch",
        **{**TEN, "model": "vgg16_bn"},
        rows=_rows(
            (UA, RA, TA),
            {
                "original": (0.98, 98.99, 92.60),
                "finetune": (1.67, 98.64, 92.25),
                "neggrad_plus": (1.80, 98.52, 92.10),
                "successive_random_label": (1.84, 98.56, 92.09),
                "successive_random_label+batch_saliency": (1.73, 98.62, 92.22),
            },
        ),
        note="printed as forget accuracies; its membership numbers are shares called members, and are left out.",
    ),
    Setting(
        "feasible-subclass1900",
        f"{FEASIBLE}, one seed, after ten epochs",
        **{**TEN, "kind": "subclass", "forget": 1900, "retain": 43100},
        rows={
            "retrained": {UA: 20.26},
            **_rows(
                (UA, RA, TA),
                {
                    "successive_random_label": (22.00, 97.25, 90.48),
                    "successive_random_label+gradient_mask": (22.84, 97.01, 90.29),
                    "successive_random_label+gradient_focus": (21.58, 97.22, 90.47),
                    "successive_random_label+batch_saliency": (38.32, 95.54, 88.52),
                },
            ),
        },
        note="1,900 of class 0; printed as forget accuracies; its membership numbers are shares called members, and are left out.",
    ),
)


def fitting(request: Mapping[str, Any]) -> list[Setting]:
    """Return the published tables of a record's request."""
    return [setting for setting in SETTINGS if setting.fits(request)]
