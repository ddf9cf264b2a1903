"""Pools: many models that differ in their seed, in what they were trained on, and in what they have unlearned.

Model k of a pool depends on (pool, k) and on nothing else, so a pool grows from 16 to 128 models without computing one again. What the
models say lies in the evidence cache, one row a model; a metric reads rows and never sees a model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from expunge import config
from expunge.attacks.margins import design
from expunge.data.split import Split
from expunge.engine.randomness import derive
from expunge.errors import BadInput
from expunge.pools import executor, stages
from expunge.pools.cache import FORGET, IN, OUT, EvidenceCache
from expunge.pools.executor import Job
from expunge.pools.stages import Run, Workplace

Report = Callable[[dict[str, Any]], None]
Kind = Literal["base", "original", "retrained", "unlearned", "shadow_original", "shadow_unlearned"]

KINDS: dict[str, str] = {
    "base": "trained on random halves; models 2j and 2j + 1 on complementary ones",
    "original": "trained on everything, the forget set included",
    "retrained": "trained without the forget set",
    "unlearned": "original k after unlearning the forget set",
    "shadow_original": "trained on a random two thirds of the targets and on all other examples",
    "shadow_unlearned": "shadow original k after unlearning half of its targets",
}
"""What the models of each kind of pool have been through."""


@dataclass(frozen=True)
class Pool:
    """A pool of one experiment.

    Attributes:
        work: the experiment; unlearned pools need its method, all but ``base`` need its request.
        kind: see ``KINDS``.
        target_fraction: share of the training examples that take turns in the shadow pools; each is in, forgotten and out equally often.
        offset: number of the first seed, so that a second pool of the same kind shares no model with the first.
    """

    work: Workplace
    kind: Kind
    target_fraction: float = 0.3
    offset: int = 0

    @cached_property
    def candidates(self) -> np.ndarray:
        """Canonical indices of the examples that models may be trained on, ascending."""
        if self.work.experiment.forget is not None:
            return self.work.split.train
        return stages.validation_split(self.work.plain_data, self.work.experiment.seed, self.work.validation_fraction)[0]

    @property
    def seed(self) -> int:
        """Seed of the pool's plan: which examples are in which model."""
        return derive(self.work.experiment.seed, "pool", self.kind.removesuffix("_unlearned").removesuffix("_original")) % 2**32

    @cached_property
    def targets(self) -> np.ndarray:
        """Canonical indices whose membership varies in the shadow pools, ascending."""
        order = np.random.default_rng([self.seed, 1]).permutation(len(self.candidates))
        return np.sort(self.candidates[order[: round(self.target_fraction * len(self.candidates))]])

    @property
    def multiple(self) -> int:
        """The pool's size must be a multiple of this for every example to be in each state equally often."""
        return {"base": 2, "shadow_original": 3, "shadow_unlearned": 3}.get(self.kind, 1)

    def state(self, number: int) -> np.ndarray:
        """Return what each example is in the life of model ``number``: OUT, IN or FORGET, uint8 ``[N + T]`` in canonical order."""
        state = np.full(len(self.work.data.source), OUT, dtype=np.uint8)
        if self.kind == "base":
            state[self.candidates] = self._plan(number, len(self.candidates), 2)
        elif self.kind.startswith("shadow"):
            state[self.candidates] = IN
            plan = self._plan(number, len(self.targets), 3)
            state[self.targets] = np.where((plan == FORGET) & (self.kind == "shadow_original"), IN, plan)
        else:
            state[self.work.split.retain] = IN
            state[self.work.split.forget] = {"original": IN, "retrained": OUT, "unlearned": FORGET}[self.kind]
        return state

    def _plan(self, number: int, examples: int, states: int) -> np.ndarray:
        blocks = number // states + 1
        return design(blocks * states, examples, states, self.seed)[number]

    def cache(self) -> EvidenceCache:
        """Return the evidence cache of the pool."""
        work = self.work
        manifest = {
            "data": work.data.fingerprint,
            "split": work.split.fingerprint if work.experiment.forget is not None else None,
            "pool": self.kind,
            "model": {key: value for key, value in work.experiment.model.tree().items() if key != "weights"},
            "train": work.experiment.train.tree(),
            "method": work.experiment.method.tree() if self.kind.endswith("unlearned") else None,
            "addons": [addon.tree() for addon in work.experiment.addons] if self.kind.endswith("unlearned") else [],
            "target_fraction": self.target_fraction if self.kind.startswith("shadow") else None,
            "seed": work.experiment.seed,
            "offset": self.offset,
            "transform": "none",
            "code": stages.code_fingerprint("engine", "models", "data", "training", "methods", "addons"),
        }
        folder = work.out / "evidence" / f"{self.kind}-{config.fingerprint(manifest)}"
        return EvidenceCache(folder, manifest, work.data.labels.numpy(), work.data.num_classes)

    def fill(self, size: int, report: Report) -> EvidenceCache:
        """Return the cache with rows 0 to ``size`` - 1, making those that are missing or damaged in worker processes.

        Raises:
            BadInput: a size for which the plan is not balanced, or a request or method is missing.
            WorkersLost: a worker died; what had finished is kept.
        """
        self.check(size)
        cache = self.cache()
        there = set(cache.rows(upto=size))
        missing = [number for number in range(size) if number not in there]
        arguments = {"tree": self.work.experiment.tree(), "kind": self.kind, "target_fraction": self.target_fraction, "offset": self.offset}
        jobs = [Job(f"{self.kind}/{number}", "expunge.pools.pool:fill_row", {**arguments, "number": number}) for number in missing]
        report({"event": "plan", "jobs": [job.key for job in jobs]})
        executor.run(jobs, self.work.experiment.evaluate.workers, report)
        return cache

    def check(self, size: int) -> None:
        """Refuse a pool that cannot be made, before any work."""
        if self.kind not in KINDS:
            raise BadInput("pool", f"no pool is called {self.kind!r}.", f"Allowed: {', '.join(KINDS)}.")
        if size < 1 or size % self.multiple:
            raise BadInput("pool", f"a balanced {self.kind} pool needs a multiple of {self.multiple} models, got {size}.")
        if self.kind != "base" and not self.kind.startswith("shadow") and self.work.experiment.forget is None:
            raise BadInput("forget", f"a pool of {self.kind} models needs a request.", "For example forget=random.")
        if self.kind.endswith("unlearned") and self.work.experiment.method is None:
            raise BadInput("method", "a pool of unlearned models needs a method.", "For example method=salun.")

    def run(self, number: int) -> Run:
        """Return model ``number`` as a finished run, making it if need be."""
        work, seed = self.work, self.work.seed_of(self.offset + number)
        if self.kind == "unlearned":
            start = stages.train(work, work.split.train, seed, f"original {number}")
            return stages.unlearn(work, start.folder, seed, f"unlearned {number}")
        if self.kind == "shadow_unlearned":
            split = self._split(number)
            start = stages.train(work, split.train, seed, f"shadow original {number}")
            return stages.unlearn(work, start.folder, seed, f"shadow unlearned {number}", split)
        return stages.train(work, np.flatnonzero(self.state(number) != OUT), seed, f"{self.kind} {number}")

    def _split(self, number: int) -> Split:
        """Return the request of one shadow model: forget half of the targets that it was trained on."""
        state = self.state(number)
        forget, retain = np.flatnonzero(state == FORGET), np.flatnonzero(state == IN)
        return replace(
            self.work.split,
            forget=forget,
            retain=retain,
            forget_classes=(),
            kind="random",
            scenario={"name": "shadow", "number": number, "pool": self.seed},
        )


def fill_row(
    tree: dict[str, Any], kind: Kind, target_fraction: float, offset: int, number: int, results: dict[str, Any], report: Report
) -> str:
    """Make one model of a pool and write its row: what a worker does.

    Returns:
        The model's run folder.
    """
    pool = Pool(Workplace(config.resolve(tree), report), kind, target_fraction, offset)
    run = pool.run(number)
    if run.status != "ok":
        report({"event": "warning", "message": f"model {number} of the {kind} pool {run.status}: {run.record['failure']['reason']}"})
        return str(run.folder)
    pool.cache().write(number, np.ascontiguousarray(run.logits(), dtype=np.float32), pool.state(number))
    return str(Path(run.folder))
