"""Answer the forget set so that nobody can tell it from unseen data."""

import torch
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.measure import logits_of
from expunge.engine.method import Steps
from expunge.engine.stream import Batch, scoring_size
from expunge.engine.terms import Forward, Progress
from expunge.methods.adversarial.contrast import Trained
from expunge.methods.adversarial.opponents import Judge, Opponent, counterpart, doubt


class ContrastiveUntrain(Trained):
    """A discriminator learns to tell the student's forget logits from the original's on validation data; the student deceives it.

    Each forget example is paired with a validation example of its class. In each step the discriminator takes one Adam step on detached
    logits, and then the student maximises its error. The discriminator's weights depend on the seed alone and are thrown away.

    Source: the constrained unlearning project (source 002, ``train_contrastive.py --mode untrain``): Adam 0.01 for both, ended when the
    accuracy of the discriminator falls below one half. At 0.01 the student loses its retain accuracy; 0.001 is within the project's range.
    """

    aliases = ("untrain", "contrastive-untrain")
    source = "constrained unlearning project (source 002): train_contrastive.py, mode untrain"
    deviations = (
        "a cross entropy on the retain set holds the student; the code has none: retain_weight=0",
        "the discriminator judges in eval mode, so that its dropout and BatchNorm do not depend on the student's batch",
        "the stop rule reads whole splits, and waits for the discriminator to learn; the code averages over the epoch's batches",
    )

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        opponent = Opponent(ctx, lambda: Judge(ctx.num_classes), self.opponent_lr)

        def deceive(context: Context, batch: Batch, student: Forward) -> Tensor:
            unseen = context.logits_of("original", counterpart(context, batch, "validation").x)
            opponent.learn((student.logits,), (unseen,))
            return doubt(opponent.judge(student.logits))

        def deceived(context: Context, progress: Progress) -> bool:
            if progress.epoch <= self.patience:
                return False
            forget, unseen = logits_of(context, "forget")[0], original_logits(context, "validation")
            return opponent.accuracy((forget.to(context.device),), (unseen,)) < self.chance

        yield self.phase(deceive, "deceive the discriminator", stop=deceived if self.chance else None)


def original_logits(ctx: Context, stream: str) -> Tensor:
    """Return the original's logits over a whole stream, ``[n, C]``, on the device."""
    return torch.cat([ctx.logits_of("original", batch.x) for batch in ctx.stream(stream).batches(scoring_size(ctx.device))])
