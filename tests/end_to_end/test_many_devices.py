"""Several ranks that work on one model make the model of one process: started by torchrun, over gloo, on the processor."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import trained_net
from expunge import cli, registry
from expunge.engine import divided, parallel
from expunge.errors import BadInput

sys.path.insert(0, str(Path(__file__).parents[1] / "ranks"))
import world  # noqa: E402

FIVE = ("salun", "mgda", "fisher_forgetting", "scrub", "bad_teacher")
"""With a mask, a combiner that is not linear, a Fisher information, and teachers, two streams in one batch; BatchNorm in all of them."""


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def torchrun(ranks: int, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port()), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, cwd=cwd)


def play(folder: Path, ranks: int, cases: tuple[str, ...], *options: str) -> dict[str, tuple[dict, dict]]:
    """Return what came of each case: weights, and what was told."""
    folder.mkdir()
    if ranks == 1:
        world.main(folder, list(cases), torch.float64, resident=True)
    else:
        done = torchrun(ranks, world.__file__, *options, str(folder), *cases)
        assert done.returncode == 0, done.stderr[-3000:]
    return {case: (load_file(folder / f"{case}.safetensors"), json.loads((folder / f"{case}.json").read_text())) for case in cases}


def difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys() and one
    return max(float((value.double() - other[name].double()).abs().max()) for name, value in one.items())


def compare(alone: dict, together: dict, tolerance: float) -> dict[str, float]:
    """Return the largest difference of each case; what was counted is the same, and passes were divided."""
    found = {}
    for case, (state, told) in alone.items():
        its, heard = together[case]
        assert told.get("error") == heard.get("error"), case
        if "error" in told:
            continue
        assert told["counts"] == heard["counts"] and heard["passes"]["divided"] > 0, case
        found[case] = difference(state, its)
        assert found[case] < tolerance, (case, found[case])
    return found


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return play(folder / "one", 1, FIVE), play(folder / "two", 2, (*FIVE, "coupled:finetune", "dropout:finetune"), "--read")


def test_two_ranks_make_the_weights_of_one(five):
    """In float64, from pictures that each rank reads half of. Adam makes 1e-10 of the rounding of gradients that should be zero."""
    alone, together = five
    assert len(compare(alone, together, 1e-9)) == len(FIVE)
    for case in FIVE:
        assert together[case][1]["read"] < 0.8 * alone[case][1]["read"], "each rank reads its share"


def test_what_a_mask_freezes_does_not_move_by_a_bit(five):
    (alone, _), (together, _) = (side["salun"] for side in five)
    frozen = 0
    for name, value in trained_net().double().named_parameters():
        still = alone[name] == value
        assert torch.equal(still, together[name] == value), name
        frozen += int(still.sum())
    assert frozen > 500


def test_a_net_that_looks_across_the_batch_is_refused_and_one_that_draws_works(five):
    _, together = five
    assert "gives other numbers than a whole one" in together["coupled:finetune"][1]["error"]
    state, told = together["dropout:finetune"]
    assert "error" not in told and told["passes"]["divided"] > 20 and all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("verb", ["evaluate", "bench", "demo"])
def test_verbs_that_make_many_models_are_refused(verb, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["expunge", verb, "x.yaml"])
    with pytest.raises(BadInput, match=f"expunge {verb}.* makes many models"):
        cli.start.meet_ranks()


def test_one_process_is_left_alone():
    net = trained_net()
    kind = type(net)
    assert divided.divide(net) is net and type(net) is kind and parallel.ranks() == 1 and parallel.agreed(3) == 3
    assert [parallel.share(7), parallel.share(0)] == [slice(0, 7), slice(0, 0)]


def test_shares_cover_everything_once(monkeypatch):
    monkeypatch.setattr(parallel, "_ranks", 3)
    for count in range(12):
        found = [list(range(count))[parallel.share(count, of)] for of in range(3)]
        assert sum(found, []) == list(range(count)) and max(map(len, found)) - min(map(len, found)) <= 1


# Longer ones


ILL_POSED = {"scar", "scar_surrogate"}
"""Compute in float32 whatever the model is in."""


@pytest.mark.slow
def test_every_method_is_the_same_on_two_ranks(tmp_path):
    names = tuple(name for name in registry.names("methods") if name not in ILL_POSED)
    found = compare(play(tmp_path / "one", 1, names), play(tmp_path / "two", 2, names), 1e-6)
    assert len(found) == len(names)


@pytest.mark.slow
def test_addons_are_the_same_on_three_ranks(tmp_path):
    cases = tuple(f"salun+{name}" for name in ("asam", "ema", "last_k", "lora", "noise", "prune", "reweight", "second_order_sam"))
    compare(play(tmp_path / "one", 1, (*cases, "munba+sam")), play(tmp_path / "three", 3, (*cases, "munba+sam"), "--read"), 1e-9)


WORDS = ["data=digits", "model=small_cnn", "model.width=4", "train=tiny", "train.epochs=1", "train.lr=0.01", "forget=random"]


@pytest.mark.slow
def test_the_command_line_under_torchrun(tmp_path):
    """Float32, from new weights to unlearned ones: files are written once, and weights agree as far as rounding lets them."""
    words = [*WORDS, "method=salun", "method.epochs=1", "method.lr=0.002"]
    done = torchrun(2, "-m", "expunge", "unlearn", *words, "out=two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("weights: two/unlearn-") == 1
    subprocess.run([sys.executable, "-m", "expunge", "unlearn", *words, "out=one"], cwd=tmp_path, check=True, capture_output=True)
    for stage, tolerance in (("train", 1e-4), ("unlearn", 1e-3)):
        folders = [next(tmp_path.glob(f"{out}/{stage}-*")) for out in ("one", "two")]
        assert sorted(path.name for path in folders[0].iterdir()) == sorted(path.name for path in folders[1].iterdir())
        events = [[json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()] for folder in folders]
        assert events[0] == events[1] and events[1].count("start") == 1
        records = [json.loads((folder / "record.json").read_text()) for folder in folders]
        assert records[1]["identity"]["ranks"] == 2 and "ranks" not in records[0]["identity"]
        assert records[0]["cost"]["passes"] == records[1]["cost"]["passes"]
        weights = [load_file(folder / "weights.safetensors") for folder in folders]
        assert difference(*weights) < tolerance, (stage, difference(*weights))
    again = torchrun(2, "-m", "expunge", "unlearn", *words, "out=two", cwd=tmp_path)
    assert again.stdout == done.stdout and len(list(tmp_path.glob("two/unlearn-*"))) == 1
