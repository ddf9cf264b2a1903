"""A resolved experiment with its data, its split and its devices: where stages work."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

import expunge
from expunge import config
from expunge.config import Component, Experiment
from expunge.data.dataset import Data
from expunge.data.split import Split, make_split
from expunge.engine import parallel
from expunge.engine.gauges import Detail
from expunge.engine.randomness import derive
from expunge.engine.stream import Stream, scoring_size
from expunge.errors import BadInput
from expunge.models import checkpoint
from expunge.models.model import create
from expunge.pools import remote

Report = Callable[[dict[str, Any]], None]


def choose_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` means here.

    Raises:
        BadInput: there is no such device on this machine.
    """
    if name == "auto":
        return parallel.check_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput("device", f"no device is called {name!r}.", "Allowed: auto, cpu, cuda, cuda:N, mps.") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 0)
    if (device.index or 0) >= there:
        raise BadInput(
            "device", f"{name!r} is not there; this machine has {there} of type {device.type}.", "Use device=auto or device=cpu."
        )
    return parallel.check_device(device)


@cache
def _load_data(key: str, device: torch.device) -> Data:
    return config.build("datasets", config.parse_yaml(key, "data"), "data").load(device)  # type: ignore[attr-defined]


def load_data(component: Component, device: torch.device) -> Data:
    """Return the data of a configuration; read once in a process."""
    return _load_data(config.to_yaml(component.tree()), device)


@cache
def _make_split(
    data: str, scenario: str, seeds: tuple[int, int | None], validation_fraction: float, device: torch.device, ranking: Path | None
) -> Split:
    component = config.build("scenarios", config.parse_yaml(scenario, "forget"), "forget")
    loaded = None
    if ranking is not None:
        from expunge.pools import rankings

        loaded = rankings.load(ranking)
    return make_split(_load_data(data, device), component, seeds[0], validation_fraction, loaded, seeds[1])  # type: ignore[arg-type]


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
    """A resolved experiment with its data on the device.

    Attributes:
        experiment: the configuration.
        report: hears the events of whatever works here.
        known: the split, where it is known and must not be made.
    """

    experiment: Experiment
    report: Report = field(default=lambda event: None, compare=False)
    known: Split | None = field(default=None, compare=False)

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
        if self.known is not None:
            return self.known
        data, scenario = (config.to_yaml(part.tree()) for part in (self.experiment.data, self.experiment.forget))
        ranking = None
        if self.experiment.forget.ranks:
            from expunge.pools import rankings

            ranking = rankings.find_or_make(self)
        seeds = self.experiment.seed, self.experiment.forget_seed
        return _make_split(data, scenario, seeds, self.validation_fraction, self.device, ranking)

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
    def scoring_size(self) -> int:
        """Examples in a forward pass while scoring."""
        return scoring_size(self.device, self.experiment.evaluate.batch_size)

    @property
    def detail(self) -> Detail | None:
        """How closely trackers want runs to be watched; None without trackers. It decides no weights."""
        return Detail.of(self.experiment.track)

    @property
    def out(self) -> Path:
        """Where run folders are made; where results are kept at an address, the folder of this machine that stands for it."""
        return remote.folder_of(self.experiment.out)

    @property
    def training_seed(self) -> int:
        """What training seeds are derived from."""
        asked = self.experiment.training_seed
        return self.experiment.seed if asked is None else asked

    def seed_of(self, number: int) -> int:
        """Return the training seed with a number; number k is the same for original, retrained and unlearned model k."""
        return derive(self.training_seed, "training seed", number)

    def unlearning_seed_of(self, number: int, training_seed: int, family: str = "") -> int:
        """Return the seed of what a method draws when it unlearns from model k: the model's own unless ``unlearning_seed`` is given.

        Args:
            number: of the model.
            training_seed: of the model.
            family: name of a pool whose models are others than those of the rows.
        """
        asked = self.experiment.unlearning_seed
        return training_seed if asked is None else derive(asked, "unlearning seed", *([family] if family else []), number)

    def new_model(self, seed: int, weights: bool) -> nn.Module:
        """Return the configured model with new weights, or with those of its file."""
        component = self.experiment.model if weights else self.experiment.model.but(weights=None)
        model = create(component, self.data, seed)  # type: ignore[arg-type]
        return model.to(self.device).to(memory_format=torch.channels_last)
