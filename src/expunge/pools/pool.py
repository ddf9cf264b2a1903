"""Pools: many models that differ in their seed, in what they were trained on, and in what they have unlearned.

Model k of a pool depends on (pool, k) and on nothing else, so a pool grows from 16 to 128 models without computing one again. What the
models say lies in the evidence cache, one row a model; a metric reads rows and never sees a model.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from expunge import config
from expunge.attacks.margins import design
from expunge.data.split import Split
from expunge.engine.randomness import derive
from expunge.errors import BadInput
from expunge.pools import executor, locks, remote, stages, store, vectorized
from expunge.pools.cache import FORGET, IN, OUT, EvidenceCache
from expunge.pools.executor import Job
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace, code_fingerprint

Report = Callable[[dict[str, Any]], None]
Kind = Literal[
    "base",
    "original",
    "retrained",
    "unlearned",
    "shadow_original",
    "shadow_retrained",
    "shadow_unlearned",
    "swap_original",
    "swap_unlearned",
    "dose",
]

KINDS: dict[str, str] = {
    "base": "trained on random halves; models 2j and 2j + 1 on complementary ones",
    "original": "trained on everything, the forget set included",
    "retrained": "trained without the forget set",
    "unlearned": "original k after unlearning the forget set",
    "shadow_original": "trained on a random two thirds of the targets and on all other examples",
    "shadow_retrained": "trained as shadow original k, without the half of its targets that shadow unlearned k forgets",
    "shadow_unlearned": "shadow original k after unlearning half of its targets",
    "swap_original": "trained on half of the targets and on all other examples; models 2j and 2j + 1 on complementary halves, of one seed",
    "swap_unlearned": "swap original k after unlearning all of its targets",
    "dose": "trained without the forget set but for a random share of it",
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
        dose: share of the forget set that each model of a ``dose`` pool keeps, drawn anew for each; larger doses hold the smaller ones.
    """

    work: Workplace
    kind: Kind
    target_fraction: float = 0.3
    offset: int = 0
    dose: float = 0.0

    @cached_property
    def candidates(self) -> np.ndarray:
        """Canonical indices of the examples that models may be trained on, ascending."""
        if self.work.experiment.forget is not None:
            return self.work.split.train
        return stages.validation_split(self.work.plain_data, self.work.experiment.seed, self.work.validation_fraction)[0]

    @property
    def seed(self) -> int:
        """Seed of the pool's plan: which examples are in which model."""
        apart = (self.offset,) if self.offset else ()  # a second pool has other halves too, not only other seeds
        return derive(self.work.experiment.seed, "pool", self.family, *apart) % 2**32

    @property
    def family(self) -> str:
        """What pools share that share their plan and their training seeds."""
        return next((name for name in ("shadow", "swap") if self.kind.startswith(name)), self.kind)

    def training_seed(self, number: int) -> int:
        """Return the training seed of model ``number``; models that are judged share none with those of base and shadow pools."""
        if self.kind in ("original", "retrained", "unlearned"):
            return self.work.seed_of(self.offset + number)
        place = number // 2 if self.family == "swap" else number  # the two models of a swap differ in the request alone
        return derive(self.work.training_seed, "training seed", self.family, self.offset + place)

    @cached_property
    def targets(self) -> np.ndarray:
        """Canonical indices whose membership varies in the shadow pools, ascending."""
        order = np.random.default_rng([self.seed, 1]).permutation(len(self.candidates))
        return np.sort(self.candidates[order[: round(self.target_fraction * len(self.candidates))]])

    @property
    def multiple(self) -> int:
        """The pool's size must be a multiple of this for every example to be in each state equally often."""
        return {"base": 2, "shadow": 3, "swap": 2}.get(self.family, 1)

    def state(self, number: int) -> np.ndarray:
        """Return what each example is in the life of model ``number``: OUT, IN or FORGET, uint8 ``[N + T]`` in canonical order."""
        state = np.full(len(self.work.data.source), OUT, dtype=np.uint8)
        if self.kind == "base":
            state[self.candidates] = self._plan(number, len(self.candidates), 2)
        elif self.kind.startswith("shadow"):
            state[self.candidates] = IN
            plan = self._plan(number, len(self.targets), 3)
            state[self.targets] = np.where(plan == FORGET, {"shadow_original": IN, "shadow_retrained": OUT}.get(self.kind, FORGET), plan)
        elif self.family == "swap":
            state[self.candidates] = IN
            held = IN if self.kind == "swap_original" else FORGET
            state[self.targets] = np.where(self._plan(number, len(self.targets), 2) == IN, held, OUT)
        elif self.kind == "dose":
            state[self.work.split.retain] = IN
            state[self._dosed(number)] = IN
        else:
            state[self.work.split.retain if self.kind == "retrained" else self.work.split.kept] = IN
            state[self.work.split.forget] = {"original": IN, "retrained": OUT, "unlearned": FORGET}[self.kind]
        return state

    def _dosed(self, number: int) -> np.ndarray:
        """Return canonical indices of the forget examples that model ``number`` of a dose pool keeps."""
        order = np.random.default_rng([self.seed, 2, number]).permutation(len(self.work.split.forget))
        return self.work.split.forget[order[: round(self.dose * len(order))]]

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
            **stages.conditions(work),
            "candidates": hashlib.sha256(np.ascontiguousarray(self.candidates).tobytes()).hexdigest()[:16],
            "method": work.experiment.method.tree() if self.kind.endswith("unlearned") else None,
            "addons": [addon.tree() for addon in work.experiment.addons] if self.kind.endswith("unlearned") else [],
            "target_fraction": self.target_fraction if self.family in ("shadow", "swap") else None,
            **({"dose": self.dose} if self.kind == "dose" else {}),
            "foreign code": self._foreign_code(),
            "seed": work.experiment.seed,
            **self._other_seeds(),
            "offset": self.offset,
            "transform": "none",
            "code": code_fingerprint("engine", "models", "data", "training", "methods", "addons"),
            **vectorized.promise(work),
        }
        folder = work.out / "evidence" / f"{self.kind}-{config.fingerprint(manifest)}"
        return EvidenceCache(folder, manifest, work.data.labels.numpy(), work.data.num_classes)

    def _other_seeds(self) -> dict[str, int]:
        """Return the seeds that are given beside ``seed`` and decide the pool's models; the forget set is in the split."""
        names = ("training_seed", "unlearning_seed") if self.kind.endswith("unlearned") else ("training_seed",)
        return {name: value for name in names if (value := getattr(self.work.experiment, name)) is not None}

    def _foreign_code(self) -> list[str]:
        """Return hashes of the files of components that other packages bring and that decide the pool's weights."""
        parts = (self.work.experiment.method, *self.work.experiment.addons) if self.kind.endswith("unlearned") else ()
        return sorted({stages.foreign_code(part) for part in (self.work.experiment.train, *parts) if part is not None})

    def fill(self, size: int, report: Report) -> EvidenceCache:
        """Return the cache with rows 0 to ``size`` - 1, making those that are missing or damaged.

        Models are trained in worker processes or many at once, as ``evaluate.executor`` says; unlearning is done in worker processes.

        Raises:
            BadInput: a size for which the plan is not balanced, a request or method is missing, or an executor that cannot do it.
            WorkersLost: a job lost its worker again and again; what had finished is kept.
        """
        self.check(size)
        together = vectorized.chosen(self.work, size, report)
        cache = self.cache()
        there = set(cache.rows(upto=size))
        missing = [number for number in range(size) if number not in there]
        plan = {"kind": self.kind, "target_fraction": self.target_fraction, "offset": self.offset, "dose": self.dose}
        arguments = {"tree": self.work.experiment.tree(), **plan}
        jobs = [Job(f"{self.kind}/{number}", "expunge.pools.pool:fill_row", {**arguments, "number": number}) for number in missing]
        report({"event": "plan", "jobs": [job.key for job in jobs]})
        if together and missing:
            self._train_together(missing, cache, report)
            if not self.kind.endswith("unlearned"):
                return cache
            jobs = [replace(job, arguments={**job.arguments, "together": True}) for job in jobs]
        names = executor.run(jobs, executor.chosen(self.work), report)
        if remote.is_address(self.work.experiment.out):
            self._gather(cache, {number: names[f"{self.kind}/{number}"] for number in missing}, report)
        return cache

    def _gather(self, cache: EvidenceCache, names: Mapping[int, str], report: Report) -> None:
        """Write the rows of models that workers have made on machines with a cache of their own; their evidence is at the address."""
        for number, name in names.items():
            if not cache.valid(number) and (run := store.find(name)).status == "ok":
                _write_row(self, cache, number, run, report)

    def _train_together(self, numbers: list[int], cache: EvidenceCache, report: Report) -> None:
        """Train models, of unlearned pools their originals, many at once; write the rows of those that are finished by that."""
        indices, seeds = [self._examples(number) for number in numbers], [self.training_seed(number) for number in numbers]
        titles = [self._title(number) for number in numbers]
        for place, run in vectorized.train_chunks(self.work, indices, seeds, report, titles):
            if not self.kind.endswith("unlearned"):
                _write_row(self, cache, numbers[place], run, report)
                report({"event": "done", "key": f"{self.kind}/{numbers[place]}"})

    def _examples(self, number: int) -> np.ndarray:
        """Return canonical indices of the examples that model ``number`` is trained on, before any unlearning."""
        if self.kind == "unlearned":
            return self.work.split.train
        return (
            self._split(number).train if self.kind in ("shadow_unlearned", "swap_unlearned") else np.flatnonzero(self.state(number) != OUT)
        )

    def _title(self, number: int) -> str:
        """Return what the training of model ``number`` is called."""
        made = {"unlearned": "original", "shadow_unlearned": "shadow original", "swap_unlearned": "swap original"}.get(self.kind, self.kind)
        return f"{made} {number}"

    def check(self, size: int) -> None:
        """Refuse a pool that cannot be made, before any work."""
        if self.kind not in KINDS:
            raise BadInput("pool", f"no pool is called {self.kind!r}.", f"Allowed: {', '.join(KINDS)}.")
        if size < 1 or size % self.multiple:
            raise BadInput("pool", f"a balanced {self.kind} pool needs a multiple of {self.multiple} models, got {size}.")
        if not 0 <= self.dose <= 1:
            raise BadInput("pool", f"a dose is a share of the forget set from 0 to 1, got {self.dose}.")
        if self.family not in ("base", "shadow", "swap") and self.work.experiment.forget is None:
            raise BadInput("forget", f"a pool of {self.kind} models needs a request.", "For example forget=random.")
        if self.kind.endswith("unlearned") and self.work.experiment.method is None:
            raise BadInput("method", "a pool of unlearned models needs a method.", "For example method=salun.")

    def run(self, number: int, together: bool = False) -> Run:
        """Return model ``number`` as a finished run, making it if need be.

        Args:
            number: of the model.
            together: start from the original that the vectorised executor has made.
        """
        work, seed = self.work, self.training_seed(number)
        trained = (vectorized.train if together else stages.train)(work, self._examples(number), seed, self._title(number))
        if not self.kind.endswith("unlearned"):
            return trained
        split = None if self.kind == "unlearned" else self._split(number)
        drawn = work.unlearning_seed_of(self.offset + number, seed, "" if self.kind == "unlearned" else self.family)
        return stages.unlearn(work, trained.folder, drawn, f"{self.kind.replace('_', ' ')} {number}", split, seed)

    def _split(self, number: int) -> Split:
        """Return the request of one model: of a shadow half of the targets that it was trained on, of a swap all of them."""
        state = self.state(number)
        forget, retain = np.flatnonzero(state == FORGET), np.flatnonzero(state == IN)
        return replace(
            self.work.split,
            forget=forget,
            retain=retain,
            unknown=np.empty(0, dtype=np.int64),
            forget_classes=(),
            kind="random",
            scenario={"name": self.family, "number": number, "pool": self.seed},
        )


def fill_row(
    tree: dict[str, Any],
    kind: Kind,
    target_fraction: float,
    offset: int,
    number: int,
    results: dict[str, Any],
    report: Report,
    together: bool = False,
    dose: float = 0.0,
) -> str:
    """Make one model of a pool and write its row: what a worker does.

    Returns:
        The name of the model's run.
    """
    pool = Pool(Workplace(config.resolve(tree), report), kind, target_fraction, offset, dose)
    run = pool.run(number, together)
    _write_row(pool, pool.cache(), number, run, report)
    return run.name


def _write_row(pool: Pool, cache: EvidenceCache, number: int, run: Run, report: Report) -> None:
    """Write what a model says, unless it has diverged."""
    if run.status != "ok":
        report({"event": "warning", "message": f"model {number} of the {pool.kind} pool {run.status}: {run.record['failure']['reason']}"})
        return
    with locks.hold(run.folder, wait=True):  # another driver's worker may be writing the same row
        cache.write(number, np.ascontiguousarray(run.logits(), dtype=np.float32), pool.state(number))
