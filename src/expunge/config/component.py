"""One thing that can be chosen by name, and how it is made of names and values."""

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from expunge import registry
from expunge.config.words import describe
from expunge.errors import BadInput, nearest


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
