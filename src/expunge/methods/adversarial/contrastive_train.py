"""Train a new net to answer like the original, judged by a discriminator."""

from torch import Tensor

from expunge.config import Flag, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Term, cross_entropy
from expunge.engine.update import adam
from expunge.methods.adversarial.opponents import Comparator, Opponent, doubt


class ContrastiveTrain(Method):
    """A newly initialised student imitates the original on the retain set alone, where a discriminator compares their logits.

    The discriminator learns to tell (student(x), original(x)), which it calls one, from (student(x), original(x')) of another example;
    the student minimises the cross entropy of being called one. Logits come to rank alike, not to have the same size; a cross entropy with
    the labels (``label_weight``) gives the accuracy.

    Source: the constrained unlearning project (source 002, ``train_contrastive.py --mode train``): Adam 0.01 for both.
    """

    aliases = ("contrastive-train",)
    source = "constrained unlearning project (source 002): train_contrastive.py, mode train"
    deviations = (
        "two towers compare the logits (its ComparatorNetwork); its default discriminator averages a LayerNorm, which is always zero",
        "x' is the next example of the batch instead of a random one, so that it is never x itself",
        "the discriminator judges in eval mode; a cross entropy with the labels is added: label_weight=0 leaves it out",
    )
    needs = {"retain"}

    renew: Flag = hyper(True, "start from a newly initialised net; false: from the original, which has nothing left to imitate")
    label_weight: NonNegativeFloat = hyper(1.0, "weight of the cross entropy with the labels; 0 is the reference")
    lr: PositiveFloat = hyper(0.01, "learning rate of Adam", low=1e-4, high=1e-2, log=True)
    opponent_lr: PositiveFloat = hyper(0.01, "learning rate of the discriminator's Adam", low=1e-4, high=1e-2, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set", low=10, high=50)
    batch_size: PositiveInt = hyper(128, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield new weights and one phase on the retain set."""
        opponent = Opponent(ctx, lambda: Comparator(ctx.num_classes), self.opponent_lr)

        def imitate(context: Context, batch: Batch, student: Forward) -> Tensor:
            wanted = context.logits_of("original", batch.x)
            opponent.learn((student.logits, wanted), (student.logits, wanted.roll(1, dims=0)))
            return -doubt(opponent.judge(student.logits, wanted))

        if self.renew:
            yield reinitialise(None, self.name)
        terms = [Term("retain", imitate)]
        if self.label_weight:
            terms.append(Term("retain", cross_entropy, weight=self.label_weight))
        yield Phase(
            terms, epochs=self.epochs, optimizer=adam(self.lr), batch_size=self.batch_size, norm="train", name="imitate the original"
        )
