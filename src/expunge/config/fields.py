"""Types of fields, and how a hyper-parameter is declared."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


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
