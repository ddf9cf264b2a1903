"""A tree of plain values -> everything that decides a result, validated and frozen."""

import hashlib
import json
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from expunge import registry
from expunge.config.component import Component, build, validate
from expunge.config.evaluate import Evaluate
from expunge.config.fields import NonNegativeInt, PositiveInt, Text, hyper
from expunge.config.tree import KEYS, KINDS, SEEDS, as_choice, as_choices
from expunge.errors import BadInput


class Tuned(Component):
    """Where a method's hyper-parameters come from, written by `expunge tune` beside them; it decides no weight."""

    name: ClassVar[str] = "tuned"
    rule: Text = hyper(..., "selection rule that chose them")
    label: Literal["tuned", "oracle-tuned"] = hyper("tuned", "what a row is called; oracle-tuned when retrained models were looked at")
    budget: PositiveInt = hyper(..., "sample-passes that the method was given")
    passes: NonNegativeInt = hyper(0, "sample-passes that it used")
    trials: PositiveInt = hyper(..., "settings that were tried")
    study: Text = hyper(..., "folder that holds the history")

    @model_validator(mode="after")
    def _honest(self) -> Self:
        """Refuse a label that says less than the rule saw; a rule that is not installed is taken at its word."""
        known = registry.names("selections")
        if self.rule in known and self.label != registry.find("selections", self.rule).label():  # type: ignore[attr-defined]
            raise ValueError(f"what the rule {self.rule} chose is {registry.find('selections', self.rule).label()}")  # type: ignore[attr-defined]
        return self


class Experiment(BaseModel):
    """Everything that decides the result of a command. Keys that a command does not use are None.

    ``seed`` decides all that is random. Three keys draw a part of it anew while the rest stays: ``training_seed`` the training of
    originals and retrained models, ``unlearning_seed`` what methods draw, ``forget_seed`` the forget set.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    data: Any  # a Dataset, Model, Recipe, Scenario, Method and Addons: classes of higher layers, made by `build` alone
    model: Any
    train: Any
    forget: Any = None
    method: Any = None
    addons: tuple[Any, ...] = ()
    tuned: Tuned | None = None
    evaluate: Evaluate = Field(default_factory=Evaluate)
    seed: NonNegativeInt = 0
    training_seed: NonNegativeInt | None = None
    unlearning_seed: NonNegativeInt | None = None
    forget_seed: NonNegativeInt | None = None
    device: str = "auto"
    out: str = "runs"
    track: tuple[Any, ...] = ()

    def tree(self) -> dict[str, Any]:
        """Return the whole configuration as plain values, which `load_tree` reads back unchanged."""
        tree: dict[str, Any] = {}
        for key in KEYS:
            value = getattr(self, key)
            if key == "addons" or (key == "track" and value):
                tree[key] = [part.tree() for part in value]
            elif key == "track":
                continue
            elif key == "evaluate":
                tree[key] = {k: v for k, v in value.tree().items() if k != "name"}
            elif isinstance(value, Component):
                tree[key] = value.tree()
            elif value is not None:
                tree[key] = value
        if self.tuned is not None and self.method is not None:
            tree["method"]["tuned"] = {key: value for key, value in self.tuned.tree().items() if key != "name"}
        return tree

    def lasting(self) -> dict[str, Any]:
        """Return the configuration as results keep it: without trackers, which decide nothing and may name private servers."""
        return {key: value for key, value in self.tree().items() if key != "track"}


DEFAULTS: dict[str, Any] = {"data": "fashion_mnist", "model": "small_cnn", "train": "tiny"}
"""What a command uses when it is told nothing."""


def resolve(tree: dict[str, Any]) -> Experiment:
    """Return the validated configuration of a tree.

    Raises:
        BadInput: any name, key, type or range that is not allowed.
    """
    tree = {**DEFAULTS, **{key: value for key, value in tree.items() if value is not None}}
    parts: dict[str, Any] = {}
    for key, kind in KINDS.items():
        value = tree.get(key)
        if isinstance(value, dict) and "name" not in value and key in DEFAULTS:
            value = {"name": DEFAULTS[key], **value}
        if value is None:
            continue
        defaults = None
        if key == "method":
            defaults = scenario_defaults(value, getattr(parts.get("forget"), "kind", None))
            parts["tuned"] = provenance(value)
        parts[key] = build(kind, value, key, defaults)
    chosen = tree.get("addons") or []
    if not isinstance(chosen, list):
        raise BadInput("addons", f"expected a list, got {chosen!r}.", "Write addons=[lora,sam].")
    parts["addons"] = tuple(build("addons", item, _listed_key("addons", item, position)) for position, item in enumerate(chosen))
    trackers = as_choices(tree.get("track")) or []
    if not isinstance(trackers, list):
        raise BadInput("track", f"expected a list, got {trackers!r}.", "Write track=[mlflow,tensorboard].")
    parts["track"] = tuple(build("trackers", item, _listed_key("track", item, position)) for position, item in enumerate(trackers))
    asked = tree.get("evaluate") or {}
    if not isinstance(asked, dict):
        raise BadInput("evaluate", f"expected fields, got {asked!r}.", "Write evaluate.FIELD=VALUE, for example evaluate.tier=fast.")
    parts["evaluate"] = validate(Evaluate, asked, "evaluate")
    for key in ("seed", *SEEDS, "device", "out"):
        if key in tree:
            parts[key] = tree[key]
    try:
        return Experiment.model_validate(parts)
    except ValidationError as error:
        first = error.errors()[0]
        expected = "an integer of at least 0" if first["loc"][0] in ("seed", *SEEDS) else "a text"
        raise BadInput(str(first["loc"][0]), f"expected {expected}, got {first['input']!r}.") from None


def _listed_key(key: str, item: Any, position: int) -> str:
    item = as_choice(item)
    return f"{key}.{item['name'] if isinstance(item, dict) and 'name' in item else position}"


def provenance(method: Any) -> Tuned | None:
    """Return how the hyper-parameters of a chosen method were tuned; None where it does not say that they were."""
    found = method.get("tuned") if isinstance(method, dict) else None
    if found is None:
        return None
    if not isinstance(found, dict):
        raise BadInput("method.tuned", f"expected what `expunge tune` writes, got {found!r}.", "Leave it out.")
    return validate(Tuned, found, "method.tuned")  # type: ignore[return-value]


def scenario_defaults(value: Any, request: str | None) -> dict[str, Any] | None:
    """Return the defaults of a chosen method for a kind of request (class, random, subclass); None when either is open."""
    value = as_choice(value)
    name = value.get("name") if isinstance(value, dict) else None
    if not request or not isinstance(name, str):
        return None
    method = registry.find("methods", name.partition(":")[0], "method")
    return dict(method.scenario_defaults.get(request, {}))  # type: ignore[attr-defined]


def fingerprint(tree: Any) -> str:
    """Return 16 hexadecimal digits that change when any value of the tree changes, and only then."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
