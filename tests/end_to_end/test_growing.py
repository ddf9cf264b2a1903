"""A comparison that is not finished: its plan, and the report that grows from the runs that are there."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from browser.watched_runs import Slow
from expunge import runs
from expunge.bench import growing, underway
from expunge.bench.bench import bench
from expunge.bench.grid import expand
from expunge.pools import locks, stages, workplace
from expunge.report import html
from expunge.report.watching import builder, comparisons, keeper, terminal

ENOUGH = ("evaluate.seeds=4", "evaluate.retrained=8")
"""Models with which rows are audited too."""


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A comparison that was stopped after the first of three rows and a part of the second: its folder, what was seen, and who made it."""
    out = tmp_path_factory.mktemp("half")
    slow = Slow(out, *ENOUGH)

    def hear(event):
        if event.get("key") == "unlearned/0/ssd/1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slow.compare(hear)
    (one,) = comparisons.find(out)
    return SimpleNamespace(out=out, one=one, slow=slow)


def stamps(out):
    """Return when each file of a run folder was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] != "declared"}


def test_a_stopped_comparison_is_told_from_a_running_one(half, tmp_path):
    one = half.one
    assert (one.state, one.rows) == ("stopped", (1, 3)) and one.jobs == (30, 44) and one.shown == {"0": ["salun"]}
    told = comparisons.describe(one)["requests"][0]
    assert told["references"] == [12, 12] and told["ready"] and not told["lost"] and not told["pools"]
    expected = [("salun", [4, 4], True), ("ssd", [2, 4], False), ("finetune", [0, 4], False)]
    assert [(row["name"], row["seeds"], row["whole"]) for row in told["rows"]] == expected
    plan = next(half.out.glob("plans/*/plan.json"))
    with locks.hold(plan.parent):
        assert comparisons.find(half.out)[0].state == "running"
    assert comparisons.find(half.out)[0].state == "stopped" and comparisons.find(tmp_path) == []


def test_a_report_is_built_from_another_directory_by_the_command_that_watch_starts(half, tmp_path, monkeypatch):
    nice = []
    monkeypatch.setattr(os, "nice", nice.append)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["growing", str(half.out), half.one.identity, str(tmp_path / "page"), "7"])
    growing.main()
    text = (tmp_path / "page" / "report.html").read_text()
    assert (
        nice == [10]
        and "In progress: Digits" in text
        and "1 of 3 rows, 30 of 44 jobs" in text
        and "So far 1 of 3 rows are finished." in text
    )
    assert json.loads((tmp_path / "page" / "record.json").read_text())[0]["growing"]["rows"] == [1, 3]
    monkeypatch.setattr("sys.argv", ["growing", str(half.out), "no such", str(tmp_path / "page"), "8"])
    with pytest.raises(SystemExit, match="nothing to show"):
        growing.main()


def test_whole_rows_are_those_of_the_finished_report(half, monkeypatch):
    monkeypatch.setattr(stages, "train_model", None)  # whoever trained or unlearned would stumble over these
    monkeypatch.setattr(stages.engine, "run", None)
    monkeypatch.setattr(workplace, "_make_split", None)
    before = stamps(half.out)
    (made,) = growing.records(half.one, half.out)
    assert stamps(half.out) == before
    monkeypatch.undo()
    (final,), folder = half.slow.compare(lambda event: None)
    assert comparisons.find(half.out) == [] and not list(half.out.glob("plans/*")), "a finished comparison leaves no plan"
    rows = {row["name"]: row for row in final["table"]["rows"]}
    assert [row["name"] for row in made["table"]["rows"]] == ["original", "retrained", "salun"] and len(rows) == 5
    for row in made["table"]["rows"]:
        name = row["name"]
        assert row == rows[name] and row["cells"] and made["cost"][name] == final["cost"][name]
        found = {audit: head["rows"].get(name) for audit, head in made["audits"]["audits"].items()}
        assert found == {audit: head["rows"].get(name) for audit, head in final["audits"]["audits"].items()} and found
    assert made["table"]["metrics"] == final["table"]["metrics"] and made["methods"]["salun"] == final["methods"]["salun"]
    assert made["request"] == final["request"] and made["growing"] == {"request": 0, "rows": [1, 3], "pools": False}
    assert made["provenance"]["config"] == final["provenance"]["config"]
    assert made["provenance"]["runs"].items() <= final["provenance"]["runs"].items()
    assert comparisons.result_of(half.one, [folder / "report.html"]) == folder.name
    other = replace(half.one, plan={**half.one.plan, "requests": [{**half.one.plan["requests"][0], "tier": "standard"}]})
    assert comparisons.result_of(other, [folder / "report.html"]) == ""


def test_no_row_has_a_verdict_before_the_pools_are_there(half):
    """Everything that counts all tests of a row is left out; what one test says stays."""
    one = replace(half.one, plan={**half.one.plan, "requests": [{**half.one.plan["requests"][0], "pools": True}]})
    (made,), (plain,) = growing.records(one, half.out), growing.records(half.one, half.out)
    assert {row["verdict"] for row in made["table"]["rows"]} == {f"no verdict: {growing.PENDING}"}
    assert [row["cells"] for row in made["table"]["rows"]] == [row["cells"] for row in plain["table"]["rows"]]
    cells = [cell for head in made["audits"]["audits"].values() for cell in head["rows"].values()]
    assert cells and all(cell["p_holm"] is None and cell["finding"] is None for cell in cells)
    assert any(cell["p_value"] is not None for cell in cells)
    assert not any("adjusted" in (head["detectable"] or {}) for head in made["audits"]["audits"].values())
    text = html.render([made], None, {**comparisons.describe(one), "page": 1})
    assert "No row has a verdict yet" in text and "no row has a verdict yet" in text and "should" not in text.partition("Every row")[0]
    assert "connect-src &#39;self&#39;" in text and "that a verdict counts together" not in text
    assert "In progress" not in html.render([plain | {"growing": None}])


def test_a_row_that_failed_is_shown_as_failed_while_the_others_go_on(tmp_path, monkeypatch):
    words = {"data": "digits", "model": "mlp", "train": {"name": "tiny", "epochs": 1}, "out": str(tmp_path / "runs")}
    grid = expand(
        {**words, "evaluate": {"seeds": 2, "retrained": 4, "workers": 1}, "grid": [{"method": ["ssd", "finetune"], "forget": ["random"]}]}
    )
    run, seen = stages.run_job, []

    def broken(stage, tree, *arguments, **more):
        if stage == "unlearned" and tree["method"]["name"] == "ssd":
            raise ValueError("no such luck <b>")
        return run(stage, tree, *arguments, **more)

    def hear(event):
        if event.get("key") == "inspected/0/ssd/1" and event["event"] == "done":
            seen.extend(comparisons.find(tmp_path / "runs"))

    monkeypatch.setattr(stages, "run_job", broken)
    final = bench(grid, hear, "expunge bench grid.yaml").records[0]
    assert seen[0].state == "running" and seen[0].rows == (1, 2)
    (made,) = growing.records(seen[0], tmp_path / "runs")
    row = made["table"]["rows"][2]
    assert row["name"] == "ssd" and row["status"] == "failed" and "no such luck" in row["verdict"]
    assert row == next(row for row in final["table"]["rows"] if row["name"] == "ssd")


REQUEST = {
    "title": "A request \x1b[2J", "pools": False, "tier": "fast", "rows": [{"label": "a"}, {"label": "b"}],
    "runs": {"original": ["o"], "retrained": ["r"], "a": ["a0", "a1"], "b": ["b0", "b1"]},
    "looks": {"original": [], "retrained": ["look r"], "a": ["look a0"], "b": []},
}  # fmt: skip


def write(out, name, ended, **request):
    """Write the plan of a driver, and return its folder."""
    folder = out / "plans" / name
    plan = {"format": 1, "command": "expunge bench x", "directory": "/", "out": str(out), "requests": [{**REQUEST, **request}]}
    runs.write_json(folder / "plan.json", plan)
    for key, how in ended.items():
        runs.append_event(folder / "ended.jsonl", key=key, **({"folder": how} if how is not None else {"failed": "it broke"}))
    return folder


def test_drivers_of_one_comparison_are_seen_as_one(tmp_path):
    """Shards of a bench: what any of them has made counts, and what failed for a dead one may be tried again by a living one."""
    dead = write(tmp_path, "x-1", {"o": "x", "r": "x", "look r": "x", "a0": None})
    living = write(tmp_path, "x-2", {"a1": "x"})
    write(tmp_path, "y-1", {})
    runs.append_event(dead / "ended.jsonl", event="of another kind")
    with locks.hold(living):
        one, other = comparisons.find(tmp_path)
        assert one.state == "running" and one.ended.keys() == {"o", "r", "look r", "a1"} and other.state == "stopped"
        assert one.rows == (0, 2) and one.shown == {} and one.asked[0].has_references
        runs.append_event(living / "ended.jsonl", key="a0", failed="again")
        assert comparisons.find(tmp_path)[0].shown == {}, "nobody has looked into it yet"
        runs.append_event(living / "ended.jsonl", key="look a0", failed="needs a0")
        assert comparisons.find(tmp_path)[0].shown == {"0": ["a"]}
        underway._tidy(tmp_path / "plans", "x")
        assert sorted(path.name for path in (tmp_path / "plans").iterdir()) == ["x-2", "y-1"], "the dead one's plan is gone"
    (tmp_path / "plans" / "z-1").mkdir()
    for path in (living, living / "ended.jsonl", tmp_path / "plans" / "y-1", tmp_path / "plans" / "z-1"):
        os.utime(path, (0, 0))
    with locks.hold(living):
        os.utime(living, (0, 0))
        underway._tidy(tmp_path / "plans", "x")
    assert [path.name for path in (tmp_path / "plans").iterdir()] == ["x-2"], "plans of others go in the end, unless somebody works on them"
    write(tmp_path, "y-1", {})
    (living / "plan.json").write_text("{")
    assert [one.identity for one in comparisons.find(tmp_path)] == ["y"]


def test_nothing_is_shown_without_the_models_that_make_the_bands(tmp_path):
    write(tmp_path, "x-1", {"o": "x", "a0": "x", "a1": "x", "look a0": "x"})
    (one,) = comparisons.find(tmp_path)
    assert one.rows == (1, 2) and one.shown == {} and not one.asked[0].lost
    write(tmp_path, "y-1", {"o": "x", "r": None, "look r": None, "a0": "x", "a1": "x", "look a0": "x"})
    lost = next(one for one in comparisons.find(tmp_path) if one.identity == "y")
    assert lost.shown == {} and lost.asked[0].lost == "r: it broke"


class Process:
    """Stands in for the process that builds a page."""

    made: list = []

    def __init__(self, command, **more):
        self.page, self.status = Path(command[-2]), None
        self.errors = more["stderr"]
        Process.made.append(self)

    def poll(self):
        return self.status

    def end(self, status=0, told=b""):
        self.status = status
        self.errors.write(told)
        self.errors.flush()
        (self.page / "report.html").write_text("the page")
        runs.write_json(self.page / "record.json", [])


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves, and processes that end when it says so."""
    now = SimpleNamespace(at=100.0)
    monkeypatch.setattr(builder.time, "monotonic", lambda: now.at)
    monkeypatch.setattr(subprocess, "Popen", Process)
    Process.made = []
    return now


def test_pages_are_built_when_something_has_finished_and_in_a_tenth_of_the_time(tmp_path, clock):
    folder = write(tmp_path, "x-1", {"o": "x", "r": "x", "look r": "x", "a0": "x", "a1": "x"})
    made = builder.Builder(tmp_path, tmp_path / "pages")

    def step(seconds=0.0):
        clock.at += seconds
        made.step(comparisons.find(tmp_path))
        return len(Process.made)

    assert step() == 0, "no row is whole"
    runs.append_event(folder / "ended.jsonl", key="look a0", folder="x")
    assert step() == 1 and step(1.0) == 1
    clock.at += 19.0
    Process.made[0].end()
    assert step() == 1 and made.pages["x"].number > 0 and not made.pages["x"].problem
    for key in ("b0", "b1"):
        runs.append_event(folder / "ended.jsonl", key=key, folder="x")
        assert step(80.0) == (1 if key == "b0" else 1), "twenty seconds of work ask for 180 of rest"
    assert step(25.0) == 2
    before = made.pages["x"].number
    Process.made[1].end(1, b"Traceback\nBadInput: it is gone.\n")
    step()
    assert made.pages["x"].problem == "BadInput: it is gone." and made.pages["x"].number == before
    assert step(1000.0) == 2, "nothing has finished since"


def test_the_keeper_finds_the_result_of_a_comparison_that_is_over(tmp_path, clock):
    folder = write(tmp_path, "x-1", {"o": "run-1", "r": "run-2", "look r": "", "a0": "run-3", "a1": "run-4", "look a0": "x"})
    kept = keeper.Keeper(tmp_path)
    Process.made[0].end()
    kept.look()
    (one,) = kept.seen["comparisons"]
    assert one["page"] and one["state"] == "stopped" and kept.page("x").read_text() == "the page" and kept.records("x") == []
    used = {"o": "run-1", "r": "run-2", "a0": "run-3", "a1": "run-4", "b0": "run-5"}
    record = {"title": REQUEST["title"], "methods": {"a": {}, "b": {}}, "request": {"tier": "fast"}, "provenance": {"runs": used}}
    runs.write_json(tmp_path / "bench-1" / "record.json", [record])
    for number, other in enumerate(([{"title": REQUEST["title"]}], {"format": 9}, 7), 2):
        runs.write_json(tmp_path / f"bench-{number}" / "record.json", other)
    for number in range(1, 5):
        (tmp_path / f"bench-{number}" / "report.html").write_text("the report")
    for path in (*folder.iterdir(), folder):
        path.rmdir() if path.is_dir() else path.unlink()
    kept.look()
    (one,) = kept.seen["comparisons"]
    assert (one["state"], one["result"]) == ("done", "bench-1")
    kept.close()


def test_the_terminal_shows_the_head_of_the_leaderboard(half):
    record = growing.records(half.one, half.out)[0]
    one = {**comparisons.describe(half.one), "page": 1, "problem": "", "state": "running"}
    seen = {"folder": "runs", "counts": {}, "runs": [], "results": [], "comparisons": [one]}
    console = Console(width=100)
    with console.capture() as captured:
        console.print(terminal.table(seen, "http://127.0.0.1:1/", 20, {one["id"]: [record]}))
    text = captured.get()
    assert "in progress: 1 of 3 rows, 30 of 44 jobs; rows that are not finished are not judged" in text
    line = next(line for line in text.splitlines() if "salun" in line)
    assert f"{record['table']['rows'][2]['cells']['unlearning_accuracy']['value']:.1f}" in line and "%" in line
