"""The training that the unlearning papers share."""

from typing import Literal

from pydantic import ValidationInfo, field_validator

from expunge.config import Flag, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy, smoothed_cross_entropy
from expunge.engine.update import Optimizer, Schedule, adam, adamw, constant, cosine, milestones, sam, sgd, warm_up
from expunge.training.precision import Precision, resolve_precision
from expunge.training.recipe import Recipe, training_stream


class Standard(Recipe):
    """SGD for 182 epochs, with the learning rate divided by ten after half and after three quarters of them.

    The released retraining variants are options: label smoothing 0.1 (``retrain_ls``), and adaptive sharpness-aware
    minimisation with radius 2 (``retrain_sam``).
    """

    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, released code"
    deviations = (
        "the weights of the last epoch are kept, not those of the epoch with the best validation accuracy",
        "the released retrain_sam starts its momentum anew each epoch; here it goes on",
    )

    epochs: PositiveInt = hyper(182, "passes over the training data")
    optimizer: Literal["sgd", "adam", "adamw"] = hyper("sgd", "adamw is usual for transformers, with a learning rate near 1e-3")
    lr: PositiveFloat = hyper(0.1, "learning rate of the first epochs", low=1e-4, high=0.5, log=True)
    momentum: Fraction = hyper(0.9, "of sgd", lt=1)
    weight_decay: NonNegativeFloat = hyper(5e-4, "coupled for sgd and adam, decoupled for adamw")
    batch_size: PositiveInt = 256
    schedule: Literal["milestones", "cosine", "constant"] = "milestones"
    milestones: tuple[PositiveInt, ...] | None = hyper(
        None, "epochs after which the learning rate is multiplied by gamma; one half and three quarters of all if not given"
    )
    gamma: Fraction = hyper(0.1, "factor of the learning rate at each milestone", gt=0)
    warm_up_epochs: NonNegativeInt = hyper(0, "epochs in which the learning rate rises from zero")
    label_smoothing: Fraction = hyper(0.0, "share of the label that is spread over all classes", lt=1)
    sam_radius: NonNegativeFloat = hyper(0.0, "radius of sharpness-aware minimisation; 0 is without, 2 is usual when adaptive")
    sam_adaptive: Flag = hyper(True, "whether its direction is scaled by the squared weights")
    precision: Precision = hyper("auto", "of the forward pass; auto is bfloat16 where the device computes it fast")

    @field_validator("milestones")
    @classmethod
    def _within_the_horizon(cls, value: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        epochs, schedule = info.data.get("epochs"), info.data.get("schedule")
        if value is None or epochs is None:
            return value
        if schedule != "milestones":
            raise ValueError(f"schedule={schedule} has none, got {list(value)}. Leave them out, or write schedule=milestones.")
        if not value or list(value) != sorted(set(value)):
            raise ValueError(f"expected rising epochs, got {list(value)}. For no change at all write schedule=constant.")
        if value[-1] >= epochs:
            raise ValueError(
                f"{value[-1]} lies beyond the {epochs} epochs, so that the learning rate would never fall there. "
                "Leave milestones out to have them at one half and three quarters, or choose earlier ones."
            )
        return value

    @field_validator("warm_up_epochs")
    @classmethod
    def _shorter_than_training(cls, value: int, info: ValidationInfo) -> int:
        if value >= info.data.get("epochs", value + 1):
            raise ValueError(f"expected fewer than the {info.data['epochs']} epochs of training, got {value}.")
        return value

    def steps(self, ctx: Context, stream: str = "train") -> Steps:
        """Yield one phase."""
        loss = smoothed_cross_entropy(self.label_smoothing) if self.label_smoothing else cross_entropy
        yield Phase(
            terms=[Term(training_stream(ctx, stream), loss)],
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.make_optimizer(),
            schedule=self.make_schedule(),
            perturb=sam(self.sam_radius, self.sam_adaptive) if self.sam_radius else None,
            precision=resolve_precision(self.precision, ctx.device),
            name="training",
        )

    def make_optimizer(self) -> Optimizer:
        """Return the optimiser of the mean loss."""
        if self.optimizer == "sgd":
            return sgd(self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return (adam if self.optimizer == "adam" else adamw)(self.lr, weight_decay=self.weight_decay)

    def make_schedule(self) -> Schedule:
        """Return the factor of the learning rate. Milestones count all epochs, those of the warm-up included."""
        falls = self.milestones or tuple(sorted({self.epochs // 2, self.epochs * 3 // 4} - {0}))
        then = {"milestones": milestones(falls, self.gamma), "cosine": cosine(), "constant": constant}[self.schedule]
        return warm_up(self.warm_up_epochs / self.epochs, then) if self.warm_up_epochs else then
