"""How much faster the binned SVC attack is than scikit-learn's SVC on all points, and how often the two agree.

Run: python benchmarks/membership.py [POINTS]. Demand: at least 20 times faster, agreement at least 0.999 on every feature.
"""

import sys
import time

import numpy as np

from expunge.metrics import functional as F

TARGETS = 4500


def scores(count: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits ``[count, 10]`` and labels like those of a trained network: most rows saturated, some wrong."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, count)
    logits = generator.normal(scale=1.5, size=(count, 10))
    logits[np.arange(count), labels] += generator.normal(shift, 3.0, count)
    return logits.astype(np.float32), labels


def features(count: int, shift: float, seed: int) -> dict[str, np.ndarray]:
    logits, labels = scores(count, shift, seed)
    return {
        "correctness": (F.prediction(logits) == labels).astype(float),
        "confidence": F.probability(logits, labels),
        "entropy": F.entropy(logits),
        "modified entropy": F.modified_entropy(logits, labels),
    }


def timed(function, *arguments) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main(points: int = 20_000) -> None:
    members, nonmembers, targets = features(points // 2, 10.0, 0), features(points // 2, 6.5, 1), features(TARGETS, 7.5, 2)
    F.svc_membership_binned(*(group["confidence"][:50] for group in (members, nonmembers, targets)))
    totals = np.zeros(2)
    print(f"{points} fit points, {TARGETS} targets; seconds, and the share of targets called non-member")
    print(f"{'feature':18}{'full s':>9}{'binned s':>10}{'ratio':>8}{'agree':>9}{'full':>8}{'binned':>8}")
    for name in members:
        groups = members[name], nonmembers[name], targets[name]
        full_seconds, full = timed(F.svc_membership, *groups)
        seconds, binned = timed(F.svc_membership_binned, *groups)
        totals += full_seconds, seconds
        speed = f"{full_seconds:9.2f}{seconds:10.4f}{full_seconds / seconds:8.0f}"
        print(f"{name:18}{speed}{np.mean(full == binned):9.4f}{1 - full.mean():8.4f}{1 - binned.mean():8.4f}")
    print(f"{'all four':18}{totals[0]:9.2f}{totals[1]:10.4f}{totals[0] / totals[1]:8.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
