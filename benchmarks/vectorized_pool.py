"""A pool trained in worker processes against the same pool trained at once: whole fills, start-up, folders and evidence included.

Run: python benchmarks/vectorized_pool.py [--device auto] [--models 4,16,64] [--epochs 2] [--cases mlp/digits,...] [--workers 0]

Ratios above 1 say that training at once is faster. ``fill`` is the wall time of whole fills, where small pools mostly wait for worker
processes to start; ``processor`` is the processor time of this process and its workers; ``steps`` is what one model's steps cost in one
process, alone over at once, median of three (processor time on a CPU): multiply the time alone by 1 / workers to judge training itself.
On a CPU training at once uses one thread, and worker processes one each.
"""

import argparse
import resource
import statistics
import tempfile
import time

from expunge import config
from expunge.pools import trial
from expunge.pools.pool import Pool
from expunge.pools.workplace import Workplace

CASES = {
    "mlp/digits": ["data=digits", "model=mlp"],
    "small_cnn/digits": ["data=digits", "model=small_cnn"],
    "small_cnn/clothes": ["data=fashion_mnist", "model=small_cnn"],
}


def seconds(words: list[str], way: str, models: int) -> tuple[float, float]:
    """Return wall and processor time of filling a pool of random halves."""
    with tempfile.TemporaryDirectory() as folder:
        tree = config.read(None, [*words, "forget=random", f"evaluate.executor={way}", f"out={folder}"])
        pool = Pool(Workplace(config.resolve(tree)), "base")
        wall, processor = time.monotonic(), processor_seconds()
        cache = pool.fill(models, lambda event: None)
        wall, processor = time.monotonic() - wall, processor_seconds() - processor
        assert len(cache.rows()) == models, "the program changed while it ran"
        return wall, processor


def processor_seconds() -> float:
    """Return what this process and its finished workers have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Print one line for each case and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", default="4,16,64")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    shared = ["train=tiny", f"train.epochs={args.epochs}", f"device={args.device}", f"evaluate.workers={args.workers}"]
    print(f"{'case':20} {'models':>6} {'processes s':>12} {'at once s':>10} {'fill':>7} {'processor':>9} {'steps':>6}")
    for case in args.cases.split(","):
        words = [*CASES[case], *shared]
        seconds(words, "vectorized", 2)
        work = Workplace(config.resolve(config.read(None, words)))
        for models in map(int, args.models.split(",")):
            apart, together = (seconds(words, way, models) for way in ("processes", "vectorized"))
            steps = statistics.median(trial.seconds_alone(work) * models / trial.seconds_together(work, models) for _ in range(3))
            ratios = f"{apart[0] / together[0]:7.2f} {apart[1] / together[1]:9.2f} {steps:6.2f}"
            print(f"{case:20} {models:6d} {apart[0]:12.2f} {together[0]:10.2f} {ratios}", flush=True)


if __name__ == "__main__":
    main()
