"""YAML and key=value -> validated, frozen configuration, and its fingerprint.

A configuration is a tree of components. A component's class is its schema: the Python API, the YAML, the command line and the
record of a run all read the same fields.
"""

import copy
import hashlib
import inspect
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from expunge import registry
from expunge.errors import BadInput, nearest


def _not_a_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number, got a yes/no value")
    return value


PositiveInt = Annotated[int, Field(strict=True, gt=0)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
Integer = Annotated[int, Field(strict=True)]
Number = Annotated[float, BeforeValidator(_not_a_flag), Field(strict=True, allow_inf_nan=False)]
PositiveFloat = Annotated[float, BeforeValidator(_not_a_flag), Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, BeforeValidator(_not_a_flag), Field(strict=True, ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_not_a_flag), Field(strict=True, ge=0, le=1)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True)]


def hyper(
    default: Any, about: str = "", *, low: float | None = None, high: float | None = None, log: bool = False, **constraints: Any
) -> Any:
    """Declare a hyper-parameter: its default, what it is, and the range in which it is searched.

    Args:
        default: the value used when nobody chooses one.
        about: one line for ``expunge show``.
        low: lower end of the search range; None when the field is not tuned.
        high: upper end of the search range.
        log: whether the search is uniform in the logarithm.
        constraints: further pydantic constraints such as ``lt=1``.
    """
    search: Any = None if low is None else {"low": low, "high": high, "log": log}
    return Field(default, description=about or None, json_schema_extra={"search": search} if search else None, **constraints)


class Component(BaseModel):
    """One thing that can be chosen by name: frozen, validated fields and one verb.

    Class attributes: ``name`` (set by the registry), ``aliases`` (other names that are accepted), ``source`` (where it was
    published), ``deviations`` (what differs from there and why).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    deviations: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Other names that stand for the class with some fields set; fields that are given as well go before them."""
    prefix_field: ClassVar[str] = ""
    """The field that takes what follows a colon in the name, as in ``timm:resnet18``."""

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        stem = cls.__module__.rpartition(".")[2].rstrip("_")
        if stem.replace("_", "") == cls.__name__.lower():
            cls.name = stem

    @classmethod
    def summary(cls) -> str:
        """Return the first sentence of the docstring."""
        return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def tree(self) -> dict[str, Any]:
        """Return the component as plain values: ``name`` first, then every field."""
        return {"name": self.name, **json.loads(self.model_dump_json())}

    def but(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, validated."""
        return type(self).model_validate({**self.model_dump(), **changes})


TIER_SIZES: dict[str, dict[str, int]] = {
    "fast": {"seeds": 4, "base_models": 0, "shadow_models": 0, "swap_models": 0, "halves": 1},
    "standard": {"seeds": 10, "base_models": 16, "shadow_models": 0, "swap_models": 0, "halves": 2},
    "rigorous": {"seeds": 32, "base_models": 64, "shadow_models": 48, "swap_models": 24, "halves": 2},
}
"""How many models each tier makes unless told otherwise; ``halves`` of the retrained ones, as many as seeds each."""


class Evaluate(Component):
    """What to measure, and on how many models."""

    name: ClassVar[str] = "evaluate"
    tier: Literal["fast", "standard", "rigorous"] = hyper("fast", "which metrics and audits; each tier holds those before it")
    seeds: PositiveInt = hyper(4, "training seeds: originals, retrained models and unlearned models, paired; 10 standard, 32 rigorous")
    retrained: NonNegativeInt = hyper(
        4,
        "retrained models: as many as seeds, twice as many from the standard tier on, where the second half is what audits compare "
        "with. With 0 no gap and no band can be measured",
    )
    base_models: NonNegativeInt = hyper(
        0, "models on random halves, for attacks that know each example's difficulty; 16 standard, 64 rigorous"
    )
    shadow_models: NonNegativeInt = hyper(
        0, "models of each method that forget random sets, for the privacy games; a multiple of 3; 48 rigorous"
    )
    swap_models: NonNegativeInt = hyper(0, "models of each method in pairs with exchanged requests, for the swap test; even; 24 rigorous")
    doses: tuple[Fraction, ...] = hyper(
        (), "shares of the forget set with which models are retrained, to see how small a leak is seen; rigorous: .05, .1, .25, .5"
    )
    margins: dict[str, PositiveFloat] = hyper(
        {}, "differences from retraining that are declared not to matter, by metric or audit and in its unit, before anything is measured"
    )
    downstream: Text = hyper("", "folder of pictures, one folder a class, to which features are transferred; from the standard tier on")
    block_examples: NonNegativeInt = hyper(
        0, "examples on which the outputs of all blocks are compared (CKA of every layer with every layer); 0 leaves it out"
    )
    batch_size: NonNegativeInt = hyper(0, "examples in a forward pass while scoring; 0 takes 64 on a processor, and 250 elsewhere")
    executor: Literal["auto", "processes", "vectorized"] = hyper(
        "auto", "how pools are trained: worker processes, many nets at once, or on a GPU whichever a short measurement finds faster"
    )
    workers: NonNegativeInt = hyper(0, "processes that train and unlearn; 0 takes as many as processors and memory allow")
    ray: Text = hyper("", "train and unlearn on a Ray cluster: auto joins the one that runs here, local starts one, host:port joins that")
    gpus: PositiveFloat = hyper(1.0, "share of a GPU that each run takes on a Ray cluster, where the device is one")
    retries: NonNegativeInt = hyper(2, "how often a run is tried again whose worker process or machine was lost")
    threads: PositiveInt = hyper(1, "threads of each process on a CPU; another number gives other rounding, and so other run folders")

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, values: Any) -> Any:
        """Fill what is open by the tier's sizes, so that a printed configuration says what runs."""
        if not isinstance(values, dict) or values.get("tier", "fast") not in TIER_SIZES:
            return values
        sizes = TIER_SIZES[values.get("tier", "fast")]
        filled = {"seeds": sizes["seeds"], **{key: value for key, value in values.items() if value is not None}}
        if isinstance(filled["seeds"], int):
            filled.setdefault("retrained", filled["seeds"] * sizes["halves"])
        for name in ("base_models", "shadow_models", "swap_models"):
            filled.setdefault(name, sizes[name])
        filled.setdefault("doses", (0.05, 0.1, 0.25, 0.5) if values.get("tier") == "rigorous" else ())
        doses = filled["doses"]
        if isinstance(doses, list | tuple) and (len(set(map(str, doses))) < len(doses) or any(dose in (0, 1) for dose in doses)):
            raise ValueError("the doses must be different shares above 0 and below 1; 0 is a retrained model and 1 an original")
        return filled


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


KINDS = {"data": "datasets", "model": "models", "train": "recipes", "forget": "scenarios", "method": "methods"}
"""The top-level keys that choose a component, and its kind."""
SEEDS = ("training_seed", "unlearning_seed", "forget_seed")
"""Seeds of a part of what is random: each is ``seed`` unless it is given."""
KEYS = (*KINDS, "addons", "evaluate", "seed", *SEEDS, "device", "out", "track")
"""All top-level keys, in the order in which they are printed."""
LISTS = {"addons": "add-on", "track": "tracker"}
"""The keys that choose any number of components, and what one of them is called."""


def build(kind: str, values: str | dict[str, Any], where: str, defaults: dict[str, Any] | None = None) -> Component:
    """Return the component that ``values`` describe.

    Args:
        kind: a kind of the registry.
        values: a name, or a mapping with ``name`` and fields.
        where: the key, for error messages.
        defaults: values for fields that ``values`` leave open, instead of the class's own.

    Raises:
        BadInput: unknown name, unknown field, wrong type, or out of range.
    """
    if isinstance(values, str):
        values = {"name": values}
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise BadInput(where, f"expected a name, got {values!r}.", f"Write {where}=NAME; `expunge list {kind}` lists the names.")
    head, _, tail = values["name"].partition(":")
    component = registry.find(kind, head, where)
    fields = {key: value for key, value in values.items() if key != "name" and (key, kind) != ("tuned", "methods")}
    if tail:
        if not component.prefix_field:
            raise BadInput(where, f"{head!r} takes nothing after a colon, got {tail!r}.", f"Write {where}={head}.")
        fields[component.prefix_field] = tail
    elif head in component.aliases and head in _choices(component):
        fields.setdefault(component.prefix_field, head)
    fields = {**component.presets.get(head, {}), **fields}
    return validate(component, {**(defaults or {}), **fields}, where)


def _choices(component: type[Component]) -> set[str]:
    """Return the words that the field after the colon may be; empty where it is free text or there is none."""
    field = component.model_fields.get(component.prefix_field)
    return {word for part in get_args(field.annotation) for word in get_args(part) if isinstance(word, str)} if field else set()


def validate(component: type[Component], fields: dict[str, Any], where: str) -> Component:
    """Return ``component(**fields)``, or raise a `BadInput` that names the first wrong field."""
    for key in fields:
        if key not in component.model_fields:
            owner = component.name or component.__name__
            allowed = nearest(key, component.model_fields) if component.model_fields else f"{owner} has no fields."
            raise BadInput(f"{where}.{key}", f"{owner} has no field {key!r}.", allowed)
    try:
        return component.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([where, *(str(part) for part in first["loc"] if not str(part).startswith("function-"))])
        raise BadInput(path, _explain(component, first)) from None


def _explain(component: type[Component], error: Any) -> str:
    field = component.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    found = repr(error["input"])
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        allowed, near = f"Allowed: {', '.join(choices)}.", nearest(str(error["input"]), choices)
        return f"got {found}. {allowed}" if near.startswith("Allowed") else f"got {found}. {near} {allowed}"
    if error["type"] == "missing" and field is not None:
        how = f" Write {component.name}:NAME." if component.prefix_field == error["loc"][0] else ""
        return f"is missing; expected {describe(field)}.{how}"
    expected = describe(field) if field is not None and len(error["loc"]) == 1 else ""
    return f"expected {expected}, got {found}." if expected else f"{error['msg'].lower()}, got {found}."


_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def describe(field: FieldInfo) -> str:
    """Return a field's type and range in words, for example ``a positive integer``."""
    return _describe(field.annotation, field.metadata)


def _describe(kind: Any, metadata: Iterable[Any] = ()) -> str:
    words = _TYPE_NAMES.get(kind) or _describe_type(kind)
    low, high = _bounds(metadata, ("gt", "ge"), max), _bounds(metadata, ("lt", "le"), min)
    if low == (0, "gt") and high is None:
        return words.replace("an integer", "a positive integer").replace("a number", "a positive number")
    if low is not None and high is not None:
        start = f"from {low[0]:g}" if low[1] == "ge" else f"above {low[0]:g}"
        return f"{words} {start} to {'' if high[1] == 'le' else 'below '}{high[0]:g}"
    if low is not None:
        return f"{words} {'of at least' if low[1] == 'ge' else 'above'} {low[0]:g}"
    if high is not None:
        return f"{words} {'of at most' if high[1] == 'le' else 'below'} {high[0]:g}"
    return words


def _bounds(metadata: Iterable[Any], sides: tuple[str, str], tightest: Any) -> tuple[float, str] | None:
    """Return the tightest limit on one side, and whether it is strict (gt, lt) or not (ge, le)."""
    found = [(getattr(item, side), side) for item in metadata for side in sides if getattr(item, side, None) is not None]
    if not found:
        return None
    value = tightest(limit for limit, _ in found)
    return value, sides[0] if (value, sides[0]) in found else sides[1]


def _describe_type(kind: Any) -> str:
    options = getattr(kind, "__args__", ())
    if hasattr(kind, "__metadata__"):
        return _describe(kind.__origin__, [part for item in kind.__metadata__ for part in getattr(item, "metadata", ())])
    if getattr(kind, "__origin__", None) is Literal:
        return "one of " + ", ".join(map(str, options))
    if type(None) in options:
        return " or ".join(_describe(option) for option in options if option is not type(None)) + " or nothing"
    if getattr(kind, "__origin__", None) in (list, tuple):
        return "a list"
    return getattr(kind, "__name__", str(kind)).replace("typing.", "")


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML 1.2 document: ``1e-3`` is a number, ``no`` and dates are texts, duplicate keys are refused."""
    from ruamel.yaml import YAML, SafeConstructor
    from ruamel.yaml.error import YAMLError

    class Constructor(SafeConstructor):
        """Reads a date as the text it is, as YAML 1.2 does."""

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        return yaml.load(text)
    except YAMLError as error:
        detail = " ".join(str(getattr(error, "problem", error)).split())
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise BadInput(where, f"not valid YAML{line}: {detail}.", "Check brackets, colons and indentation.") from None


def to_yaml(tree: Any) -> str:
    """Return a tree of plain values as a YAML 1.2 document."""
    from ruamel.yaml import YAML

    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = False, 10_000  # a path is not wrapped
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(tree, out)
    return out.getvalue()


def read_yaml(file: Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        BadInput: it cannot be read, or is no YAML in UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            str(file), f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text in UTF-8'}.", "Give a YAML file."
        ) from None
    return parse_yaml(text, str(file))


def read(file: Path | None, overrides: list[str] | tuple[str, ...] = (), base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the tree of a YAML file with ``key=value`` overrides applied from left to right.

    Choosing another component by name (``method=scrub``) drops the fields of the old one.

    Raises:
        BadInput: file missing or not YAML, an override without ``=``, or an unknown top-level key.
    """
    tree: dict[str, Any] = {key: as_choice(value) if key in KINDS else value for key, value in copy.deepcopy(base or {}).items()}
    if file is not None:
        if not file.is_file():
            raise BadInput(str(file), "no such file.", "Give a YAML file, or only key=value pairs.")
        loaded = read_yaml(file)
        if loaded is not None and not isinstance(loaded, dict):
            raise BadInput(str(file), f"expected keys and values, got {type(loaded).__name__}.")
        for key, value in (loaded or {}).items():
            assign(tree, str(key), value)
    for key, value in map(parse_override, overrides):
        assign(tree, key, value)
    return tree


def parse_override(word: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``.

    Raises:
        BadInput: there is no ``=``, or the value is not YAML.
    """
    key, equals, text = word.partition("=")
    if not equals:
        raise BadInput(word, "expected key=value.", "For example method=salun or method.lr=0.02.")
    return key.strip(), parse_yaml(text, key)


def assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a key, or a field of a component by a dotted key, in a tree.

    Raises:
        BadInput: no such key.
    """
    _assign(tree, key.split("."), value, key)


def is_file(value: Any) -> bool:
    """Return whether a choice is the name of a YAML file."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))


def method_file(path: str) -> dict[str, Any]:
    """Return ``method``, and ``addons`` where it has some, of a file such as `expunge tune` writes.

    Raises:
        BadInput: no such file, or it holds no method.
    """
    if not Path(path).is_file():
        raise BadInput("method", f"there is no file {path}.", "Give a name, or a file that `expunge tune` wrote.")
    loaded = read_yaml(Path(path))
    held = loaded if isinstance(loaded, dict) and "method" in loaded else {"method": loaded}
    if not isinstance(held["method"], dict) or set(held) - {"method", "addons"}:
        raise BadInput(path, "holds no method.", "Expected `method:` with a name and fields, and perhaps `addons:`.")
    return held


def as_choice(value: Any) -> Any:
    """Return a bare name as a mapping with ``name``, and anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


def _assign(tree: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    key = path[0]
    if key == "grid":
        raise BadInput(where, "a grid asks for many experiments.", "Run the file with `expunge bench`.")
    if key not in KEYS:
        raise BadInput(where, f"no such key {key!r}.", nearest(key, KEYS))
    if len(path) == 1:
        if key == "method" and is_file(value):
            tree.update(method_file(value))
            return
        tree[key] = as_choice(value) if key in KINDS else value
        return
    if key in LISTS:
        _assign_listed(tree, path, value, where)
        return
    if key not in KINDS and key != "evaluate":
        raise BadInput(where, f"{key!r} has no fields.", f"Write {key}=VALUE.")
    if len(path) > 2:
        raise BadInput(where, "too many dots.", f"Write {key}.FIELD=VALUE.")
    if path[1] == "name":
        tree[key] = as_choice(value)
        return
    node = tree.setdefault(key, {})
    if not isinstance(node, dict):
        raise BadInput(where, f"{key} is {node!r}, which has no fields.")
    if path[1] != "tuned":
        node.pop("tuned", None)  # with another value it is not what was tuned
    node[path[1]] = value


def as_choices(value: Any) -> Any:
    """Return one name or mapping as a list with it, and anything else as it is."""
    return [value] if isinstance(value, str | dict) else value


def _assign_listed(tree: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    key, word = path[0], LISTS[path[0]]
    if len(path) != 3:
        raise BadInput(where, f"expected {key}.NAME.FIELD=VALUE.")
    chosen = (as_choices(tree.get(key)) if key == "track" else tree.get(key)) or []
    for position, item in enumerate(chosen):
        item = dict(as_choice(item))
        if item.get("name") == path[1]:
            item[path[2]] = value
            tree[key] = [*chosen[:position], item, *chosen[position + 1 :]]
            return
    raise BadInput(where, f"the {word} {path[1]!r} is not chosen.", f"Write {key}=[{path[1]}] first.")


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
