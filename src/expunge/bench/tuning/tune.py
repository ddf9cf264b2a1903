"""Choose hyper-parameters: the same budget for every method, a named rule that says what is good, and nothing of what will judge.

A tuning works on originals, a forget set and retrained models of its own: its training seeds and its draw of the forget set are others
than those of any evaluation of the same experiment, and the validation part is all that it sees of unseen data.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge import config, runs
from expunge.bench import grid as grids
from expunge.bench.grid import Grid
from expunge.bench.request import Request, Row, prepare
from expunge.bench.selections.selection import Selection
from expunge.bench.tuning import settings as tune_settings
from expunge.bench.tuning.settings import Tune
from expunge.bench.tuning.space import Space, space_of, with_values
from expunge.bench.tuning.study import Study, Trial, in_words
from expunge.bench.tuning.trial import Bench, Start
from expunge.config import fingerprint
from expunge.engine.randomness import derive
from expunge.errors import BadInput, NotApplicable, RunFailed
from expunge.pools import executor, rankings, remote, stages, store
from expunge.pools.executor import Failed, Job
from expunge.pools.workplace import Workplace, code_fingerprint

Report = Callable[[dict[str, Any]], None]
Tree = dict[str, Any]
HISTORY = "history.json"
"""File of a study with all of its trials; the last that is sent where results are kept at an address."""
TRAININGS = 10
"""Budget in trainings of an original, where none is given."""


@dataclass(frozen=True)
class Search:
    """One method of one request, and where it is searched.

    Attributes:
        request: that the result is for.
        row: the method as it is without tuning.
        tree: the tuning's experiment: the same data, model and recipe, with originals and a forget set of its own.
        space: what is searched.
    """

    request: Request
    row: Row
    tree: Tree
    space: Space

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.request.title}: {self.row.label}"

    def workplace(self) -> Workplace:
        """Return the tuning's experiment."""
        return Workplace(config.resolve(self.tree))


@dataclass(frozen=True)
class Found:
    """What came out for one method.

    Attributes:
        search: what was searched.
        study: its trials.
        best: the best trial; None if there is none.
        reason: why there is none.
        kept: the record of an earlier call with larger limits, which stays as it is; None where this call writes its own.
    """

    search: Search
    study: Study
    best: Trial | None
    reason: str = ""
    kept: Tree | None = None

    @property
    def default(self) -> Trial | None:
        """The trial of the method as it is without tuning, if it was whole."""
        first = self.study.trials()[:1]
        return first[0] if first and first[0].score is not None else None


def read(file: Path | None, overrides: Sequence[str] = ()) -> tuple[Grid, Tune]:
    """Return the methods that a file asks for, and how to tune them.

    Raises:
        BadInput: an unknown key, name or value.
    """
    tree, asked = tune_settings.read(file, overrides)
    return grids.expand(tree), asked


def searches(grid: Grid, asked: Tune) -> list[Search]:
    """Return what is to be searched, after a look at all that can be refused before any work.

    Raises:
        BadInput: the rule does not fit a request, a method has nothing to search, or there is no validation data.
    """
    return [_search(request, row, asked) for request in grid.requests for row in request.rows]


def _search(request: Request, row: Row, asked: Tune) -> Search:
    tree = tuning_tree(request.tree_of(row), asked)
    resolved = config.resolve(tree)
    rule: Selection = asked.rule
    if resolved.forget.kind not in rule.scenarios:
        raise NotApplicable("tune.rule", f"{rule.name} does not fit a {resolved.forget.kind} request: {rule.scenario_reason}")
    if resolved.data.validation_fraction == 0:
        raise BadInput("data.validation_fraction", "tuning sees validation data alone, and there is none.", "Give a share, such as 0.1.")
    plain = {"method": resolved.method.tree()}  # without where its values come from, if they were tuned before
    return Search(request, row, {**resolved.tree(), **plain}, space_of(resolved.method, resolved.addons, asked.space))


def tuning_tree(tree: Tree, asked: Tune) -> Tree:
    """Return the experiment on which settings are tried: training seeds and a forget set that no evaluation of ``tree`` uses."""
    seed = tree.get("seed", 0)
    apart = {name: derive(seed, "tuning", name, asked.seed) % 2**32 for name in ("training_seed", "forget_seed")}
    evaluate = {**(tree.get("evaluate") or {}), "tier": "fast", "seeds": asked.seeds, "retrained": asked.seeds}
    fields = ("tier", "seeds", "retrained", "batch_size", "executor", "workers", "threads", "ray", "gpus", "retries")
    forget = {} if asked.forget is None else {"forget": config.as_choice(asked.forget)}
    others = {key: value for key, value in tree.items() if key not in ("track", "unlearning_seed")}
    return {**others, **apart, **forget, "evaluate": {key: value for key, value in evaluate.items() if key in fields}}


def check_apart(search: Search) -> dict[str, Any]:
    """Return how far a tuning is apart from the evaluation that it is for.

    Returns:
        ``forget_overlap``: share of the tuning's forget set that is in the evaluation's; 1 where the request leaves no choice, such as a
        class. ``same_original``: whether both start from the one model of ``model.weights``. And the seeds.

    Raises:
        BadInput: a training seed of the tuning is one of the evaluation.
    """
    mine, judged = search.workplace(), search.request.workplace()
    tried = {mine.seed_of(number) for number in range(mine.experiment.evaluate.seeds)}
    sizes = max(judged.experiment.evaluate.seeds, judged.experiment.evaluate.retrained)
    if tried & {judged.seed_of(number) for number in range(sizes)}:
        raise BadInput("tune.seed", "a training seed of the tuning is one of the evaluation.", "Give another tune.seed.")
    overlap = np.isin(mine.split.forget, judged.split.forget).mean()
    return {
        "forget_overlap": float(overlap),
        "same_original": judged.experiment.model.weights is not None,
        "training_seed": mine.training_seed,
        "forget_seed": mine.experiment.forget_seed,
    }


def tune(grid: Grid, asked: Tune, report: Report, command: str) -> list[Found]:
    """Search every method of a grid within the same budget, going on where an earlier call was ended, and write what came out.

    Args:
        grid: requests and methods.
        asked: how to search.
        report: hears the events.
        command: what was typed, for the record.

    Raises:
        BadInput: what cannot work, before any work.
        RunFailed: an original of the tuning diverged.
    """
    start, searched = time.monotonic(), searches(grid, asked)
    _prepare(searched, report)
    starts = _starts(searched, asked, report)
    studies = [study_of(search, asked, budget_of(search, asked, starts[number][0])) for number, search in enumerate(searched)]
    for study in studies:
        _take_over(study)
    try:
        _work(searched, studies, starts, asked, report)
        found = [_found(search, study) for search, study in zip(searched, studies, strict=True)]
        for one in found:
            _write(one, asked, {"command": command, "seconds": round(time.monotonic() - start, 1)})
    finally:
        for study in studies:
            study.close()
    for study in studies:
        remote.push(study.folder, report, sign=HISTORY, anew=True)
    return found


def _take_over(study: Study) -> None:
    """Go on from what another machine has tried, where results are kept at an address and that is more than was tried here.

    While another process works at the study here, its file stays: what that process tries would be lost with it.
    """
    there = remote.record(study.folder, HISTORY)
    if isinstance(there, list) and len(there) > len(study.trials()) and not study.is_busy():
        study.close()
        remote.pull(study.folder, sign=HISTORY)


def _prepare(searched: Sequence[Search], report: Report) -> None:
    requests = {id(search.request): search.request for search in searched}
    prepare([_as_request(search) for search in searched], report)
    rankings.prepare((request.workplace() for request in requests.values()), report)
    for search in searched:
        check_apart(search)
        if not len(search.workplace().split.validation):
            raise BadInput(
                "data.validation_fraction", "there is no validation data, and tuning sees no other.", "Give a share, such as 0.1."
            )


def _as_request(search: Search) -> Request:
    base = {key: value for key, value in search.tree.items() if key not in ("method", "addons")}
    return Request(search.title, base, [Row(search.row.label, search.tree["method"], search.tree["addons"])])


def _starts(searched: Sequence[Search], asked: Tune, report: Report) -> list[list[Start]]:
    """Make the originals of every tuning, and its retrained models where the rule looks at them."""
    jobs, keys = dict[str, Job](), list[list[dict[str, str]]]()
    for search in searched:
        work = search.workplace()
        single = work.experiment.model.weights is not None
        name = fingerprint([work.split.fingerprint, work.training_seed, *(search.tree[key] for key in ("data", "model", "train"))])
        needed = [{"original": f"tuning original/{name}/{0 if single else number}"} for number in range(asked.seeds)]
        if asked.rule.needs_retrained:
            needed = [{**one, "retrained": f"tuning retrained/{name}/{number}"} for number, one in enumerate(needed)]
        for one in needed:
            for stage, key in one.items():
                arguments = {"stage": stage, "tree": search.tree, "number": int(key.rpartition("/")[2])}
                jobs.setdefault(key, Job(key, "expunge.pools.stages:run_job", arguments))
        keys.append(needed)
    report({"event": "plan", "jobs": list(jobs)})
    folders = executor.run(jobs.values(), executor.chosen(searched[0].workplace()), report)
    for key, folder in folders.items():
        if (run := store.find(folder)).status != "ok":
            raise RunFailed(f"{key}: {run.record['failure']['reason']}")
    return [[_start(number, one, folders) for number, one in enumerate(needed)] for needed in keys]


def _start(number: int, keys: dict[str, str], folders: dict[str, str]) -> Start:
    retrained = [store.find(folders[keys["retrained"]]).folder] if "retrained" in keys else []
    return Start(number, store.find(folders[keys["original"]]).folder, retrained)


def budget_of(search: Search, asked: Tune, start: Start) -> int:
    """Return the sample-passes that a method may spend.

    Raises:
        BadInput: none is given, and the original was not trained here.
    """
    if asked.budget is not None:
        return asked.budget
    passes = store.find(start.original).record["cost"].get("passes")
    if not passes:
        raise BadInput("tune.budget", "is open, and what training the original costs is not known.", "Give it, in sample-passes.")
    return TRAININGS * passes


def study_of(search: Search, asked: Tune, budget: int) -> Study:
    """Return the study of a search: of all that decides what a trial proposes and scores, and not of how many there may be."""
    work = search.workplace()
    limits = ("budget", "trials")
    identity = {
        "experiment": {key: search.tree[key] for key in ("data", "model", "train", "forget", "seed", *config.SEEDS) if key in search.tree},
        "split": work.split.fingerprint,
        "method": search.tree["method"],
        "addons": search.tree["addons"],
        "space": {key: one.plain() for key, one in search.space.items()},
        "tune": {key: value for key, value in asked.tree().items() if key not in limits},
        "conditions": stages.conditions(work),
        **_foreign_original(work),
        "code": code_fingerprint("engine", "models", "data", "training", "methods", "addons", "bench/selections"),
    }
    return Study(work.out / f"tune-{fingerprint(identity)}", search.space, asked, budget)


def _foreign_original(work: Workplace) -> dict[str, str]:
    """Return what is in the configured weights file, if there is one: under its name there may be another model next time."""
    weights = work.experiment.model.weights
    return {} if weights is None or not weights.is_file() else {"original": stages.original_key(work)}


def _work(searched: Sequence[Search], studies: Sequence[Study], starts: Sequence[Sequence[Start]], asked: Tune, report: Report) -> None:
    """Let workers try settings; each begins with a study of its own and helps with the others when that is over."""
    described = [
        {"folder": str(study.folder), "tree": search.tree, "budget": study.budget, "starts": [_plain(start) for start in held]}
        for search, study, held in zip(searched, studies, starts, strict=True)
    ]
    for study in studies:
        study.open()
    places = executor.places(searched[0].workplace())
    jobs = [
        Job(f"tune/{number}", "expunge.bench.tuning.tune:work", {"studies": described, "asked": asked.tree(), "first": number})
        for number in range(places)
    ]
    report({"event": "plan", "jobs": [job.key for job in jobs]})
    results = executor.run(jobs, places, report, keep_going=True)
    lost = {key: result.reason for key, result in results.items() if isinstance(result, Failed)}
    if lost and not all(study.is_over() for study in studies):
        raise RunFailed(f"{next(iter(lost.values()))} What was tried is kept: run the same command again to go on.")


def _plain(start: Start) -> Tree:
    return {"number": start.number, "original": str(start.original), "retrained": [str(one) for one in start.retrained]}


def work(studies: list[Tree], asked: Tree, first: int, results: dict[str, Any], report: Report) -> int:
    """Try settings of one study after another until all are over: what a worker does. Returns how many studies it looked at."""
    settings = tune_settings.settings(asked)
    for place in range(len(studies)):
        held = studies[(first + place) % len(studies)]
        here = Workplace(config.resolve(held["tree"]), report)
        starts = [Start(one["number"], Path(one["original"]), [Path(path) for path in one["retrained"]]) for one in held["starts"]]
        study = Study(
            Path(held["folder"]),
            space_of(here.experiment.method, here.experiment.addons, settings.space),
            settings,
            held["budget"],
        )
        try:
            _one_thread(here)
            study.work(Bench(here, settings.rule, starts, settings.retain_limit), report)
        finally:
            study.close()
    return len(studies)


def _one_thread(here: Workplace) -> None:
    import torch

    if here.device.type == "cpu":
        torch.set_num_threads(here.experiment.evaluate.threads)


def _found(search: Search, study: Study) -> Found:
    if (kept := _larger(study)) is not None:
        return Found(search, study, None if kept["best"] is None else Trial(**kept["best"]), kept["failure"], kept)
    best = study.best()
    if best is not None:
        return Found(search, study, best)
    trials, counted = study.trials(), study.counted()
    first = next((trial for trial in counted if trial.reason), None)
    if trials and not counted:
        reason = f"the budget of {study.budget} sample-passes ended before the first trial did; it had spent {trials[0].passes}."
    else:
        reason = f"no trial of {len(counted)} gave a model" + (f": {first.reason}" if first else ".")
    return Found(search, study, None, reason)


def _larger(study: Study) -> Tree | None:
    """Return the record of an earlier call that counted more trials than the limits of this one allow; None if there is none.

    What that call found was paid for, and may be in use under its name: a smaller limit replaces nothing.
    """
    path = study.folder / "record.json"
    held = runs.read_json(path) if path.is_file() else None
    if held is None or held["trials"] <= len(study.counted()):
        return None
    if held["best"] is not None and not (study.folder / "best.yaml").is_file():
        return None
    return held if held["budget"] > study.budget or held["trials"] > study.asked.trials else None


def tuned_of(found: Found, asked: Tune) -> dict[str, Any]:
    """Return the method with its best hyper-parameters and where they come from, and the add-ons; plain values."""
    assert found.best is not None
    work, counted = found.search.workplace(), found.study.counted()
    method, addons = with_values(work.experiment.method, work.experiment.addons, found.best.values)
    tuned = {
        "rule": asked.rule.name,
        "label": asked.rule.label(),
        "budget": found.study.budget,
        "passes": sum(trial.passes for trial in counted),
        "trials": len(counted),
        "study": found.study.folder.name,
    }
    held: Tree = {"method": {**method.tree(), "tuned": tuned}}
    return {**held, "addons": [addon.tree() for addon in addons]} if addons else held


def _write(found: Found, asked: Tune, provenance: Tree) -> None:
    """Write ``best.yaml`` and the record of a study, unless those of larger limits are there. Without a best trial the file goes."""
    folder, apart = found.study.folder, check_apart(found.search)
    found.study.write_history()
    if found.kept is not None:
        return
    record = {
        "format": 1,
        "title": found.search.title,
        "label": asked.rule.label(),
        "rule": asked.rule.tree(),
        "sees": list(asked.rule.parts) + (["retrained models"] if asked.rule.needs_retrained else []),
        "budget": found.study.budget,
        "passes": sum(trial.passes for trial in found.study.counted()),
        "trials": len(found.study.counted()),
        "space": {key: one.plain() for key, one in found.search.space.items()},
        "best": None if found.best is None else asdict(found.best),
        "default": None if found.default is None else asdict(found.default),
        "failure": found.reason,
        "apart": apart,
        "provenance": {**provenance, "config": config.to_yaml(found.search.tree), "environment": runs.environment()},
    }
    if found.best is not None:
        note = f"# {asked.rule.label()} by {asked.rule.name}: the best of {record['trials']} settings, score {found.best.score:.3f}\n"
        with runs.atomic_write(folder / "best.yaml") as temporary:
            temporary.write_text(note + config.to_yaml(tuned_of(found, asked)), encoding="utf-8")
    else:
        (folder / "best.yaml").unlink(missing_ok=True)
    runs.write_json(folder / "record.json", record)


def lines(found: Sequence[Found], asked: Tune) -> list[str]:
    """Return what came out, in lines to print."""
    return [line for one in found for line in _lines(one, asked)]


def _lines(found: Found, asked: Tune) -> list[str]:
    if found.kept is not None:
        return _kept_lines(found, found.kept)
    study, trials = found.study, found.study.counted()
    spent = f"{len(trials)} trials, {sum(trial.passes for trial in trials):,} of {study.budget:,} sample-passes"
    if found.best is None:
        return [f"{found.search.title}: failed: {found.reason} ({spent})"]
    states = ", ".join(
        f"{sum(trial.state == state for trial in trials)} {state}"
        for state in ("complete", "pruned", "cut", "diverged", "failed")
        if any(trial.state == state for trial in trials)
    )
    default = "" if found.default is None else f" (as it was: {found.default.score:.3f})"
    apart = check_apart(found.search)
    overlap = apart["forget_overlap"]
    note = [f"  tuned on {100 * overlap:.0f} % of the forget set itself: tune.forget names another request"] if overlap > 0.5 else []
    note += ["  tuned on the original of model.weights itself: there is no other"] if apart["same_original"] else []
    return [
        f"{found.search.title}: {asked.rule.label()} by {asked.rule.name}: {in_words(found.best.values)}",
        f"  score {found.best.score:.3f}{default}; {spent}: {states}",
        *note,
        f"  use it: method={study.folder / 'best.yaml'}",
    ]


def _kept_lines(found: Found, kept: Tree) -> list[str]:
    """Return what is there from larger limits, and that those of this call change nothing."""
    study = found.study
    there = f"{kept['trials']} trials, {kept['passes']:,} of {kept['budget']:,} sample-passes"
    asked = f"tune.budget={study.budget} and tune.trials={study.asked.trials}"
    anew = f"  nothing was changed: {asked} pay for {len(study.counted())} of these trials; give another out= to ask anew"
    if found.best is None:
        return [f"{found.search.title}: failed: {found.reason} (there already: {there})", anew]
    return [
        f"{found.search.title}: there already: {in_words(found.best.values)}",
        f"  score {found.best.score:.3f}; {there}",
        anew,
        f"  use it: method={study.folder / 'best.yaml'}",
    ]


def plan(grid: Grid, asked: Tune) -> list[str]:
    """Return what would be tried, in lines to print. Nothing is trained or written."""
    found = []
    for search in searches(grid, asked):
        work = search.workplace()
        found.append(f"{search.title}: {asked.rule.label()} by {asked.rule.name}, which sees {', '.join(asked.rule.parts)}")
        found += [f"  {one.describe()}" for one in search.space.values()]
        if work.experiment.forget.ranks:
            continue
        budget = "ten trainings of an original" if asked.budget is None else f"{asked.budget:,} sample-passes"
        study = study_of(search, asked, asked.budget or 0)
        there = study.trials()
        study.close()
        found.append(f"  budget {budget}, at most {asked.trials} trials; {len(there)} trials are there")
        found.append(f"  study {study.folder}")
    return [*found, _trainings(searches(grid, asked), asked)]


def _trainings(searched: Sequence[Search], asked: Tune) -> str:
    """Return how many models are trained before a trial, in words; searches share those of equal data, model, recipe, seeds and request."""
    shared = ("data", "model", "train", "seed", *config.SEEDS)
    drawn = [[search.tree.get(key) for key in shared] for search in searched]
    own = {fingerprint(held) for held, search in zip(drawn, searched, strict=True) if search.tree["model"].get("weights") is None}
    again = {fingerprint([held, search.tree["forget"]]) for held, search in zip(drawn, searched, strict=True)}
    originals = len(own) * asked.seeds
    words = f"{originals} {'original' if originals == 1 else 'originals'} of the tuning"
    words += f" and {len(again) * asked.seeds} retrained" if asked.rule.needs_retrained else ""
    return f"{words}, unless they are there"
