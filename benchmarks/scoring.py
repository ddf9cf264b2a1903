"""Rigorous scoring of pools of 512 models on 1,000 forget and 10,000 test examples, from margins on disk: seconds and peak memory.

First piece by piece, then all audits of a tier together, as `expunge compare` calls them, for one row beside the retrained models.

Run: python benchmarks/scoring.py [MODELS]. Demand on 2 cores: under 2 minutes and 4 GB; 5 million margins' per-example AUC in
about a second; forgetting quality at 20 ms an example or less.
"""

import resource
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from expunge import registry
from expunge.attacks import epsilon, gaussian, klom, margins, per_example, rmia, set_level, ulira
from expunge.attacks.forgetting_quality import forgetting_quality, null_quality
from expunge.attacks.moments import moments
from expunge.audits.assess import assess
from expunge.audits.audit import Panel, Shadows

FORGET, TEST = 1000, 10_000
SECONDS: dict[str, tuple[float, float]] = {}


@contextmanager
def stage(name: str):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    SECONDS[name] = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:56}{SECONDS[name][0]:8.2f} s wall{SECONDS[name][1]:8.2f} s processor")


def write_pools(folder: Path, models: int) -> np.ndarray:
    """Write margins of original, unlearned, retrained and a spare half of retrained models; return the states."""
    states = np.zeros((models, FORGET + TEST), dtype=np.uint8)
    states[:, :FORGET] = margins.design(models, FORGET, 3)
    center = np.random.default_rng(0).normal(3, 3, FORGET + TEST).astype(np.float32)
    for number, (name, leak) in enumerate({"original": 1.0, "unlearned": 0.2, "fixed": 0.2, "retrained": 0.0, "spare": 0.0}.items()):
        made = np.random.default_rng([1, number])
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (models, FORGET + TEST))
        for row, state in zip(array, states, strict=True):
            trained = np.where(state == margins.FORGET, leak, state == margins.IN) if name in ("original", "unlearned") else 0
            trained = leak * (np.arange(FORGET + TEST) < FORGET) if name == "fixed" else trained
            row[:] = center + trained + made.standard_normal(FORGET + TEST, dtype=np.float32)
        array.flush()
    return states


def score(pools: dict[str, np.ndarray], states: np.ndarray) -> None:
    forget = slice(0, FORGET)
    original, unlearned, fixed, retrained, spare = (pools[name] for name in ("original", "unlearned", "fixed", "retrained", "spare"))
    targets = {name: np.ascontiguousarray(pool[:, forget]) for name, pool in pools.items()}
    with stage("U-LiRA: privacy, membership, collateral, with rates"):
        chosen = states[:, forget]
        games = [ulira.privacy_game(targets["unlearned"], chosen), ulira.membership_game(targets["original"], chosen)]
        games += ulira.collateral_games(targets["unlearned"], targets["original"], chosen)
        attacked = [ulira.cross_fit(game, block=3) for game in games]
        for each in attacked:
            rates = [each.true_positive_rate(at).value for at in (0.01, 0.001)]
            print(f"  {each.game:24} {each.mean_auc().value:.3f} {each.concatenated_auc():.3f} {each.balanced_accuracy():.3f} {rates}")
    with stage("efficacy game on one forget set, and its null"):
        for other in ("fixed", "spare"):
            each = ulira.cross_fit(ulira.fixed_efficacy_game(targets[other], targets["retrained"]))
            print(f"  {other:24} {each.mean_auc()}")
    with stage("epsilon, four ways"):
        print(" ", epsilon.convert(*ulira.independent_trials(attacked[0]), one_run=epsilon.one_run(600, 1000)))
    with stage("ratio attack on 8 targets"):
        for k in range(8):
            rest = np.arange(len(states)) != k
            reference = rmia.reference_offline(original[rest], states[rest] != margins.OUT)
            ratios = rmia.ratio(original[k, FORGET:], reference[FORGET:])
            rmia.score(original[k, forget], reference[forget], ratios)
    with stage("per-example AUC, tests and energy distance, null too"):
        for other in (fixed, spare):
            found = per_example.mann_whitney(other, retrained)
            per_example.kolmogorov_smirnov(other, retrained)
            gaussian.energy_distance(other, retrained)
            print(f"  rejected {found.rejected()[forget].mean():.3f} of forget, {found.rejected()[FORGET:].mean():.4f} of test examples")
    with stage("KLOM and normal divergence, null too"):
        for other in (fixed, spare):
            values, divergence = klom.klom(other, retrained), gaussian.gaussian_kl(other, retrained)
            print(f"  {np.quantile(values[forget], 0.95):.3f} {np.quantile(values[FORGET:], 0.95):.3f} {divergence[forget].mean():.4f}")
    with stage("forgetting quality of 1,000 examples"):
        print(f"  F = {forgetting_quality(targets['fixed'], targets['retrained']).value:.4f}")
    with stage("its null: 1,000 real and 200 simulated examples"):
        print(f"  F = {forgetting_quality(targets['spare'], targets['retrained']).value:.4f}", end="")
        print(f", simulated {null_quality(np.sqrt(moments(targets['retrained']).variance), len(retrained)).value:.4f}")
    with stage("set level: classifier and mean discrepancy, null too"):
        for other in ("fixed", "spare"):
            test = set_level.classifier_test(targets[other], targets["retrained"])
            print(f"  {test[:4]} {set_level.mean_discrepancy(targets[other], targets['retrained'])[:2]}")
            print("  from its held-out scores:", epsilon.convert(test.unlearned, test.retrained))


def score_together(pools: dict[str, np.ndarray], states: np.ndarray) -> None:
    """Run every audit on one row, its control included."""
    panels = {}
    for name in ("fixed", "spare", "retrained"):
        margins = {"forget": pools[name][:, :FORGET], "unseen": pools[name][:, FORGET:]}
        panels[name] = Panel({part: np.ascontiguousarray(values) for part, values in margins.items()}, {})
    original, unlearned = (np.ascontiguousarray(pools[name][:, :FORGET]) for name in ("original", "unlearned"))
    shadows = {"fixed": Shadows(original, unlearned, None, np.ascontiguousarray(states[:, :FORGET]))}
    total = 0.0
    for name in registry.names("audits"):
        with stage(f"audit {name}"):
            audit = registry.find("audits", name)()
            found = assess({"fixed": panels["fixed"]}, panels["spare"], panels["retrained"], {}, [audit], shadows)
        total += SECONDS[f"audit {name}"][0]
        for entry in found["audits"].values():
            print(f"  {[(label, row['value'], row['p_value']) for label, row in entry['rows'].items()]}")
        for reason in found["skipped"].values():
            print(f"  {reason}")
    print(f"all audits together {total:.1f} s wall")


def main(models: int = 510) -> None:
    with tempfile.TemporaryDirectory() as folder:
        states = write_pools(Path(folder), models)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        names = ("original", "unlearned", "fixed", "retrained", "spare")
        pools = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in names}
        with threadpool_limits(1):
            score(pools, states)
            total, processor = (sum(times) for times in zip(*SECONDS.values(), strict=True))
            score_together(pools, states)
            width = 5_000_000 // (2 * models)
            pair = [np.ascontiguousarray(pools[name][:, :width]) for name in ("fixed", "retrained")]
            with stage(f"per-example AUC of {2 * models * width:,} margins"):
                per_example.auc(*pair)
        quality = SECONDS["forgetting quality of 1,000 examples"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\ntotal {total:.1f} s wall, {processor:.1f} s processor; peak memory {peak / 2**20:.2f} GB ({before / 2**20:.2f} GB before)")
    print(f"forgetting quality {quality[0]:.1f} ms wall, {quality[1]:.1f} ms processor an example")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
