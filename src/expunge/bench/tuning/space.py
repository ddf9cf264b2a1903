"""Which hyper-parameters are searched, and where: what the classes declare, with the ranges that somebody gives instead."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.config import Component
from expunge.errors import BadInput, nearest


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter that is searched.

    Attributes:
        key: ``FIELD`` of the method, or ``addons.NAME.FIELD``.
        start: the value that it has without tuning.
        low: lower end; None for choices.
        high: upper end.
        log: whether the search is uniform in the logarithm.
        whole: whether only integers count.
        choices: allowed values instead of a range.
    """

    key: str
    start: Any
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    def describe(self) -> str:
        """Return the range in words."""
        if self.choices:
            return f"{self.key}: {', '.join(map(str, self.choices))} (from {self.start})"
        return f"{self.key}: {self.low:g} to {self.high:g}{' (log)' if self.log else ''} (from {self.start})"

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**vars(self), "choices": list(self.choices)}


Space = dict[str, Dimension]


def space_of(method: Component, addons: Sequence[Component], given: Mapping[str, Any]) -> Space:
    """Return what is searched, by key.

    Args:
        method: with the values to start from.
        addons: likewise.
        given: key -> ``{low, high, log}``, a list of choices, or None to leave the field as it is.

    Raises:
        BadInput: no such field, a range that is none, or nothing to search.
    """
    owners = {"": method, **{f"addons.{addon.name}.": addon for addon in addons}}
    fields = {prefix + name: (owner, name) for prefix, owner in owners.items() for name in type(owner).model_fields}
    for key in given:
        if key not in fields:
            raise BadInput(f"tune.space.{key}", f"{method.name} with its add-ons has no such field.", nearest(key, fields))
    found = {key: _dimension(key, owner, name, given) for key, (owner, name) in fields.items() if _is_searched(owner, name, key, given)}
    if not found:
        raise BadInput("method", f"{method.name} declares no range to search.", "Give one: tune.space.FIELD={low: , high: }.")
    return found


def _declared(owner: Component, name: str) -> dict[str, Any] | None:
    extra = type(owner).model_fields[name].json_schema_extra
    return extra.get("search") if isinstance(extra, dict) else None  # type: ignore[return-value]


def _is_searched(owner: Component, name: str, key: str, given: Mapping[str, Any]) -> bool:
    """Return whether a field is searched: one that is empty has no start, and is only where somebody says so."""
    if key in given:
        return given[key] is not None
    return _declared(owner, name) is not None and isinstance(getattr(owner, name), int | float)


def _dimension(key: str, owner: Component, name: str, given: Mapping[str, Any]) -> Dimension:
    start, asked, where = getattr(owner, name), given.get(key, _declared(owner, name)), f"tune.space.{key}"
    if isinstance(asked, list):
        return Dimension(key, start, choices=_choices(owner, name, asked, where))
    if not isinstance(asked, dict) or set(asked) - {"low", "high", "log"} or not {"low", "high"} <= set(asked):
        raise BadInput(
            where, f"expected low and high, or a list, got {asked!r}.", f"For example {where}={{low: 0.001, high: 0.1, log: true}}."
        )
    whole = _is_whole(type(owner).model_fields[name].annotation)
    low, high, log = asked["low"], asked["high"], bool(asked.get("log", False))
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)) or not low < high or (log and low <= 0):
        raise BadInput(where, f"{low!r} to {high!r} is no range.", "low must be below high, and above 0 where log is true.")
    for end in (low, high):
        _check(owner, name, round(end) if whole else end, where)
    if isinstance(start, int | float):  # what is given counts, so the range holds it
        low, high = min(low, start) if start > 0 or not log else low, max(high, start)
    return Dimension(key, start, float(low), float(high), log, whole)


def _choices(owner: Component, name: str, asked: list[Any], where: str) -> tuple[Any, ...]:
    if len(asked) < 2:
        raise BadInput(where, f"expected two choices or more, got {asked!r}.")
    for value in asked:
        if not isinstance(value, str | int | float | bool | None):
            raise BadInput(where, f"a choice is one number or word, got {value!r}.")
        _check(owner, name, value, where)
    start = getattr(owner, name)
    return tuple(asked) if start in asked else (start, *asked)


def _check(owner: Component, name: str, value: Any, where: str) -> None:
    try:
        owner.but(**{name: value})
    except ValueError:
        raise BadInput(where, f"{owner.name}.{name} cannot be {value!r}.", "`expunge show` says what is allowed.") from None


def _is_whole(annotation: Any) -> bool:
    parts = typing.get_args(annotation)
    return annotation is int or (bool(parts) and any(_is_whole(part) for part in parts) and not any(part is float for part in parts))


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Return a value for each key, proposed by a trial of Optuna."""
    found: dict[str, Any] = {}
    for key, one in space.items():
        if one.choices:
            found[key] = trial.suggest_categorical(key, list(one.choices))
        elif one.whole:
            assert one.low is not None and one.high is not None
            found[key] = trial.suggest_int(key, round(one.low), round(one.high), log=one.log)
        else:
            found[key] = trial.suggest_float(key, one.low, one.high, log=one.log)
    return found


def with_values(method: Component, addons: Sequence[Component], values: Mapping[str, Any]) -> tuple[Component, tuple[Component, ...]]:
    """Return the method and its add-ons with searched values in the place of their own."""

    def changed(owner: Component, prefix: str) -> Component:
        mine = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        return owner.but(**{key: value for key, value in mine.items() if "." not in key}) if mine else owner

    return changed(method, ""), tuple(changed(addon, f"addons.{addon.name}.") for addon in addons)
