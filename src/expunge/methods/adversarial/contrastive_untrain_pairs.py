"""Answer the forget set so that nobody can tell a pair with unseen data from a pair of unseen data."""

import torch
from torch import Tensor

from expunge.config import Fraction, hyper
from expunge.engine.context import Context
from expunge.engine.measure import logits_of
from expunge.engine.method import Steps
from expunge.engine.stream import Batch, scoring_size
from expunge.engine.terms import Forward, Progress
from expunge.methods.adversarial.contrast import Trained
from expunge.methods.adversarial.opponents import Comparator, Opponent, counterpart, doubt


class ContrastiveUntrainPairs(Trained):
    """As `contrastive_untrain`, with pairs: (student on forget, original on unseen) against (original on unseen, original on unseen).

    All three examples of a triplet have the same class, so that the discriminator cannot go by the class.

    Source: the constrained unlearning project (source 002, ``train_contrastive.py --mode untrain_contrastive``): Adam 0.01 for both, ended
    when the accuracy of the discriminator falls below 0.55.
    """

    aliases = ("untrain_contrastive", "contrastive-untrain-pairs")
    source = "constrained unlearning project (source 002): train_contrastive.py, mode untrain_contrastive"
    deviations = (
        "a cross entropy on the retain set holds the student; the code has none: retain_weight=0",
        "the discriminator judges in eval mode, so that its BatchNorm does not depend on the student's batch",
        "the stop rule reads whole splits, and waits for the discriminator to learn; the code averages over the epoch's batches",
    )

    chance: Fraction = hyper(0.55, "end when the discriminator's balanced accuracy over whole splits is below this; 0: never")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on triplets of batches."""
        opponent = Opponent(ctx, lambda: Comparator(ctx.num_classes), self.opponent_lr)

        def deceive(context: Context, batch: Batch, student: Forward) -> Tensor:
            unseen, other = (context.logits_of("original", counterpart(context, batch, "validation", draw).x) for draw in (0, 1))
            opponent.learn((student.logits, other), (unseen, other))
            return doubt(opponent.judge(student.logits, other))

        def deceived(context: Context, progress: Progress) -> bool:
            if progress.epoch <= self.patience:
                return False
            forget = logits_of(context, "forget")[0].to(context.device)
            unseen, other = matched_logits(context, draw=0), matched_logits(context, draw=1)
            return opponent.accuracy((forget, other), (unseen, other)) < self.chance

        yield self.phase(deceive, "deceive the discriminator", stop=deceived if self.chance else None)


def matched_logits(ctx: Context, draw: int) -> Tensor:
    """Return the original's logits on the validation counterpart of every forget example, ``[n, C]``."""
    batches = ctx.stream("forget").batches(scoring_size(ctx.device))
    return torch.cat([ctx.logits_of("original", counterpart(ctx, batch, "validation", draw).x) for batch in batches])
