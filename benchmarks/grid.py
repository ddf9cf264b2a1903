"""Twelve methods on two requests with three seeds on the bundled Fashion-MNIST: time, reuse, and the same on a cluster that loses a node.

    python benchmarks/grid.py [--out=FOLDER] [--cluster]

The grid of ``configs/bench-fashion-mnist.yaml`` runs on two worker processes, and then again, when everything is found in the store. With
``--cluster`` it also runs on two Ray nodes of one processor each on this machine, of which one is killed after a third of the jobs, into a
store of its own; then it is counted what that store holds, what was begun more than once, and whether weights and tables are the same.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from expunge.bench import bench, grid
from expunge.report import terminal

FILE = Path(__file__).parents[1] / "configs" / "bench-fashion-mnist.yaml"


def run(report: Any, *settings: str) -> tuple[Any, float, float]:
    """Return the bench, its seconds, and the processor seconds of this process and of its ended children."""
    start, before = time.monotonic(), _processor()
    done = bench.bench(grid.expand(grid.read(FILE, settings)), report, "benchmarks/grid.py")
    return done, time.monotonic() - start, _processor() - before


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def weights(out: Path) -> dict[str, str]:
    """Return the hash of the weights of every run of a store by its folder."""
    found = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/record.json")}
    return {name: record["weights"] for name, record in found.items() if isinstance(record, dict)}


def begun(out: Path) -> dict[str, int]:
    """Return how often each run folder was begun."""
    return {path.parent.name: path.read_text().count('"event": "start"') for path in out.glob("*/events.jsonl")}


def on_two_nodes(out: Path, jobs: int) -> tuple[Any, float]:
    """Run the grid on two nodes, of which the second is killed after a third of the jobs."""
    from expunge.pools.executors import ray as on_ray

    ray = on_ray.load()
    from ray.cluster_utils import Cluster

    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    second: list[Any] = [cluster.add_node(**size)]
    ended = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "warning":
            print(f"warning: {event['title']}: {event['message']}", flush=True)
        ended.extend([event["key"]] if event["event"] == "done" else [])
        if len(ended) == jobs // 3 and second:
            print(f"{len(ended)} of {jobs} jobs are done: a node is killed", flush=True)
            cluster.remove_node(second.pop(), allow_graceful=False)

    try:
        done, seconds, _ = run(report, f"out={out}", f"evaluate.ray={cluster.address}")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert not second, "no node was killed"
    return done, seconds


def main() -> None:
    """Print tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cluster", action="store_true")
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp())
    ended: list[str] = []
    calm, seconds, processor = run(
        lambda event: ended.append(event["key"]) if event["event"] == "done" else None, f"out={out / 'calm'}", "evaluate.workers=2"
    )
    for record in calm.records:
        Console(width=220).print(terminal.table(record))
    print(f"first call: {seconds:.0f} s, {processor:.0f} s of processor, {len(weights(out / 'calm'))} models, {len(ended)} jobs")
    _, again, processor = run(lambda event: None, f"out={out / 'calm'}", "evaluate.workers=2")
    print(f"second call: {again:.1f} s, {processor:.1f} s of processor")
    if not args.cluster:
        return
    os.environ.setdefault("RAY_worker_niceness", "0")
    stormy, seconds = on_two_nodes(out / "stormy", len(ended))
    starts = begun(out / "stormy")
    print(f"two nodes, one killed: {seconds:.0f} s; {len(starts)} folders, {sum(n > 1 for n in starts.values())} begun more than once")
    print(f"all weights the same: {weights(out / 'stormy') == weights(out / 'calm')}")
    tables = [[record["table"] for record in done.records] for done in (calm, stormy)]
    print(f"tables the same: {tables[0] == tables[1]}")
    sys.exit(0 if tables[0] == tables[1] else 1)


if __name__ == "__main__":
    main()
