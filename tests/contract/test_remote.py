"""A store of runs at an address: two caches share it, uploads are cut, files are damaged, and nobody may write."""

import json
import os
import uuid

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from expunge import config
from expunge.bench.tuning import tune
from expunge.bench.tuning.settings import Tune
from expunge.bench.tuning.study import Study
from expunge.errors import BadInput
from expunge.pools import addresses, executor, inspection, locks, rankings, remote, stages, store, vectorized
from expunge.pools.pool import Pool
from expunge.pools.workplace import Workplace

WORDS = ["data=digits", "model=mlp", "train=tiny", "train.epochs=1", "device=cpu"]
INDEX = np.arange(100)


def workplace(out, *more, report=lambda event: None) -> Workplace:
    return Workplace(config.resolve(config.read(None, [*WORDS, f"out={out}", *more])), report)


def train(out, report=lambda event: None) -> store.Run:
    return stages.train(workplace(out, report=report), INDEX, 0, "a")


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    """An address at which nothing is, in memory and in a folder."""
    return f"memory://{uuid.uuid4().hex}/runs" if request.param == "memory" else f"file://{tmp_path}/there/runs"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that lets this process go on as another machine: with a cache of its own."""
    monkeypatch.setattr(addresses, "PAUSES", (0.0, 0.0))

    def become(name: str) -> None:
        monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / f"cache-{name}"))

    become("a")
    return become


def there(address: str) -> dict[str, bytes]:
    """Return what lies at an address, path -> content."""
    files, path = fsspec.core.url_to_fs(address)
    return {name.removeprefix(f"{path}/"): files.cat_file(name) for name in files.find(path)}


def write(address: str, name: str, content: bytes) -> None:
    files, path = fsspec.core.url_to_fs(address)
    files.pipe_file(f"{path}/{name}", content)


def starts(run: store.Run) -> int:
    return (run.folder / "events.jsonl").read_text().count('"event": "start"')


def test_a_run_is_made_once_and_found_from_another_machine(address, machine, tmp_path):
    made = train(address)
    assert made.name == f"{address}/{made.folder.name}" and made.folder.is_relative_to(tmp_path / "cache-a")
    at_home = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    assert there(address) == {f"{made.folder.name}/{name}": content for name, content in at_home.items()}
    machine("b")
    heard = []
    found = train(address, heard.append)
    assert [event["event"] for event in heard] == ["found"] and starts(found) == 1
    assert found.folder.is_relative_to(tmp_path / "cache-b") and found.record == made.record
    assert np.array_equal(found.logits(), made.logits())
    machine("c")
    assert store.find(made.name).record == made.record, "by its name alone"
    assert not list(made.folder.parent.rglob(locks.NAME))


def test_what_a_run_is_does_not_depend_on_where_the_store_is(address, machine, tmp_path):
    apart = train(tmp_path / "folder")
    made = train(address)
    assert made.folder.name == apart.folder.name and made.record["weights"] == apart.record["weights"]
    assert apart.name == str(apart.folder) and not list((tmp_path / "folder").rglob(".*"))


def test_a_folder_of_runs_that_is_copied_to_an_address_is_found_there(address, machine, tmp_path):
    apart, heard = train(tmp_path / "folder"), []
    files, root = fsspec.core.url_to_fs(address)
    files.makedirs(f"{root}/{apart.folder.name}")
    for path in apart.folder.iterdir():
        write(address, f"{apart.folder.name}/{path.name}", path.read_bytes())
    assert train(address, heard.append).record == apart.record and [event["event"] for event in heard] == ["found"]


class Line:
    """A connection that fails for files of a name, so many times."""

    def __init__(self, monkeypatch, verb, name, times=1000):
        self.left, self.calls = times, []
        real = getattr(MemoryFileSystem, verb)

        def planted(files, one, two, *arguments, **more):
            self.calls.append(max(str(one), str(two), key=lambda path: path.endswith(name)))
            if self.calls[-1].endswith(name) and self.left:
                self.left -= 1
                raise ConnectionError("reset by peer")
            return real(files, one, two, *arguments, **more)

        monkeypatch.setattr(MemoryFileSystem, verb, planted)

    def mend(self):
        self.left = 0


@pytest.mark.parametrize("name", ["record.json", "logits.npy"])
def test_an_upload_that_is_cut_is_no_result_and_goes_on(machine, monkeypatch, tmp_path, name):
    address = f"memory://{uuid.uuid4().hex}/runs"
    line = Line(monkeypatch, "put_file", name)
    with pytest.raises(BadInput) as caught:
        train(address)
    folder = next(tmp_path.glob("cache-a/*/train-*"))
    text = rf"out: cannot write {address}/{folder.name}/{name}: ConnectionError: reset by peer. Nothing is lost: it lies in {folder} on "
    assert text in str(caught.value) and str(caught.value).endswith("and the same command again sends what is missing.")
    assert "record.json" not in {path.rpartition("/")[2] for path in there(address)}, "the record is the last"
    assert not list(tmp_path.rglob(locks.NAME))
    machine("b")
    heard = []
    with pytest.raises(BadInput, match="cannot write"):
        train(address, heard.append)
    assert "start" in [event["event"] for event in heard], "another machine sees nothing that is finished"
    line.mend()
    machine("a")
    heard = []
    run = train(address, heard.append)
    assert [event["event"] for event in heard] == ["found"] and starts(run) == 1, "nothing is made again"
    assert len(there(address)) == len(list(run.folder.iterdir()))
    machine("c")
    assert train(address).record == run.record


@pytest.mark.parametrize("verb", ["put_file", "get_file"])
def test_a_line_that_fails_twice_is_tried_again(machine, monkeypatch, verb):
    address = f"memory://{uuid.uuid4().hex}/runs"
    line = Line(monkeypatch, verb, "weights.safetensors", times=2)
    made = train(address)
    machine("b")
    assert train(address).record == made.record and line.left == 0


def test_a_file_that_comes_short_is_fetched_again(machine, monkeypatch):
    address = f"memory://{uuid.uuid4().hex}/runs"
    made, real, calls = train(address), MemoryFileSystem.get_file, []

    def short(files, source, target, **more):
        real(files, source, target, **more)
        calls.append(source)
        if len(calls) == 1:
            os.truncate(target, os.path.getsize(target) - 1)

    monkeypatch.setattr(MemoryFileSystem, "get_file", short)
    machine("b")
    assert train(address).record == made.record and calls[0] == calls[1]


def test_a_download_that_ends_leaves_nothing_that_looks_finished(machine, monkeypatch, tmp_path):
    address = f"memory://{uuid.uuid4().hex}/runs"
    made = train(address)
    line = Line(monkeypatch, "get_file", "weights.safetensors")
    machine("b")
    with pytest.raises(
        BadInput, match=r"out: cannot read memory://.*weights.safetensors: ConnectionError: reset by peer. See that the cred"
    ):
        train(address)
    assert not list((tmp_path / "cache-b").rglob("record.json")) and not list((tmp_path / "cache-b").rglob(locks.NAME))
    line.mend()
    assert starts(train(address)) == 1 and store.find(made.name).record == made.record


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "name,damage",
    [
        ("weights.safetensors", flipped),
        ("weights.safetensors", lambda content: content[:-40]),
        ("logits.npy", lambda content: content[:-1]),
        ("record.json", lambda content: content[:-20]),
        ("record.json", lambda content: b"[]"),
    ],
)
def test_what_is_damaged_at_the_address_is_made_anew_and_replaced(address, machine, name, damage):
    made = train(address)
    good = there(address)
    path = f"{made.folder.name}/{name}"
    write(address, path, damage(good[path]))
    machine("b")
    heard = []
    again = train(address, heard.append)
    said = [event["message"] for event in heard if event["event"] == "warning"]
    assert said == [f"what lies at {address}/{made.folder.name} is damaged; it is made again"]
    assert "start" in [event["event"] for event in heard] and again.record["weights"] == made.record["weights"]
    mended = there(address)
    assert (
        mended.keys() == good.keys()
        and mended[f"{made.folder.name}/weights.safetensors"] == good[f"{made.folder.name}/weights.safetensors"]
    )
    assert json.loads(mended[f"{made.folder.name}/record.json"]) == again.record and not list(again.folder.glob(".*"))
    machine("c")
    assert train(address).record == again.record


def test_two_machines_that_make_one_run_leave_one_whole_run(machine, monkeypatch):
    """Both begin before either has finished: the second finds the record of the first, and leaves it."""
    address = f"memory://{uuid.uuid4().hex}/runs"
    real, first = stages.train_model, []

    def meanwhile(*arguments, **more):
        if not first:
            first.append(None)
            machine("b")
            first[0] = train(address)
            machine("a")
        return real(*arguments, **more)

    monkeypatch.setattr(stages, "train_model", meanwhile)
    second = train(address)
    assert second.record["weights"] == first[0].record["weights"]
    assert json.loads(there(address)[f"{second.folder.name}/record.json"]) == first[0].record
    machine("c")
    assert train(address).record == first[0].record


def test_a_listing_that_a_file_system_remembers_is_not_believed(machine, monkeypatch):
    """Between two looks another machine has finished the run."""
    address, remembered, real = f"memory://{uuid.uuid4().hex}/runs", {}, MemoryFileSystem.ls

    def ls(files, path, detail=True, **more):
        if path not in remembered:
            try:
                remembered[path] = real(files, path, detail=detail, **more)
            except FileNotFoundError as error:
                remembered[path] = error
        if isinstance(remembered[path], FileNotFoundError):
            raise remembered[path]
        return remembered[path]

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    monkeypatch.setattr(MemoryFileSystem, "invalidate_cache", lambda files, path=None: remembered.clear())
    work = workplace(address)
    identity = stages.train_identity(work, INDEX, 0)
    assert store.look_up(work, identity, "a") is None
    machine("b")
    before = dict(remembered)
    made = train(address)
    remembered.update(before)  # the process of the first machine knows nothing of what the second has listed
    machine("a")
    assert store.look_up(work, identity, "a").record == made.record


def test_only_what_is_missing_goes_up(machine, monkeypatch):
    address = f"memory://{uuid.uuid4().hex}/runs"
    run = train(address)
    line = Line(monkeypatch, "put_file", "nothing", times=0)
    train(address)
    assert line.calls == []
    (run.folder / "inspection-1.npz").write_bytes(b"seen")
    (run.folder / "checkpoint.safetensors").write_bytes(b"on the way")
    (run.folder / ".lock-of-somebody").write_bytes(b"")
    train(address)
    assert [path.rpartition("/")[2] for path in line.calls] == ["inspection-1.npz"]


def test_large_transfers_are_told(machine, monkeypatch):
    address, heard = f"memory://{uuid.uuid4().hex}/runs", []
    monkeypatch.setattr(remote, "TOLD_BYTES", 1000)
    run = train(address, heard.append)
    size = sum(path.stat().st_size for path in run.folder.iterdir())
    machine("b")
    train(address, heard.append)
    told = [event for event in heard if event["event"] == "transfer"]
    for words in ("sending", "bringing"):
        own = [event for event in told if event["title"] == f"{words} {run.folder.name}"]
        assert own[-1]["done"] == own[-1]["size"] and own[-1]["size"] >= size - 100
        assert [event["done"] for event in own] == sorted(event["done"] for event in own)


def test_a_plan_brings_nothing(address, machine, tmp_path):
    words = ("forget=random", "method=finetune", "method.epochs=1")
    made = stages.run_job(
        "unlearned", workplace(address, *words).experiment.tree(), 0, {"o": stages.original(workplace(address, *words), 0).name}, print
    )
    machine("b")
    work = workplace(address, *words)
    for stage in ("original", "unlearned"):
        found = stages.made(work, stage, 0)
        assert found is not None and found.status == "ok"
    assert found.name == made and stages.made(work, "retrained", 0) is None
    assert not list((tmp_path / "cache-b").rglob("train-*")) and not list((tmp_path / "cache-b").rglob("unlearn-*"))


def test_a_job_starts_from_what_another_machine_has_made(address, machine):
    words = ("forget=random", "method=finetune", "method.epochs=1")
    start = stages.run_job("original", workplace(address, *words).experiment.tree(), 0, {}, print)
    assert start.startswith(address)
    machine("b")
    name = stages.run_job("unlearned", workplace(address, *words).experiment.tree(), 0, {"original": start}, print)
    machine("a")
    assert store.find(name).status == "ok"


@pytest.mark.parametrize("kind", ["base", "unlearned"])
def test_the_rows_of_a_pool_come_from_workers_with_caches_of_their_own(machine, monkeypatch, kind):
    address = f"memory://{uuid.uuid4().hex}/runs"
    work, real = workplace(address, "forget=random", "method=finetune", "method.epochs=1", "evaluate.workers=1"), executor.run

    def elsewhere(*arguments, **more):
        machine("worker")
        try:
            return real(*arguments, **more)
        finally:
            machine("a")

    monkeypatch.setattr(executor, "run", elsewhere)
    cache = Pool(work, kind).fill(2, lambda event: None)
    assert cache.rows() == [0, 1] and "cache-a" in str(cache.folder)
    assert np.isfinite(cache.margins([0, 1])).all()


def test_files_that_runs_share_are_looked_for_at_the_address(address, machine):
    path = remote.folder_of(address) / "rankings" / "memorized-0123456789abcdef.npz"
    assert not remote.pull_file(path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"ranking")
    remote.push_file(path)
    machine("b")
    other = remote.folder_of(address) / "rankings" / path.name
    assert remote.pull_file(other) and other.read_bytes() == b"ranking" and other != path
    other.write_bytes(b"changed")
    remote.push_file(other)
    assert there(address) == {f"rankings/{path.name}": b"ranking"}
    remote.push_file(other, anew=True)
    assert there(address) == {f"rankings/{path.name}": b"changed"}


def test_what_was_found_inside_a_run_is_looked_for_at_the_address(machine, monkeypatch):
    address, words = f"memory://{uuid.uuid4().hex}/runs", ("forget=random", "method=finetune")
    looks = []
    monkeypatch.setattr(inspection, "look", lambda subject, settings: looks.append(1) or {"seen": np.arange(3)})
    for name in ("a", "b"):
        machine(name)
        work = workplace(address, *words)
        run = stages.original(work, 0)
        if name == "b":
            assert inspection.load(work, run, run)["seen"].tolist() == [0, 1, 2], "who only reads brings it too"
            next(run.folder.glob("inspection-*")).unlink()
        assert inspection.inspect(work, run, run)["seen"].tolist() == [0, 1, 2]
    assert len(looks) == 1


def test_a_ranking_is_made_once(machine, monkeypatch):
    address, calls = f"memory://{uuid.uuid4().hex}/runs", []
    real = rankings.MAKERS["entangled"]
    monkeypatch.setitem(rankings.MAKERS, "entangled", lambda *arguments: calls.append(1) or real(*arguments))
    splits = []
    for name in ("a", "b"):
        machine(name)
        splits.append(workplace(address, "forget=entangled").split.forget.tolist())
    assert calls == [1] and splits[0] == splits[1]


def test_the_choice_of_an_executor_is_shared(machine, monkeypatch):
    address = f"memory://{uuid.uuid4().hex}/runs"
    monkeypatch.setattr(vectorized, "_setting", lambda work: "auto")
    monkeypatch.setattr(vectorized, "available", lambda work: None)
    monkeypatch.setattr(vectorized, "faster", lambda work, models: True)
    assert vectorized.chosen(workplace(address), 2, lambda event: None)
    machine("b")
    monkeypatch.setattr(vectorized, "faster", lambda work, models: False)
    assert vectorized.promise(workplace(address))["executor"] == "vectorized" and vectorized.chosen(workplace(address), 2, print)


def test_who_may_not_write_is_told_before_any_work(expunge, machine, monkeypatch, tmp_path):
    def refused(files, path, content, **more):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refused)
    address = f"memory://{uuid.uuid4().hex}/runs"
    for verb, more in (
        ("train", []),
        ("unlearn", ["forget=random", "method=finetune"]),
        ("evaluate", ["forget=random", "method=finetune"]),
    ):
        status, _, said = expunge(verb, *WORDS, f"out={address}", *more)
        text = f"expunge: out: cannot write {address}/expunge.json: PermissionError: Access Denied. See that the bucket or folder is there"
        assert status == 2 and text in said
    assert not list(tmp_path.rglob("train-*"))


def test_who_may_not_read_is_told_before_any_work(machine, monkeypatch):
    def refused(files, path, **more):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refused)
    with pytest.raises(BadInput, match="cannot read memory://.*expunge.json: PermissionError: Access Denied. See that the credentials"):
        remote.check_writable(workplace(f"memory://{uuid.uuid4().hex}/runs").out)


def test_a_bucket_that_is_not_there_is_not_made(machine):
    bucket = f"/nowhere-{uuid.uuid4().hex}"
    with pytest.raises(BadInput, match=f"out: cannot write file://{bucket}/runs/expunge.json: FileNotFoundError: there is no {bucket}"):
        remote.check_writable(workplace(f"file://{bucket}/runs").out)
    assert not os.path.exists(bucket)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BadInput, match="cannot write .*file/cache.* choose another folder for it with EXPUNGE_CACHE=FOLDER"):
        remote.folder_of("memory://bucket/runs")


def test_a_study_at_which_somebody_works_is_not_replaced(machine, address):
    study = Study(remote.folder_of(address) / "tune-0123456789ab", {}, Tune(), 1)
    files, path = fsspec.core.url_to_fs(address)
    files.makedirs(f"{path}/{study.folder.name}")
    write(address, f"{study.folder.name}/history.json", b"[1, 2]")
    with locks.hold(study.folder / "locks" / "trial-0"):
        tune._take_over(study)
        assert not (study.folder / "history.json").exists()
    tune._take_over(study)
    assert (study.folder / "history.json").read_text() == "[1, 2]"


def test_notes_are_brought_once(machine, address):
    folder = remote.folder_of(address) / "declared"
    files, path = fsspec.core.url_to_fs(address)
    files.makedirs(f"{path}/declared")
    write(address, "declared/a.json", b"{}")
    write(address, "declared/b.json", b"null")
    assert remote.pull(folder, sign=None)
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    write(address, "declared/b.json", b'"seen"')
    assert remote.pull(folder, sign=None) and before.keys() == {"a.json", "b.json"}
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert after["a.json"] == before["a.json"] and after["b.json"] != before["b.json"]
    assert (folder / "b.json").read_text() == '"seen"'


def test_a_folder_of_results_beside_the_caches_is_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path))
    folder, cache = tmp_path / "runs" / "train-0123456789ab", remote.folder_of("memory://bucket/runs")
    folder.mkdir(parents=True)
    assert remote.name_of(folder) == remote.shown(folder) == str(folder) and not remote.has(folder)
    assert remote.name_of(cache / folder.name) == f"memory://bucket/runs/{folder.name}"


def test_a_missing_package_is_named(machine):
    fsspec.register_implementation("planted", "no_such_package.Files", errtxt="Install it", clobber=True)
    fsspec.register_implementation(
        "builtin-one", "fsspec.implementations.no_such_one.Files", errtxt='It requires "no-such-driver" to run', clobber=True
    )
    for protocol, package in (("planted", "no_such_package"), ("builtin-one", "no-such-driver")):
        with pytest.raises(
            BadInput, match=f"out: {protocol}:// needs the package {package}, which is not installed. pip install {package}"
        ):
            remote.check_writable(workplace(f"{protocol}://bucket/runs").out)


@pytest.mark.parametrize(
    "out,text",
    [
        ("nothing://bucket/runs", "no address begins with nothing://. For example s3://, gs://"),
        ("s3://", "'s3://' names no bucket or folder. For example s3://bucket/runs."),
        (
            "sftp://me:secret@host/runs",
            "the address holds a password, and records would show it. Leave it out; fsspec takes it from FSSPEC_SFTP",
        ),
        ("simplecache::s3://bucket/runs", "is no plain address"),
        ("s3://bucket/../runs", "is no plain address"),
    ],
)
def test_addresses_that_cannot_be_used(machine, out, text):
    with pytest.raises(BadInput) as caught:
        remote.check_writable(workplace(out).out)
    assert text in str(caught.value) and caught.value.where == "out" and "secret" not in str(caught.value)


def test_names_and_places(machine, tmp_path):
    here = remote.folder_of("s3://bucket/runs/")
    assert here == remote.folder_of("s3://bucket/runs") != remote.folder_of("s3://bucket/other")
    run = here / "train-0123456789abcdef"
    assert remote.name_of(run) == "s3://bucket/runs/train-0123456789abcdef" and remote.name_of(here) == "s3://bucket/runs"
    for path in (here, run, run / "weights.safetensors", here / "lab-boundary-0123456789ab"):
        assert remote.local(remote.name_of(path)) == path
    assert remote.local("s3://bucket/bench-2026/train-0123456789abcdef").parent == remote.folder_of("s3://bucket/bench-2026")
    assert remote.name_of(tmp_path / "runs") == str(tmp_path / "runs") and remote.local(str(tmp_path)) == tmp_path
    with pytest.raises(BadInput, match=r"goes up by `\.\.`"):
        remote.local("s3://bucket/runs/train-0123456789abcdef/../../x")
    assert (here / ".address").read_text() == "s3://bucket/runs"


def test_a_listing_cannot_write_outside_its_folder(machine, monkeypatch):
    address = f"memory://{uuid.uuid4().hex}/runs"
    run, real = train(address), MemoryFileSystem.ls

    def listed(files, path, detail=True, **more):
        found = real(files, path, detail=detail, **more)
        return [*found, {"name": f"{path}/..", "size": 3, "type": "file"}, {"name": f"{path}/.lock", "size": 3, "type": "file"}]

    monkeypatch.setattr(MemoryFileSystem, "ls", listed)
    machine("b")
    assert {path.name for path in train(address).folder.iterdir()} == {path.name for path in run.folder.iterdir()}
