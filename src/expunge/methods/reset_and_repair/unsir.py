"""UNSIR: impair with noise that the model cannot bear, then repair."""

import torch

from expunge.config import NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import adam
from expunge.methods.reset_and_repair.learned_noise import RepeatedNoise, learn_noise


class Unsir(Method):
    """Teaches the model noise under the label of a forgotten class, noise on which it was most wrong, and then repairs it.

    For every forgotten class a batch of noise is learned that maximises the cross entropy of the original with that class. One pass over
    copies of it and some retained examples impairs the model, one over the retained examples repairs it. No forgotten data are read.

    Source: Tarun et al., UNSIR, Fast Yet Effective Machine Unlearning, IEEE TNNLS 2023, arXiv 2111.08947, algorithm 1; settings of its
    code: 40 steps of Adam at 0.1 on 256 examples, squared noise weighted 0.1, 20 copies, 1000 retained examples of each class, Adam at
    0.02 and 0.01, batches of 256. They are rough: on a class of the bundled Fashion-MNIST both at 0.002 forget as much and leave 93 instead
    of 69 % retain accuracy. Later comparisons take 1e-4, with which the class there stays.
    """

    aliases = ("UNSIR",)
    source = "Tarun et al., Fast Yet Effective Machine Unlearning, IEEE TNNLS 2023, arXiv 2111.08947"
    deviations = (
        "the noise of each class is labelled with that class; the code labels all of it with class 0",
        "noise is measured in mean and deviation of each channel of retained pictures, in the code of all training data",
        "the noise is learned in eval mode",
    )
    needs = {"retain"}
    scenarios = {"class"}
    scenario_reason = "its noise stands for a whole class; it cannot tell the examples to forget from others of their class."

    noise_examples: PositiveInt = hyper(256, "examples of noise for each forgotten class")
    noise_steps: PositiveInt = hyper(40, "steps in which the noise is learned")
    noise_lr: PositiveFloat = hyper(0.1, "learning rate of Adam on the noise", low=1e-2, high=1.0, log=True)
    noise_decay: NonNegativeFloat = hyper(0.1, "weight of the noise's mean squared length")
    copies: PositiveInt = hyper(20, "how often the impairing pass sees each example of noise")
    retain_per_class: PositiveInt = hyper(1000, "retained examples of each class in both passes")
    lr: PositiveFloat = hyper(0.02, "learning rate of Adam in the impairing pass", low=1e-5, high=1e-1, log=True)
    repair_lr: PositiveFloat = hyper(0.01, "learning rate of Adam in the repairing pass", low=1e-5, high=1e-1, log=True)
    epochs: PositiveInt = hyper(1, "impairing passes")
    repair_epochs: PositiveInt = hyper(1, "repairing passes")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield the impairing and the repairing phase."""
        retain = some_of_each_class(ctx, "retain", self.retain_per_class)
        yield Phase(
            [Term(self.noise(ctx, retain), cross_entropy), Term(retain, cross_entropy)],
            epochs=self.epochs,
            optimizer=adam(self.lr),
            batch_size=self.batch_size,
            order="mixed",
            name="impair",
        )
        yield Phase(
            [Term(retain, cross_entropy)],
            epochs=self.repair_epochs,
            optimizer=adam(self.repair_lr),
            batch_size=self.batch_size,
            name="repair",
        )

    def noise(self, ctx: Context, retain: Stream) -> Stream:
        """Return the stream of learned noise, labelled with the forgotten classes."""
        like = next(retain.batches(1000)).x
        parts = [
            learn_noise(ctx, label, like, self.noise_examples, steps=self.noise_steps, lr=self.noise_lr, decay=self.noise_decay)
            for label in ctx.forget_classes
        ]
        labels = torch.tensor(ctx.forget_classes).repeat_interleave(self.noise_examples)
        source = RepeatedNoise(torch.cat(parts), labels, self.copies)
        return Stream("noise", source, torch.arange(len(source)))


def some_of_each_class(ctx: Context, stream: str, count: int) -> Stream:
    """Return the stream of at most ``count`` random examples of each class; the choice is keyed by seed and example."""
    whole = ctx.stream(stream)
    label_of = dict(zip(whole.index.tolist(), whole.labels.tolist(), strict=True))
    left = dict.fromkeys(label_of.values(), count)
    chosen = []
    for index in randomness.shuffle(ctx.seed, f"some of each class of {stream}", 0, whole.index).tolist():
        if left[label_of[index]] > 0:
            left[label_of[index]] -= 1
            chosen.append(index)
    return whole.subset(torch.tensor(chosen))
