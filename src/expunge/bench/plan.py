"""What a bench would do: which runs there are, which of them are in the store, and what the others cost. Nothing is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from expunge.bench import estimate
from expunge.bench.grid import Grid
from expunge.bench.request import Request, check_sizes, jobs_of, originals, plays_games, retrained, shared_key
from expunge.bench.shards import Shard, owners
from expunge.pools import stages
from expunge.pools.executor import places
from expunge.pools.workplace import Workplace


@dataclass(frozen=True)
class Line:
    """The runs of one row of a request.

    Attributes:
        request: title of the request.
        row: ``original``, ``retrained``, or the label of a method.
        runs: how many there are.
        there: how many are in the store; None for a forget set that models choose and that is not chosen yet.
        seconds: of one run.
        shared: whether the runs are counted with an earlier request.
    """

    request: str
    row: str
    runs: int
    there: int | None
    seconds: float
    shared: bool = False

    @property
    def missing(self) -> int:
        """How many runs are still to be made."""
        return 0 if self.shared else self.runs - (self.there or 0)

    @property
    def is_training(self) -> bool:
        """Whether the runs are trainings from nothing."""
        return self.row in ("original", "retrained") or self.row.startswith("pool of ")


@dataclass(frozen=True)
class Plan:
    """All runs of a bench.

    Attributes:
        lines: by request and row.
        workers: processes that would work.
        left_out: combinations that mean nothing, and why.
    """

    lines: list[Line]
    workers: int
    left_out: list[Any]

    def missing(self, training: bool) -> int:
        """Return how many trainings, or how many unlearnings, are still to be made."""
        return sum(line.missing for line in self.lines if line.is_training == training)

    @property
    def seconds(self) -> float:
        """About how long all of it takes: the work divided by the workers, and no less than the longest run."""
        work = sum(line.missing * line.seconds for line in self.lines)
        return max([work / self.workers, *(line.seconds for line in self.lines if line.missing)])


def plan(grid: Grid, shard: Shard | None = None) -> Plan:
    """Return what a bench would do.

    Raises:
        BadInput: what cannot work.
    """
    work = grid.requests[0].workplace()
    known = _Known({}, estimate.finished_unlearnings(work.out), set(), _jobs(grid.requests, shard))
    lines = [line for number, request in enumerate(grid.requests) for line in _lines(number, request, known)]
    return Plan(lines, places(work), grid.left_out)


@dataclass(frozen=True)
class _Known:
    """What the lines before have found out.

    Attributes:
        times: data, model and recipe -> seconds of a training.
        finished: what unlearnings took.
        counted: keys of the runs that an earlier line counts.
        jobs: keys of the runs to plan; None for all.
    """

    times: dict[str, float]
    finished: estimate.Finished
    counted: set[str]
    jobs: set[str] | None


def _jobs(requests: Sequence[Request], shard: Shard | None) -> set[str] | None:
    """Return the keys of a shard's own jobs; None for all, also where the forget set is not known yet."""
    if shard is None or any(_is_open(request.workplace()) for request in requests):
        return None
    owner = owners(requests)
    return {job.key for job in jobs_of(requests) if shard.owns(owner[job.key])}


def _is_open(work: Workplace) -> bool:
    return bool(work.experiment.forget.ranks)


def _lines(number: int, request: Request, known: _Known) -> Iterator[Line]:
    work = request.workplace()
    check_sizes(work)
    training = _training_seconds(work, known.times)
    shared = "" if _is_open(work) else shared_key(work)
    line = partial(_line, request.title, known)
    weights = work.experiment.model.weights is not None
    yield line("original", work, [f"original/{shared or number}/{seed}" for seed in range(originals(work))], 0.0 if weights else training)
    yield line("retrained", work, [f"retrained/{number}/{seed}" for seed in range(retrained(work))], training)
    for row in request.rows:
        here = request.workplace(row)
        if not _is_open(here):
            stages.check_request(here)
        keys = [f"unlearned/{number}/{row.label}/{seed}" for seed in range(here.experiment.evaluate.seeds)]
        yield line(row.label, here, keys, estimate.unlearning_seconds(here, training, known.finished))
    if known.jobs is None:
        yield from _pools(request, training)


def _line(title: str, known: _Known, row: str, work: Workplace, keys: list[str], seconds: float) -> Line:
    keys = [key for key in keys if known.jobs is None or key in known.jobs]
    stage = row if row in ("original", "retrained") else "unlearned"
    found = None if _is_open(work) else sum(stages.made(work, stage, int(key.rpartition("/")[2])) is not None for key in keys)
    shared = bool(keys) and known.counted >= set(keys)
    known.counted.update(keys)
    return Line(title, row, len(keys), found, seconds, shared)


def _training_seconds(work: Workplace, times: dict[str, float]) -> float:
    experiment = work.experiment
    key = str([experiment.data.tree(), experiment.model.tree(), experiment.train.tree()])
    if key not in times:
        plain = work if not _is_open(work) else Workplace(experiment.model_copy(update={"forget": None}))
        times[key] = estimate.training_seconds(plain)
    return times[key]


def _pools(request: Request, training: float) -> Iterator[Line]:
    """Yield the models that a tier asks for beside those of the rows; how many of them are there already is not looked up."""
    work = request.workplace()
    asked, games = work.experiment.evaluate, len(request.rows) + 1 if plays_games(work) else 0
    sizes: Mapping[str, int] = {
        "pool of models on random halves": asked.base_models,
        "pool of shadow models": (games and games + 1) * asked.shadow_models,
        "pool of models with exchanged requests": games * asked.swap_models,
        "pool of models with a dose": len(asked.doses) * asked.seeds if asked.retrained else 0,
    }
    for name, size in sizes.items():
        if size:
            yield Line(request.title, name, size, None, training)


def lines(found: Plan) -> Iterator[str]:
    """Yield a plan as text."""
    title = ""
    width = max(len(line.row) for line in found.lines)
    for line in found.lines:
        if line.request != title:
            title = line.request
            yield title
        there = "not looked up" if line.there is None else f"{line.there} there"
        note = ", counted above" if line.shared else ""
        each = estimate.duration(line.seconds).replace("about 0 s", "under 1 s")
        yield f"  {line.row:<{width}}  {line.runs:>4} {'run' if line.runs == 1 else 'runs'}, {there}{note}, {each} each"
    for reason, rows in _reasons(found.left_out).items():
        yield f"left out: {', '.join(rows)}: {reason}"
    total, trainings, unlearnings = sum(line.runs for line in found.lines if not line.shared), found.missing(True), found.missing(False)
    yield f"{total} runs, of which {trainings} trainings and {unlearnings} unlearnings are still to be made"
    if trainings + unlearnings:
        workers = f"{found.workers} {'process' if found.workers == 1 else 'processes'}"
        yield f"{estimate.duration(found.seconds)} with {workers}, without evaluation"


def _reasons(left_out: Sequence[Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for out in left_out:
        found.setdefault(out.reason, []).append(f"{out.row} on {out.request}")
    return found
