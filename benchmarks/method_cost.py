"""What one epoch of each iterative method costs beside one epoch of plain fine-tuning on the same data: passes and processor seconds.

    python benchmarks/method_cost.py [--rounds 2] [--retain 1000] [--methods salun,jit] [--json FILE] [--markdown FILE]

small_cnn on the bundled Fashion-MNIST, 1,000 retained and 200 forgotten pictures (of all classes; class 0 for methods that need a class),
batches of 128, one thread. Everything that a method repeats is run once: epochs, repair epochs, cycles. Fine-tuning runs before and after
each run of a method (A-B-A-B), and the ratio of a round is that of the method's time to the mean of its two neighbours', so that a change
of the machine's load meets both; the median over rounds is printed. Passes are those of the cost meter, in forward passes of one picture
through the student or a teacher; a backward pass counts as two.

A pass over the forget set alone is a fifth of fine-tuning here, and a pass with a teacher costs a third more than one without. Methods
above three times fine-tuning, and why:

- unsir: learns 256 noise pictures of the class in 40 steps and mixes 20 copies of them with up to 1,000 pictures of every other class;
  these sizes are fixed, and so the ratio falls with the size of the retain set.
- scar, scar_surrogate: the Gaussians of the classes need pseudo-inverses of 1024 x 1024 matrices once, and every step products with them;
  passes are fewer than those of fine-tuning.
- jit, fsf: noise on pictures is drawn for every pixel, example and epoch apart, so that it depends on no batch; on a net as small as this
  one that costs more than the net (jit: 25 noisy copies of every forgotten picture).
- rni: five epochs, since its last four belong to the second stage; each costs what one of fine-tuning costs.
- sfron: the Fisher diagonals of both sets come first; its steps alone cost about 1.6 times those of fine-tuning.

`sequential`, `ensemble_draw`, `rum` and `undo` are the sums of their parts and not listed; one-shot edits have no epochs.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from expunge import registry
from expunge.addons.plan import plan
from expunge.engine.context import Context
from expunge.engine.method import Method
from expunge.engine.run import run
from expunge.engine.stream import Stream
from expunge.models.model import create
from expunge.runs import atomic_write

ONCE: dict[str, Any] = {
    "epochs": 1,
    "repair_epochs": 1,
    "warm_up_epochs": 1,
    "prune_epochs": 1,
    "max_epochs": 1,
    "cycles": (1,),
    "runs": 1,
    "batch_size": 128,
    "forget_batch_size": 128,
    "repair_batch_size": 128,
}
"""Fields that every method is given which has them."""
ITS_OWN: dict[str, dict[str, Any]] = {"rni": {"epochs": 5}, "neg_merge": {"runs": 2}, "sfron": {"iterations": 8}, "prmq": {"epochs": 1.0}}
"""Where one epoch is something else: rni must be longer than its last stage, neg_merge needs two runs to agree, sfron counts steps."""
META = {"sequential", "ensemble_draw", "rum", "undo"}


@dataclass(frozen=True)
class Cost:
    """What one epoch of a method costs; ratios are to fine-tuning."""

    method: str
    forward: int
    backward: int
    teacher: int
    passes_ratio: float
    seconds: float
    seconds_ratio: float
    spread: float


class World:
    """The pictures and a net that has seen them once."""

    def __init__(self, retain: int, forget: int = 200):
        self.data = registry.find("datasets", "fashion_mnist")().load("cpu")
        self.index = {"random": self._parts(retain, forget, None), "class": self._parts(retain, forget, 0)}
        self.model = create(registry.find("models", "small_cnn")(), self.data, 0)
        self.run_steps(lambda context: run(context, self.method("finetune", lr=0.05)), self.model, "random", {"retain"})

    def _parts(self, retain: int, forget: int, label: int | None) -> dict[str, torch.Tensor]:
        train, labels = torch.arange(self.data.train_size), self.data.labels[: self.data.train_size]
        chosen = train[:forget] if label is None else train[labels == label][:forget]
        rest = train[~torch.isin(train, chosen)] if label is None else train[labels != label]
        return {"forget": chosen, "retain": rest[:retain], "validation": rest[retain : retain + forget], "surrogate": rest[-forget:]}

    def method(self, name: str, **fields: Any) -> Method:
        """Return a method whose every stage is one epoch."""
        component: Any = registry.find("methods", name)
        wanted = {**ONCE, **ITS_OWN.get(name, {}), **fields}
        return component(**{key: value for key, value in wanted.items() if key in component.model_fields})

    def run_steps(self, do: Any, model: torch.nn.Module, kind: str, needs: Any) -> dict[str, Any]:
        """Carry out ``do`` in a fresh context and return the cost and the processor seconds."""
        streams = {name: Stream(name, self.data.source, index) for name, index in self.index[kind].items()}
        classes = (0,) if kind == "class" else ()
        oracle = self.copy() if "oracle" in needs else None
        context = Context(model, streams, needs=needs, seed=0, num_classes=10, forget_classes=classes, kind=kind, oracle=oracle)
        start = time.process_time()
        outcome = do(context)
        return {**outcome.cost, "cpu": time.process_time() - start}

    def copy(self) -> torch.nn.Module:
        """Return a net like the trained one."""
        made = create(registry.find("models", "small_cnn")(), self.data, 0)
        made.load_state_dict(self.model.state_dict())
        return made

    def measure(self, method: Method) -> dict[str, Any]:
        """Run a method on a copy of the net."""
        kind = "random" if "random" in method.scenarios else "class"
        return self.run_steps(lambda context: run(context, method), self.copy(), kind, method.needs)


def iterative() -> list[str]:
    """Return the names of the methods that train in phases, without retraining and without those that are made of others."""
    found: list[str] = []
    for name in registry.names("methods"):
        component: Any = registry.find("methods", name)
        if name not in META and "recipe" not in component.needs and plan(component()).phases:
            found.append(name)
    return found


def compare(world: World, name: str, rounds: int) -> Cost:
    """Return what an epoch of a method costs beside fine-tuning, alternating the two."""
    method, plain = world.method(name), world.method("finetune")
    before, ratios, seconds, found = world.measure(plain), [], [], {}
    reference = before["passes"]
    for _ in range(rounds):
        found = world.measure(method)
        after = world.measure(plain)
        ratios.append(found["cpu"] / (0.5 * (before["cpu"] + after["cpu"])))
        seconds.append(found["cpu"])
        before = after
    return Cost(
        name,
        found["forward"],
        found["backward"],
        found["teacher"] + found["teacher_backward"],
        found["passes"] / reference,
        statistics.median(seconds),
        statistics.median(ratios),
        max(ratios) - min(ratios),
    )


def markdown(costs: list[Cost]) -> str:
    """Return the table, the dearest first."""
    lines = ["| method | forward | backward | teacher | passes / finetune | CPU s | CPU s / finetune |", "| --- |" + " ---: |" * 6]
    for cost in sorted(costs, key=lambda cost: -cost.seconds_ratio):
        numbers = f"{cost.forward} | {cost.backward} | {cost.teacher} | {cost.passes_ratio:.2f} | {cost.seconds:.2f}"
        lines.append(f"| {cost.method} | {numbers} | {cost.seconds_ratio:.2f} ± {cost.spread / 2:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--retain", type=int, default=1000)
    parser.add_argument("--methods", default="", help="names with commas; all that train if empty")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = World(args.retain)
    world.measure(world.method("finetune"))
    costs = []
    for name in args.methods.split(",") if args.methods else iterative():
        costs.append(compare(world, name, args.rounds))
        print(f"{name:32} passes x {costs[-1].passes_ratio:6.2f}   seconds x {costs[-1].seconds_ratio:6.2f}", flush=True)
    print("\n" + markdown(costs))
    for path, text in ((args.json, json.dumps([asdict(cost) for cost in costs], indent=1)), (args.markdown, markdown(costs))):
        if path is not None:
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
