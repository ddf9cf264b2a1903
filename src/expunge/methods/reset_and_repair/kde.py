"""KDE: reset both ends of the net, learn from the original."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.targets import teacher
from expunge.engine.terms import Term, cross_entropy, match
from expunge.methods.reset_and_repair.repair import cosine_by_epoch, layer_parameters, repair


class Kde(Method):
    """Draws the first layer and the head anew, imitates the original on validation data, then learns the retained data with its help.

    The last part minimises the cross entropy with the labels, the cross entropy with the original's answers at a temperature, and the
    divergence from them. The last two differ by the entropy of the original's answers alone, which has no gradient: together they are
    twice the divergence, which is what is computed.

    Source: seventh place (Algorithmic Amnesiacs) of the NeurIPS 2023 unlearning challenge, as described in Cadet et al., Deep Unlearn,
    arXiv 2410.01276: 3 epochs at 9e-4 and 3 at 0.001 along a cosine over epochs, temperature 5, SGD, batches of 64.
    """

    aliases = ("KDE", "algorithmic_amnesiacs")
    source = "Algorithmic Amnesiacs, NeurIPS 2023 unlearning challenge; arXiv 2410.01276 (KDE)"
    deviations = ("first layer and head are found by running the model; the code goes by the names conv1, fc and head",)
    needs = {"retain", "validation"}

    temperature: PositiveFloat = hyper(5.0, "temperature of the original's answers", low=1.0, high=10.0)
    warm_up_lr: PositiveFloat = hyper(9e-4, "learning rate on the validation data", low=1e-4, high=1e-2, log=True)
    warm_up_epochs: PositiveInt = hyper(3, "passes over the validation data")
    lr: PositiveFloat = hyper(0.001, "largest learning rate on the retain set", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(3, "passes over the retain set", low=1, high=10)
    batch_size: PositiveInt = hyper(64, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield the reset, the warm-up and the repair."""
        ends = dict.fromkeys([next(iter(ctx.architecture.embed)), ctx.architecture.head_name])
        divergence = match(teacher("original"), kl(self.temperature))
        yield reinitialise(layer_parameters(ctx, *ends), "kde")
        yield repair(
            lr=self.warm_up_lr,
            epochs=self.warm_up_epochs,
            batch_size=self.batch_size,
            terms=[Term("validation", divergence)],
            name="imitate the original on validation data",
        )
        yield repair(
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            terms=[Term("retain", cross_entropy), Term("retain", divergence, weight=2.0)],
            schedule=cosine_by_epoch(self.epochs),
        )
