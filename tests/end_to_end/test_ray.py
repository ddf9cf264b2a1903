"""A Ray cluster of two machines, here two nodes on one machine: a node that is lost takes nothing with it."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from expunge import config
from expunge.errors import BadInput
from expunge.pools import executor
from expunge.pools.executor import Failed, Job, run
from expunge.pools.executors import ray as on_ray
from expunge.pools.executors.ray import Ray
from expunge.pools.workplace import Workplace

ROOT = Path(__file__).parents[2]
JOBS = "tests.contract.executor_jobs"


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one processor each; the second can be lost."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    ray = on_ray.load()
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    made.second = made.add_node(**size)
    yield made
    ray.shutdown()
    made.shutdown()


def lines(folder: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().split() for path in folder.iterdir()}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_node_that_is_lost_takes_nothing_with_it(cluster, tmp_path):
    done, heard = tmp_path / "done", []
    done.mkdir()

    def report(event):
        heard.append(event)
        if sum(event["event"] == "done" for event in heard) == 4 and cluster.second is not None:
            lost, cluster.second = cluster.second, None
            cluster.remove_node(lost, allow_graceful=False)

    jobs = [Job(f"j{n}", f"{JOBS}:note", {"folder": str(done), "key": f"j{n}", "seconds": 0.25}) for n in range(12)]
    jobs.append(Job("bad", f"{JOBS}:fail", {"how": "memory"}, after=("j0",)))
    results = run(jobs, Ray(cluster.address, out=str(tmp_path)), report, keep_going=True)
    assert cluster.second is None, "the node was killed in the middle"
    assert results == {**{f"j{n}": f"j{n}" for n in range(12)}, "bad": Failed("MemoryError: no room")}
    found = lines(done)
    assert all(words.count("end") == 1 for words in found.values()), "nothing is lost, and nothing is finished twice"
    twice = [key for key, words in found.items() if words.count("start") > 1]
    again = [event["title"] for event in heard if event["event"] == "warning" and "its machine was lost; tried again" in event["message"]]
    assert set(twice) <= set(again) and len(again) <= 1, "only what ran on the lost node began again"
    assert {event["title"] for event in heard if event["event"] == "begun"} == {f"j{n}" for n in range(12)}, "events reach the driver"
    assert not list(tmp_path.glob(".shared-*"))


SWEEP = """
data: digits
model: mlp
train: {name: tiny, epochs: 6}
evaluate: {seeds: 2}
device: cpu
grid:
  forget: [{name: random, fraction: 0.1}, {name: class, classes: [3]}]
  method: [{name: salun, epochs: 2}, {name: finetune, epochs: 2}, {name: gradient_ascent, epochs: 1}]
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_sweep_on_two_nodes_gives_what_one_machine_gives_with_a_node_killed(cluster, tmp_path):
    from expunge.bench import bench, grid

    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)

    def asked(*more):
        return grid.expand(grid.read(file, more))

    calm = bench.bench(asked(f"out={tmp_path / 'calm'}", "evaluate.workers=2"), lambda event: None, "calm")
    ends = []

    def report(event):
        if event["event"] == "done":
            ends.append(event["key"])
        if len(ends) == 8 and cluster.second is not None:
            lost, cluster.second = cluster.second, None
            cluster.remove_node(lost, allow_graceful=False)

    start = time.monotonic()
    stormy = bench.bench(asked(f"out={tmp_path / 'stormy'}", f"evaluate.ray={cluster.address}"), report, "stormy")
    print(f"{time.monotonic() - start:.0f} s, {len(ends)} runs")
    assert cluster.second is None and not stormy.failed and stormy.runs == calm.runs
    assert weights(tmp_path / "stormy") == weights(tmp_path / "calm") != {}
    begun = {path.parent.name: path.read_text().count('"event": "start"') for path in (tmp_path / "stormy").glob("*/events.jsonl")}
    assert set(begun) == set(weights(tmp_path / "stormy"))
    assert sorted(begun.values())[:-1] == [1] * (len(begun) - 1) and max(begun.values()) <= 2, (
        "at most what ran on the lost node began again"
    )
    assert stormy.records[0]["table"] == calm.records[0]["table"]


def weights(out: Path) -> dict[str, str]:
    found = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/record.json")}
    return {name: record["weights"] for name, record in found.items() if isinstance(record, dict)}


@pytest.mark.slow
def test_the_command_line_starts_a_cluster(tmp_path):
    import subprocess

    words = ["evaluate", "data=digits", "model=mlp", "train=tiny", "train.epochs=1", "forget=random", "method=salun", "method.epochs=1"]
    command = [sys.executable, "-m", "expunge", *words, "evaluate.seeds=2", f"out={tmp_path / 'runs'}", "--ray", "local"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert found.returncode == 0 and "report: " in found.stdout, found.stderr
    assert len(weights(tmp_path / "runs")) == 6


def test_the_executor_is_what_is_asked_for():
    base = ["data=digits", "model=mlp", "device=cpu"]
    asked = Workplace(
        config.resolve(config.read(None, [*base, "evaluate.ray=auto", "evaluate.threads=2", "evaluate.retries=5", "out=here"]))
    )
    assert executor.chosen(asked) == Ray("auto", out="here", device="cpu", cpus=2, gpus=0.0, retries=5)
    plain = Workplace(config.resolve(config.read(None, [*base, "evaluate.workers=3"])))
    assert executor.chosen(plain) == executor.local(3)
    with pytest.raises(BadInput, match="evaluate.gpus: expected a positive number"):
        config.resolve(config.read(None, [*base, "evaluate.gpus=0"]))


def test_without_the_package_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"not installed. pip install 'expunge\[ray\]'"):
        run([Job("a", f"{JOBS}:note"), Job("b", f"{JOBS}:note")], Ray("local", out="."), lambda event: None)


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"out: the machine .* does not see .*nowhere. Give a folder that all machines of the cluster share"):
        on_ray._go_to({"token": str(tmp_path / "nowhere" / ".shared-1"), "folder": str(tmp_path)})
    token = tmp_path / ".shared-1"
    token.touch()
    with pytest.raises(BadInput, match="cannot work in .*gone: No such file"):
        on_ray._go_to({"token": str(token), "folder": str(tmp_path / "gone")})
    on_ray._go_to({"token": str(token), "folder": str(tmp_path)})


def test_what_no_machine_has_is_refused():
    class Machines:
        def nodes(self):
            return [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]

    on_ray._check_room(Machines(), Ray("auto", out=".", cpus=4))
    for asked in ({"cpus": 8}, {"gpus": 0.5}):
        with pytest.raises(BadInput, match="the largest machine has 4 and 0. Use a smaller evaluate.threads"):
            on_ray._check_room(Machines(), Ray("auto", out=".", **asked))


def test_all_machines_compute_on_the_kind_of_device_that_the_driver_chose():
    here = Ray("auto", out=".", device="cuda")
    assert here._pinned(Job("a", "f", {"tree": {"device": "auto"}})).arguments["tree"]["device"] == "cuda"
    for tree in ({"device": "cpu"}, None):
        job = Job("a", "f", {"tree": tree})
        assert here._pinned(job) == job


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_has_ended_is_refused_at_once(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(
        BadInput, match="evaluate.ray: cannot join the cluster '127.0.0.1:1': Connection refused. Start one with `ray start"
    ):
        on_ray._check_answers(address)
    assert time.monotonic() - start < 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_machines_with_caches_of_their_own_share_an_address(monkeypatch, tmp_path):
    """The driver's machine has no processor to give; the one that works shares nothing with it but the address, and is lost in the end."""
    pytest.importorskip("ray")
    from expunge.bench import bench, grid

    address, theirs = f"file://{tmp_path}/there/runs", tmp_path / "theirs"
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "ours"))
    ray = on_ray.load()
    from ray.cluster_utils import Cluster

    (tmp_path / "there").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False})
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20, env_vars={"EXPUNGE_CACHE": str(theirs)})
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    try:
        asked = grid.expand(grid.read(file, [f"out={address}", f"evaluate.ray={cluster.address}"]))
        made = bench.bench(asked, lambda event: None, "far")
    finally:
        ray.shutdown()
        cluster.shutdown()
    there = weights(tmp_path / "there" / "runs")
    assert made.folder is not None and made.folder.is_relative_to(tmp_path / "ours") and not made.failed
    assert there and weights(next(theirs.iterdir())) == there == weights(next((tmp_path / "ours").iterdir()))
    begun = [path.read_text().count('"event": "start"') for path in (tmp_path / "there" / "runs").glob("*/events.jsonl")]
    assert set(begun) == {1} and (tmp_path / "there" / "runs" / made.folder.name / "report.html").is_file()
    named = made.records[0]["provenance"]["runs"].values()
    assert named and all(name.startswith(f"{address}/") for name in named)


def test_a_machine_that_does_not_reach_the_address_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray.remote.addresses, "PAUSES", ())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BadInput, match=r"out: cannot read file:///nowhere/runs from the machine .*: FileNotFoundError: .* Every machine needs"
    ):
        on_ray._go_to({"address": "file:///nowhere/runs", "folder": str(tmp_path)})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / on_ray.remote.SIGN).touch()
    on_ray._go_to({"address": f"file://{tmp_path}/runs", "folder": "/nowhere"})
    assert os.getcwd() == str(tmp_path), "machines that reach the address need share no folder"


def test_events_of_other_machines_name_the_folder_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "ours"))
    (tmp_path / "runs" / "train-0123456789abcdef").mkdir(parents=True)
    (tmp_path / "runs" / "train-0123456789abcdef" / "record.json").write_text("{}")
    there = Ray("auto", out=f"file://{tmp_path}/runs")
    event = {"event": "start", "folder": "/theirs/train-0123456789abcdef", "title": "a"}
    ours = on_ray.remote.folder_of(there.out) / "train-0123456789abcdef"
    assert there._here(event) == {**event, "folder": str(ours)} and not ours.exists()
    there._here({**event, "event": "end"})
    assert (ours / "record.json").is_file(), "what is finished is brought, for trackers to read"
    assert Ray("auto", out=str(tmp_path))._here(event) == event
