"""YAML and key=value -> a study and the experiment that it is about."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge import config, registry
from expunge.config import Experiment
from expunge.errors import BadInput, nearest
from expunge.lab.lab import Lab

ALWAYS = ("seed", "device", "out")


@dataclass(frozen=True)
class Study:
    """A laboratory component and the experiment that it is about."""

    lab: Lab
    experiment: Experiment

    def tree(self) -> dict[str, Any]:
        """Return the whole configuration as plain values, which `read` reads back unchanged."""
        tree = self.experiment.tree()
        return {"lab": self.lab.tree()} | {key: tree[key] for key in (*self.lab.takes, *ALWAYS) if key in tree}


def read(name: str, file: Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Study:
    """Return the study of a name, a YAML file and ``key=value`` words.

    ``lab.FIELD`` sets a field of the study; the other keys are those of an experiment, as far as the study reads them.

    Raises:
        BadInput: an unknown name, key or field, a value out of range, or a file of another study.
    """
    component = registry.find("labs", name, "lab")
    assert issubclass(component, Lab)
    own: dict[str, Any] = {}
    tree = {key: config.as_choice(value) if key in config.KINDS else value for key, value in copy.deepcopy(component.defaults).items()}
    for key, value in [*_of_file(file), *map(config.parse_override, overrides)]:
        if key == "lab":
            own |= _fields(value, component.name)
        elif key.startswith("lab."):
            own[key.removeprefix("lab.")] = value
        else:
            _check_key(key.partition(".")[0], component)
            config.assign(tree, key, value)
    lab = config.validate(component, own, "lab")
    assert isinstance(lab, Lab)
    return Study(lab, config.resolve(tree))


def _of_file(file: Path | None) -> list[tuple[str, Any]]:
    if file is None:
        return []
    if not file.is_file():
        raise BadInput(str(file), "no such file.", "Give a YAML file, or only key=value pairs.")
    loaded = config.read_yaml(file) or {}
    if not isinstance(loaded, dict):
        raise BadInput(str(file), f"expected keys and values, got {type(loaded).__name__}.")
    return [(str(key), value) for key, value in loaded.items()]


def _fields(value: Any, name: str) -> dict[str, Any]:
    fields = dict(config.as_choice(value)) if isinstance(value, str | dict) else {"name": value}
    if fields.pop("name", name) != name:
        raise BadInput("lab", f"the file is about another study than {name!r}: {value!r}.", f"Write expunge lab {name} without it.")
    return fields


def _check_key(key: str, component: type[Lab]) -> None:
    allowed = ("lab", *component.takes, *ALWAYS)
    if key not in allowed:
        raise BadInput(key, f"the study {component.name} does not read it.", nearest(key, allowed))
