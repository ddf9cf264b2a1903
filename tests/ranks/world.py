"""Runs methods on the shared test world, in one process or, started by torchrun, on several ranks that work on one model.

``python tests/ranks/world.py FOLDER [--float32] [--read] CASE...`` writes for each case the weights after it and what it cost, in float64
or float32, the pictures lying in memory or being read in shares. A case is the name of a method, with the names of add-ons behind it:
``salun+sam``; ``coupled:`` or ``dropout:`` in front gives another net than the shared one. An error is written as text, so that one case
does not end the others.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "contract")]

from registry_world import OneEpoch, all_streams, small  # noqa: E402

from conftest import CLASSES, SOURCE, trained_net  # noqa: E402
from expunge import registry  # noqa: E402
from expunge.engine import divided, parallel  # noqa: E402
from expunge.engine.context import Context  # noqa: E402
from expunge.engine.run import run  # noqa: E402
from expunge.engine.stream import Stream  # noqa: E402


class Pictures:
    """The shared pictures in some precision.

    Args:
        dtype: of the batches.
        resident: False plays pictures that must be read from a disk.
    """

    labels = SOURCE.labels

    def __init__(self, dtype: torch.dtype, resident: bool):
        self.dtype, self.resident, self.read = dtype, resident, 0

    def __len__(self) -> int:
        return len(SOURCE)

    def batches(self, order, size, **how):
        """Yield ``(x, y)``."""
        for x, y in SOURCE.batches(order, size, **how):
            self.read += len(x)
            yield x.to(self.dtype), y


class Coupled(nn.Module):
    """Takes the mean over the batch away by hand: what it says of one example depends on the others."""

    def forward(self, x):
        """Return ``[B, ...]``."""
        return x - x.mean(0)


def net_of(kind: str, dtype: torch.dtype) -> nn.Module:
    """Return the shared net, or that net with another layer in it."""
    layers = list(trained_net().children())
    if kind:
        layers.insert(3, {"coupled": Coupled, "dropout": nn.Dropout}[kind]())
    return nn.Sequential(*layers).to(dtype)


def play(case: str, source: Pictures) -> tuple[dict[str, torch.Tensor], dict]:
    """Run a case and return weights and buffers, and what was counted."""
    net, _, rest = case.rpartition(":")
    name, *addons = rest.split("+")
    scenarios = registry.find("methods", name).scenarios
    kind = "random" if "random" in scenarios else sorted(scenarios)[0]
    method = small("methods", name, kind)
    added = [small("addons", addon) for addon in addons]
    streams = {key: Stream(key, source, index) for key, index in all_streams(kind).items()}
    context = Context(
        net_of(net, source.dtype),
        streams,
        needs=set().union(method.needs, *(addon.needs for addon in added)),
        seed=0,
        num_classes=CLASSES,
        forget_classes=(2,) if kind == "class" else (),
        kind=kind,
        recipe=OneEpoch(),
        oracle=trained_net(1).to(source.dtype) if "oracle" in method.needs else None,
    )
    before = divided.passes.copy()
    outcome = run(context, method, added)
    counts = {key: value for key, value in outcome.cost.items() if key not in ("seconds", "peak_memory_bytes")}
    passes = {key: divided.passes[key] - before[key] for key in ("divided", "whole")}
    state = {key: value.detach().clone().contiguous() for key, value in context.model.state_dict().items()}
    return state, {"counts": counts, "passes": passes, "read": source.read}


def main(folder: Path, cases: list[str], dtype: torch.dtype, resident: bool) -> None:
    """Run cases and write what came of them, once for all ranks."""
    torch.set_num_threads(1)
    trained_net()  # before the ranks meet: each trains its own
    if any("oracle" in registry.find("methods", case.rpartition(":")[2].partition("+")[0]).needs for case in cases):
        trained_net(1)
    torch.set_default_dtype(dtype)  # nets and constants that a method makes
    if parallel.asked():
        parallel.start()
    for case in cases:
        try:
            state, told = play(case, Pictures(dtype, resident))
        except Exception as error:
            state, told = {}, {"error": f"{type(error).__name__}: {error}"}
        for name, value in state.items():
            first = value.clone()
            parallel.take_over([first])
            if not parallel.everywhere(torch.equal(first, value)):
                told["error"] = f"the ranks differ in {name}"
        if parallel.rank() == 0:
            save_file(state, folder / f"{case}.safetensors")
            (folder / f"{case}.json").write_text(json.dumps(told))
    parallel.stop()
    torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("folder", type=Path)
    asked.add_argument("cases", nargs="+")
    asked.add_argument("--float32", action="store_true")
    asked.add_argument("--read", action="store_true")
    given = asked.parse_args()
    main(given.folder, given.cases, torch.float32 if given.float32 else torch.float64, not given.read)
