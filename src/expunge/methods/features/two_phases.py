"""Leave on the forget set, then restore the geometry of the features on the retain set: what the two components of source 004 share."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from expunge.config import Flag, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context, TeacherKind
from expunge.engine.kernels import Kernel, kl, mean_squared_logits
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.targets import random_label, retained_best, second_best, teacher
from expunge.engine.terms import Forward, Loss, Term, cross_entropy, match
from expunge.engine.update import sgd
from expunge.methods.features.block_outputs import BlockOutputs
from expunge.methods.features.relations import relational, similarity_preserving

GEOMETRY: dict[str, Kernel] = {"spkd": similarity_preserving, "rkd": relational, "akd": mean_squared_logits}

PUBLISHED: dict[str, dict[str, Any]] = {
    "SPKD": {"unlearn": "gradient_ascent", "restore": "spkd"},
    "RKD": {"unlearn": "gradient_ascent", "restore": "rkd"},
    "AKD": {"unlearn": "gradient_ascent", "restore": "akd"},
    "GA_KD": {"unlearn": "gradient_ascent", "restore": "kd"},
    "PL": {"unlearn": "pseudo_label", "restore": "none"},
    "PL_SPKD": {"unlearn": "pseudo_label", "restore": "spkd"},
    "PL_RKD": {"unlearn": "pseudo_label", "restore": "rkd"},
    "PL_AKD": {"unlearn": "pseudo_label", "restore": "akd"},
    "PL_KD": {"unlearn": "pseudo_label", "restore": "kd", "label_weight": 1.0, "restore_weight": 1.0},
    "RL_SPKD": {"unlearn": "random_label", "restore": "spkd"},
    "SPKD_IL": {"unlearn": "gradient_ascent", "restore": "spkd", "interleaved": True},
    "AKD_IL": {"unlearn": "gradient_ascent", "restore": "akd", "interleaved": True},
    "RKD_IL": {"unlearn": "gradient_ascent", "restore": "rkd", "interleaved": True, "label_weight": 20.0, "restore_weight": 20.0},
    "SPKD_AL": {"unlearn": "gradient_ascent", "restore": "spkd", "layers": "all"},
    "AKD_AL": {"unlearn": "gradient_ascent", "restore": "akd", "layers": "all"},
}
"""The names of the source, and the fields that each stands for."""

Name = Literal[
    "SPKD", "RKD", "AKD", "GA_KD", "PL", "PL_SPKD", "PL_RKD", "PL_AKD", "PL_KD", "RL_SPKD",
    "SPKD_IL", "AKD_IL", "RKD_IL", "SPKD_AL", "AKD_AL",
]  # fmt: skip


class Restoring(Method):
    """The hyper-parameters of the two phases, and the phases."""

    needs = {"forget", "retain"}
    prefix_field = "published"
    scenario_defaults = {"random": {"lr": 1e-3}, "subclass": {"lr": 1e-3}}

    published: Name | None = hyper(None, "a name of the source, which decides the next six fields, as in unlearn_restore:PL_RKD")
    unlearn: Literal["gradient_ascent", "pseudo_label", "random_label"] = hyper(
        "gradient_ascent", "what happens on the forget set: ascent, the original's best retained class, or a random wrong class"
    )
    restore: Literal["spkd", "rkd", "akd", "kd", "none"] = hyper(
        "spkd", "what is kept of the teacher on the retain set: similarities, distances and angles, features, logits; none: no restoring"
    )
    interleaved: Flag = hyper(False, "both in one step on a pair of batches, instead of one pass after the other")
    layers: Literal["features", "all"] = hyper("features", "restore the head's input alone, or the average over all blocks")
    label_weight: NonNegativeFloat = hyper(10.0, "weight of the cross entropy on the retain set")
    restore_weight: PositiveFloat = hyper(10.0, "weight of what is restored", low=1.0, high=100.0, log=True)
    temperature: PositiveFloat = hyper(2.0, "temperature of restore=kd", low=1.0, high=4.0)
    lr: PositiveFloat = hyper(1e-4, "learning rate; 1e-5 on ImageNet in the source", low=1e-6, high=1e-2, log=True)
    epochs: PositiveInt = hyper(15, "passes over the forget set, each followed by one over the retain set")
    batch_size: PositiveInt = hyper(128, "examples in a step; the geometry is that of a batch")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        name = values.get("published") if isinstance(values, dict) else None
        return {**PUBLISHED.get(name, {}), **values} if isinstance(name, str) else values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, value in PUBLISHED.get(self.published or "", {}).items():
            if getattr(self, key) != value:
                raise ValueError(f"published={self.published} means {key}={value}, got {getattr(self, key)}; leave one of them out")
        if self.layers == "all" and self.restore not in GEOMETRY:
            raise ValueError(f"layers=all restores features, and restore={self.restore} does not read them; use spkd, rkd or akd")
        return self

    def phases(self, ctx: Context, kind: TeacherKind) -> Iterator[Phase]:
        """Yield one phase.

        Args:
            ctx: the context.
            kind: whose geometry is restored.
        """
        with ExitStack() as hooks:
            terms = [self.leave(), *self.stay(ctx, kind, hooks)]
            yield Phase(
                terms,
                epochs=self.epochs,
                optimizer=sgd(self.lr),
                batch_size=self.batch_size,
                order="zip" if self.interleaved else "sequential",
                epoch_of="forget" if self.interleaved else None,
                name="unlearn and restore" if len(terms) > 1 else "unlearn",
            )

    def leave(self) -> Term:
        """Return the term on the forget set."""
        if self.unlearn == "gradient_ascent":
            return Term("forget", cross_entropy, weight=-1.0, name="ascent on forget")
        target = pseudo_label if self.unlearn == "pseudo_label" else random_label("epoch")
        return Term("forget", match(target), name=f"{self.unlearn} on forget")

    def stay(self, ctx: Context, kind: TeacherKind, hooks: ExitStack) -> list[Term]:
        """Return the terms on the retain set."""
        if self.restore == "none":
            return []
        labels = Term("retain", cross_entropy, weight=self.label_weight, name="cross entropy on retain")
        loss = match(teacher(kind), kl(self.temperature, scale=True))
        if self.restore in GEOMETRY:
            loss = imitate_features(kind, GEOMETRY[self.restore])
        if self.layers == "all":
            student = hooks.enter_context(BlockOutputs(ctx.architecture, ctx.model))
            wanted = hooks.enter_context(BlockOutputs(ctx.architecture, ctx.teacher(kind)))
            loss = imitate_blocks(kind, GEOMETRY[self.restore], student, wanted)
        named = f"{self.restore} on retain"
        return [labels, Term("retain", loss, weight=self.restore_weight, features=self.restore in GEOMETRY, name=named)]


def pseudo_label(context: Context, batch: Batch) -> Tensor:
    """Return the original's most likely class among the retained ones; where no class goes as a whole, its best wrong one."""
    return retained_best(context, batch) if context.forget_classes else second_best(context, batch)


def imitate_features(kind: TeacherKind, kernel: Kernel) -> Loss:
    """Return the loss that draws the student's features to a teacher's on the same batch; the term needs ``features=True``."""

    def loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        with torch.no_grad():
            _, wanted = context.architecture.forward_with_features(context.teacher(kind), batch.x)
        return kernel(wanted.float(), student.features)

    return loss


def imitate_blocks(kind: TeacherKind, kernel: Kernel, student_blocks: BlockOutputs, teacher_blocks: BlockOutputs) -> Loss:
    """Return the mean over all blocks and the features of a kernel between student and teacher; the term needs ``features=True``."""

    def loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        features = student.features  # runs the batch, if no term has yet, so that the student's blocks belong to it
        with torch.no_grad():
            _, wanted = context.architecture.forward_with_features(context.teacher(kind), batch.x)
        pairs = zip([*teacher_blocks.of(batch.x), wanted.float()], [*student_blocks.of(batch.x), features], strict=True)
        return torch.stack([kernel(target, own) for target, own in pairs]).mean(0)

    return loss
