"""What is measured, and on how many models."""

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from expunge.config.component import Component
from expunge.config.fields import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Text, hyper

TIER_SIZES: dict[str, dict[str, int]] = {
    "fast": {"seeds": 4, "base_models": 0, "shadow_models": 0, "swap_models": 0, "halves": 1},
    "standard": {"seeds": 10, "base_models": 16, "shadow_models": 0, "swap_models": 0, "halves": 2},
    "rigorous": {"seeds": 32, "base_models": 64, "shadow_models": 48, "swap_models": 24, "halves": 2},
}
"""How many models each tier makes unless told otherwise; ``halves`` of the retrained ones, as many as seeds each."""


class Evaluate(Component):
    """What to measure, and on how many models."""

    name: ClassVar[str] = "evaluate"
    tier: Literal["fast", "standard", "rigorous"] = hyper("fast", "which metrics and audits; each tier holds those before it")
    seeds: PositiveInt = hyper(4, "training seeds: originals, retrained models and unlearned models, paired; 10 standard, 32 rigorous")
    retrained: NonNegativeInt = hyper(
        4,
        "retrained models: as many as seeds, twice as many from the standard tier on, where the second half is what audits compare "
        "with. With 0 no gap and no band can be measured",
    )
    base_models: NonNegativeInt = hyper(
        0, "models on random halves, for attacks that know each example's difficulty; 16 standard, 64 rigorous"
    )
    shadow_models: NonNegativeInt = hyper(
        0, "models of each method that forget random sets, for the privacy games; a multiple of 3; 48 rigorous"
    )
    swap_models: NonNegativeInt = hyper(0, "models of each method in pairs with exchanged requests, for the swap test; even; 24 rigorous")
    doses: tuple[Fraction, ...] = hyper(
        (), "shares of the forget set with which models are retrained, to see how small a leak is seen; rigorous: .05, .1, .25, .5"
    )
    margins: dict[str, PositiveFloat] = hyper(
        {}, "differences from retraining that are declared not to matter, by metric or audit and in its unit, before anything is measured"
    )
    downstream: Text = hyper("", "folder of pictures, one folder a class, to which features are transferred; from the standard tier on")
    block_examples: NonNegativeInt = hyper(
        0, "examples on which the outputs of all blocks are compared (CKA of every layer with every layer); 0 leaves it out"
    )
    batch_size: NonNegativeInt = hyper(0, "examples in a forward pass while scoring; 0 takes 64 on a processor, and 250 elsewhere")
    executor: Literal["auto", "processes", "vectorized"] = hyper(
        "auto", "how pools are trained: worker processes, many nets at once, or on a GPU whichever a short measurement finds faster"
    )
    workers: NonNegativeInt = hyper(0, "processes that train and unlearn; 0 takes as many as processors and memory allow")
    ray: Text = hyper("", "train and unlearn on a Ray cluster: auto joins the one that runs here, local starts one, host:port joins that")
    gpus: PositiveFloat = hyper(1.0, "share of a GPU that each run takes on a Ray cluster, where the device is one")
    retries: NonNegativeInt = hyper(2, "how often a run is tried again whose worker process or machine was lost")
    threads: PositiveInt = hyper(1, "threads of each process on a CPU; another number gives other rounding, and so other run folders")

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, values: Any) -> Any:
        """Fill what is open by the tier's sizes, so that a printed configuration says what runs."""
        if not isinstance(values, dict) or str(values.get("tier", "fast")) not in TIER_SIZES:
            return values
        sizes = TIER_SIZES[values.get("tier", "fast")]
        filled = {"seeds": sizes["seeds"], **{key: value for key, value in values.items() if value is not None}}
        if isinstance(filled["seeds"], int):
            filled.setdefault("retrained", filled["seeds"] * sizes["halves"])
        for name in ("base_models", "shadow_models", "swap_models"):
            filled.setdefault(name, sizes[name])
        filled.setdefault("doses", (0.05, 0.1, 0.25, 0.5) if values.get("tier") == "rigorous" else ())
        doses = filled["doses"]
        if isinstance(doses, list | tuple) and (len(set(map(str, doses))) < len(doses) or any(dose in (0, 1) for dose in doses)):
            raise ValueError("the doses must be different shares above 0 and below 1; 0 is a retrained model and 1 an original")
        return filled
