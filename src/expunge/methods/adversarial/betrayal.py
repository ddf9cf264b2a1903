"""What an attacker sees of the student's answers, and the loss that hides the forget set from it."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Term
from expunge.engine.update import sgd
from expunge.methods.adversarial.opponents import Judge, Opponent

Evidence = Literal["loss", "logits", "both"]


def visible(logits: Tensor, y: Tensor, evidence: Evidence) -> Tensor:
    """Return what the attacker sees, ``[B, 1]``, ``[B, C]`` or ``[B, C + 1]``: the cross entropy, the logits in descending order, or both.

    Sorted logits do not name a class, so that the attacker cannot go by class frequencies.
    """
    parts = {
        "loss": F.cross_entropy(logits, y, reduction="none")[:, None],
        "logits": logits.sort(dim=1, descending=True).values,
    }
    return torch.cat([part for name, part in parts.items() if evidence in (name, "both")], dim=1)


def hide(opponent: Opponent, evidence: Evidence) -> Loss:
    """Return the loss that makes the attacker take forget examples for validation examples, which it learns to recognise meanwhile."""

    def hide_from_attacker(context: Context, batch: Batch, student: Forward) -> Tensor:
        unseen = student.other("validation")
        seen = visible(student.logits, batch.y, evidence)
        opponent.learn((seen,), (visible(unseen.logits, unseen.batch.y, evidence),))
        return F.softplus(opponent.judge(seen))

    return hide_from_attacker


class Hiding(Method):
    """The hyper-parameters of hiding the forget set from an attacker, and its phase."""

    scenarios = {"random"}
    scenario_reason = "it makes the forget set look like unseen data of the same classes, which a whole class or sub-class must not."

    evidence: Evidence = hyper("both", "what the attacker sees: the loss, the sorted logits, or both")
    weight: PositiveFloat = hyper(1.0, "weight of hiding the forget set", low=0.1, high=10, log=True)
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    opponent_lr: PositiveFloat = hyper(0.01, "learning rate of the attacker's Adam", low=1e-4, high=1e-2, log=True)
    epochs: PositiveInt = hyper(10, "passes over the forget set")
    batch_size: PositiveInt = hyper(128, "examples of each set in a step")

    def phase(self, ctx: Context, anchor: Term, name: str) -> Phase:
        """Return the phase that hides the forget set beside a term that holds the rest."""
        inputs = {"loss": 1, "logits": ctx.num_classes, "both": ctx.num_classes + 1}[self.evidence]
        opponent = Opponent(ctx, lambda: Judge(inputs), self.opponent_lr)
        hidden = Term("forget", hide(opponent, self.evidence), weight=self.weight, uses=("validation",))
        return Phase(
            [hidden, anchor],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            norm="train",
            name=name,
        )
