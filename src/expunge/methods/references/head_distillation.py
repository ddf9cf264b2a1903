"""Control that changes the head alone."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import masked_teacher, teacher
from expunge.engine.terms import Term, match
from expunge.engine.update import sgd


class HeadDistillation(Method):
    """Teach the head alone to answer as the original does without the true class; the encoder stays bit for bit.

    A control: any metric on which it does well does not measure whether knowledge has left the features. A head cannot tell single
    examples apart from their class: on 10 % of the bundled Fashion-MNIST the setting for a class takes retain accuracy from 100 to 85 %,
    that of the defaults for other requests to 99.7 %.

    Source: Jeon et al., IDI, arXiv 2405.17878 (head distillation): ``KL(softmax(masked teacher) || student)`` on the forget set and
    ``KL(teacher || student)`` on the retain set.
    """

    aliases = ("HD",)
    source = "Jeon et al., An Information Theoretic Evaluation Metric for Strong Unlearning, arXiv 2405.17878"
    deviations = ("the published learning rate and length were not available; the defaults are ours", "no weight decay")
    needs = {"forget", "retain"}
    scenario_defaults = {"random": {"lr": 1e-3, "epochs": 1}, "subclass": {"lr": 1e-3, "epochs": 1}}

    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-3, high=1.0, log=True)
    epochs: PositiveInt = hyper(5, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase in which only the head's weights move and all statistics are frozen."""
        yield Phase(
            [Term("forget", match(masked_teacher, kl())), Term("retain", match(teacher("original"), kl()))],
            epochs=self.epochs,
            optimizer=sgd(self.lr, weight_decay=0.0),
            batch_size=self.batch_size,
            epoch_of="retain",
            trainable=frozenset(ctx.architecture.class_rows(0)),
            norm="frozen",
            name="head distillation",
        )
