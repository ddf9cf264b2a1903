"""RELOAD: one step against the forgotten data's gradient, a reset by knowledge value, repair."""

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.derivatives import gradient
from expunge.engine.edits import add, reinitialise_where
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector
from expunge.engine.phase import Phase
from expunge.engine.select import select
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd


class Reload(Method):
    """Takes one step against the forgotten data's share of the gradient, draws the weights of least knowledge value anew, and repairs.

    With ``g_D`` and ``g_R`` the gradients of the summed cross entropy over all and over the retained data at the original, both divided by
    the number of all examples: ``theta + eta (g_D - g_R)``; the value of a weight is ``(|g_D - g_R| + e) / (|g_D| + e)``, and the share
    with the lowest is reset. The rest is fine-tuning on the retained data.

    Source: Newatia et al., Mitigating Privacy Risk via Forget Set-Free Unlearning (RELOAD), ICLR 2026, arXiv 2604.10636. The published
    settings were not available; eta, the share, the constant and the length of the repair are ours.
    """

    aliases = ("RELOAD",)
    source = "Newatia et al., Mitigating Privacy Risk via Forget Set-Free Unlearning, ICLR 2026, arXiv 2604.10636"
    deviations = (
        "the gradient over all data is cached at the end of training in the paper, so that the forgotten data can be deleted before; "
        "here it is computed at the original, for which the forgotten data are read once",
        "both gradients are divided by the number of all examples, so that their difference is the forgotten data's share alone",
        "repair takes a fixed number of epochs instead of going on until convergence",
    )
    needs = {"forget", "retain"}

    eta: PositiveFloat = hyper(0.1, "length of the step against the forgotten data", low=1e-3, high=10.0, log=True)
    reset: Fraction = hyper(0.1, "share of the weights that is drawn anew", low=0.01, high=0.5)
    epsilon: PositiveFloat = hyper(1e-8, "constant in the knowledge value")
    lr: PositiveFloat = hyper(0.01, "learning rate of the repair", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set", low=1, high=30)
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield the step, the reset and the repair."""
        everything, retain = summed_gradients(ctx)
        value = knowledge_value(everything, retain, self.epsilon)
        yield add({name: everything[name] - retain[name] for name in retain}, self.eta)
        yield reinitialise_where(select(value, bottom=self.reset), "reload")
        yield Phase(
            [Term("retain", cross_entropy)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            name="repair",
        )


def summed_gradients(ctx: Context) -> tuple[Vector, Vector]:
    """Return the summed gradients over all and over the retained data, both divided by the number of all examples."""
    count = len(ctx.stream("forget")) + len(ctx.stream("retain"))
    forget, retain = gradient(ctx, "forget"), gradient(ctx, "retain")
    return {name: (forget[name] + retain[name]) / count for name in retain}, {name: retain[name] / count for name in retain}


def knowledge_value(everything: Vector, retain: Vector, epsilon: float) -> Vector:
    """Return ``(|g_D - g_R| + e) / (|g_D| + e)`` for every weight."""
    return {name: ((value - retain[name]).abs() + epsilon) / (value.abs() + epsilon) for name, value in everything.items()}
