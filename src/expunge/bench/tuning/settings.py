"""What ``tune:`` in a file, or ``tune.KEY=VALUE`` behind it, asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from expunge import config
from expunge.bench import grid as grids
from expunge.bench.selections.selection import Selection
from expunge.config import Component, NonNegativeInt, PositiveInt, hyper
from expunge.errors import BadInput, nearest

Tree = dict[str, Any]


class Tune(Component):
    """How hyper-parameters are searched. Every method of a command has the same budget."""

    name: ClassVar[str] = "tune"
    rule: Any = hyper(
        "validation", "selection rule: what is good, and what may be seen for it; `expunge list selections`", validate_default=True
    )
    budget: PositiveInt | None = hyper(
        None, "sample-passes that each method may spend, scoring included; ten trainings of an original where it is left open"
    )
    trials: PositiveInt = hyper(100, "settings that give a model, at most, however cheap a method is; as many again may diverge or fail")
    seeds: PositiveInt = hyper(1, "originals on which each setting is tried; its score is their mean")
    space: Any = hyper(
        {}, "ranges beside those that the method declares: {lr: {low: , high: , log: }}, a list of choices, or null for none"
    )
    forget: Any = hyper(None, "request on which settings are tried; another draw of the configured one where it is left open")
    sampler: Literal["tpe", "random"] = hyper("tpe", "how settings are proposed")
    pruner: Literal["median", "none"] = hyper("median", "whether a trial ends when its score after an epoch is worse than most had then")
    startup: PositiveInt = hyper(5, "trials before proposals and pruning rest on those before")
    retain_limit: PositiveInt = hyper(2000, "retained examples that are scored")
    seed: NonNegativeInt = hyper(0, "of the proposals, the originals and the forget set of the tuning")

    @field_validator("rule")
    @classmethod
    def _built(cls, value: Any) -> Any:
        return value if isinstance(value, Selection) else config.build("selections", value, "tune.rule")

    @field_validator("space")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"expected fields with their ranges, got {value!r}")
        return value

    def tree(self) -> Tree:
        """Return plain values, the rule with its fields among them."""
        return {**{name: getattr(self, name) for name in type(self).model_fields}, "rule": self.rule.tree()}


def read(file: Path | None, overrides: Sequence[str] = ()) -> tuple[Tree, Tune]:
    """Return the tree of an experiment or a grid, and how to tune it.

    Raises:
        BadInput: no file and no key, no YAML, or a key that does not exist.
    """
    loaded = _load(file)
    asked = loaded.pop("tune", None) or {}
    if not isinstance(asked, dict):
        raise BadInput("tune", f"expected fields, got {asked!r}.", "For example tune: {rule: validation, budget: 2000000}.")
    mine = [word for word in overrides if word.partition("=")[0].strip().partition(".")[0] == "tune"]
    others = [word for word in overrides if word not in mine]
    for key, value in map(config.parse_override, mine):
        _assign(asked, key, value)
    tree = _experiment(loaded, others)
    return tree, settings(asked)


def settings(asked: Tree) -> Tune:
    """Return the validated settings.

    Raises:
        BadInput: an unknown key, or a value that is not allowed.
    """
    rule = config.build("selections", asked.get("rule", "validation"), "tune.rule")
    return config.validate(Tune, {**asked, "rule": rule}, "tune")  # type: ignore[return-value]


def _load(file: Path | None) -> Tree:
    if file is None:
        return {}
    if not file.is_file():
        raise BadInput(str(file), "no such file.", "Give a YAML file, or only key=value pairs.")
    loaded = config.read_yaml(file) or {}
    if not isinstance(loaded, dict):
        raise BadInput(str(file), f"expected keys and values, got {type(loaded).__name__}.")
    return loaded


def _assign(asked: Tree, key: str, value: Any) -> None:
    """Set ``tune.KEY``, ``tune.rule.FIELD`` or ``tune.space.FIELD``; the field of an add-on holds further dots."""
    _, _, path = key.partition(".")
    head, dot, field = path.partition(".")
    if head not in Tune.model_fields:
        raise BadInput(key, f"tune has no field {head!r}.", nearest(head, Tune.model_fields))
    if not dot:
        asked[head] = value
    elif head == "space":
        asked["space"] = {**(asked.get("space") or {}), field: value}
    elif head == "rule":
        asked["rule"] = {**config.as_choice(asked.get("rule", "validation")), field: value}
    else:
        raise BadInput(key, "too many dots.", f"Write tune.{head}=VALUE.")


def _experiment(loaded: Tree, overrides: Sequence[str]) -> Tree:
    """Return the tree with overrides, ``grid`` among its keys as a list of mappings; one method without a grid is a grid of one."""
    grid = loaded.pop("grid", None)
    axes = [{}] if grid is None else grids.axes_of(grid)
    tree: Tree = {}
    for key, value in loaded.items():
        config.assign(tree, str(key), value)
    for key, value in map(config.parse_override, overrides):
        grids.override(tree, axes, key, value)
    return {**tree, "grid": [mapping if mapping else {"seed": [tree.pop("seed", 0)]} for mapping in axes]}
