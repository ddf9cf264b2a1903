"""What a split file is made of: index sets as readable text, alterations as plain values, and the hash over all of it."""

import hashlib
import json
from typing import Any

import numpy as np

from expunge.data.augmentation import Noise, Trigger
from expunge.data.scenario import Alteration


def to_ranges(index: np.ndarray) -> str:
    """Return ascending indices as text, ``0-4,7,9-12``."""
    if not len(index):
        return ""
    breaks = np.flatnonzero(np.diff(index) != 1)
    starts, ends = index[np.r_[0, breaks + 1]], index[np.r_[breaks, len(index) - 1]]
    return ",".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts.tolist(), ends.tolist(), strict=True))


def from_ranges(text: str) -> np.ndarray:
    """Return the indices that `to_ranges` wrote, int64."""
    if not text:
        return np.empty(0, dtype=np.int64)
    ends = [(int(start), int(end or start)) for start, _, end in (item.partition("-") for item in text.split(","))]
    return np.concatenate([np.arange(start, end + 1, dtype=np.int64) for start, end in ends])


def hash_tree(tree: dict[str, Any]) -> str:
    """Return the SHA-256 of plain values, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def alteration_tree(alteration: Alteration | None, within: np.ndarray | None = None) -> dict[str, Any] | None:
    """Return an alteration as plain values, None if there is none, or none within the given indices."""
    if alteration is None:
        return None
    kept = np.ones(len(alteration.index), dtype=bool) if within is None else np.isin(alteration.index, within)
    if not kept.any():
        return None
    trigger = alteration.trigger and {"size": alteration.trigger.size, "value": alteration.trigger.value}
    labels = " ".join(map(str, alteration.labels[kept].tolist()))
    return {
        "index": to_ranges(alteration.index[kept]),
        "labels": labels,
        "trigger": trigger,
        "target": alteration.target,
        "swapped": alteration.swapped and list(alteration.swapped),
        **({"noise": alteration.noise.seed} if alteration.noise else {}),
    }


def alteration_from(tree: dict[str, Any] | None) -> Alteration | None:
    """Return the alteration that `alteration_tree` wrote."""
    if tree is None:
        return None
    labels = np.array([int(label) for label in tree["labels"].split()], dtype=np.int64)
    swapped = tree.get("swapped")
    return Alteration(
        from_ranges(tree["index"]),
        labels,
        tree["trigger"] and Trigger(**tree["trigger"]),
        tree["target"],
        (swapped[0], swapped[1]) if swapped else None,
        Noise(tree["noise"]) if tree.get("noise") is not None else None,
    )
