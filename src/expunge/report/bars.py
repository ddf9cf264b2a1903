"""The small bars in cells: a value with its interval over the band of the retrained models, in pixels."""

from typing import Any

BAR_WIDTH, BAR_HEIGHT = 72, 10
"""The band is the bar's middle third; each end is one band's width away from it."""


def bar(
    value: float, interval: tuple[float, float] | None, band: tuple[float, float] | None, inside: bool, free: str | None = None
) -> dict[str, Any] | None:
    """Return the pixel positions of a bar; None without a band or for a band without width.

    Args:
        value: of the cell.
        interval: of the value, low and high.
        band: low and high.
        inside: whether the value counts as inside.
        free: ``below`` or ``above``: the side where no value fails.
    """
    if band is None or band[1] <= band[0]:
        return None
    third = BAR_WIDTH / 3

    def place(number: float) -> float:
        return third + third * (number - band[0]) / (band[1] - band[0])

    def shown(number: float) -> float:
        return round(min(max(place(number), 4), BAR_WIDTH - 4), 2)

    at = place(value)
    shape = "left" if at < 0 else "right" if at > BAR_WIDTH else "dot" if inside else "diamond"
    whisker = (shown(interval[0]), shown(interval[1])) if interval and shape not in ("left", "right") else None
    sides = {"below": (0, third), "above": (2 * third, third)}
    return {"band": (third, third), "free": sides.get(free or ""), "at": shown(value), "shape": shape, "whisker": whisker}
