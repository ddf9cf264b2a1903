"""A finished comparison with its run folders, on nets that train in a blink."""

from pathlib import Path
from typing import Any

from expunge import config
from expunge.bench.compare import compare
from expunge.bench.request import Request, Row

WORDS = [
    "data=digits", "model=mlp", "train=tiny", "train.epochs=2", "evaluate.seeds=4", "evaluate.retrained=8", "evaluate.workers=1",
]  # fmt: skip
ROWS = (
    Row("salun", {"name": "salun", "epochs": 2}),
    Row("ssd", {"name": "ssd"}),
)


def comparison(out: Path, forget: str = "random", rows: tuple[Row, ...] = ROWS) -> tuple[list[dict[str, Any]], Path]:
    """Return the records of a comparison in a folder, and the folder of the result; run folders lie beside it."""
    tree = config.read(None, [*WORDS, f"out={out}"])
    chosen = {"random": {"name": "random", "fraction": 0.2}, "class": {"name": "class", "classes": [3]}}[forget]
    return compare([Request("Digits", {**tree, "forget": chosen}, rows)], lambda event: None, "expunge evaluate digits.yaml")
