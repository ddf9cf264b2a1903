"""What the five source systems call their algorithms, and what to write here for the same.

The registry finds most of these names (aliases and presets of the classes). A name that stands for a method with an add-on cannot be
the name of a method; the registry then answers with what to write. docs/explanation/source-names.md is made from this table.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Use:
    """What to write here for an algorithm of a source.

    Attributes:
        method: registry name; empty where any method will do.
        fields: fields of the method that define the algorithm.
        addons: add-ons, innermost first: a name, or a name with fields.
        released: further fields that come nearest to the released code, where it differs from what is the default here.
        forget: the scenario, where the algorithm is one.
        note: what a reader should know.
    """

    method: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    addons: tuple[str | dict[str, Any], ...] = ()
    released: dict[str, Any] = field(default_factory=dict)
    forget: str = ""
    note: str = ""

    def words(self) -> str:
        """Return the keys and values of the command line."""
        parts = [f"forget={self.forget}"] if self.forget else []
        parts += [f"method={self.method}"] if self.method else []
        parts += [f"method.{key}={_plain(value)}" for key, value in self.fields.items()]
        names = [addon if isinstance(addon, str) else addon["name"] for addon in self.addons]
        parts += [f"addons=[{','.join(names)}]"] if names else []
        for addon in self.addons:
            if not isinstance(addon, str):
                parts += [f"addons.{addon['name']}.{key}={_plain(value)}" for key, value in addon.items() if key != "name"]
        return " ".join(parts)

    def released_words(self) -> str:
        """Return the keys and values that come nearest to the released code."""
        return " ".join(f"method.{key}={_plain(value)}" for key, value in self.released.items())


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


PAIRED = {"alpha": 0.95, "optimizer": "adam", "lr": 1e-4, "epochs": 30, "epoch_of": "forget"}
MAX_AND_MIN = {"gamma": 3.0, "alpha": 0.1, "temperature": 1.0, "max_epochs": 3}
FOCUS_OPT = ("gradient_focus", "optimal_mask")
SWAPPED = "in the released code the two weights of the moving average are swapped: addons.{}.ema=reference"

SPARSE: dict[str, Use] = {
    "raw": Use("original"),
    "retrain": Use("retrain"),
    "retrain_ls": Use("retrain_smoothed"),
    "retrain_sam": Use("retrain_sam"),
    "FT": Use("finetune"),
    "FT_l1": Use("l1_sparse", note="the same as FT_prune without its report of sparsity"),
    "FT_prune": Use("l1_sparse", note="it prunes nothing"),
    "FT_prune_bi": Use("interleaved_pruning"),
    "GA": Use("gradient_ascent", released={"fidelity": "reference"}),
    "GA_l1": Use("gradient_ascent_l1"),
    "fisher": Use("fisher_forgetting", released={"form": "first"}, note="the code's first version"),
    "fisher_new": Use("fisher_forgetting", released={"form": "published"}),
    "wfisher": Use("influence", released={"form": "published"}, note="the released recursion is rank one"),
    "lora": Use("finetune", addons=("lora",)),
    "prune_lora": Use("finetune", addons=({"name": "prune", "structure": "channels", "sparsity": 0.5}, "lora")),
    "PruneLoRA": Use("finetune", addons=({"name": "prune", "structure": "channels", "sparsity": 0.5}, "lora")),
    "omp": Use(addons=("prune",), note="prune first, then any method"),
    "imp": Use(addons=({"name": "prune", "cycles": 14, "sparsity": 0.956},), note="20 % a cycle"),
    "lt": Use(addons=("lottery_ticket",), note="rewinds to the initial weights"),
    "rewind_lt": Use(addons=({"name": "lottery_ticket", "rewind_epochs": 8},)),
    "pt": Use(addons=({"name": "prune", "rewind": "original", "cycles": 14, "sparsity": 0.956},)),
    "synflow": Use(addons=({"name": "prune", "score": "synflow"},)),
    "snip": Use(addons=({"name": "prune", "score": "snip"},)),
    "grasp": Use(addons=({"name": "prune", "score": "grasp"},)),
    "random_prune": Use(addons=({"name": "prune", "score": "random"},)),
    "ln_structured": Use(addons=({"name": "prune", "structure": "channels"},)),
    "backdoor": Use("finetune", forget="poisoned", note="Trojan cleanse; any method"),
}

SALUN: dict[str, Use] = {
    "RL": Use("random_label", released={"exclude_true": False}),
    "SalUn": Use("salun", note="in source 001 the same name means another mask, see there"),
    "generate_mask": Use(addons=("saliency_mask",), note="on any method; salun has it built in"),
    "RL_proximal": Use("salun_soft"),
    "SalUn-soft": Use("salun_soft"),
    "GA_prune": Use("gradient_ascent_pruned", {"prune": "end"}, note="does not run as released"),
    "GA_prune_bi": Use("gradient_ascent_pruned", {"prune": "epoch"}, note="does not run as released"),
    "boundary_shrink": Use("boundary_shrink", released={"fidelity": "reference"}),
    "boundary_expanding": Use("boundary_expand", released={"fidelity": "reference"}),
}

ALIGNED: dict[str, Use] = {
    "NGPlus": Use("neggrad_plus", released=PAIRED),
    "NGradMask": Use("neggrad_plus", addons=("gradient_mask",), released=PAIRED, note=SWAPPED.format("gradient_mask")),
    "VarGrad": Use("neggrad_plus", addons=("gradient_mask",), released=PAIRED, note="the README's name of NGradMask"),
    "NGradFocus": Use("neggrad_plus", addons=("gradient_focus",), released=PAIRED, note=SWAPPED.format("gradient_focus")),
    "NGSalUn": Use("neggrad_plus", addons=("batch_saliency",), released=PAIRED),
    "NGPlus_OPT": Use("neggrad_plus", addons=("optimal_mask",), released=PAIRED),
    "NGradFocusOPT": Use("neggrad_plus", addons=FOCUS_OPT, released=PAIRED),
    "SRL": Use("successive_random_label"),
    "SRGradMask": Use("successive_random_label", addons=("gradient_mask",)),
    "SRGradFocus": Use("successive_random_label", addons=("gradient_focus",)),
    "SalUn": Use("successive_random_label", addons=("batch_saliency",), note="method=salun is the published SalUn"),
    "SRL_OPT": Use("successive_random_label", addons=("optimal_mask",)),
    "SRGradFocusOPT": Use("successive_random_label", addons=FOCUS_OPT),
    "SCRUB": Use("scrub_paired", note="method=scrub is the published SCRUB"),
    "SCRUBGradMask": Use("scrub_paired", addons=("gradient_mask",)),
    "SCRUBFocus": Use("scrub_paired", addons=("gradient_focus",)),
    "SCRUBSalUn": Use("scrub_paired", addons=("batch_saliency",)),
    "MSG": Use("msg", released={"variant": "source_001", "lr": 1e-4, "epochs": 29}),
    "CT": Use("ct", released={"lr": 1e-4, "epochs": 29, "batch_size": 256}, note="with Adam there: addons=[optimizer]"),
    "FT": Use("finetune"),
    "fisher": Use("fisher_forgetting", released={"form": "first"}),
    "fisher_new": Use("fisher_forgetting", released={"form": "published"}),
    "wfisher": Use("influence", released={"form": "published"}),
    "retrain": Use("retrain"),
}

CONSTRAINED: dict[str, Use] = {
    "finetuning": Use("finetune"),
    "cfk": Use("cf_k"),
    "euk": Use("eu_k"),
    "neggradplus": Use("neggrad_plus", released={"order": "interleave", "alpha": 0.667, "lr": 0.15, "epoch_of": "forget"}),
    "SCRUB": Use("scrub_interleaved", note="method=scrub is the published SCRUB"),
    "constrained_unlearning": Use("constrained_unlearning"),
    "untrain_constrained": Use("constrained_unlearning"),
    "constrained_learning": Use("constrained_finetuning"),
    "penalty": Use("constrained_unlearning", {"solver": "penalty"}, released={"lr": 1e-3}),
    "lagrange": Use("constrained_unlearning", {"solver": "lagrangian"}),
    "augmented_lagrange": Use("constrained_finetuning", {"solver": "augmented_lagrangian"}),
    "unlearning": Use("constrained_unlearning", {"stop": "unlearning"}, note="a stop rule"),
    "refining": Use("constrained_finetuning", {"stop": "refining"}, note="a mode and its stop rule"),
    "forget-forever": Use("constrained_unlearning", {"stop": "forget_forever"}, note="a stop rule"),
    "confusion": Use("confusion_resolution", note="a mode, and the stop rule stop=confusion"),
    "train": Use("contrastive_train"),
    "untrain": Use("contrastive_untrain"),
    "untrain_contrastive": Use("contrastive_untrain_pairs"),
    "batch_averaging": Use("contrastive_untrain_averaged"),
    "SAM": Use(addons=("sam",)),
    "SO_SAM": Use(addons=("second_order_sam",)),
}

CHALLENGE: dict[str, Use] = {
    "finetune": Use("finetune"),
    "RLF": Use("random_label_flip"),
    "BoundaryUnlearning": Use("boundary_shrink", note="its attack is on the model as it changes, with smoothed labels"),
    "SCRUB": Use("scrub", released=MAX_AND_MIN),
    "AdverserialTrainer": Use("scrub", released=MAX_AND_MIN),
    "NN-unlearning": Use("nearest_neighbor_label"),
    "surgery": Use("gradient_surgery"),
    "MaskedActivation": Use("activation_pruning"),
    "CSA": Use("head_surgery", note="with model=class_attention; an idea of the source without working code"),
    "adversarial": Use("adversarial", note="an idea of the source; adversarial_source_free does without retained data"),
    "streaming": Use("streaming", note="an idea of the source"),
    "entropy": Use("entropy_maximization", note="an idea of the source; entropy_matching is its other reading"),
}

RESTORING: dict[str, Use] = {
    name: Use("unlearn_restore", {"published": name})
    for name in """SPKD RKD AKD GA_KD PL PL_SPKD PL_RKD PL_AKD PL_KD RL_SPKD SPKD_IL AKD_IL RKD_IL SPKD_AL AKD_AL SPKD_aug AKD_aug GA_CKA
    GA_CKA_SPKD PL_SPKD_df RL_imagenet""".split()
}
EXPERIMENT = "an experiment in the source's code without a text"

REPRESENTATION: dict[str, Use] = {
    **RESTORING,
    "SPKD_retrained": Use("unlearn_restore_oracle", {"published": "SPKD"}),
    "PL_SPKD_retrained": Use("unlearn_restore_oracle", {"published": "PL_SPKD"}),
    "GA_softlabel": Use("gradient_ascent", {"labels": "original"}, note=EXPERIMENT),
    "GA_noise": Use("gradient_ascent_perturbed", {"move": "noise", "size": 0.1}, note=EXPERIMENT),
    "GA_pp": Use("gradient_ascent_perturbed", {"move": "mahalanobis", "size": 1e-4}, released={"fidelity": "reference"}, note=EXPERIMENT),
    "GA_mmd": Use("gradient_ascent_perturbed", {"move": "discrepancy", "size": 1e-5}, released={"fidelity": "reference"}, note=EXPERIMENT),
    "GA_layerwise": Use("gradient_ascent_by_depth", {"order": "rates"}, note=EXPERIMENT),
    "GA_sequential": Use("gradient_ascent_by_depth", {"order": "stages"}, note=EXPERIMENT),
    "GA_freeze": Use("gradient_ascent", addons=("last_k",), note=EXPERIMENT),
    "PCU": Use("proxy_contrast", {"hold": "retain"}, note=EXPERIMENT),
    "PCU_forget": Use("proxy_contrast", {"hold": "nothing"}, note=EXPERIMENT),
    "SCRUB": Use("scrub", released={"max_epochs": 3, "max_steps": 200, "batch_size": 256, "forget_batch_size": 256}),
    "SCAR": Use("scar", released={"forget_weight": 5.0}),
    "CU": Use("contrastive_unlearning", released={"form": "source_004", "temperature": 1.0}),
    "DUCK": Use("duck", released={"forget_weight": 1.5, "retain_weight": 1.5}),
    "RL": Use("random_label"),
    "GA": Use("gradient_ascent"),
    "FT": Use("finetune"),
}

SOURCES: dict[str, dict[str, Use]] = {
    "000: Unlearning_Challenge, Unlearn-Sparse": SPARSE,
    "SalUn, which 000, 001 and 004 build on": SALUN,
    "001: Model Updates Probably Aligned with Gradients": ALIGNED,
    "002: constrained unlearning": CONSTRAINED,
    "003: sachit3022/unlearning": CHALLENGE,
    "004: UUEF": REPRESENTATION,
}
"""Source -> its names, as its own code, README or paper writes them."""

LEFT_OUT: dict[str, str] = {
    "EspGrad, SalGrad, nested VarGrad": "source 001 has dropped these earlier versions; GradMask and GradFocus took their place.",
    "log barrier, quartic and exponential penalty": "source 002 has them as comments; the log barrier is said not to work with SGD.",
    "inverse KL and CE - 4.2 as forget losses of SCRUB": "source 002 offers them beside the divergence; they have no name and no result.",
    "hypernetwork": "source 003 abandoned it after a demonstration on logistic regressions of ten points of Iris.",
}
"""What the sources name and expunge does not have, with the reason."""


def hint(name: str) -> str:
    """Return what to write for a source's name that is no single component; empty if no source knows it."""
    found = {source.partition(":")[0]: table[name] for source, table in SOURCES.items() if name in table}
    texts = [f"In source {source} that is {use.words()}" for source, use in found.items() if use.addons]
    return ". ".join(texts) + "." if texts else ""
