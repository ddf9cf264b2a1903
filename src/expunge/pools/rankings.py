"""Rankings of the training examples by models, for the scenarios that choose their forget set by them.

A ranking has models of its own: their seeds and their halves are drawn apart, so that no model that chose a forget set is judged on it.
Validation and test examples train none of them. A ranking is one file, found again by the fingerprint of all that decides it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from expunge.attacks.memorization import largest_standard_error, memorization, separability
from expunge.attacks.per_example import auc
from expunge.config import fingerprint
from expunge.data.ranking import Ranking
from expunge.data.scenario import pick
from expunge.engine import run as engine
from expunge.engine.architecture import Architecture
from expunge.engine.stream import Stream
from expunge.errors import BadInput, RunFailed
from expunge.models import checkpoint
from expunge.pools import remote, stages, worst_case
from expunge.pools.cache import IN
from expunge.pools.pool import Pool
from expunge.pools.workplace import Report, Workplace, code_fingerprint
from expunge.representation import downstream, related
from expunge.representation.entanglement import by_distance, entanglement, start
from expunge.representation.features import read
from expunge.runs import atomic_write

OFFSET = 1_000_000
"""Number of the first training seed of a ranking's models, beyond those of all models that are judged."""
SETS = 15
"""Sets of neighbours in the order of distance from which the most or the least entangled one is taken; as in the code of RUM."""
RANDOM_SETS = 5
"""Random sets of the same size that an entanglement score is shown beside."""


def prepare(works: Iterable[Workplace], report: Report) -> None:
    """Make the rankings that some experiments need, after a look at what can be refused before any work.

    Raises:
        BadInput: what cannot work with the scenario, whatever the ranking will be.
        RunFailed: a model of the ranking diverged.
    """
    needed = [Workplace(work.experiment, report) for work in works if _is_ranked(work)]
    for work in needed:
        _check(work)
    for work in needed:
        find_or_make(work)


def find_or_make(work: Workplace) -> Path:
    """Return the file of an experiment's ranking, making it if need be.

    Raises:
        BadInput: the scenario's fields do not fit the data.
        RunFailed: a model of the ranking diverged.
    """
    scenario = work.experiment.forget
    candidates = stages.validation_split(work.plain_data, work.experiment.seed, work.validation_fraction)[0]
    scenario.check(candidates)
    path = work.out / "rankings" / f"{scenario.name}-{fingerprint(_identity(work, candidates))}.npz"
    if not remote.pull_file(path):
        save(MAKERS[scenario.name](work, candidates), path)
    remote.push_file(path)
    return path


def save(ranking: Ranking, path: Path) -> None:
    """Write a ranking, atomically: arrays ``index`` and ``scores/COLUMN``, and the notes as JSON."""
    arrays = {f"scores/{name}": values for name, values in ranking.scores.items()}
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, index=ranking.index, notes=np.array(json.dumps(ranking.notes, allow_nan=False)), **arrays)  # type: ignore[arg-type]


def load(path: Path) -> Ranking:
    """Return the ranking of a file.

    Raises:
        BadInput: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            scores = {name.removeprefix("scores/"): arrays[name] for name in arrays if name.startswith("scores/")}
            return Ranking(arrays["index"], scores, json.loads(str(arrays["notes"])))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BadInput(str(path), f"cannot be read: {error}.", "Delete the file; it is made again.") from None


def _is_ranked(work: Workplace) -> bool:
    return work.experiment.forget is not None and bool(work.experiment.forget.ranks)


def _check(work: Workplace) -> None:
    experiment = work.experiment
    stages.check_model(_without_request(work))
    candidates, validation = stages.validation_split(work.plain_data, experiment.seed, work.validation_fraction)
    experiment.forget.check(candidates)
    if experiment.forget.name == "related_classes":
        _shown(work)
    if experiment.method is not None:
        streams = ("forget", "retain", "validation") if len(validation) else ("forget", "retain")
        engine.check(experiment.method, experiment.addons, kind=experiment.forget.kind, streams=streams, artefacts=("recipe", "oracle"))
    remote.check_writable(work.out)


def _identity(work: Workplace, candidates: np.ndarray) -> dict[str, Any]:
    """Return all that decides a ranking, as plain values."""
    experiment = work.experiment
    given = experiment.model.weights if experiment.forget.ranks == "original" else None
    return {
        "scenario": experiment.forget.tree(),
        "data": work.plain_data.fingerprint,
        "augment": str(experiment.data.chosen_augmentation()),
        "candidates": fingerprint(candidates.tolist()),
        "downstream": downstream.fingerprint(experiment.forget.downstream) if experiment.forget.name == "related_classes" else None,
        "model": {key: value for key, value in experiment.model.tree().items() if key != "weights"},
        "weights": checkpoint.weights_hash(_without_request(work).new_model(0, weights=True)) if given else None,
        "train": experiment.train.tree(),
        "seed": experiment.seed,
        **{name: value for name in ("training_seed", "forget_seed") if (value := getattr(experiment, name)) is not None},
        "device": work.device.type,
        "threads": experiment.evaluate.threads if work.device.type == "cpu" else None,
        "versions": stages.versions(work),
        "code": code_fingerprint("engine", "models", "data", "training", "attacks", "representation", "pools"),
    }


def _without_request(work: Workplace) -> Workplace:
    """Return the experiment of a ranking's models, which know nothing of the request."""
    return Workplace(work.experiment.model_copy(update={"forget": None, "method": None, "addons": ()}), work.report)


def _memorized(work: Workplace, candidates: np.ndarray) -> Ranking:
    evidence = _base_pool(work, candidates)
    scores, described = ({**_memorization_of(half)} for half in evidence)
    scores["described"] = described["memorization"]
    notes = {"score": "memorization", "standard_error_at_most": largest_standard_error(len(evidence[0]["margins"]))}
    return _described(work, Ranking(candidates, scores), notes, "memorization", described["memorization"])


def _memorization_of(half: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    hard = memorization(half["correct"], half["inside"])
    probability = 1 / (1 + np.exp(-np.clip(half["margins"].astype(np.float64), -500, 500)))
    soft = memorization(probability, half["inside"]).score
    return {"memorization": hard.score, "soft_memorization": soft, "standard_error": hard.standard_error}


def _vulnerable(work: Workplace, candidates: np.ndarray) -> Ranking:
    halves = _base_pool(work, candidates)
    scores = {"separability": separability(halves[0]["margins"], halves[0]["inside"])}
    margins, inside = halves[1]["margins"], halves[1]["inside"]
    scores["described"] = separability(margins, inside)
    scores["described_auc"] = auc(margins, margins, inside, ~inside)
    ranking = _described(work, Ranking(candidates, scores), {"score": "separability"}, "separability", scores["described"])
    rows = _chosen_rows(work, ranking)
    return Ranking(candidates, scores, {**ranking.notes, "described_auc": float(scores["described_auc"][rows].mean())})


def _described(work: Workplace, ranking: Ranking, notes: dict[str, Any], column: str, described: np.ndarray) -> Ranking:
    """Return the ranking with what both halves of the pool say about the chosen examples and about all."""
    rows, score = _chosen_rows(work, ranking), ranking.scores[column]
    models = work.experiment.forget.models
    found = {
        "models": models,
        "selecting_models": models // 2,
        "describing_models": models // 2,
        "selected_mean": float(score[rows].mean()),
        "described_mean": float(described[rows].mean()),
        "described_error": float(described[rows].std(ddof=1) / np.sqrt(len(rows))) if len(rows) > 1 else None,
        "described_mean_of_all": float(described.mean()),
        "correlation_of_halves": _correlation(score, described),
    }
    return Ranking(ranking.index, ranking.scores, {**notes, **found})


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return the correlation of two columns; None where one does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else None


def _chosen_rows(work: Workplace, ranking: Ranking) -> np.ndarray:
    """Return the rows of the ranking that its scenario chooses."""
    labels = work.plain_data.labels.numpy()[ranking.index]
    asked = work.experiment.forget_seed
    drawn = work.experiment.seed if asked is None else asked
    return np.searchsorted(ranking.index, work.experiment.forget.first(labels, ranking, drawn))


def _base_pool(work: Workplace, candidates: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return margins, correct and inside ``[models, n]`` of the candidates, of the half that selects and of the half that describes."""
    models = work.experiment.forget.models
    cache = Pool(_without_request(work), "base", offset=OFFSET).fill(models, work.report)
    missing = models - len(cache.rows(upto=models))
    if missing:
        raise RunFailed(f"{missing} of {models} models of the ranking diverged. A smaller train.lr usually mends it.")
    return [
        {
            "margins": cache.margins(rows)[:, candidates],
            "correct": cache.correct(rows)[:, candidates],
            "inside": cache.states(rows)[:, candidates] == IN,
        }
        for rows in (range(models // 2), range(models // 2, models))
    ]


def _entangled(work: Workplace, candidates: np.ndarray) -> Ranking:
    model, stream = _original(work, candidates)
    example = next(stream.batches(2)).x
    features = read(Architecture(model, example), model, stream, work.scoring_size).features
    size = work.experiment.forget.size(len(candidates))
    by_set, places = by_distance(features, size, SETS)
    best = int(by_set.argmax() if work.experiment.forget.level == "high" else by_set.argmin())
    middle = start(best, len(candidates), size, SETS) + (size - 1) / 2
    ranking = Ranking(candidates, {"places": np.abs(places - middle)})
    rows = _chosen_rows(work, ranking)

    def score(chosen: np.ndarray) -> float:
        return entanglement(features, np.isin(np.arange(len(candidates)), chosen))

    seed = work.experiment.seed
    by_chance = [score(pick(np.arange(len(candidates)), len(rows), seed, f"ranking/random/{k}")) for k in range(RANDOM_SETS)]
    notes = {"score": "entanglement", "entanglement": score(rows), "entanglement_of_random_sets": by_chance}
    notes |= {"entanglement_of_sets": by_set.tolist(), "set": best}
    return Ranking(candidates, ranking.scores, notes)


def _worst_case(work: Workplace, candidates: np.ndarray) -> Ranking:
    scenario = work.experiment.forget
    model, stream = _original(work, candidates)
    seed = work.seed_of(OFFSET)
    unlearner = worst_case.Unlearner(model, stream, work.plain_data.num_classes, scenario.epochs, scenario.lr, scenario.batch_size, seed)
    size = scenario.size(len(candidates))
    found = worst_case.search(unlearner, len(candidates), size, scenario.rounds, scenario.step, scenario.penalty)
    ranking = Ranking(candidates, {"weight": found.weight, "loss": found.loss})
    rows = _chosen_rows(work, ranking)
    notes = {
        "score": "worst_case",
        "loss_of_weighted_set": found.values,
        "loss_of_set": float(found.loss[rows].mean()),
        "loss_of_all": float(found.loss.mean()),
    }
    return Ranking(candidates, ranking.scores, notes)


def _original(work: Workplace, candidates: np.ndarray) -> tuple[nn.Module, Stream]:
    """Return an original that nobody judges, or the given one, and the stream of all candidates."""
    plain = _without_request(work)
    if work.device.type == "cpu":
        torch.set_num_threads(work.experiment.evaluate.threads)
    run = stages.original(plain, OFFSET)
    if run.status != "ok":
        raise RunFailed(f"the original of the ranking {run.status}. A smaller train.lr usually mends it.")
    model = plain.new_model(0, weights=False)
    checkpoint.load_into(model, run.folder / "weights.safetensors")
    return model, Stream("train", plain.plain_data.source, torch.from_numpy(candidates))


def _shown(work: Workplace) -> Iterator[Tensor]:
    """Return the pictures that are shown to the model, after a look at what can be refused without it."""
    scenario, data = work.experiment.forget, work.plain_data
    scenario.check_count(data)
    return downstream.pictures(scenario.downstream, data.input_shape, scenario.domain, work.scoring_size)


def _related_classes(work: Workplace, candidates: np.ndarray) -> Ranking:
    scenario, data, shown = work.experiment.forget, work.plain_data, _shown(work)
    model, _ = _original(work, candidates)
    weights, pictures = related.class_weights(model, shown, data.num_classes, work.device)
    order = related.order(weights, scenario.by)
    places = np.argsort(order)
    chosen = order[: scenario.count]
    notes = {
        "score": "related classes",
        "pictures": pictures,
        "classes": [{"class": data.class_names[label], **{key: float(weights[key][label]) for key in weights}} for label in chosen],
        "share_of_predictions": float(weights["predictions"][chosen].sum() / pictures),
    }
    return Ranking(candidates, {"place": places[data.labels.numpy()[candidates]].astype(np.float64)}, notes)


MAKERS: dict[str, Callable[[Workplace, np.ndarray], Ranking]] = {
    "memorized": _memorized,
    "vulnerable": _vulnerable,
    "entangled": _entangled,
    "worst_case": _worst_case,
    "related_classes": _related_classes,
}
"""Scenario -> what makes its ranking."""
