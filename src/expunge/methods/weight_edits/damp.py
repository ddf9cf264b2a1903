"""DAMP: damp what is peculiar to the forgotten classes, more so with depth."""

import numpy as np
import torch
from torch import Tensor

from expunge.config import PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.edits import assign
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector, leaves
from expunge.engine.stream import Stream, scoring_size
from expunge.methods.weight_edits.class_directions import peculiar_directions, probe_accuracy
from expunge.methods.weight_edits.operator_inputs import first_readers, on_input_side, operators, pooled_channels, told


class Damp(Method):
    """Damp, after each of a few stages of depth, the directions of the forgotten classes that no retained class shares; nothing is trained.

    At the input of the layers that read a stage, the mean of each forgotten class is freed of the span of the retained classes' means, and
    the rest made an orthonormal basis Q. The layers' weights become ``W (I - a Q Q^T)``: what they answer to the mean of a retained class
    does not change. ``a = (l / L) max(0, 2 p - 1)`` for stage l of L, with p the accuracy of a linear probe that tells forgotten from
    retained examples there, on examples that it has not seen. With as many retained classes as channels nothing is left to damp.

    Source: Hatami et al., DAMP, CVPR 2026 workshops, arXiv 2604.15166: five stages, and no other setting.
    """

    aliases = ("DAMP",)
    source = "Hatami et al., Class Unlearning via Depth-Aware Removal of Forget-Specific Directions, arXiv 2604.15166"
    deviations = (
        "convolutions are edited in their channels, with means over pixels and tokens; the source leaves open how places are treated",
        "a stage ends at the blocks that divide the depth evenly; the first layers of the next block that read its output are edited",
        "the probe is ridge regression on half of the examples, its accuracy balanced over both sets; the source does not say which probe",
        "attention that keeps its weights outside of layers, and grouped convolutions, are left alone",
    )
    needs = {"forget", "retain"}
    scenarios = {"class"}
    scenario_reason = (
        "it removes what is peculiar to whole classes; the examples of another request share their class with examples that stay."
    )

    stages: PositiveInt = hyper(5, "places along the depth at which weights are changed", low=1, high=10)
    examples: PositiveInt = hyper(10_000, "most retained examples that are looked at, drawn by the seed")

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit."""
        yield assign(damped(ctx, self.stages, self.examples))


def damped(ctx: Context, stages: int, examples: int) -> Vector:
    """Return the new weights by base name, all from the statistics of the original."""
    retain = ctx.stream("retain")
    drawn = retain.subset(randomness.shuffle(ctx.seed, "damp", 0, retain.index)[:examples]) if len(retain) > examples else retain
    readers = [first_readers(ctx, block) for block in after_stages(ctx.architecture.blocks, stages)]
    forgotten, retained = (means_read(ctx, stream, [layers[0] for layers in readers if layers]) for stream in (ctx.stream("forget"), drawn))
    weights, named = leaves(ctx.model), operators(ctx)
    values: Vector = {}
    found = 0
    for number, layers in enumerate(readers, 1):
        for layer in layers:
            own, kept = forgotten[layers[0]], retained[layers[0]]
            basis = peculiar_directions(own, ctx.stream("forget").labels, kept, drawn.labels)
            strength = number / len(readers) * max(0.0, 2 * probe_accuracy(own, kept) - 1)
            found += basis.shape[1] * (strength > 0)
            change = torch.eye(len(basis), dtype=basis.dtype, device=basis.device) - strength * basis @ basis.T
            name = named[layer]
            values[name] = on_input_side(values.get(name, weights[name].detach()), change)
    if not found:
        ctx.report({"event": "warning", "message": "no layer reads a direction that is peculiar to what is forgotten: the weights stay."})
    return values


def after_stages(blocks: tuple[str, ...], stages: int) -> list[str]:
    """Return the block behind each stage; the last is the head, and there are fewer stages where there are fewer blocks."""
    before = len(blocks) - 1
    ends = np.unique(np.linspace(1, before, min(stages, before)).round().astype(int)) if before else [0]
    return [blocks[end] for end in ends]


def means_read(ctx: Context, stream: Stream, layers: list[str]) -> dict[str, Tensor]:
    """Return what layers read of every example of a stream, means over places, ``{layer: [n, D]}``."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    with told(ctx, seen, lambda name, layer, x: seen[name].append(pooled_channels(layer, x).float())):
        for batch in stream.batches(scoring_size(ctx.device)):
            ctx.model(batch.x)
    return {name: torch.cat(parts) for name, parts in seen.items()}
