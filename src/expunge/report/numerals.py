"""How numbers are printed everywhere."""


def typeset(number: str) -> str:
    """Return a formatted number with a minus sign that is one, and with no sign if it was rounded to zero."""
    return number.removeprefix("-").removeprefix("+") if float(number) == 0 else number.replace("-", "−")
