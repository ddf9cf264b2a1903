"""Try one setting: unlearn with it from the originals of the tuning, and score what comes out on what the rule may see.

The models of a trial see forget, retain and validation examples. No test example passes through them, and a rule is handed views that
hold what it declares and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.bench.selections.selection import Score, Selection, Sight
from expunge.bench.tuning.space import with_values
from expunge.data.split import Split
from expunge.engine import randomness
from expunge.engine import run as engine
from expunge.engine.context import Context
from expunge.engine.stream import Stream
from expunge.errors import Diverged
from expunge.metrics.view import View
from expunge.pools import evidence, stages, store
from expunge.pools.workplace import Workplace


class Ended(Exception):
    """A trial that is over before it has a score.

    Args:
        state: pruned, cut (the budget is spent), or diverged.
        reason: in words.
    """

    def __init__(self, state: str, reason: str):
        self.state, self.reason = state, reason
        super().__init__(f"{state}: {reason}")


@dataclass(frozen=True)
class Start:
    """An original of the tuning, and the retrained models of its request.

    Attributes:
        number: of the seed.
        original: run folder.
        retrained: run folders; empty for a rule that does not look at them.
    """

    number: int
    original: Path
    retrained: Sequence[Path] = ()


@dataclass
class Spent:
    """Sample-passes of a trial so far: unlearning as the cost meter counts it, and forward passes for scores."""

    unlearning: int = 0
    scoring: int = 0

    @property
    def passes(self) -> int:
        """Both together: what counts against the budget."""
        return self.unlearning + self.scoring


@dataclass(frozen=True)
class Bench:
    """What all trials of a study share in a process.

    Attributes:
        work: the tuning's experiment, with the method as it is without tuning.
        rule: what scores.
        starts: the originals.
        retain_limit: retained examples that are scored.
    """

    work: Workplace
    rule: Selection
    starts: Sequence[Start]
    retain_limit: int

    @cached_property
    def streams(self) -> dict[str, Stream]:
        """What is scored: the parts that the rule declares, without those that hold nothing."""
        return {part: stream for part in self.rule.parts if len(stream := self._stream(part))}

    def _stream(self, part: str) -> Stream:
        stream, seed = self.split.stream(part, self.work.data), self.work.experiment.seed
        if part != "retain" or len(stream) <= self.retain_limit:
            return stream
        chosen = randomness.shuffle(seed, "tune/retain", 0, stream.index)[: self.retain_limit]
        return Stream(part, stream.source, torch.sort(chosen).values)

    @property
    def split(self) -> Split:
        """Of the tuning's request."""
        return self.work.split

    @property
    def scored(self) -> int:
        """Examples in one score."""
        return sum(map(len, self.streams.values()))

    def see(self, model: nn.Module) -> View:
        """Return what a model says about the parts that the rule declares.

        Raises:
            Ended: its outputs are not finite.
        """
        size = self.work.scoring_size
        logits = {part: evidence.outputs(model, stream, size) for part, stream in self.streams.items()}
        if not all(np.isfinite(values).all() for values in logits.values()):
            raise Ended("diverged", "its outputs are not finite.")
        return self._view(logits)

    def recall(self, folder: Path) -> View:
        """Return the same from the run folder of a finished model, of whose outputs nothing else is read."""
        held = store.find(folder).logits()
        return self._view({part: np.array(held[stream.index.numpy()], dtype=np.float32) for part, stream in self.streams.items()})

    def _view(self, logits: dict[str, np.ndarray]) -> View:
        return self.rule.narrowed(View(logits, {part: self.streams[part].labels.numpy() for part in logits}))

    @cached_property
    def references(self) -> dict[int, tuple[View, list[View]]]:
        """Number of a start -> what its original says, and what its retrained models say."""
        return {start.number: (self.recall(start.original), [self.recall(one) for one in start.retrained]) for start in self.starts}

    def score(self, view: View, start: Start) -> Score:
        """Return the rule's score of a model that was unlearned from a start."""
        original, retrained = self.references[start.number]
        return self.rule.score(Sight(view, original, retrained, self.split.kind))


Watch = Callable[[int, float, Spent], None]


@dataclass
class Attempt:
    """One setting while it is tried.

    Attributes:
        bench: see `Bench`.
        values: of the searched hyper-parameters.
        watch: called after each epoch of the first original with its number, the score then, and what is spent; it ends the trial by
            raising `Ended`. With several originals it is called after each of the others too.
    """

    bench: Bench
    values: dict[str, Any]
    watch: Watch
    spent: Spent = field(default_factory=Spent)
    scores: list[Score] = field(default_factory=list)
    epochs: int = 0

    def run(self) -> Score:
        """Return the mean score over the originals.

        Raises:
            Ended: it diverged, or `watch` ended it.
        """
        for start in self.bench.starts:
            self.scores.append(self._one(start))
            if start is not self.bench.starts[-1]:
                self.epochs += 1
                self.watch(self.epochs, self._mean().value, self.spent)
        return self._mean()

    def _mean(self) -> Score:
        readings = {name: float(np.mean([score.readings[name] for score in self.scores])) for name in self.scores[0].readings}
        return Score(float(np.mean([score.value for score in self.scores])), readings)

    def _one(self, start: Start) -> Score:
        work = _configured(self.bench.work, self.values)
        before, held = self.spent.unlearning, list[Context]()

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "epoch":
                self._look(held[0], start, before)

        trained = work.seed_of(start.number)
        seed = work.unlearning_seed_of(start.number, trained)
        held.append(stages.prepared(work, start.original, seed, self.bench.split, report, trained))
        try:
            engine.run(held[0], work.experiment.method, work.experiment.addons)
        except Diverged as error:
            raise Ended("diverged", str(error)) from None
        finally:
            self.spent.unlearning = before + held[0].cost.passes
        self.spent.scoring += self.bench.scored
        return self.bench.score(self.bench.see(held[0].model), start)

    def _look(self, context: Context, start: Start, before: int) -> None:
        """Score the model as it is after an epoch of the first original."""
        self.spent.unlearning = before + context.cost.passes
        if start is not self.bench.starts[0]:
            return
        self.epochs += 1
        self.spent.scoring += self.bench.scored
        with context.cost.paused():
            found = self.bench.score(self.bench.see(context.model), start)
        self.watch(self.epochs, found.value, self.spent)


def _configured(work: Workplace, values: dict[str, Any]) -> Workplace:
    method, addons = with_values(work.experiment.method, work.experiment.addons, values)
    return replace(work, experiment=work.experiment.model_copy(update={"method": method, "addons": addons}))
