"""YAML and key=value -> configuration: what is read, what is refused and in which words, and the fingerprint."""

import copy
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from expunge import config, registry
from expunge.config import (
    Component,
    Flag,
    Fraction,
    Integer,
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Text,
    experiment,
    fingerprint,
    hyper,
    parse_yaml,
    read,
    resolve,
    to_yaml,
    validate,
)
from expunge.errors import BadInput, nearest


class Salty(Component):
    """A method with a field of every type."""

    epochs: PositiveInt = 10
    seeds: NonNegativeInt = 0
    shift: Integer = 0
    lr: PositiveFloat = hyper(0.013, "learning rate", low=1e-4, high=0.1, log=True)
    decay: NonNegativeFloat = 0.0
    weight: Number = -1.0
    keep: Fraction = 0.5
    temperature: PositiveFloat = hyper(1.0, lt=10)
    exact: Flag = False
    label: Text = "x"
    order: Literal["zip", "mixed"] = "zip"
    patience: PositiveInt | None = None
    file: Path | None = None
    layers: tuple[int, ...] = ()
    scenario_defaults: ClassVar[dict] = {"class": {"epochs": 3}}


class Pepper(Component):
    """Another method."""

    lr: PositiveFloat = 0.1
    scenario_defaults: ClassVar[dict] = {}


class Thing(Component):
    """Anything else."""

    size: PositiveInt = 1
    detail: Text = ""
    prefix_field: ClassVar[str] = "detail"
    kind: ClassVar[str] = "class"


@pytest.fixture(autouse=True)
def world(monkeypatch):
    """A registry of known components, so that the words below do not depend on what ships."""
    table = {"methods": {"salty": Salty, "pepper": Pepper}}
    for kind in ("datasets", "models", "recipes", "scenarios", "addons"):
        table[kind] = {"thing": Thing, "other": type("Other", (Component,), {"__doc__": "Nothing to set."})}
    for parts in table.values():
        for name, component in parts.items():
            monkeypatch.setattr(component, "name", name)

    def find(kind, name, where=""):
        if name in table[kind]:
            return table[kind][name]
        raise BadInput(where or kind, f"no {kind.rstrip('s')} is called {name!r}.", nearest(name, table[kind]))

    monkeypatch.setattr(registry, "find", find)
    monkeypatch.setattr(experiment, "DEFAULTS", {"data": "thing", "model": "thing", "train": "thing"})


def tree(*overrides, file=None, base=None):
    return read(file, overrides, base)


def message(*overrides):
    with pytest.raises(BadInput) as caught:
        resolve(tree(*overrides))
    return str(caught.value)


# Words


@pytest.mark.parametrize(
    "overrides,expected",
    [
        ("method.epochs=2.5", "method.epochs: expected a positive integer, got 2.5."),
        ("method.epochs=0", "method.epochs: expected a positive integer, got 0."),
        ("method.epochs=-3", "method.epochs: expected a positive integer, got -3."),
        ("method.epochs=true", "method.epochs: expected a positive integer, got True."),
        ("method.epochs=ten", "method.epochs: expected a positive integer, got 'ten'."),
        ("method.epochs=1e1", "method.epochs: expected a positive integer, got 10.0."),
        ("method.epochs=", "method.epochs: expected a positive integer, got None."),
        ("method.epochs=[1]", "method.epochs: expected a positive integer, got [1]."),
        ("method.seeds=-1", "method.seeds: expected an integer of at least 0, got -1."),
        ("method.shift=0.5", "method.shift: expected an integer, got 0.5."),
        ("method.lr=0", "method.lr: expected a positive number, got 0."),
        ("method.lr=fast", "method.lr: expected a positive number, got 'fast'."),
        ("method.lr=no", "method.lr: expected a positive number, got 'no'."),
        ("method.lr=.nan", "method.lr: expected a positive number, got nan."),
        ("method.lr=.inf", "method.lr: expected a positive number, got inf."),
        ("method.lr=true", "method.lr: expected a number, got a yes/no value"),
        ("method.decay=-0.1", "method.decay: expected a number of at least 0, got -0.1."),
        ("method.keep=1.5", "method.keep: expected a number from 0 to 1, got 1.5."),
        ("method.keep=.nan", "method.keep: expected a number from 0 to 1, got nan."),
        ("method.temperature=10", "method.temperature: expected a number above 0 to below 10, got 10."),
        ("method.exact=1", "method.exact: expected true or false, got 1."),
        ("method.exact=yes", "method.exact: expected true or false, got 'yes'."),
        ("method.label=3", "method.label: expected a text, got 3."),
        ("method.order=zap", "method.order: got 'zap'. Did you mean 'zip'? Allowed: zip, mixed."),
        ("method.patience=0", "method.patience: expected a positive integer or nothing, got 0."),
        ("method.file=3", "method.file: expected a path or nothing, got 3."),
        ("method.lrate=1", "method.lrate: salty has no field 'lrate'."),
        ("method.ephocs=1", "method.ephocs: salty has no field 'ephocs'. Did you mean 'epochs'?"),
        ("method.a.b=1", "method.a.b: too many dots. Write method.FIELD=VALUE."),
        ("method=[salty]", "method: expected a name, got ['salty']. Write method=NAME; `expunge list methods` lists the names."),
        ("method=sallty", "method: no method is called 'sallty'. Did you mean 'salty'?"),
        ("methd=salty", "methd: no such key 'methd'. Did you mean 'method'?"),
        ("model=thing:resnet", None),
        ("model=other:resnet", "model: 'other' takes nothing after a colon, got 'resnet'. Write model=other."),
        ("model={name: other, size: 3}", "model.size: other has no field 'size'. other has no fields."),
        ("data.size=0", "data.size: expected a positive integer, got 0."),
        ("seed=-1", "seed: expected an integer of at least 0, got -1."),
        ("seed=1.0", "seed: expected an integer of at least 0, got 1.0."),
        ("seed=true", "seed: expected an integer of at least 0, got True."),
        ("seed.x=1", "seed.x: 'seed' has no fields. Write seed=VALUE."),
        ("device=0", "device: expected a text, got 0."),
        ("addons=thing", "addons: expected a list, got 'thing'. Write addons=[lora,sam]."),
        ("addons=[3]", "addons.0: expected a name, got 3. Write addons.0=NAME; `expunge list addons` lists the names."),
        ("addons=[{size: 3}]", "addons.0: expected a name, got {'size': 3}."),
        ("addons.thing.size=3", "addons.thing.size: the add-on 'thing' is not chosen. Write addons=[thing] first."),
        ("addons=[thing];addons.thing.size=x", "addons.thing.size: expected a positive integer, got 'x'."),
        ("evaluate=fast", "evaluate: expected fields, got 'fast'. Write evaluate.FIELD=VALUE, for example evaluate.tier=fast."),
        ("evaluate.tier=rigorous", None),
        ("evaluate.tier=[fast]", "evaluate.tier: got ['fast']. Did you mean 'fast'? Allowed: fast, standard, rigorous."),
        ("evaluate.tier=fats", "evaluate.tier: got 'fats'. Did you mean 'fast'? Allowed: fast, standard, rigorous."),
        ("evaluate.retrained=-1", "evaluate.retrained: expected an integer of at least 0, got -1."),
        ("method", "method: expected key=value. For example method=salun or method.lr=0.02."),
        ("=3", ": no such key ''."),
    ],
)
def test_words(overrides, expected):
    chosen = ["method=salty", *overrides.split(";")]
    if expected is None:
        resolve(tree(*chosen))
    else:
        assert message(*chosen).startswith(expected)


def test_fields_without_a_component():
    assert message("method.lr=1") == "method: expected a name, got {'lr': 1}. Write method=NAME; `expunge list methods` lists the names."
    assert resolve(tree("data.size=7")).data.size == 7, "the default component takes fields without being named"


def test_items_of_lists_are_checked():
    assert message("method=salty", "method.layers=[1, x]").startswith("method.layers.1: ")
    assert resolve(tree("method=salty", "method.layers=[1, 2]")).method.layers == (1, 2)


# Overrides


def test_left_to_right_and_dropping_fields_of_the_old_component():
    assert resolve(tree("method=salty", "method.lr=1", "method.lr=2")).method.lr == 2
    assert tree("method=salty", "method.lr=1", "method=pepper")["method"] == {"name": "pepper"}
    assert resolve(tree("method=salty", "method.epochs=3", "method=pepper")).method.tree() == {"name": "pepper", "lr": 0.1}
    assert tree("method=salty", "method.epochs=3", "method.name=pepper")["method"] == {"name": "pepper"}


def test_file_and_overrides(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("method: {name: salty, lr: 1e-3, epochs: 4}\nseed: 3\naddons: [thing, {name: other}]\nevaluate:\n  seeds: 2\n")
    found = resolve(tree("method.epochs=9", "addons.thing.size=5", "evaluate.tier=fast", file=path))
    assert (found.method.lr, found.method.epochs, found.seed) == (0.001, 9, 3)
    assert [addon.name for addon in found.addons] == ["thing", "other"] and found.addons[0].size == 5
    assert (found.evaluate.seeds, found.evaluate.tier) == (2, "fast")
    path.write_text("method: salty\nmethod.lr: 0.5\n")
    assert resolve(tree(file=path)).method.lr == 0.5
    path.write_text("")
    assert resolve(tree(file=path)).seed == 0


def test_bad_files(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        tree(file=tmp_path / "missing.yaml")
    path = tmp_path / "a.yaml"
    for text, words in (
        ("- a\n- b\n", "expected keys and values, got list"),
        ("a: [1\n", "not valid YAML in line"),
        ("seed: 1\nseed: 2\n", 'not valid YAML in line 2: found duplicate key "seed"'),
        ("a: !!int abc\n", "not valid YAML: invalid literal"),
        ("sead: 1\n", "no such key 'sead'. Did you mean 'seed'"),
        ("method: {name: salty, lr: 1, lr: 2}\n", 'found duplicate key "lr"'),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput) as caught:
            tree(file=path)
        assert words in str(caught.value)


def test_the_base_is_left_alone():
    base = {"method": {"name": "salty", "lr": 1.0}, "addons": [{"name": "thing", "size": 2}]}
    before = copy.deepcopy(base)
    found = tree("method.lr=2", "addons.thing.size=9", base=base)
    assert found["method"]["lr"] == 2 and found["addons"][0]["size"] == 9
    assert base == before


def test_nothing_means_the_default():
    found = resolve(tree("data=", "seed=", "addons=", "evaluate=", "device=null", "method=null"))
    assert found == resolve({}) and found.method is None


def test_defaults_by_scenario_yield_to_the_user():
    assert resolve(tree("method=salty")).method.epochs == 10
    assert resolve(tree("method=salty", "forget=thing")).method.epochs == 3
    assert resolve(tree("method=salty", "forget=thing", "method.epochs=8")).method.epochs == 8


def test_prefix_names():
    found = resolve(tree("model=thing:resnet18", "model.size=4")).model
    assert (found.detail, found.size) == ("resnet18", 4)


# YAML 1.2


@pytest.mark.parametrize(
    "text,value",
    [("1e-3", 0.001), ("1E5", 1e5), ("-2e-4", -2e-4), ("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("012", 12), ("0x10", 16),
     ("2020-01-01", "2020-01-01"), ("12:30", "12:30"), ("null", None), ("~", None), ("", None), ("[1, 2.5, a]", [1, 2.5, "a"]),
     ("'1'", "1"), ("a=b", "a=b")],
)  # fmt: skip
def test_values(text, value):
    found = parse_yaml(text, "x")
    assert found == value and type(found) is type(value)


AWKWARD = [
    "1e-3",
    "no",
    "null",
    "~",
    "",
    "true",
    "0x10",
    "2020-01-01",
    "- a",
    "a: b",
    "#x",
    "é",
    "two\nlines",
    " space ",
    "'",
    '"',
    "=",
    "12",
    ".5",
]


def test_yaml_round_trip():
    values = {
        "texts": AWKWARD,
        **{f"k{i}": text for i, text in enumerate(AWKWARD)},
        "numbers": [1e-7, 1e22, 0.1, -3, 0, 1.0, 2**40],
        "e": [],
        "d": {},
    }
    again = parse_yaml(to_yaml(values), "x")
    assert again == values
    assert [type(number) for number in again["numbers"]] == [type(number) for number in values["numbers"]]


# Round trip and fingerprint

CHOICES = (
    (),
    ("seed=0",),
    ("seed=5", "device=cpu", "out=2020-01-01"),
    ("method=salty", "method.lr=1e-7", "method.weight=-3", "method.label='1e-3'", "method.layers=[3, 1]", "method.file=a/b.txt"),
    ("method=salty", "forget=thing", "method.exact=true", "method.patience=4", "addons=[thing, other]", "addons.thing.detail='no'"),
    ("model=thing:a:b", "evaluate.seeds=9", "evaluate.retrained=0"),
)


@pytest.mark.parametrize("overrides", CHOICES)
def test_what_is_printed_runs(overrides, tmp_path):
    experiment = resolve(tree(*overrides))
    path = tmp_path / "printed.yaml"
    path.write_text(to_yaml(experiment.tree()), encoding="utf-8")
    again = resolve(read(path))
    assert again == experiment
    assert again.tree() == experiment.tree()
    assert fingerprint(again.tree()) == fingerprint(experiment.tree())


def test_fingerprint_is_stable():
    assert fingerprint({"a": 1, "b": [1.5, "x", None, True]}) == "19382923a583ec2c" == fingerprint({"b": [1.5, "x", None, True], "a": 1})


def test_fingerprint_changes_with_every_value_and_only_then():
    base = ("method=salty", "forget=thing", "addons=[thing]")
    changes = (
        "seed=1",
        "method.epochs=4",
        "method.lr=0.0130001",
        "method.label=y",
        "method.patience=1",
        "method.layers=[1]",
        "method=pepper",
    )
    changes += ("data.size=2", "addons=[]", "addons=[thing,other]", "addons.thing.size=2", "evaluate.seeds=5", "model=other", "forget=")
    prints = {change: fingerprint(resolve(tree(*base, change)).tree()) for change in changes}
    assert len({fingerprint(resolve(tree(*base)).tree()), *prints.values()}) == len(changes) + 1
    for same in ("seed=0", "method.epochs=3", "method.lr=1.3e-2", "method.weight=-1", "evaluate.tier=fast"):
        assert fingerprint(resolve(tree(*base, same)).tree()) == fingerprint(resolve(tree(*base)).tree())


def test_fingerprint_refuses_numbers_that_are_none():
    with pytest.raises(ValueError):
        fingerprint({"a": float("nan")})


# Components


def test_components_are_frozen_and_copied_with_validation():
    salty = validate(Salty, {"lr": 1}, "method")
    assert type(salty.lr) is float and salty.tree()["name"] == "salty"
    with pytest.raises(ValueError):
        salty.lr = 2
    assert salty.but(lr=2.0).lr == 2 and salty.lr == 1
    with pytest.raises(ValueError):
        salty.but(lr=-1)
    with pytest.raises(ValueError):
        salty.but(lrr=1)


def test_search_ranges():
    extra = Salty.model_fields["lr"].json_schema_extra
    assert extra == {"search": {"low": 1e-4, "high": 0.1, "log": True}}
    assert Salty.model_fields["epochs"].json_schema_extra is None
    assert Salty.summary() == "A method with a field of every type."


# The real registry


def test_every_component_has_valid_defaults_and_round_trips(monkeypatch):
    monkeypatch.undo()
    built = 0
    for key, kind in config.KINDS.items():
        for name in registry.names(kind):
            component = registry.find(kind, name)
            if any(field.is_required() for field in component.model_fields.values()):
                continue
            made = config.build(kind, name, key)
            again = config.build(kind, parse_yaml(to_yaml(made.tree()), key), key)
            assert made == again and made.name == name
            built += 1
    assert built > 20
    with pytest.raises(BadInput, match="^method: no method is called 'salum'. Did you mean 'salun'"):
        registry.find("methods", "salum", "method")
