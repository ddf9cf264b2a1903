"""One deletion request, the methods that are to serve it, and the runs that this takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge import config
from expunge.audits import margins
from expunge.bench.estimate import in_words
from expunge.data.split import Split
from expunge.errors import BadInput
from expunge.pools import inspection, rankings, remote, stages
from expunge.pools.executor import Job
from expunge.pools.workplace import Workplace
from expunge.representation import downstream

Tree = dict[str, Any]

SMALLEST: dict[str, dict[str, int]] = {
    "fast": {},
    "standard": {"seeds": 4, "retrained": 8, "base_models": 8},
    "rigorous": {"seeds": 16, "retrained": 32, "base_models": 32, "shadow_models": 24},
}
"""Models below which a tier's answers would only be noise."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a method with its add-ons."""

    label: str
    method: Tree
    addons: list[Tree] = field(default_factory=list)
    unlearning_seed: int | None = None

    @property
    def tree(self) -> Tree:
        """What it adds to the experiment of its request."""
        drawn = {} if self.unlearning_seed is None else {"unlearning_seed": self.unlearning_seed}
        return {"method": self.method, "addons": self.addons, **drawn}


@dataclass(frozen=True)
class Request:
    """A deletion request and the methods that are to serve it.

    Attributes:
        title: for people.
        tree: the experiment without method: data, model, train, forget, evaluate, seeds, device, out.
        rows: the methods.
        split: of the data, where it is known and must not be made.
    """

    title: str
    tree: Tree
    rows: Sequence[Row]
    split: Split | None = None

    def tree_of(self, row: Row) -> Tree:
        """Return the experiment of one row."""
        return {**self.tree, **row.tree}

    def workplace(self, row: Row | None = None) -> Workplace:
        """Return the resolved experiment, of one row or of none."""
        return Workplace(config.resolve(self.tree if row is None else self.tree_of(row)), known=self.split)


def request_of(experiment: config.Experiment, title: str) -> Request:
    """Return the request of an experiment with one method.

    Raises:
        BadInput: forget or method is missing.
    """
    tree = experiment.tree()
    for key, example in (("forget", "forget=random forget.fraction=0.1"), ("method", "method=salun")):
        if tree.get(key) is None:
            raise BadInput(key, "is missing.", f"For example {example}.")
    label = "+".join([tree["method"]["name"], *(addon["name"] for addon in tree["addons"])])
    if experiment.tuned is not None:
        label = f"{label} {experiment.tuned.label}"
    base = {key: value for key, value in tree.items() if key not in ("method", "addons")}
    return Request(title, base, [Row(label, tree["method"], tree["addons"])])


def prepare(requests: Sequence[Request], report: Callable[[dict[str, Any]], None]) -> None:
    """Refuse whatever cannot work in any row of any request, before any work but the rankings that some forget sets rest on; make these.

    Args:
        requests: they share the output folder.
        report: hears the events of the rankings' models.

    Raises:
        BadInput: see `stages.check_request`; too few models for the tier; or the output folder is read-only or the disk is full.
    """
    for request in requests:
        check_sizes(request.workplace())
    if requests:
        remote.check_writable(requests[0].workplace().out)
    rankings.prepare((request.workplace(row) for request in requests for row in request.rows), report)
    for request in requests:
        work = request.workplace()
        if work.experiment.evaluate.downstream:
            downstream.check_inputs(work.data.input_shape)
        stages.check_model(work)
        for row in request.rows:
            stages.check_request(request.workplace(row))


def check_sizes(work: Workplace) -> None:
    """Refuse numbers of models that cannot be paired or that are too small for the tier.

    Raises:
        BadInput: what is missing, how long it would take, and the tier below.
    """
    evaluate = work.experiment.evaluate
    margins.resolve(evaluate.margins)
    if evaluate.downstream and evaluate.tier == "fast":
        raise BadInput("evaluate.downstream", "the fast tier does not look at it.", "Use evaluate.tier=standard, or leave it out.")
    if evaluate.downstream:
        downstream.check(Path(evaluate.downstream), inspection.settings_of(work, looked_for(work)).neighbours)
    if 0 < evaluate.retrained < evaluate.seeds:
        found = f"{evaluate.seeds} seeds, but only {evaluate.retrained} retrained models."
        raise BadInput(
            "evaluate.retrained", found, "Each seed is paired with one: give at least as many, or 0 to do without gaps and bands."
        )
    for name, multiple in (("base_models", 2), ("shadow_models", 3), ("swap_models", 2)):
        if getattr(evaluate, name) % multiple:
            raise BadInput(f"evaluate.{name}", f"expected a multiple of {multiple}, got {getattr(evaluate, name)}.")
    asked = {name: least for name, least in SMALLEST[evaluate.tier].items() if name != "shadow_models" or plays_games(work)}
    missing = {name: least - getattr(evaluate, name) for name, least in asked.items() if getattr(evaluate, name) < least}
    for name, number in missing.items():
        found = f"the {evaluate.tier} tier needs at least {SMALLEST[evaluate.tier][name]}, got {getattr(evaluate, name)}."
        below = "fast" if evaluate.tier == "standard" else "standard"
        time = in_words(work, sum(missing.values()))
        remedy = f"{number} more are missing ({sum(missing.values())} models in all, {time} of training here)"
        raise BadInput(f"evaluate.{name}", found, f"{remedy}; or ask for less: evaluate.tier={below}.")


def plays_games(work: Workplace) -> bool:
    """Return whether shadow and swap pools serve the request: their models forget random sets, not whole classes."""
    return work.experiment.forget is not None and work.experiment.forget.kind != "class"


def jobs_of(requests: Sequence[Request]) -> list[Job]:
    """Return all jobs, each model once however many requests need it: request after request, originals and retrained models first.

    What is looked into comes right after what it is looked for in, so that rows are whole one after another.
    """
    found: dict[str, Job] = {}
    for number, request in enumerate(requests):
        work = request.workplace()
        shared, looks = shared_key(work), {job.after[0]: job for job in _inspections(number, request)}
        made = [_job(f"original/{shared}/{seed}", "original", request.tree, seed) for seed in range(originals(work))]
        made += [_job(f"retrained/{number}/{seed}", "retrained", request.tree, seed) for seed in range(retrained(work))]
        for jobs in (made, *(_unlearnings(number, request, row, shared) for row in request.rows)):
            looked = [looks[job.key] for job in jobs if job.key in looks]
            for job in (*jobs, *looked):
                found.setdefault(job.key, job)
    return list(found.values())


def _unlearnings(number: int, request: Request, row: Row, shared: str) -> list[Job]:
    work, jobs = request.workplace(row), []
    imitates = "oracle" in work.experiment.method.needs
    for seed in range(work.experiment.evaluate.seeds):
        after = [f"original/{shared}/{min(seed, originals(work) - 1)}"]
        after += [f"retrained/{number}/{seed}"] if imitates and seed < retrained(work) else []
        jobs.append(_job(f"unlearned/{number}/{row.label}/{seed}", "unlearned", request.tree_of(row), seed, after=tuple(after)))
    return jobs


def inspected(number: int, request: Request) -> dict[str, tuple[str, str]]:
    """Return what is looked into: key of the job -> keys of the run and of the original with the same seed.

    Only retrained models that are paired with a seed are among them.
    """
    work = request.workplace()
    seeds, shared = range(work.experiment.evaluate.seeds), shared_key(work)
    found = {f"original/{seed}": f"original/{shared}/{seed}" for seed in range(originals(work))}
    found |= {f"retrained/{seed}": f"retrained/{number}/{seed}" for seed in range(min(len(seeds), retrained(work)))}
    found |= {f"{row.label}/{seed}": f"unlearned/{number}/{row.label}/{seed}" for row in request.rows for seed in seeds}
    start = {key: min(int(key.rpartition("/")[2]), originals(work) - 1) for key in found}
    return {f"inspected/{number}/{key}": (run, f"original/{shared}/{start[key]}") for key, run in found.items()}


def _inspections(number: int, request: Request) -> list[Job]:
    work = request.workplace()
    folder, changes = work.experiment.evaluate.downstream, looked_for(work)
    pairs = inspected(number, request)
    return [inspection.job(key, request.tree, run, original, changes, folder) for key, (run, original) in pairs.items()]


def looked_for(work: Workplace) -> dict[str, Any]:
    """Return what is looked for inside the models beyond the tier's settings."""
    asked = work.experiment.evaluate
    return {"block_examples": asked.block_examples} if asked.block_examples and asked.tier != "fast" else {}


def _job(key: str, stage: str, tree: Tree, number: int, after: tuple[str, ...] = ()) -> Job:
    return Job(key, "expunge.pools.stages:run_job", {"stage": stage, "tree": tree, "number": number}, after)


def shared_key(work: Workplace) -> str:
    """Return what requests share that share their originals."""
    return stages.original_key(work)


def originals(work: Workplace) -> int:
    """Return how many originals there are: one for each seed, or the one that the weights file holds."""
    return 1 if work.experiment.model.weights else work.experiment.evaluate.seeds


def retrained(work: Workplace) -> int:
    """Return how many retrained models there are."""
    return work.experiment.evaluate.retrained
