"""Move only the end of the net."""

from expunge.addons.applicability import changes_nothing, trains_anew
from expunge.addons.masking import within
from expunge.addons.plan import plan
from expunge.config import PositiveInt, hyper
from expunge.engine.combine import joined, total
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.norms import layer_of
from expunge.engine.parameters import is_adapter, leaves
from expunge.engine.phase import Phase
from expunge.engine.select import Mask, multiply
from expunge.errors import NotApplicable


class LastK(Addon):
    """Lets a method move only the last blocks of the net; everything before them stays bit for bit, running statistics too.

    It holds in every phase and every edit. Phases save the backward pass through what stands still. A method that climbs a divergence from
    the original (`scrub`) needs statistics that move to get away from zero, where there is no slope: its first ascent does nothing here.

    Source: the restriction of CF-k and EU-k, Goel et al., arXiv 2201.06640, for any method.
    """

    aliases = ("last_blocks",)
    source = "arXiv 2201.06640"
    deviations = ("Norm layers of the frozen blocks keep their statistics; released codes let them drift.",)

    blocks: PositiveInt = hyper(1, "how many blocks may move, counted from the end; 1 is the head alone", low=1, high=5)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, limited to the last blocks.

        Raises:
            NotApplicable: a phase moves nothing in them.
            BadInput: the model has fewer blocks.
        """
        names = frozenset(ctx.architecture.last_blocks(self.blocks))
        still = {name: value.new_zeros(value.shape) for name, value in leaves(ctx.model).items() if name not in names}
        for step in steps:
            yield self.limited(ctx, step, names, still) if isinstance(step, Phase) else within(still, step)

    def limited(self, ctx: Context, phase: Phase, names: frozenset[str], still: Mask) -> Phase:
        """Return the phase that moves the last blocks only."""
        movable = self.movable(ctx, phase, names)
        if joined(phase.combine) is total:
            return phase.but(trainable=movable)
        return phase.but(mask=multiply(phase.mask, still))  # a rule of the method's own may count on all parameters

    def movable(self, ctx: Context, phase: Phase, names: frozenset[str]) -> frozenset[str]:
        """Return what a phase moves in the last blocks; adapters go with their layer."""
        own = leaves(ctx.model)
        wanted = phase.trainable if phase.trainable is not None else frozenset(name for name in own if name not in ctx.fixed)
        layers = {layer_of(name) for name in names}
        found = frozenset(name for name in wanted if name in names or (is_adapter(name) and layer_of(name) in layers))
        if not found:
            first = sorted(wanted)[:3]
            raise NotApplicable(f"addons={self.name}", f"the phase {phase.name!r} moves only {first}, and nothing in the last blocks.")
        return found

    def refuse(self, method: Method) -> str:
        """Refuse what rewrites nothing, trains a new model, or has a phase for everything but the last blocks."""
        return changes_nothing(method) or trains_anew(method) or self.stands_still(method)

    def stands_still(self, method: Method) -> str:
        """Say why a method that moves the encoder alone in some phase would stand still there."""
        planned = plan(method)
        if not planned.phases:
            return ""
        architecture = planned.context.architecture
        names = frozenset(architecture.last_blocks(min(self.blocks, len(architecture.blocks))))
        try:
            for phase in planned.phases:
                self.movable(planned.context, phase, names)
        except NotApplicable as error:
            return error.problem
        return ""
