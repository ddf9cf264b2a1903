"""A class of digits, for real: which metric from inside the models catches the original, an edit of its head, and no retrained model."""

import numpy as np
import pytest

from expunge import config
from expunge.engine.architecture import Architecture
from expunge.metrics import default_metrics, evaluate
from expunge.models import checkpoint
from expunge.pools import evidence, inspection, stages
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace
from expunge.representation import controls

WORDS = ["data=digits", "model=mlp", "train=tiny", "forget=class", "forget.classes=[3]", "evaluate.tier=standard"]

OURS = "expunge.metrics.inside."


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> dict:
    """Return the table of the original, an edit of its head and a fifth retrained model beside a band of four."""
    out = tmp_path_factory.mktemp("inside")
    work = Workplace(config.resolve(config.read(None, [*WORDS, f"out={out}"])))
    originals, retrained = ([stage(work, number) for number in range(5)] for stage in (stages.original, stages.retrained))
    model = inspection._model(work, originals[0])
    streams = work.streams()
    architecture = Architecture(model, next(streams["forget"].batches(8)).x)
    parts = [streams["forget"], streams["retain"]]
    edited = controls.head_only_edit(model, inspection._model(work, retrained[0]), architecture, parts)
    folder = out / "edited"
    checkpoint.save(edited, folder / "weights.safetensors", {})
    evidence.save(folder / "logits.npy", evidence.collect(edited, work.data))
    head = Run(folder, {"status": "ok", "title": "edited", "weights": checkpoint.weights_hash(edited)})

    def view(run: Run, number: int):
        found = inspection.inspect(work, run, originals[number])
        return evidence.view(run.logits(), work.data, work.split, inspection=found)

    rows = {"identity": [view(originals[0], 0)], "head": [view(head, 0)], "fresh": [view(retrained[4], 4)]}
    seen = [view(run, number) for number, run in enumerate(retrained[:4])]
    metrics = [metric for metric in default_metrics("class", tier="standard") if type(metric).__module__.startswith(OURS)]
    return evaluate([view(originals[0], 0)], seen, rows, metrics, "class")


def caught(table: dict, row: str) -> set[str]:
    cells = next(found["cells"] for found in table["rows"] if found["name"] == row)
    return {name for name, cell in cells.items() if cell["in_band"] is False}


def test_the_original_is_caught(table):
    outputs = {"retain_only_area", "relearn_time", "neighborhood_knowledge"}
    assert outputs | {"linear_probe", "few_shot_relearning", "alignment_with_original"} <= caught(table, "identity")
    assert "retain_only_relearning" not in caught(table, "identity"), "it has nothing to regain, as the metric says"
    assert "alignment" not in caught(table, "identity"), "as the metric says"


def test_an_edit_of_the_head_is_caught_by_what_puts_a_new_head_on(table):
    assert {"linear_probe", "few_shot_relearning", "alignment_with_original"} <= caught(table, "head")
    assert not {"alignment", "membership_probe", "retain_only_area", "neighborhood_knowledge"} & caught(table, "head"), (
        "as these metrics say"
    )
    cells = {row["name"]: row["cells"] for row in table["rows"]}
    for name in ("linear_probe", "few_shot_relearning", "membership_probe", "alignment_with_original"):
        assert cells["head"][name]["value"] == pytest.approx(cells["identity"][name]["value"], abs=1e-6), name


def test_a_retrained_model_is_left_alone(table):
    judged = {name for name, cell in table["rows"][1]["cells"].items() if cell["in_band"] is not None}
    assert len(judged) >= 8 and len(caught(table, "fresh")) <= 2, caught(table, "fresh")
    assert next(row for row in table["rows"] if row["name"] == "fresh")["verdict"].startswith("no evidence")


def test_what_does_not_apply_is_named(table):
    assert set(table["skipped"]) == {"nearest_neighbor_transfer", "layer_alignment"}
    assert all(np.isfinite(cell["value"]) for row in table["rows"] for cell in row["cells"].values())
