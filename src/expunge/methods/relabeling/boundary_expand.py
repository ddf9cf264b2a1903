"""Give the forget set a class of its own, and take the class away."""

from typing import Literal

import torch
from torch import nn

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import resize_head
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import constant_class
from expunge.engine.terms import Term, match
from expunge.engine.update import sgd
from expunge.errors import NotApplicable


class BoundaryExpand(Method):
    """Appends an output to the head, trains the forget set into it, and removes it again; nothing else is read.

    Made for whole classes; at the published learning rates a random subset hardly changes.

    Source: Chen et al., Boundary Unlearning, CVPR 2023, arXiv 2303.11570 (boundary expanding), 10 epochs; lr 1e-5 is from the protocol of
    arXiv 2310.12508, whose range goes on to 1e-4. On small_cnn and 2,800 pictures of the bundled Fashion-MNIST, 1e-5 leaves a class
    at 99.6 % of 100 %, and 1e-4 brings it to 13 %, the other classes to 71 %.
    """

    aliases = ("BE", "boundary_expanding")
    source = "Chen et al., Boundary Unlearning, CVPR 2023, arXiv 2303.11570"
    deviations = (
        "the added output is removed at the end; the code of arXiv 2310.12508 evaluates with it, where forgetting looks better than it is",
        "BatchNorm is frozen: in train mode its statistics become those of the forget set (fidelity=reference)",
    )
    needs = {"forget"}
    changes_shape = True

    lr: PositiveFloat = hyper(1e-5, "learning rate", low=1e-6, high=1e-4, log=True)
    epochs: PositiveInt = hyper(10, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    fidelity: Literal["paper", "reference"] = hyper("paper", "reference: BatchNorm in train mode")

    def steps(self, ctx: Context) -> Steps:
        """Yield the wider head, the training and the narrow head.

        Raises:
            NotApplicable: the head is no linear layer.
        """
        classes, head = ctx.num_classes, ctx.architecture.head
        if not isinstance(head, nn.Linear):
            raise NotApplicable(
                "method=boundary_expand", f"the head is a {type(head).__name__}, and only a linear layer can get an output."
            )
        ctx.free_head()
        narrow = resize_head(classes)
        yield resize_head(classes + 1)
        try:
            yield Phase(
                [Term("forget", match(constant_class(classes)))],
                epochs=self.epochs,
                optimizer=sgd(self.lr),
                batch_size=self.batch_size,
                norm="frozen" if self.fidelity == "paper" else "train",
                name="train into a new class",
            )
        except GeneratorExit:  # the phase has diverged, and nobody asks for the next step
            with torch.no_grad():
                narrow.apply(ctx)
            raise
        yield narrow
