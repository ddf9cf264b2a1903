"""Leave on the forget set, then restore the geometry of the features on the retain set: what the two components of source 004 share."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from expunge.config import Flag, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context, TeacherKind
from expunge.engine.kernels import Kernel, kl, mean_squared_logits
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch, Stream
from expunge.engine.targets import random_label, teacher
from expunge.engine.terms import Forward, Loss, Term, cross_entropy, match
from expunge.engine.update import sgd
from expunge.methods.ascent.moved_pictures import on_moved, random_crop
from expunge.methods.features.block_outputs import BlockOutputs
from expunge.methods.features.published_names import PUBLISHED, Name
from expunge.methods.features.relations import misaligned, misaligned_and_dissimilar, relational, similarity_preserving

GEOMETRY: dict[str, Kernel] = {
    "spkd": similarity_preserving,
    "rkd": relational,
    "akd": mean_squared_logits,
    "cka": misaligned,
    "cka_spkd": misaligned_and_dissimilar,
}


class Restoring(Method):
    """The hyper-parameters of the two phases, and the phases."""

    needs = {"forget", "retain"}
    prefix_field = "published"
    scenario_defaults = {"random": {"lr": 1e-3}, "subclass": {"lr": 1e-3}}

    published: Name | None = hyper(None, "a name of the source, which decides fields below, as in unlearn_restore:PL_RKD")
    unlearn: Literal["gradient_ascent", "pseudo_label", "random_label"] = hyper(
        "gradient_ascent", "what happens on the forget set: ascent, the original's best retained class, or a random wrong class"
    )
    restore: Literal["spkd", "rkd", "akd", "kd", "cka", "cka_spkd", "none"] = hyper(
        "spkd",
        "what is kept of the teacher: similarities, distances and angles, features, logits, linear CKA, CKA and a tenth of similarities; "
        "none: no restoring",
    )
    restore_on: Literal["retain", "forget"] = hyper("retain", "the set whose geometry is restored")
    crop: Fraction = hyper(1.0, "restore on one random crop of this share of the side in each step, scaled back; 1: whole pictures", gt=0)
    interleaved: Flag = hyper(False, "both in one step on a pair of batches, instead of one pass after the other")
    layers: Literal["features", "all"] = hyper("features", "restore the head's input alone, or the average over all blocks")
    unlearn_weight: PositiveFloat = hyper(1.0, "weight of the loss on the forget set")
    label_weight: NonNegativeFloat = hyper(10.0, "weight of the cross entropy on the set that is restored")
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
        if self.layers == "all" and self.crop < 1:
            raise ValueError("layers=all restores whole pictures; leave crop out")
        if self.restore_on == "forget" and self.label_weight:
            raise ValueError(
                "restore_on=forget with label_weight above 0 teaches the labels that are to be forgotten; write label_weight=0"
            )
        return self

    def phases(self, ctx: Context, kind: TeacherKind) -> Iterator[Phase]:
        """Yield one phase.

        Args:
            ctx: the context.
            kind: whose geometry is restored.
        """
        with ExitStack() as hooks:
            terms = [self.leave(kind), *self.stay(ctx, kind, hooks)]
            yield Phase(
                terms,
                epochs=self.epochs,
                optimizer=sgd(self.lr),
                batch_size=self.batch_size,
                order="zip" if self.interleaved else "sequential",
                epoch_of="forget" if self.interleaved else None,
                name="unlearn and restore" if len(terms) > 1 else "unlearn",
            )

    def leave(self, kind: TeacherKind) -> Term:
        """Return the term on the forget set; pseudo labels are the teacher's."""
        if self.unlearn == "gradient_ascent":
            return Term("forget", cross_entropy, weight=-self.unlearn_weight, name="ascent on forget")
        target = partial(pseudo_label, kind=kind) if self.unlearn == "pseudo_label" else random_label("epoch")
        return Term("forget", match(target), weight=self.unlearn_weight, name=f"{self.unlearn} on forget")

    def stay(self, ctx: Context, kind: TeacherKind, hooks: ExitStack) -> list[Term]:
        """Return the terms on the set that is restored."""
        if self.restore == "none":
            return []
        loss, labels = self.likeness(ctx, kind, hooks), cross_entropy
        if self.crop < 1:
            move = random_crop(self.crop)
            loss, labels = on_moved(move, loss, features=self.restore in GEOMETRY), on_moved(move, labels)
        stream, where = self.restored(ctx), self.restore_on
        terms = [Term(stream, labels, weight=self.label_weight, name=f"cross entropy on {where}")] if self.label_weight else []
        return [*terms, Term(stream, loss, self.restore_weight, features=self.restore in GEOMETRY, name=f"{self.restore} on {where}")]

    def restored(self, ctx: Context) -> str | Stream:
        """Return the stream that is restored; a second pass over the forget set is a stream of its own."""
        if self.restore_on == "retain" or self.interleaved:
            return self.restore_on
        forget = ctx.stream("forget")
        return forget.subset(forget.index, name="forget again")

    def likeness(self, ctx: Context, kind: TeacherKind, hooks: ExitStack) -> Loss:
        """Return the loss that draws the student to the teacher."""
        if self.restore not in GEOMETRY:
            return match(teacher(kind), kl(self.temperature, scale=True))
        if self.layers == "features":
            return imitate_features(kind, GEOMETRY[self.restore])
        student = hooks.enter_context(BlockOutputs(ctx.architecture, ctx.model))
        wanted = hooks.enter_context(BlockOutputs(ctx.architecture, ctx.teacher(kind)))
        return imitate_blocks(kind, GEOMETRY[self.restore], student, wanted)


def pseudo_label(context: Context, batch: Batch, kind: TeacherKind = "original") -> Tensor:
    """Return a teacher's most likely class among the retained ones; where no class goes as a whole, its best wrong one, ``[B]``."""
    logits = context.logits_of(kind, batch.x)
    if not context.forget_classes:
        return logits.scatter(1, batch.y[:, None], float("-inf")).argmax(dim=1)
    logits[:, list(context.forget_classes)] = float("-inf")
    return logits.argmax(dim=1)


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
