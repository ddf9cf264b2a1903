"""Streams of requests, and the ledger, the records and their verification, as a user types them."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from expunge import cli, config
from expunge.data.split import Split
from expunge.errors import BadInput, RunFailed
from expunge.pools import stages
from expunge.report import drift as drawn
from expunge.report import html
from expunge.requests import drift, record, serve, verify
from expunge.requests.ledger import Ledger

SMALL = ["data=digits", "model=mlp", "model.hidden=[16]", "train=tiny", "train.epochs=3", "evaluate.workers=1"]


def call(*words: str) -> int:
    """Run the command line in this process and return its status."""
    before, sys.argv = sys.argv, ["expunge", *words]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


# A stream of requests


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """Return the record and the folder of a stream of three requests, with a method that diverges in it."""
    out = tmp_path_factory.mktemp("stream")
    grid = out / "grid.yaml"
    grid.write_text("grid:\n  method: [{name: finetune, epochs: 1}, {name: gradient_ascent, lr: 1.0e+30, epochs: 2}]\n")
    words = [*SMALL, "forget=random", "evaluate.seeds=3", f"out={out}"]
    asked = drift.read(grid, words, 3, "fresh")
    records, folder = drift.serve(asked, lambda event: None, "typed")
    return records[0], folder, asked


def test_a_stream_is_measured_after_every_request_on_what_is_new_and_what_is_earlier(stream):
    found, folder, _ = stream
    sizes = [step["new"] for step in found["steps"]]
    assert found["request"]["requests"] == sizes and [step["so_far"] for step in found["steps"]] == np.cumsum(sizes).tolist()
    assert [sorted(step["tables"]) for step in found["steps"]] == [["all", "new"], ["all", "earlier", "new"], ["all", "earlier", "new"]]
    for step in found["steps"]:
        rows = {row["name"]: row for row in step["tables"]["all"]["rows"]}
        assert set(rows) == {"original", "retrained", *found["rows"]}
        cell = rows["finetune"]["cells"]["unlearning_accuracy"]
        assert len(cell["per_seed"]) == 3 and cell["band"] and cell["n"] == step["so_far"]
        new = next(row for row in step["tables"]["new"]["rows"] if row["name"] == "finetune")["cells"]["loss_auc"]
        assert new["n"] <= step["new"]
        assert 0 < step["cost"]["finetune"]["passes_ratio"] < 1
    passes = [step["cost"]["finetune"]["passes"] for step in found["steps"]]
    assert passes == sorted(passes) and passes[0] < passes[1]
    trend = found["rows"]["finetune"]["trends"]["all/test_accuracy"]
    assert trend["low"] <= trend["per_request"] <= trend["high"] and trend["seeds"] == 3
    assert 0 < trend["p_value"] <= trend["p_holm"] <= 1
    assert json.loads((folder / "record.json").read_text()) == [found]


def test_what_diverges_is_a_row_and_what_comes_after_it_too(stream):
    found, _, _ = stream
    (lost,) = (label for label in found["rows"] if label != "finetune")
    states = [next(row for row in step["tables"]["all"]["rows"] if row["name"] == lost) for step in found["steps"]]
    assert states[0]["status"] == "diverged" and states[1]["status"] == states[2]["status"] == "failed"
    assert "no model to start from" in states[1]["reason"] and not states[1]["cells"]
    assert found["rows"][lost]["verdict"].startswith("fails: diverged at request 1 of 3") and found["steps"][2]["cost"][lost] is None
    assert found["rows"]["finetune"]["verdict"].startswith(("no evidence of failure", "fails: "))


def test_a_stream_that_is_there_is_looked_up(stream):
    found, folder, asked = stream
    stamps = {path: path.stat().st_mtime_ns for path in folder.parent.glob("*/record.json")}
    again, same = drift.serve(asked, lambda event: None, "typed again")
    assert same == folder and again == [found] and {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_table_csv_and_page_hold_the_numbers(stream):
    from rich.console import Console

    found, folder, _ = stream
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(drawn.table(found))
    text = console.export_text()
    assert "UA, earlier" in text and "diverged" in text and "request" in text and "3 requests of" in text
    lines = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    held = next(
        line
        for line in lines
        if (line["request"], line["scope"], line["row"], line["metric"]) == ("2", "earlier", "finetune", "unlearning_accuracy")
    )
    table = found["steps"][1]["tables"]["earlier"]
    cell = next(row for row in table["rows"] if row["name"] == "finetune")["cells"]["unlearning_accuracy"]
    assert float(held["value"]) == cell["value"] and float(held["band_high"]) == cell["band"]["high"]
    assert {line["kind"] for line in lines} >= {"metric", "cost"} and any(line["status"] == "diverged" for line in lines)
    page = (folder / "report.html").read_text()
    assert "Content-Security-Policy" in page and page.count('class="drift-figure"') == len(drawn.figures(found)) == 9
    curve = next(figure for figure in drawn.figures(found) if "earlier" in figure["title"])
    assert curve["data"][0]["name"] == "retrained models" and curve["data"][1]["x"] == [2, 3]
    assert page.count("H4sI") == 1 and len(page) < 3e6, "Plotly is packed"
    allowed = re.findall("sha256-([A-Za-z0-9+/=]+)", page)
    scripts = [html.plotly(), re.findall("<script>(.*?)</script>", page, re.DOTALL)[-1]]
    assert allowed == [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]


def test_declared_margins_are_refused_and_not_passed_over(tmp_path):
    words = [*SMALL, "forget=random", "method=finetune", "evaluate.margins={RA: 1.0}", f"out={tmp_path}"]
    with pytest.raises(BadInput, match="evaluate.margins: a stream of requests is not judged by declared margins"):
        drift.serve(drift.read(None, words, 2, "fresh"), lambda event: None, "typed")
    assert list(tmp_path.iterdir()) == []
    drift._check_margins(drift.read(None, [*words, "evaluate.margins={}"], 2, "fresh"))


def test_a_trend_beyond_its_interval_is_said(stream):
    found, _, _ = stream
    rows = {
        **found["rows"],
        "finetune": {
            **found["rows"]["finetune"],
            "trends": {"earlier/unlearning_accuracy": dict(per_request=-1.5, low=-2.0, high=-1.0, seeds=3, p_value=0.01, p_holm=0.01)},
        },
    }
    text = drawn.fragment({**found, "rows": rows})
    assert "distance to retraining changes with each request: UA (the earlier forgotten examples) −1.5 a request (−2.0 to −1.0)" in text


def test_slopes_that_chance_over_all_of_them_explains_are_not_said():
    """Of eight slopes without any drift one interval leaves out 0 in a third of cases."""
    made, told = np.random.default_rng(0), 0
    names = [(scope, name) for scope, held in drift.TRENDS.items() for name in held]
    for _ in range(200):
        tables = {scope: [] for scope in drift.TRENDS}
        for scope, _ in names * 3:
            if len(tables[scope]) < 3:
                cells = {name: {"per_seed": made.normal(size=4).tolist()} for name in drift.TRENDS[scope]}
                heads = {name: {"pair": True} for name in cells}
                tables[scope].append({"rows": [{"name": "m", "cells": cells}], "metrics": heads})
        entries = [{"tables": {scope: held[number] for scope, held in tables.items()}} for number in range(3)]
        found = drift._trends("m", entries)
        assert len(found) == len(names) == 8
        told += any(trend["p_holm"] < drawn.LEVEL for trend in found.values())
    assert told / 200 <= 0.09
    assert drift._p_value([1.0, 1.0, 1.0]) == 1.0


def test_each_request_draws_anew_what_a_method_draws(served):
    seeds = [record.read(folder)["method"]["seed"] for folder in folders(served)]
    assert len(set(seeds)) == 2, "noise that is drawn twice cancels in the difference of the two models"


def test_text_of_users_is_escaped_in_the_page(stream):
    found, _, _ = stream
    planted = {**found, "title": "<script>alert(1)</script>"}
    assert "<script>alert" not in drawn.fragment(planted) and "&lt;script&gt;" in drawn.fragment(planted)


def test_cumulative_splits_ask_for_all_so_far(tmp_path):
    words = [*SMALL, "forget=random", "method=finetune", "method.epochs=1", f"out={tmp_path}"]
    for splits, sizes in (("fresh", [44, 43, 43]), ("cumulative", [44, 87, 130])):
        (asked,) = drift.read(None, words, 3, splits)
        assert [len(step.request.forget) for step in asked.steps()] == sizes
        assert [len(step.new.forget) for step in asked.steps()] == [44, 43, 43]
    for wrong, where in ((("5", "stale"), "--splits"), (("0", "fresh"), "--requests")):
        with pytest.raises(BadInput, match=where):
            drift.read(None, words, int(wrong[0]), wrong[1])


# Ledger, record, verification


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return a folder with a ledger of two served requests and a waiting one."""
    out = tmp_path_factory.mktemp("served")
    (out / "requests.csv").write_text("ticket,id\nT-1,3\nT-1,1024\nT-2,77\n")
    assert call("ledger", str(out / "ledger.jsonl"), f"--add={out / 'requests.csv'}", "--by=letter 5") == 0
    assert call("ledger", str(out / "ledger.jsonl"), f"--add={out / 'requests.csv'}", "--by=letter 5") == 0, "typed twice"
    assert call("serve", *SMALL, "method=finetune", "method.epochs=1", f"out={out}", f"--ledger={out / 'ledger.jsonl'}") == 0
    return out


def folders(out):
    known = Ledger(out / "ledger.jsonl").requests()
    return [out / known[name].facts["folder"] for name in ("T-1", "T-2")]


def checks(folder, **more):
    return {check.name: check.passed for check in verify.verify(folder, **more)}


def test_each_request_starts_from_the_model_of_the_one_before(served):
    first, second = (record.read(folder) for folder in folders(served))
    assert first["deleted"]["keys"] == [3, 1024] and second["deleted"]["keys"] == [77] and len(second["deleted"]["content"]["77"]) == 32
    assert second["weights"]["before"] == first["weights"]["after"] and second["weights"]["request_before"] == "T-1"
    assert second["split"]["forget"] == 1 and first["evidence"]["kind"] == "none"
    assert "letter" not in (folders(served)[0] / "audit.json").read_text(), "who asked stands in the ledger alone"
    for folder in folders(served):
        found = checks(folder, ledger=served / "ledger.jsonl", with_data=True)
        assert all(found.values()) and len(found) >= 16, found


def test_verify_prints_what_is_shown_and_what_is_not(served, capsys):
    folder = folders(served)[1]
    assert call("verify", str(folder), f"--ledger={served / 'ledger.jsonl'}") == 0
    said = capsys.readouterr().out
    assert "✓ chain: it starts from the weights that the request before left" in said
    assert "This shows:" in said and "It does not show:" in said and "no audit of weights alone" in said
    assert call("verify", str(served / "ledger.jsonl")) == 0 and "6 lines follow each other" in capsys.readouterr().out
    assert call("ledger", str(served / "ledger.jsonl")) == 0 and "served" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--data", "--write=T-9", "--ledger"])
def test_what_is_about_a_run_folder_is_not_asked_of_a_ledger(served, capsys, option):
    ledger = served / "ledger.jsonl"
    assert call("verify", str(ledger), f"{option}={ledger}" if option == "--ledger" else option) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{option.partition('=')[0]}: is about the run folder" in said and "Leave it out, or give the folder" in said


def test_verify_takes_a_head_that_was_noted(served, capsys):
    ledger, folder = served / "ledger.jsonl", folders(served)[1]
    noted = Ledger(ledger).entries()[3].hash
    assert call("verify", str(ledger), f"--head={noted}") == 0
    assert "✓ head: line 4 has the hash that was noted: nothing up to it was changed since; 2 lines were added" in capsys.readouterr().out
    assert call("verify", str(folder), f"--ledger={ledger}", f"--head={noted}") == 0
    assert call("verify", str(folder), f"--ledger={ledger}", f"--head={'0' * 63}1") == 1 and "✕ head" in capsys.readouterr().out
    assert call("verify", str(folder), f"--head={noted}") == 2 and "Add --ledger=FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change", "fails"),
    [
        ("config.yaml", lambda text: text.replace("digits", "digitz"), {"config.yaml"}),
        ("split.json", lambda text: text.replace('"seed": 0', '"seed": 1'), {"split.json", "split"}),
        ("audit.json", lambda text: text.replace("1024", "1025"), {"record", "deleted keys"}),
        ("audit.json", lambda text: text.replace('"method"', '"madness"'), {"record", "completeness"}),
        ("record.json", None, {"record.json"}),
    ],
)
def test_what_was_changed_is_found(served, tmp_path, file, change, fails):
    folder = tmp_path / "copy"
    shutil.copytree(folders(served)[0], folder)
    if change is None:
        (folder / file).unlink()
    else:
        text = (folder / file).read_text()
        assert change(text) != text
        (folder / file).write_text(change(text))
    found = checks(folder)
    assert {name for name, passed in found.items() if passed is False} >= fails
    assert found["weights"] and found["weights.safetensors"]
    assert call("verify", str(folder)) == 1


def test_weights_that_were_exchanged_are_found(served, tmp_path):
    first, second = folders(served)
    folder = tmp_path / "copy"
    shutil.copytree(first, folder)
    shutil.copy(second / "weights.safetensors", folder / "weights.safetensors")
    found = checks(folder)
    assert found["weights"] is False and found["weights.safetensors"] is False


def test_a_ledger_that_was_cut_off_is_found_by_the_record(served, tmp_path):
    cut = tmp_path / "ledger.jsonl"
    cut.write_bytes(b"".join((served / "ledger.jsonl").read_bytes().splitlines(keepends=True)[:2]))
    found = checks(folders(served)[1], ledger=cut)
    assert found["place"] is False and found["request"] is False


@pytest.mark.parametrize("name", ["weights", "deleted", "split", "files", "method", "code", "request"])
def test_a_record_of_another_shape_is_a_finding_and_no_crash(served, tmp_path, name):
    folder = tmp_path / "copy"
    shutil.copytree(folders(served)[1], folder)
    held = json.loads((folder / "audit.json").read_text())
    for changed in ({key: value for key, value in held.items() if key != name}, {**held, name: 3}):
        (folder / "audit.json").write_text(json.dumps(changed))
        found = checks(folder, ledger=served / "ledger.jsonl", with_data=True)
        assert found["record"] is False and found["completeness"] is False


def resealed(folder, **changes):
    """Write a record anew with a hash that fits, as a forger does."""
    held = {**json.loads((folder / "audit.json").read_text()), **changes}
    held["hash"] = record.plain_hash(held)
    (folder / "audit.json").write_text(json.dumps(held))


def test_a_record_that_names_fewer_files_or_another_run_is_found(served, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(folders(served)[1], folder)
    whole = record.read(folder)
    resealed(folder, files={name: value for name, value in whole["files"].items() if name != "config.yaml"})
    assert checks(folder)["completeness"] is False and checks(folder)["record"] is True
    resealed(folder, files=whole["files"], method={**whole["method"], "seed": 5})
    assert {name for name, passed in checks(folder).items() if not passed} == {"run"}


def test_keys_of_a_request_before_that_are_kept_again_are_found(served, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(folders(served)[1], folder)
    assert checks(folder, ledger=served / "ledger.jsonl")["earlier keys"] is True
    split = Split.load(folder / "split.json")
    replace(split, retain=np.sort(np.append(split.retain, 3))).save(folder / "split.json")
    assert checks(folder, ledger=served / "ledger.jsonl")["earlier keys"] is False


def test_a_record_is_not_written_for_a_split_or_weights_that_are_not_the_runs(served, tmp_path):
    first, second = folders(served)
    for name in ("split.json", "weights.safetensors"):
        folder = tmp_path / name
        shutil.copytree(first, folder)
        shutil.copy(second / name, folder / name)
        with pytest.raises(BadInput, match="is not that of the run"):
            record.write(folder, "T-9", [3])


def test_the_next_request_does_not_start_from_exchanged_weights(served, tmp_path):
    out = tmp_path / "moved"
    shutil.copytree(served, out)
    first, second = folders(out)
    shutil.copy(first / "weights.safetensors", second / "weights.safetensors")
    Ledger(out / "ledger.jsonl").receive("T-3", [9])
    with pytest.raises(BadInput, match="is not the one of the ledger"):
        serve.serve(Ledger(out / "ledger.jsonl"), config.read(None, [*SMALL, "method=finetune", f"out={out}"]), lambda event: None)


def test_two_commands_at_once_serve_one_after_the_other(tmp_path):
    """Both would write the record of one request, of which the ledger could name one alone."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.receive("T-1", [3])
    tree, heard, ended = config.read(None, [*SMALL, "method=finetune", "method.epochs=1", f"out={tmp_path}"]), [], []

    def second():
        with pytest.raises(BadInput, match="no request is waiting"):
            serve.serve(ledger, tree, lambda event: heard.append(event["event"]))
        ended.append(True)

    other = threading.Thread(target=second)

    def report(event):
        if event["event"] == "start" and not other.ident:
            other.start()
            other.join(0.5)

    (done,) = serve.serve(ledger, tree, report)
    other.join(30)
    assert ended and heard == ["waiting"] and all(checks(done.folder, ledger=ledger.path).values())


def test_a_run_from_a_weights_file_is_compared_by_its_tensors(tmp_path):
    words = [*SMALL, f"out={tmp_path}"]
    assert call("train", *words) == 0
    weights = next(tmp_path.glob("train-*/weights.safetensors"))
    words += [f"model.weights={weights}", "forget=ids", "forget.ids=[3]"]
    for method, changed in (("original", False), ("finetune", True)):
        assert call("unlearn", *words, f"method={method}") == 0
        folder = next(path.parent for path in tmp_path.glob("unlearn-*/record.json") if not (path.parent / "audit.json").exists())
        assert call("verify", str(folder), "--write=T-1") == (0 if changed else 1)
        assert checks(folder)["change"] is changed and len(record.read(folder)["weights"]["before"]) == 64


def test_nothing_is_waiting_and_a_lost_model_are_said(served, tmp_path):
    ledger, tree = Ledger(served / "ledger.jsonl"), config.read(None, [*SMALL, "method=finetune", f"out={tmp_path}"])
    with pytest.raises(BadInput, match="no request is waiting"):
        serve.serve(ledger, tree, lambda event: None)
    with pytest.raises(BadInput, match="Leave forget out"):
        serve.serve(ledger, {**tree, "forget": {"name": "random"}}, lambda event: None)
    (tmp_path / "ledger.jsonl").write_bytes(ledger.path.read_bytes())
    moved = Ledger(tmp_path / "ledger.jsonl")
    moved.receive("T-3", [9])
    with pytest.raises(BadInput, match="its model is not in"):
        serve.serve(moved, tree, lambda event: None)


def test_a_mistyped_file_is_no_finding_and_an_empty_one_no_ledger(served, tmp_path, capsys):
    ledger = Ledger(served / "ledger.jsonl")
    folder = served / ledger.served()[0].facts["folder"]
    assert call("verify", str(tmp_path / "nothing")) == 2 and "no such folder or file" in capsys.readouterr().err
    assert call("verify", str(folder), f"--ledger={tmp_path / 'nope.jsonl'}") == 2 and "there is no file" in capsys.readouterr().err
    assert call("verify", str(tmp_path)) == 2 and "--write=REQUEST" in capsys.readouterr().err
    for content in ("", "garbage"):
        (tmp_path / "empty.jsonl").write_text(content)
        assert call("verify", str(tmp_path / "empty.jsonl")) == 1 and "holds no whole line" in capsys.readouterr().out


def test_a_request_for_what_is_not_there_names_itself(tmp_path, capsys):
    (tmp_path / "asked.csv").write_text("id,request\n99999,T-404\n")
    ledger = tmp_path / "ledger.jsonl"
    assert call("ledger", str(ledger), f"--add={tmp_path / 'asked.csv'}", "--by=letter") == 0
    words = [*SMALL, "train.epochs=1", "method=finetune", "method.epochs=1", f"out={tmp_path / 'runs'}", f"--ledger={ledger}"]
    assert call("serve", *words) == 2
    said = capsys.readouterr().err
    assert "request T-404" in said and "99999" in said and "--withdraw=T-404" in said


def test_no_request_is_served_before_all_of_them_are_known_to_fit(tmp_path, capsys):
    path = tmp_path / "ledger.jsonl"
    for name, keys in (("T-17", [3]), ("T-18", [77]), ("T-20", [5, 99999]), ("T-21", [88888])):
        Ledger(path).receive(name, keys)
    words = [*SMALL, "train.epochs=1", "method=finetune", "method.epochs=1", f"out={tmp_path / 'runs'}", f"--ledger={path}"]
    assert call("serve", *words) == 2
    out, err = capsys.readouterr()
    assert "request T-20" in err and "99999" in err and "--withdraw=T-20" in err and not out
    assert [known.status for known in Ledger(path).requests().values()] == ["waiting"] * 4 and not (tmp_path / "runs").exists()


def test_what_was_served_is_said_as_it_happens_also_before_an_error(tmp_path, capsys, monkeypatch):
    path, said = tmp_path / "ledger.jsonl", []
    for name, keys in (("T-17", [3]), ("T-18", [77]), ("T-19", [5])):
        Ledger(path).receive(name, keys)
    unlearn = stages.unlearn

    def failing(work, start, seed, name, *arguments, **more):
        said.append(capsys.readouterr().out)
        if name == "T-19":
            raise RunFailed("no room")
        return unlearn(work, start, seed, name, *arguments, **more)

    monkeypatch.setattr(stages, "unlearn", failing)
    words = [*SMALL, "train.epochs=1", "method=finetune", "method.epochs=1", f"out={tmp_path / 'runs'}", f"--ledger={path}"]
    assert call("serve", *words) == 1
    out, err = capsys.readouterr()
    assert not said[0] and said[1].startswith("T-17: 1 examples, weights ") and said[2].startswith("T-18: ") and "no room" in err
    assert all(Path(line.split(", record ")[1].strip()).is_file() for line in said[1:])
    assert out.splitlines() == [f"last line of the ledger: {Ledger(path).head}"]


def test_a_request_that_diverges_is_marked_and_tried_again(tmp_path, capsys):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).receive("T-1", [3, 4, 5])
    words = [*SMALL, f"out={tmp_path}", f"--ledger={path}"]
    assert call("serve", *words, "method=gradient_ascent", "method.lr=1e30", "method.epochs=3") == 1
    assert "the requests after it wait" in capsys.readouterr().err
    assert Ledger(path).requests()["T-1"].status == "failed"
    assert call("serve", *words, "method=finetune", "method.epochs=1") == 0
    assert Ledger(path).requests()["T-1"].status == "served"
    assert capsys.readouterr().out.splitlines()[-1] == f"last line of the ledger: {Ledger(path).head}"


def test_a_run_of_unlearn_gets_a_record(tmp_path, capsys):
    assert call("unlearn", *SMALL, "forget=ids", "forget.ids=[3,9]", "method=finetune", "method.epochs=1", f"out={tmp_path}") == 0
    folder = next(tmp_path.glob("unlearn-*"))
    assert call("verify", str(folder)) == 2 and "--write" in capsys.readouterr().err
    assert call("verify", str(folder), "--write=T-5") == 0 and record.read(folder)["deleted"]["keys"] == [3, 9]
    assert call("verify", str(folder), "--write=T-6") == 2, "a record is written once"


def test_evidence_is_named_by_its_hash(stream):
    _, folder, _ = stream
    found = record.evidence_of(folder)
    assert len(found["sha256"]) == 64 and found["file"].startswith("sequence-") and "finetune" in next(iter(found["verdicts"].values()))
    with pytest.raises(BadInput, match="no record.json"):
        record.evidence_of(folder.parent / "nothing")
    with pytest.raises(BadInput, match="evaluates finetune, gradient_ascent, and the requests are served by salun"):
        record.evidence_of(folder, "salun")
    assert record.evidence_of(None) is None


def test_an_evaluation_of_other_settings_is_no_evidence_for_these(stream, tmp_path):
    _, folder, _ = stream
    for name, words, same in (("same", [], 1), ("other", ["method.lr=0.02"], 0), ("added", ["addons=[sam]"], 0)):
        ledger = Ledger(tmp_path / name / "ledger.jsonl")
        ledger.path.parent.mkdir()
        ledger.receive("T-1", [3])
        tree = config.read(None, [*SMALL, "method=finetune", "method.epochs=1", f"out={tmp_path / name}", *words])
        (done,) = serve.serve(ledger, tree, lambda event: None, evidence=folder)
        assert len(done.record["evidence"]["same_settings"]) == same and "methods" not in done.record["evidence"]
        check = next(check for check in verify.verify(done.folder) if check.name == "evidence")
        assert check.passed is (True if same else None)
        assert ("evaluates these settings as" if same else "does not evaluate these settings") in check.words
    with pytest.raises(BadInput, match="served by random_label"):
        serve.serve(ledger, {**tree, "method": "random_label"}, lambda event: None, evidence=folder)


# Certificates


def test_certificate_verb(capsys):
    assert call("certificate", "noisy_descent", "noise=0.1", "--models=1024") == 0
    said = capsys.readouterr().out
    assert "refuted: epsilon 1.15" in said and "a perfect attack: 4.23" in said and "not valid here" in said
    assert call("certificate", "noisy_descent", "--models=64", "--json") == 0
    assert json.loads(capsys.readouterr().out)["refuted"] is False
    assert call("certificate", "nosy_descent") == 2 and "noisy_descent" in capsys.readouterr().err
    assert call("certificate", "noisy_descent", "--models=4") == 2
