"""When the margins of a row were declared, in words, and whether that was before anybody could see its results."""

from typing import Any

Plain = dict[str, Any]


def told(record: Plain, row: Plain) -> tuple[str, str]:
    """Return when the margins of a row were declared, and why they do not count; the second is empty where they do.

    Args:
        record: of a comparison with declared margins.
        row: of its table. Originals and retrained models have no declaration, because nothing is claimed about them.
    """
    if row["role"] != "unlearned":
        return "", ""
    held = (record.get("declared") or {}).get(row["name"])
    if held is None:
        return "nobody noted when", "it is not known whether its margins were declared before its results were there"
    there, models, time = held["models"]["there"], held["models"]["of"], _time(held["time"])
    seen = [f"{there} of its {models} models were there"] if there else []
    seen += [f"the method had been evaluated {_margins(other['margins'])} on {_time(other['time'])}" for other in held["before"]]
    if not seen:
        return f"declared on {time}, before any result of the method was in this store", ""
    return f"declared on {time}", f"its margins were declared when {' and '.join(seen)}: chosen after results, they do not count"


def _margins(margins: Plain) -> str:
    return f"with {', '.join(f'{name} ± {margin:g}' for name, margin in margins.items())}" if margins else "without margins"


def _time(text: str) -> str:
    """Return a time as people write it, UTC."""
    return f"{text[:10]} at {text[11:16]} UTC"
