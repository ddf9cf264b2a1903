"""Training of small pictures in a few epochs."""

from typing import Literal

from torch import nn

from expunge.config import Flag, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.method import Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Progress, Term, smoothed_cross_entropy
from expunge.engine.update import AfterStep, Optimizer, Step, lookahead, sgd, triangle
from expunge.models.model import Normalized
from expunge.models.whitened_cnn import WhitenedNet
from expunge.training.precision import Precision, resolve_precision
from expunge.training.recipe import Recipe, training_stream
from expunge.training.shifts import AlternatingSource


class Fast(Recipe):
    """Few epochs of large batches: about 90 % on CIFAR-10 with ``whitened_cnn`` in four epochs; 94 % in ten, says the source.

    A model that has been trained so short remembers little of its training set; membership signals are weak.

    Rates are per 1,024 examples and before momentum: a step on B examples with the summed loss has the learning rate
    ``lr / (1024 (1 + 1 / (1 - momentum)))`` for each example, whatever B is.
    """

    source = "Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024, arXiv 2404.00498"
    deviations = (
        "an epoch is spread evenly over its batches, no example is left out",
        "the running average ends with the last multiple of its period instead of the last step",
        "the whitening looks at pictures that the seed draws from the training examples, not at the first ones",
    )

    epochs: PositiveInt = hyper(4, "passes over the training data")
    lr: PositiveFloat | None = hyper(None, "learning rate per 1,024 examples; 11.5 for whitened_cnn, 2 for other models if not given")
    momentum: Fraction = hyper(0.85, "Nesterov momentum", lt=1)
    batch_size: PositiveInt | None = hyper(None, "1,024 for whitened_cnn, 256 for other models if not given")
    weight_decay: NonNegativeFloat | None = hyper(
        None, "share by which weights shrink per 1,024 examples, relative to lr's scale; 0.0153 for whitened_cnn, 0.002 for others"
    )
    bias_factor: PositiveFloat = hyper(64.0, "how much faster BatchNorm's biases learn, in whitened_cnn")
    label_smoothing: Fraction = hyper(0.2, "share of the label that is spread over all classes", lt=1)
    whitening_examples: PositiveInt = hyper(5000, "pictures whose patches set the first layer of whitened_cnn")
    whitening_bias_epochs: PositiveInt = hyper(3, "epochs in which the bias of the whitening layer learns")
    average_every: PositiveInt = hyper(5, "steps between pulls to the running average of the weights")
    augment: Literal["own", "data"] = hyper("own", "own: shifts of 2 reflected pixels and alternating flips; data: what the data set says")
    shift: NonNegativeInt = hyper(2, "most pixels of a shift")
    flip: Flag = hyper(True, "whether pictures are flipped from left to right")
    precision: Precision = hyper("auto", "of the forward pass; auto is bfloat16 where the device computes it fast")

    def steps(self, ctx: Context, stream: str = "train") -> Steps:
        """Yield the whitening, where the model has that layer, and one phase."""
        examples = training_stream(ctx, stream)
        whitened = whitened_net(ctx.model) is not None
        batch_size = self.batch_size or (1024 if whitened else 256)
        if whitened:
            yield whiten(examples, self.whitening_examples)
        shown = Stream("train", AlternatingSource(examples.source, self.shift, self.flip), examples.index, examples.labels)
        yield Phase(
            terms=[Term(shown if self.augment == "own" else examples, smoothed_cross_entropy(self.label_smoothing), reduction="sum")],
            epochs=self.epochs,
            batch_size=batch_size,
            optimizer=self.optimizer(whitened, batch_size),
            schedule=triangle(peak=0.23, final=0.07, start=0.2),
            after_step=(lookahead(self.average_every, average_decay), hold_whitening_bias(self.whitening_bias_epochs)),
            precision=resolve_precision(self.precision, ctx.device),
            name="fast training",
        )

    def optimizer(self, whitened: bool, batch_size: int) -> Optimizer:
        """Return the optimiser of the summed loss, for ``whitened_cnn`` or another model."""
        rate = self.lr if self.lr is not None else (11.5 if whitened else 2.0)
        decay = self.weight_decay if self.weight_decay is not None else (0.0153 if whitened else 0.002)
        scale = 1024 * (1 + 1 / (1 - self.momentum))
        lr, shrink = rate / scale, decay * batch_size / scale
        bias_factor = self.bias_factor if whitened else 1.0

        def settings(name: str, parameter: nn.Parameter) -> dict[str, float]:
            own = lr * (bias_factor if parameter.ndim == 1 and not _is_whitening_bias(name) else 1.0)
            return {"lr": own, "weight_decay": shrink / own}

        return sgd(lr, momentum=self.momentum, weight_decay=0.0, nesterov=self.momentum > 0, scale=settings)


def average_decay(progress: Progress) -> float:
    """Return how much of the running average stays at each pull: the cube of the share that is done, times 0.95^5."""
    return 0.95**5 * progress.fraction**3


def whitened_net(model: nn.Module) -> WhitenedNet | None:
    """Return the part of a model that has a whitening layer; None if there is none."""
    net = model.net if isinstance(model, Normalized) else model
    return net if isinstance(net, WhitenedNet) else None


def whiten(examples: Stream, count: int) -> Edit:
    """Set the whitening layer from pictures of a stream that the seed draws, each independently of the others."""

    def apply(context: Context) -> None:
        drawn = randomness.shuffle(context.seed, "whitening", 0, examples.index)[:count]
        x = next(examples.subset(drawn).batches(len(drawn))).x
        net = whitened_net(context.model)
        assert net is not None
        net.whiten(context.model.normalize(x) if isinstance(context.model, Normalized) else x)

    return Edit("whiten", apply)


def hold_whitening_bias(epochs: int) -> AfterStep:
    """Keep the whitening layer's bias as it is after so many epochs."""

    def hold(step: Step) -> None:
        for name, parameter in step.parameters.items():
            if not _is_whitening_bias(name):
                continue
            key = f"held/{name}"
            if step.progress.epoch < epochs or key not in step.state:
                step.state[key] = parameter.clone()
            else:
                parameter.copy_(step.state[key])

    return hold


def _is_whitening_bias(name: str) -> bool:
    return name.removeprefix("net.") == "whitening.bias"
