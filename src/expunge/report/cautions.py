"""What a reader must know before the numbers, in words; page and terminal say the same."""

from typing import Any


def cautions(request: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Return one sentence for each reason to trust the numbers less: copies, few models, one seed, runs without a model."""
    found = []
    for where, count in request["duplicates"].items():
        if count:
            part, place = where.split("_in_")
            effect = " What those copies teach stays in every model, the retrained ones too." if place == "retain" else ""
            found.append(f"{count:,} {part} examples have an exact copy in the {place} set.{effect}")
    if request["retrained"] == 0:
        found.append("No retrained model: no gap is known, and no row is judged.")
    elif request["retrained"] < 3:
        models = "1 retrained model" if request["retrained"] == 1 else f"{request['retrained']} retrained models"
        found.append(f"Only {models}: there is no band to judge by, or a very wide one.")
    if request["seeds"] < 2:
        found.append("A single seed: no interval says how much another training run would change the numbers.")
    lost = [row["name"] for row in rows if row["status"] != "finished"]
    if lost:
        found.append(f"Not every run gave a model: {', '.join(lost)}. Their numbers, if any, are of the seeds that finished.")
    return found
