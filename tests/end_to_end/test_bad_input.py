"""Every wrong input ends with one line that says what was found and how to mend it, status 2, and nothing written."""

import os
import sys

import numpy as np
import pytest
import torch

from expunge import cli

BASE = ["data=digits", "model=mlp", "train=tiny", "evaluate.seeds=2"]
RANDOM = ["forget=random", "forget.fraction=0.1"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Return a function that runs the command line in an empty folder and returns (status, standard error)."""

    def call(*words: str, out: str | None = None) -> tuple[int, str]:
        out = str(tmp_path / "out") if out is None else out
        monkeypatch.setattr(sys, "argv", ["expunge", *words, f"out={out}"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return call


CASES = {
    "unknown method": (["unlearn", *BASE, *RANDOM, "method=sallun"], ["method", "'sallun'", "Did you mean 'salun'?"]),
    "unknown add-on": (["unlearn", *BASE, *RANDOM, "method=salun", "addons=[lorra]"], ["addons", "Did you mean 'lora'?"]),
    "unknown data set": (["train", "data=digit"], ["data", "Did you mean 'digits'?"]),
    "unknown model": (["train", "data=digits", "model=smal_cnn"], ["model", "Did you mean 'small_cnn'?"]),
    "unknown recipe": (["train", "data=digits", "train=tinny"], ["train", "Did you mean 'tiny'?"]),
    "unknown key": (["train", "dta=digits"], ["dta", "Did you mean 'data'?"]),
    "unknown field": (["unlearn", *BASE, *RANDOM, "method=salun", "method.lrr=1"], ["method.lrr", "no field 'lrr'", "'lr'"]),
    "wrong type": (
        ["unlearn", *BASE, *RANDOM, "method=salun", "method.epochs=2.5"],
        ["method.epochs: expected a positive integer, got 2.5."],
    ),
    "text for a number": (
        ["unlearn", *BASE, *RANDOM, "method=salun", "method.lr=high"],
        ["method.lr: expected a positive number, got 'high'."],
    ),
    "out of range": (
        ["unlearn", *BASE, *RANDOM, "method=salun", "method.keep=1.5"],
        ["method.keep: expected a number from 0 to 1, got 1.5."],
    ),
    "add-on twice": (["unlearn", *BASE, *RANDOM, "method=salun", "addons=[lora,lora]"], ["addons=lora: is named more than once."]),
    "architecture left out": (["train", "data=digits", "model=timm"], ["model.architecture: is missing", "Write timm:NAME."]),
    "number beyond any": (
        ["unlearn", *BASE, "forget=ids", "forget.ids=[99999999999999999999]", "method=salun"],
        ["forget: the index 99999999999999999999 is out of range"],
    ),
    "negative seed": (["train", *BASE, "seed=-1"], ["seed: expected an integer of at least 0, got -1."]),
    "no equals sign": (["train", "seed"], ["seed", "no such file"]),
    "missing file": (["train", "no.yaml"], ["no.yaml", "no such file"]),
    "unknown tier": (
        ["evaluate", *BASE, *RANDOM, "method=salun", "evaluate.tier=fats"],
        ["evaluate.tier", "'fats'", "Did you mean 'fast'?"],
    ),
    "unknown metric": (["show", "metric", "loss_auk"], ["Did you mean 'loss_auc'?"]),
    "unknown kind": (["list", "metods"], ["Did you mean 'methods'?"]),
    "unknown verb": (["unlern"], ["No such command 'unlern'", "'unlearn'"]),
    "unknown option": (["list", "methods", "--jsn"], ["--jsn"]),
    "missing argument": (["list"], ["kind", "`expunge list --help`"]),
    "setting as an option": (["list", "methods", "--method.lr=3"], ["--method.lr", "Settings have no dashes: write method.lr=VALUE."]),
    "setting without a verb": (["unlern=salun"], ["A verb comes first", "`expunge --help`"]),
    "several classes in a word": (
        ["unlearn", *BASE, "forget=class:3,4", "method=salun"],
        ["forget.classes: digits has no class '3,4'", "'forget.classes=[A, B]'"],
    ),
    "forget nothing": (["unlearn", *BASE, "forget=random", "forget.count=0", "method=salun"], ["forget.count"]),
    "forget a share that is no example": (["unlearn", *BASE, "forget=random", "forget.fraction=0.0", "method=salun"], ["forget", "empty"]),
    "forget everything": (["unlearn", *BASE, "forget=random", "forget.fraction=1.0", "method=salun"], ["forget", "whole training set"]),
    "unknown class": (["unlearn", *BASE, "forget=class", "forget.classes=[cat]", "method=salun"], ["forget.classes", "'cat'"]),
    "class-only method": (["unlearn", *BASE, *RANDOM, "method=head_surgery"], ["method=head_surgery", "random"]),
    "no method": (["unlearn", *BASE, *RANDOM], ["method"]),
    "no request": (["unlearn", *BASE, "method=salun"], ["forget"]),
    "missing device": (["train", *BASE, "device=cuda:7"], ["device", "'cuda:7' is not there"]),
    "no device": (["train", *BASE, "device=gpu"], ["device", "'gpu'", "auto"]),
    "missing data": (["train", "data=cifar10", "data.root=nowhere"], ["nowhere"]),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_refused(name, run, tmp_path):
    words, expected = CASES[name]
    if words[0].partition("=")[0] in ("list", "show", "unlern"):
        status, error = _without_out(run, words)
    else:
        status, error = run(*words)
    assert status == 2
    for part in expected:
        assert part in error, error
    assert "?." not in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def _without_out(run, words):
    import contextlib
    import io

    captured = io.StringIO()
    sys.argv = ["expunge", *words]
    with contextlib.redirect_stderr(captured), pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, captured.getvalue()


def _ids(tmp_path, text: str) -> str:
    path = tmp_path / "ids.txt"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no numbers"),
        ("99999\n", "out of range"),
        ("-4\n", "-4"),
        ("1500\n", "test part"),
        ("12 12\n", "12"),
        ("one\n", "header (one) and no numbers"),
        ("1\none\n", "'one' is not a whole number"),
    ],
)
def test_wrong_ids_are_refused(text, expected, run, tmp_path):
    status, error = run("unlearn", *BASE, "forget=ids", f"forget.file={_ids(tmp_path, text)}", "method=salun")
    assert status == 2 and expected in error, error
    assert not (tmp_path / "out").exists()


def test_ids_in_validation_are_refused(run, tmp_path):
    from expunge.config import build
    from expunge.data.split import make_split

    data = build("datasets", "digits", "data").load("cpu")
    split = make_split(data, build("scenarios", "random", "forget"), 0)
    status, error = run("unlearn", *BASE, "forget=ids", f"forget.file={_ids(tmp_path, str(split.validation[0]))}", "method=salun")
    assert status == 2 and "validation" in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output_is_refused(run, tmp_path):
    tmp_path.chmod(0o500)
    status, error = run("train", *BASE)
    assert status == 2 and "cannot write" in error


def test_output_that_is_a_file_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, error = run("train", *BASE, out=str(tmp_path / "file"))
    assert status == 2 and "is a file" in error


def test_full_disk_is_refused(run, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(1, 1, 1 << 20))
    status, error = run("train", *BASE)
    assert status == 2 and "1 MB left" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x10\x00\x00\x00\x00\x00\x00\x00{broken"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_weights_are_refused(content, suffix, run, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    status, error = run("evaluate", "data=digits", "model=mlp", f"model.weights={path}")
    assert status == 2 and str(path) in error, error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_weights_of_another_shape_and_nan_are_refused(run, tmp_path):
    from expunge.config import build
    from expunge.models import checkpoint
    from expunge.models.model import create

    data = build("datasets", "digits", "data").load("cpu")
    model = create(build("models", "mlp", "model"), data, 0)
    checkpoint.save(model, tmp_path / "good.safetensors", {})
    status, error = run("evaluate", "data=digits", "model=small_cnn", f"model.weights={tmp_path / 'good.safetensors'}")
    assert status == 2 and "it lacks net.layers" in error, error
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    checkpoint_path = tmp_path / "nan.safetensors"
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, checkpoint_path)
    status, error = run("evaluate", "data=digits", "model=mlp", f"model.weights={checkpoint_path}")
    assert status == 2 and "finite" in error, error


def test_inputs_that_are_not_finite_are_refused(run, tmp_path):
    x = np.zeros((40, 1, 4, 4), np.float32)
    x[3, 0, 0, 0] = np.nan
    y = np.arange(40) % 2
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:10] * 0, y_test=y[:10])
    status, error = run("train", "data=tensors", f"data.file={tmp_path / 'data.npz'}", "model=mlp")
    assert status == 2 and "finite" in error, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["evaluate", "bench", "sequence", "tune"])
def test_a_file_that_is_no_text_is_said(run, tmp_path, verb):
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xfe\x00grid")
    status, err = run(verb, str(tmp_path / "picture.yaml"))
    assert status == 2 and "picture.yaml: cannot be read: it is no text in UTF-8. Give a YAML file." in err and err.count("\n") == 1
