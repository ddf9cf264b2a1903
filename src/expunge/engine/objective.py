"""The objective of a phase: from the batches of one step to the gradient of what moves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expunge.engine.combine import Gradients
from expunge.engine.context import Context
from expunge.engine.gauges import Gauges
from expunge.engine.parameters import effective
from expunge.engine.phase import Phase
from expunge.engine.select import Mask
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Penalty, Progress, Term, Weight


class Part(NamedTuple):
    """What one term contributes to a step.

    Attributes:
        label: of the term.
        group: whose losses are added up before gradients are combined.
        value: reduced as the term says, without its weight.
        weight: of the term in this step.
        mean: over examples, without a graph: what logs show.
        examples: of the batch.
    """

    label: str
    group: str
    value: Tensor
    weight: float
    mean: Tensor
    examples: int


class Objective:
    """The terms and penalties of a phase, and what joins their gradients.

    Args:
        context: of the phase.
        phase: what is optimised.
        parameters: that move, by name.
        mask: of those that it holds back.
        rule_state: what the combiner keeps between steps.
        gauges: what is measured beside losses, if anything.
    """

    def __init__(
        self,
        context: Context,
        phase: Phase,
        parameters: Mapping[str, nn.Parameter],
        mask: Mask,
        rule_state: dict[str, Tensor],
        gauges: Gauges | None = None,
    ):
        self.context, self.phase, self.parameters = context, phase, parameters
        self.rule_state, self.gauges = rule_state, gauges
        self.terms = [term for term in phase.terms if isinstance(term, Term)]
        self.penalties = [term for term in phase.terms if isinstance(term, Penalty)]
        self.labels = dict(zip(map(id, phase.terms), _distinct([term.label for term in phase.terms]), strict=True))
        self.features = {name for term in self.terms if term.features for name in (term.stream_name, *term.uses)}
        looks = phase.combine is not None or phase.perturb is not None or phase.clip is not None
        self.still = {name: value == 0 for name, value in mask.items()} if looks else {}
        self.first_look: dict[str, Tensor] = {}

    def active(self, batches: Mapping[str, Batch], turn: int) -> list[Term]:
        """Return the terms that have a batch and whose turn it is."""
        present = [term for term in self.terms if term.stream_name in batches]
        return [term for term in present if term.every == "pass" or turn % term.every == 0]

    def parts(self, active: Sequence[Term], batches: Mapping[str, Batch], progress: Progress, record: bool) -> list[Part]:
        """Return what each term contributes; in a mixed batch a mean is taken over the whole batch.

        Args:
            active: terms that have their turn.
            batches: of this step.
            progress: where the phase is.
            record: whether what is seen on the way is measured.
        """
        forwards = self._forwards(batches)
        joint = sum(map(len, batches.values()))
        found = [self._part(term, batches[term.stream_name], forwards, joint, progress) for term in active]
        if self.penalties:
            values = effective(self.context.model)
            for penalty in self.penalties:
                value = penalty.loss(self.context, values)
                label, weight = self.labels[id(penalty)], _weight(penalty.weight, progress)
                found.append(Part(label, penalty.group_name, value, weight, value.detach(), 1))
        if record and self.gauges is not None:
            self.gauges.see_forwards(progress.step + 1, forwards)
        return found

    def gradient(self, parts: Sequence[Part], progress: Progress, record: bool) -> Gradients:
        """Return the gradient of each moving parameter, in their order; the groups' own are joined by the combiner, if there is one.

        Args:
            parts: what the terms contribute.
            progress: where the phase is.
            record: False for a second look in the same step, which replaces the first: the combiner remembers what it did before both.
        """
        groups: dict[str, Tensor] = {}
        for part in parts:
            value = part.value if part.weight == 1 else part.weight * part.value
            groups[part.group] = groups[part.group] + value if part.group in groups else value
        if self.phase.combine is None:
            if record:
                self._look_apart(groups, progress)
            values = list(groups.values())
            return self._of(values[0] if len(groups) == 1 else torch.stack(values).sum())
        last = len(groups) - 1
        apart = {group: self._of(value, retain=position < last) for position, (group, value) in enumerate(groups.items())}
        if not record:
            return self.phase.combine(apart, dict(self.first_look))
        if self.gauges is not None:
            self.gauges.see_groups(progress.step + 1, apart)
        self.first_look = dict(self.rule_state)
        return self.phase.combine(apart, self.rule_state)

    def _part(self, term: Term, batch: Batch, forwards: Mapping[str, Forward], joint: int, progress: Progress) -> Part:
        each = term.loss(self.context, batch, forwards[term.stream_name])
        if each.shape != (len(batch),):
            raise TypeError(f"{term.label} must return one loss per example, shape ({len(batch)},), got {tuple(each.shape)}")
        mean = value = each.mean()
        if term.reduction == "sum":
            value = each.sum()
        elif self.phase.order == "mixed":
            value = each.sum() / joint
        return Part(self.labels[id(term)], term.group_name, value, _weight(term.weight, progress), mean.detach(), len(batch))

    def _forwards(self, batches: Mapping[str, Batch]) -> dict[str, Forward]:
        if self.phase.order == "mixed" and len(batches) > 1:
            return self._joint_forwards(batches)
        forwards: dict[str, Forward] = {}
        for name, batch in batches.items():
            forwards[name] = Forward(self.context, batch, self.phase.precision, forwards, with_features=name in self.features)
        return forwards

    def _joint_forwards(self, batches: Mapping[str, Batch]) -> dict[str, Forward]:
        forwards: dict[str, Forward] = {}
        parts = list(batches.values())
        x, y, index = (torch.cat([getattr(part, key) for part in parts]) for key in ("x", "y", "index"))
        joint = Batch(x, y, index, "mixed")
        whole = Forward(self.context, joint, self.phase.precision, forwards, with_features=bool(self.features))
        start = 0
        for name, batch in batches.items():
            forwards[name] = whole.take(slice(start, start + len(batch)), batch)
            start += len(batch)
        return forwards

    def _look_apart(self, groups: Mapping[str, Tensor], progress: Progress) -> None:
        """Measure the groups' gradients where the step itself needs only their sum."""
        if self.gauges is None or len(groups) < 2 or not self.gauges.wants_groups(progress.step + 1):
            return
        with self.context.cost.paused():
            self.gauges.see_groups(progress.step + 1, {group: self._of(value, retain=True) for group, value in groups.items()})

    def _of(self, loss: Tensor, retain: bool = False) -> Gradients:
        """Return a gradient, zero where the mask lets nothing move: combiners, clipping and ascent see what can move and no more."""
        moving = list(self.parameters.values())
        found = torch.autograd.grad(loss, moving, retain_graph=retain, allow_unused=True)
        whole = [torch.zeros_like(p) if g is None else _laid_out_like(p, g) for p, g in zip(moving, found, strict=True)]
        if not self.still:
            return whole
        return [g.masked_fill(self.still[name], 0) if name in self.still else g for name, g in zip(self.parameters, whole, strict=True)]


def _distinct(labels: Sequence[str]) -> list[str]:
    """Return the labels, those that were there before with a number."""
    return [label if (seen := labels[:place].count(label)) == 0 else f"{label} ({seen + 1})" for place, label in enumerate(labels)]


def _weight(weight: Weight, progress: Progress) -> float:
    return weight(progress) if callable(weight) else weight


def _laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient in the parameter's memory layout, as ``backward`` does; optimisers and norms are slow on mixed ones."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
