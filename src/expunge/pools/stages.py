"""The two stages that make a model, each a run folder named by the fingerprint of all that decides its weights.

`train` makes originals and retrained models alike: they differ only in the examples. `unlearn` starts from an original. A folder is
finished when its record exists; a stage that is called again then only looks it up.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import expunge
from expunge import config, runs
from expunge.config import Component, Experiment, fingerprint
from expunge.data.dataset import Data
from expunge.data.split import Split, make_split, validation_split
from expunge.engine import run as engine
from expunge.engine.context import Context
from expunge.engine.randomness import derive
from expunge.engine.stream import Stream
from expunge.errors import BadInput, Diverged
from expunge.models import checkpoint
from expunge.models.model import create
from expunge.pools import evidence
from expunge.training.checkpoints import DiskCheckpoints
from expunge.training.precision import resolve_precision
from expunge.training.train import train as train_model

Report = Callable[[dict[str, Any]], None]


def choose_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` means here.

    Raises:
        BadInput: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput("device", f"no device is called {name!r}.", "Allowed: auto, cpu, cuda, cuda:N, mps.") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 0)
    if (device.index or 0) >= there:
        raise BadInput(
            "device", f"{name!r} is not there; this machine has {there} of type {device.type}.", "Use device=auto or device=cpu."
        )
    return device


@cache
def _load_data(key: str, device: torch.device) -> Data:
    return config.build("datasets", config.parse_yaml(key, "data"), "data").load(device)  # type: ignore[attr-defined]


def load_data(component: Component, device: torch.device) -> Data:
    """Return the data of a configuration; read once in a process."""
    return _load_data(config.to_yaml(component.tree()), device)


@cache
def _make_split(data: str, scenario: str, seed: int, validation_fraction: float, device: torch.device, ranking: Path | None) -> Split:
    component = config.build("scenarios", config.parse_yaml(scenario, "forget"), "forget")
    loaded = None
    if ranking is not None:
        from expunge.pools import rankings

        loaded = rankings.load(ranking)
    return make_split(_load_data(data, device), component, seed, validation_fraction, loaded)  # type: ignore[arg-type]


@cache
def code_fingerprint(*packages: str) -> str:
    """Return a hash of the source files that decide weights, so that a changed program never reuses old results.

    Args:
        packages: folders of the package, or single files.
    """
    root = Path(expunge.__file__).parent
    hashed = hashlib.sha256()
    for package in packages:
        for path in [root / package] if package.endswith(".py") else sorted((root / package).rglob("*.py")):
            hashed.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()[:12]


@dataclass(frozen=True)
class Workplace:
    """A resolved experiment with its data on the device."""

    experiment: Experiment
    report: Report = field(default=lambda event: None, compare=False)

    @cached_property
    def device(self) -> torch.device:
        """Where models live."""
        return choose_device(self.experiment.device)

    @cached_property
    def plain_data(self) -> Data:
        """The data as published."""
        return load_data(self.experiment.data, self.device)

    @cached_property
    def split(self) -> Split:
        """Which examples are forgotten, retained, held out. A scenario that ranks examples by models has its ranking made here."""
        if self.experiment.forget is None:
            raise BadInput("forget", "there is no request.", "For example forget=random forget.fraction=0.1.")
        data, scenario = (config.to_yaml(part.tree()) for part in (self.experiment.data, self.experiment.forget))
        ranking = None
        if self.experiment.forget.ranks:
            from expunge.pools import rankings

            ranking = rankings.find_or_make(self)
        return _make_split(data, scenario, self.experiment.seed, self.validation_fraction, self.device, ranking)

    @property
    def validation_fraction(self) -> float:
        """Share of the training examples that no model is trained on; foreign weights may have been trained on all of them."""
        chosen, weights = self.experiment.data.validation_fraction, self.experiment.model.weights
        if chosen is not None or weights is None:
            return 0.1 if chosen is None else chosen
        return self._fraction_of(weights)

    def _fraction_of(self, weights: Path) -> float:
        """Return the validation share of the run that a weights file comes from; 0 for a foreign file, whose training is unknown."""
        try:
            origin = checkpoint.read_config(weights)
        except BadInput:
            return 0.0
        if not origin or origin.get("data", {}).get("name") != self.experiment.data.name or origin["model"].get("weights") is not None:
            return 0.0
        if origin["seed"] != self.experiment.seed:
            found = (
                f"the weights come from a run with seed={origin['seed']}; with seed={self.experiment.seed} the validation part is another."
            )
            raise BadInput("seed", found, f"Use seed={origin['seed']}, or data.validation_fraction=0 to do without one.")
        share = origin["data"].get("validation_fraction")
        return 0.1 if share is None else share

    def streams(self, split: Split | None = None) -> dict[str, Stream]:
        """Return what exists for a method: forget, retain and, unless it is empty, validation; of the request or of another split."""
        chosen = split or self.split
        found = {name: chosen.stream(name, self.data) for name in ("forget", "retain", "validation")}
        found["retain"] = Stream("retain", found["retain"].source, torch.from_numpy(chosen.kept))
        return {name: stream for name, stream in found.items() if len(stream)}

    @cached_property
    def data(self) -> Data:
        """The data that models train on: with wrong labels or triggers where the request brings them."""
        return self.split.apply(self.plain_data) if self.experiment.forget is not None else self.plain_data

    @cached_property
    def triggered_test(self) -> Stream | None:
        """Test pictures with the trigger, labelled with its target class; None where the request forgets no backdoor."""
        return self.split.triggered_test(self.data) if self.experiment.forget is not None else None

    @property
    def out(self) -> Path:
        """Where run folders are made."""
        return Path(self.experiment.out)

    def seed_of(self, number: int) -> int:
        """Return the training seed with a number; number k is the same for original, retrained and unlearned model k."""
        return derive(self.experiment.seed, "training seed", number)

    def new_model(self, seed: int, weights: bool) -> nn.Module:
        """Return the configured model with new weights, or with those of its file."""
        component = self.experiment.model if weights else self.experiment.model.but(weights=None)
        model = create(component, self.data, seed)  # type: ignore[arg-type]
        return model.to(self.device).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    folder: Path
    record: dict[str, Any]

    @property
    def status(self) -> str:
        """``ok`` or ``diverged``."""
        return self.record["status"]

    def logits(self) -> np.ndarray:
        """Return the evidence, float32 ``[N + T, C]``."""
        return evidence.load(self.folder / "logits.npy")

    def triggered(self) -> np.ndarray | None:
        """Return the logits of test pictures with a trigger, float32 ``[n, C]``; None where the request forgets no backdoor."""
        return evidence.load(self.folder / "triggered.npy") if "triggered" in self.record.get("evidence", ()) else None


def train(work: Workplace, index: np.ndarray, seed: int, title: str) -> Run:
    """Train the configured model on some examples, or find it trained.

    Args:
        work: the experiment.
        index: canonical indices of the examples to train on.
        seed: training seed: initial weights, order, augmentation.
        title: what progress reports call the run.
    """
    index = np.sort(np.asarray(index, dtype=np.int64))
    identity = train_identity(work, index, seed)

    def compute(folder: Path, report: Report) -> tuple[nn.Module, dict[str, Any]]:
        model = work.new_model(seed, weights=False)
        outcome = train_model(
            model,
            Stream("train", work.data.source, torch.from_numpy(index)),
            work.experiment.train,
            seed=seed,
            num_classes=work.data.num_classes,
            checkpoints=DiskCheckpoints(folder / "checkpoint.safetensors", identity=identity),
            report=report,
        )
        return model, {"phases": outcome.phases, "cost": outcome.cost, "examples": len(index)}

    return _stage(work, identity, title, compute)


def train_identity(work: Workplace, index: np.ndarray, seed: int) -> dict[str, Any]:
    """Return all that decides the weights of a model trained in a worker process; ``index`` is ascending."""
    return {
        "stage": "train",
        "data": work.data.fingerprint,
        "examples": hashlib.sha256(index.tobytes()).hexdigest()[:16],
        "model": _architecture(work.experiment.model),
        "train": work.experiment.train.tree(),
        **conditions(work),
        "seed": seed,
        "code": code_fingerprint("engine", "models", "data", "training"),
    }


def conditions(work: Workplace) -> dict[str, Any]:
    """Return what decides weights beside data, model, recipe and seed: augmentation, precision, device, threads."""
    return {
        "augment": str(work.experiment.data.chosen_augmentation()),
        "precision": resolve_precision(getattr(work.experiment.train, "precision", "float32"), work.device),
        "device": work.device.type,
        "threads": work.experiment.evaluate.threads if work.device.type == "cpu" else None,
    }


def unlearn(work: Workplace, original: Path | None, seed: int, title: str, split: Split | None = None) -> Run:
    """Unlearn the configured request from an original with the configured method, or find it done.

    Args:
        work: the experiment, with forget and method.
        original: run folder of the original; None starts from the configured weights file.
        seed: seed of the unlearning.
        title: what progress reports call the run.
        split: another division of the same data than the request's, for pools in which every model forgets something else.
    """
    method, addons = work.experiment.method, work.experiment.addons
    check_request(work)
    split = split or work.split
    needs = needs_of(work)
    start = runs.read_json(original / "record.json")["weights"] if original else None
    identity = unlearn_identity(work, start, seed, split)

    def compute(folder: Path, report: Report) -> tuple[nn.Module, dict[str, Any]]:
        model = work.new_model(seed, weights=original is None)
        if original is not None:
            checkpoint.load_into(model, original / "weights.safetensors")
        context = Context(
            model,
            work.streams(split),
            needs=needs,
            seed=seed,
            num_classes=work.data.num_classes,
            forget_classes=split.forget_classes,
            kind=split.kind,
            initialise=lambda number: work.new_model(number, weights=False).state_dict(),
            recipe=work.experiment.train,
            oracle=_oracle(work, split, seed) if "oracle" in needs else None,
            report=report,
        )
        try:
            outcome = engine.run(context, method, addons)
        except Diverged as error:
            failure = {"step": error.step, "term": error.term, "last_good": error.last_good, "reason": str(error)}
            return model, {"status": "diverged", "failure": failure, "cost": context.cost.tree(), "phases": []}
        return model, {"phases": outcome.phases, "cost": outcome.cost}

    return _stage(work, identity, title, compute)


def needs_of(work: Workplace) -> set[str]:
    """Return what the method and its add-ons read."""
    experiment = work.experiment
    return set(experiment.method.needs).union(*(addon.needs for addon in experiment.addons))


def unlearn_identity(work: Workplace, start: str | None, seed: int, split: Split) -> dict[str, Any]:
    """Return all that decides the weights of an unlearned model; ``start`` is the hash of the original's weights, None for the file's."""
    method, addons = work.experiment.method, work.experiment.addons
    return {
        "stage": "unlearn",
        "data": work.data.fingerprint,
        "augment": str(work.experiment.data.chosen_augmentation()),
        "split": split.fingerprint,
        "model": _architecture(work.experiment.model),
        "train": work.experiment.train.tree() if {"recipe", "oracle"} & needs_of(work) else None,
        "original": start or _file_hash(work.experiment.model.weights),
        "method": method.tree(),
        "addons": [addon.tree() for addon in addons],
        "foreign code": sorted({foreign_code(part) for part in (method, *addons)}),
        "seed": seed,
        "device": work.device.type,
        "threads": work.experiment.evaluate.threads if work.device.type == "cpu" else None,
        "code": code_fingerprint("engine", "models", "data", "training", "methods", "addons"),
    }


def _oracle(work: Workplace, split: Split, seed: int) -> nn.Module:
    """Return the retrained model of the same seed, for methods that imitate it; it is trained here if it is not there."""
    model = work.new_model(seed, weights=False)
    checkpoint.load_into(model, train(work, split.retain, seed, "retrained").folder / "weights.safetensors")
    return model


def score(work: Workplace, title: str) -> Run:
    """Collect the evidence of the configured weights file, or find it collected."""
    return _stage(work, score_identity(work), title, lambda folder, report: (work.new_model(0, weights=True), {"phases": [], "cost": {}}))


def score_identity(work: Workplace) -> dict[str, Any]:
    """Return all that decides the evidence of the configured weights file."""
    return {
        "stage": "score",
        "data": work.data.fingerprint,
        "model": _architecture(work.experiment.model),
        "original": _file_hash(work.experiment.model.weights),
        "device": work.device.type,
        "threads": work.experiment.evaluate.threads if work.device.type == "cpu" else None,
        "code": code_fingerprint("engine", "models", "data"),
    }


def original(work: Workplace, number: int) -> Run:
    """Return original number k: trained on all but the validation examples, or the configured weights file."""
    if work.experiment.model.weights is not None:
        return score(work, "original")
    if work.experiment.forget is None:
        index = validation_split(work.plain_data, work.experiment.seed, work.validation_fraction)[0]
    else:
        index = work.split.train
    return train(work, index, work.seed_of(number), f"original {number}")


def retrained(work: Workplace, number: int) -> Run:
    """Return retrained model k: the same seed and recipe as original k, without the forget set."""
    return train(work, work.split.retain, work.seed_of(number), f"retrained {number}")


def original_key(work: Workplace) -> str:
    """Return what two requests must share to share their originals: examples, model, recipe and seeds, or the weights file."""
    if work.experiment.model.weights is not None:
        return f"weights-{fingerprint(score_identity(work))}"
    return fingerprint(train_identity(work, np.sort(work.split.train), work.seed_of(0)))


def run_job(stage: str, tree: dict[str, Any], number: int, results: dict[str, str], report: Report) -> str:
    """Run one stage of a job and return its folder.

    Args:
        stage: original, retrained or unlearned.
        tree: the experiment.
        number: seed number.
        results: folder of the original, for unlearning.
        report: hears the events.
    """
    work = Workplace(config.resolve(tree), report)
    if stage != "unlearned":
        return str({"original": original, "retrained": retrained}[stage](work, number).folder)
    start = None if work.experiment.model.weights is not None else Path(next(iter(results.values())))
    return str(unlearn(work, start, work.seed_of(number), f"{work.experiment.method.name} {number}").folder)


def made(work: Workplace, stage: str, number: int) -> Run | None:
    """Return what `run_job` would find made, and make nothing; None if it is still to be made, or starts from what is.

    Args:
        work: the experiment; its split is there already.
        stage: original, retrained or unlearned.
        number: seed number.
    """
    seed, weights = work.seed_of(number), work.experiment.model.weights
    if stage == "unlearned":
        start = None if weights is not None else made(work, "original", number)
        if weights is None and start is None:
            return None
        return look_up(work, unlearn_identity(work, start.record["weights"] if start else None, seed, work.split), stage)
    if stage == "original" and weights is not None:
        return look_up(work, score_identity(work), stage)
    index = np.sort(work.split.train if stage == "original" else work.split.retain)
    return look_up(work, train_identity(work, index, seed), stage)


def find(folder: str | Path) -> Run:
    """Return a finished run by its folder.

    Raises:
        BadInput: it is not finished.
    """
    found = _finished(Path(folder))
    if found is None:
        raise BadInput(str(folder), "is not a finished run.", "Run the command that made it again; it goes on.")
    return found


def check_model(work: Workplace) -> None:
    """Refuse a model that cannot take the data, and a weights file that is damaged or does not fit, before any work."""
    work.new_model(0, weights=True)


def check_request(work: Workplace) -> None:
    """Refuse a method or an add-on that cannot serve the request, before any work."""
    method = work.experiment.method
    if method is None:
        raise BadInput("method", "there is no method.", "For example method=salun; `expunge list methods` shows all.")
    engine.check(method, work.experiment.addons, kind=work.split.kind, streams=tuple(work.streams()), artefacts=("recipe", "oracle"))


def _architecture(model: Component) -> dict[str, Any]:
    return {key: value for key, value in model.tree().items() if key != "weights"}


def _file_hash(path: Path | None) -> str:
    if path is None:
        raise BadInput(
            "model.weights", "there is no original to unlearn from.", "Train one with `expunge train`, or give model.weights=FILE."
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _stage(
    work: Workplace, identity: dict[str, Any], title: str, compute: Callable[[Path, Report], tuple[nn.Module, dict[str, Any]]]
) -> Run:
    found = look_up(work, identity, title)
    if found is not None:
        return found
    folder = folder_of(work, identity)
    _prepare(work, folder, identity)
    if work.device.type == "cpu":
        torch.set_num_threads(work.experiment.evaluate.threads)
    work.report({"event": "start", "title": title, "folder": str(folder)})

    def report(event: dict[str, Any]) -> None:
        runs.append_event(folder / "events.jsonl", **event)
        work.report({**event, "title": title})

    model, record = compute(folder, report)
    return _finish(work, identity, title, model, record, lambda: _outputs(work, model))


def folder_of(work: Workplace, identity: dict[str, Any]) -> Path:
    """Return the folder of the run that an identity names."""
    return work.out / f"{identity['stage']}-{fingerprint(identity)}"


def look_up(work: Workplace, identity: dict[str, Any], title: str) -> Run | None:
    """Return a finished run, and tell that it was found; None if it is still to be made."""
    folder = folder_of(work, identity)
    found, attack = _finished(folder), work.triggered_test
    if found is None or (attack is not None and found.status == "ok" and found.triggered() is None):
        return None
    work.report({"event": "found", "title": title, "folder": str(folder)})
    return found


def keep(
    work: Workplace,
    identity: dict[str, Any],
    title: str,
    model: nn.Module,
    record: dict[str, Any],
    outputs: dict[str, np.ndarray],
    events: Sequence[dict[str, Any]],
) -> Run:
    """Write the run folder of a model that was made elsewhere than in a stage of its own.

    Args:
        work: the experiment.
        identity: what names the folder.
        title: what the run is called.
        model: with its final weights.
        record: what its training did.
        outputs: ``logits`` and, where a backdoor is forgotten, ``triggered``.
        events: what its training reported.
    """
    folder = folder_of(work, identity)
    _prepare(work, folder, identity)
    for event in events:
        runs.append_event(folder / "events.jsonl", **event)
    return _finish(work, identity, title, model, record, lambda: outputs)


def _finish(
    work: Workplace,
    identity: dict[str, Any],
    title: str,
    model: nn.Module,
    record: dict[str, Any],
    outputs: Callable[[], dict[str, np.ndarray]],
) -> Run:
    """Write evidence, weights and, last, the record."""
    folder = folder_of(work, identity)
    record = {"status": "ok", **record, "title": title, "identity": identity, "weights": checkpoint.weights_hash(model)}
    if record["status"] == "ok":
        record |= _collect(outputs(), folder)
    checkpoint.save(model, folder / weights_name(record["status"]), work.experiment.tree())
    runs.write_json(folder / "record.json", record)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    work.report({"event": "end", "title": title, "folder": str(folder), "status": record["status"]})
    return Run(folder, record)


def _outputs(work: Workplace, model: nn.Module) -> dict[str, np.ndarray]:
    size = work.experiment.evaluate.batch_size
    found = {"logits": evidence.collect(model, work.data, size)}
    if work.triggered_test is not None:
        found["triggered"] = evidence.outputs(model, work.triggered_test, size)
    return found


def _collect(found: dict[str, np.ndarray], folder: Path) -> dict[str, Any]:
    """Write what a model says, and return what its record says about that."""
    rows = sum(int((~np.isfinite(logits).all(axis=1)).sum()) for logits in found.values())
    if rows:
        reason = f"its outputs are not finite for {rows} of {sum(map(len, found.values()))} examples"
        return {"status": "diverged", "failure": {"reason": reason}}
    for name, logits in found.items():
        evidence.save(folder / f"{name}.npy", logits)
    return {"evidence": sorted(found)}


def _finished(folder: Path) -> Run | None:
    """Return a run whose record and files are all there; a folder with anything missing or damaged is made again."""
    if not (folder / "record.json").is_file():
        return None
    try:
        run = Run(folder, runs.read_json(folder / "record.json"))
        outputs = [run.logits(), run.triggered()] if run.status == "ok" else []
        complete = checkpoint.is_whole(folder / weights_name(run.status)) and all(found is None or len(found) for found in outputs)
    except (BadInput, KeyError):
        return None
    return run if complete else None


def weights_name(status: str) -> str:
    """Return the name of a run's weights; those of a run that diverged cannot be taken for a result."""
    return "weights.safetensors" if status == "ok" else "last_good.safetensors"


def foreign_code(part: Component) -> str:
    """Return a hash of the file of a component that another package brings; empty for our own, which `code_fingerprint` covers."""
    if type(part).__module__.startswith("expunge."):
        return ""
    return hashlib.sha256(Path(inspect.getfile(type(part))).read_bytes()).hexdigest()[:12]


def _prepare(work: Workplace, folder: Path, identity: dict[str, Any]) -> None:
    with runs.atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(config.to_yaml(work.experiment.tree()), encoding="utf-8")
    if work.experiment.forget is not None:
        work.split.save(folder / "split.json")
    runs.remove_leftovers(folder)
    runs.write_json(folder / "environment.json", runs.environment())
    runs.append_event(folder / "events.jsonl", event="start", identity=identity)
