"""Each tracker is read back with its own reader, after a real unlearning; none of them changes a run, stops it, or hears of it twice."""

import json
import shutil
import struct
import sys

import pytest

from expunge import cli, config, registry, runs
from expunge.tracking import carrying, following, subjects
from expunge.tracking.carrying import Delivery, deliver
from expunge.tracking.following import Followed, send
from expunge.tracking.reading import Reader, Tail, series
from expunge.tracking.tracker import Tracker

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trackers' own packages

SMALL = ["data=digits", "model=mlp", "train=tiny", "train.epochs=2", "forget=random", "seed=3"]
METHOD = ["method=constrained_unlearning", "method.epochs=2", "method.solver=augmented_lagrangian"]
ALL = ["json_lines", "mlflow", "tensorboard", "wandb"]


def command(*words):
    """Run the command line in this process."""
    before, sys.argv = sys.argv, ["expunge", *words]
    try:
        cli.main()
    finally:
        sys.argv = before


def chosen(folder, *names, **fields):
    """Return trackers that keep everything in a folder."""
    places = {"mlflow": {"address": str(folder / "mlflow.db")}}
    found = [{"name": name, **places.get(name, {"folder": str(folder / name)}), **fields} for name in names]
    return config.resolve({"track": found}).track


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """Return the file of an empty MLflow database; making one takes seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    config.resolve({"track": [{"name": "mlflow", "address": str(path), "experiment": "another"}]}).track[0].connect()
    return path


@pytest.fixture
def place(tmp_path, database):
    """Return a folder with an empty MLflow database."""
    shutil.copy(database, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory, database):
    """Return a folder in which one unlearning was made, heard by all trackers."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(database, folder)
    track = [
        {"name": "json_lines", "folder": str(folder / "json_lines"), "every": 2},
        {"name": "mlflow", "address": str(folder / "mlflow.db")},
        {"name": "tensorboard", "folder": str(folder / "tensorboard"), "histograms": True},
        {"name": "wandb", "folder": str(folder / "wandb")},
    ]
    command("unlearn", *SMALL, *METHOD, f"out={folder / 'runs'}", f"track={json.dumps(track)}")
    return folder


def run_of(made, stage):
    (found,) = (made / "runs").glob(f"{stage}-*")
    return found


def expected(folder):
    """Return {series: {step: value}} by a walk through the event log of a run that nothing has interrupted, in one phase."""
    found = {}
    for line in (folder / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "steps":
            for name, values in event["values"].items():
                found.setdefault(series(name), {}).update({s: v for s, v in zip(event["steps"], values, strict=True) if v is not None})
        if event["event"] == "epoch":
            for name, value in event["values"].items():
                found.setdefault(f"epoch_{series(name)}", {})[event["epoch"]] = value
    return found


def test_the_event_log_holds_everything_that_trackers_show(made):
    found = expected(run_of(made, "unlearn"))
    wanted = ["top1/forget", "top5/retain", "gradient_norm/objective", "gradient_norm/update", "cosine/objective condition", "lr"]
    assert {*wanted, "rule/multiplier", "rule/penalty", "epoch_top1/forget", "epoch_rule/penalty"} <= found.keys()
    events = [json.loads(line) for line in (run_of(made, "unlearn") / "events.jsonl").read_text().splitlines()]
    assert [events[0]["event"], events[1]["event"], events[-1]["event"]] == ["start", "phase", "end"]
    assert events[-1]["weights"] == runs.read_json(run_of(made, "unlearn") / "record.json")["weights"]


def test_json_lines_are_read_back(made):
    folder = run_of(made, "unlearn")
    rows = [json.loads(line) for line in (made / "json_lines" / f"{folder.name}.jsonl").read_text().splitlines()]
    assert rows[0]["parameters"]["method.solver"] == "augmented_lagrangian" and rows[-1]["kind"] == "end"
    seen = {}
    for row in rows:
        if row["kind"] == "value":
            assert row["step"] not in seen.setdefault(row["name"], {}), "told twice"
            seen[row["name"]][row["step"]] = row["value"]
    for name, values in expected(folder).items():
        assert seen[name] == values
    assert {"cost/passes", "phase/mask_density", "epoch_constraint/bound"} <= seen.keys()


def test_mlflow_is_read_back_by_its_client(made):
    from mlflow import MlflowClient

    client, folder = MlflowClient(tracking_uri=f"sqlite:///{made / 'mlflow.db'}"), run_of(made, "unlearn")
    experiment = client.get_experiment_by_name("expunge").experiment_id
    found = {run.data.tags["expunge.run"]: run for run in client.search_runs([experiment])}
    assert found.keys() == {folder.name, run_of(made, "train").name}
    run = found[folder.name]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "constrained_unlearning")
    assert (
        run.data.params["method.lr"] == "0.01" and run.data.params["forget.name"] == "random" and run.data.params["data.name"] == "digits"
    )
    assert run.data.tags["expunge.weights_hash"] == runs.read_json(folder / "record.json")["weights"]
    for name in ("top1/forget", "rule/multiplier", "epoch_top5/retain"):
        history = client.get_metric_history(run.info.run_id, name)
        assert {one.step: one.value for one in history} == pytest.approx(expected(folder)[name])
        assert len(history) == len(expected(folder)[name])
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {
        "config.yaml", "environment.json", "events.jsonl", "record.json", "split.json",
    }  # fmt: skip
    assert "forget.name" not in found[run_of(made, "train").name].data.params, "an original is trained before anybody asks to forget"


def test_tensorboard_is_read_back_by_its_accumulator(made):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run_of(made, "unlearn")
    (place,) = (made / "tensorboard").glob(f"constrained_unlearning-{folder.name}")
    seen = EventAccumulator(str(place), size_guidance={"scalars": 0, "histograms": 0}).Reload()
    for name, values in expected(folder).items():
        assert {one.step: one.value for one in seen.Scalars(name)} == pytest.approx(values, rel=1e-5)
    assert {"loss/cross_entropy on forget", "weights/net.layers.0.0.weight"} <= {*seen.Tags()["scalars"], *seen.Tags()["histograms"]}
    histograms = seen.Histograms("weights/net.layers.0.0.weight")
    assert [one.step for one in histograms] == [0, 1, 2] and all(one.histogram_value.num == 64 * 128 for one in histograms)


def records_of_wandb(path):
    """Yield the records of an offline run: a log of blocks of 32 KiB behind a header of 7 bytes, as LevelDB writes it."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_wandb_is_read_back_from_its_offline_file(made):
    folder = run_of(made, "unlearn")
    (path,) = (made / "wandb").glob(f"offline-run-*/run-{folder.name}.wandb")
    seen, parameters, codes = {}, {}, []
    for record in records_of_wandb(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            parameters |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if kind == "exit":
            codes.append(record.exit.exit_code)
        if kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            axis = row["epoch"] if "epoch" in row else row["step"]
            for name, value in row.items():
                seen.setdefault(name, {})[axis] = value
    assert parameters["method.solver"] == "augmented_lagrangian" and codes == [0]
    for name, values in expected(folder).items():
        assert seen[name] == pytest.approx(values)


def test_a_tracker_is_no_part_of_a_run(made, tmp_path):
    command("unlearn", *SMALL, *METHOD, f"out={tmp_path}")
    for stage in ("train", "unlearn"):
        (alone,) = tmp_path.glob(f"{stage}-*")
        tracked = run_of(made, stage)
        assert alone.name == tracked.name
        assert (alone / "logits.npy").read_bytes() == (tracked / "logits.npy").read_bytes()
        assert runs.read_json(alone / "record.json")["weights"] == runs.read_json(tracked / "record.json")["weights"]
        assert "track:" not in (tracked / "config.yaml").read_text()
        assert "values" not in (alone / "events.jsonl").read_text(), "off costs nothing"


def test_what_is_found_made_is_not_sent_again_and_what_was_made_without_is_sent_later(made, tmp_path, capsys):
    from mlflow import MlflowClient

    lines = send([made / "runs"], chosen(made, *ALL))
    assert lines == [f"{name}: 0 sent, 2 there already, 0 not finished" for name in ALL]
    places = [f'{{name: mlflow, address: "{made / "mlflow.db"}"}}', f'{{name: json_lines, folder: "{tmp_path / "new"}"}}']
    command("unlearn", *SMALL, *METHOD, f"out={made / 'runs'}", f"track=[{', '.join(places)}]")
    client = MlflowClient(tracking_uri=f"sqlite:///{made / 'mlflow.db'}")
    assert len(client.search_runs([client.get_experiment_by_name("expunge").experiment_id])) == 2
    assert len(list((tmp_path / "new").glob("*.jsonl"))) == 2, "a tracker that does not have a run that is found made takes it in"
    assert "warning" not in capsys.readouterr().err


def test_all_events_later_are_what_was_heard_at_once(made, tmp_path):
    send([run_of(made, "unlearn")], chosen(tmp_path, "json_lines"))
    name = f"{run_of(made, 'unlearn').name}.jsonl"
    late, live = ((folder / "json_lines" / name).read_text().splitlines() for folder in (tmp_path, made))
    assert sorted(late) == sorted(live)


def cut(folder, to, lines):
    """Make a copy of a run as it was after some lines of its event log."""
    shutil.copytree(folder, to)
    log = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    (to / "events.jsonl").write_text("".join(log[:lines]))
    (to / "record.json").unlink()
    return log


@pytest.mark.parametrize("name", ALL)
def test_a_run_whose_process_was_killed_is_told_once(made, place, name):
    tmp_path = place
    whole, folder = run_of(made, "unlearn"), tmp_path / run_of(made, "unlearn").name
    log = cut(whole, folder, 4)
    (tracker,) = chosen(tmp_path, name)
    connection = tracker.connect()
    Delivery(connection, folder, "title").go_on()
    if name == "wandb":
        connection.close()  # its service holds a run as long as the process lives
    again = tracker.connect()
    assert not again.has(folder.name) and not deliver(again, folder)
    (folder / "events.jsonl").write_text("".join([*log[:4], log[4][:20], "\n", *log]))  # the second attempt begins anew
    shutil.copy(whole / "record.json", folder)
    assert deliver(again, folder) and again.has(folder.name)
    again.close()
    points = Reader().read(Tail(whole / "events.jsonl").read())[0]
    assert stored(tmp_path, name, folder.name) == sorted((point.name, point.step) for point in points if "/" in point.name)
    connection.close()


def stored(folder, name, key):
    """Return (series, step) of all that a tracker holds of a run but its cost."""
    if name == "json_lines":
        rows = [json.loads(line) for line in (folder / name / f"{key}.jsonl").read_text().splitlines()]
        pairs = [(row["name"], row["step"]) for row in rows if row["kind"] == "value"]
    elif name == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        (run,) = client.search_runs([client.get_experiment_by_name("expunge").experiment_id])
        pairs = [(metric, one.step) for metric in run.data.metrics for one in client.get_metric_history(run.info.run_id, metric)]
    elif name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (place,) = (folder / name).glob(f"*-{key}")
        seen = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        pairs = [(metric, one.step) for metric in seen.Tags()["scalars"] for one in seen.Scalars(metric)]
    else:
        (path,) = (folder / name).glob(f"offline-run-*/run-{key}.wandb")
        pairs = []
        for record in records_of_wandb(path):
            if record.WhichOneof("record_type") == "history":
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                pairs += [(metric, row["epoch"] if "epoch" in row else row["step"]) for metric in row]
    return sorted((metric, step) for metric, step in pairs if "/" in metric and not metric.startswith(("cost/", "weights/")))


def test_attempts_are_told_once_over_phases_and_checkpoints(tmp_path):
    def steps(phase, *numbers):
        return {"event": "steps", "phase": phase, "steps": list(numbers), "values": {"loss/a": [float(n) for n in numbers]}}

    def epoch(phase, number, steps):
        return {"event": "epoch", "phase": phase, "epoch": number, "epochs": 2, "losses": {"a": float(number)}, "steps": steps}

    first = [{"event": "start"}, steps(0, 2, 4), epoch(0, 1, 4), steps(0, 6, 8), epoch(0, 2, 8), steps(1, 2)]
    second = [{"event": "start"}, {"event": "resumed", "phase": 0, "epoch": 2, "steps": 8}, steps(1, 2, 4), epoch(1, 1, 4)]
    for event in [*first, *second]:
        runs.append_event(tmp_path / "events.jsonl", **event)
    points, _ = Reader().read(Tail(tmp_path / "events.jsonl").read())
    assert [(p.step, p.value) for p in points if p.name == "loss/a"] == [(2, 2), (4, 4), (6, 6), (8, 8), (10, 2), (12, 4)]
    assert [(p.step, p.value) for p in points if p.name == "epoch_loss/a"] == [(1, 1), (2, 2), (3, 1)]


def test_a_database_that_was_not_finished_is_not_there(tmp_path, monkeypatch):
    import mlflow.store.db.utils as made_by

    def killed(engine):
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE webhooks (webhook_id TEXT)")
        raise KeyboardInterrupt

    monkeypatch.setattr(made_by, "_upgrade_db", killed)
    (tracker,) = chosen(tmp_path, "mlflow")
    with pytest.raises(KeyboardInterrupt):
        tracker.connect()
    assert list(tmp_path.iterdir()) == []


class Full(Tracker):
    """A disk without room."""

    def connect(self):
        raise OSError(28, "No space left on device")


class Deaf(Tracker):
    """A server that never answers."""

    def connect(self):
        import time

        time.sleep(30)


class Display:
    """Collects what is said."""

    def __init__(self):
        self.said = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def report(self, event):
        if event["event"] == "warning":
            self.said.append(f"{event['title']}: {event['message']}")


def test_a_tracker_that_fails_is_said_once_and_a_run_goes_on(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    track = f'[{{name: mlflow, address: "http://127.0.0.1:9"}}, {{name: json_lines, folder: "{tmp_path / "lines"}"}}]'
    command("unlearn", *SMALL, *METHOD, f"out={tmp_path / 'runs'}", f"track={track}")
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 2, "the run came to its end"
    assert len(list((tmp_path / "lines").glob("*.jsonl"))) == 2, "the other tracker heard everything"
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("track=mlflow") == 2 and "`expunge track FOLDER track=mlflow` sends what is missing" in said, said


def test_no_room_and_no_answer_end_nothing(made):
    display, folder = Display(), str(run_of(made, "unlearn"))
    with Followed(display, [Full(), Deaf()], patience=0.3) as followed:
        for _ in range(50):
            followed.report({"event": "found", "title": "a", "folder": folder})
    assert len(display.said) == 2
    assert "No space left" in display.said[0] and "has not answered" in display.said[1]


def test_a_file_that_cannot_be_written_ends_its_tracker_alone(made, tmp_path):
    (tmp_path / "taken").write_text("a file")
    display = Display()
    trackers = config.resolve(
        {"track": [{"name": "json_lines", "folder": str(tmp_path / "taken")}, {"name": "tensorboard", "folder": str(tmp_path / "fine")}]}
    ).track
    with Followed(display, trackers) as followed:
        followed.report({"event": "found", "title": "a", "folder": str(run_of(made, "train"))})
    assert len(display.said) == 1 and display.said[0].startswith("track=json_lines: FileExistsError")
    assert list((tmp_path / "fine").glob("*/complete"))


def comparison(made, folder):
    """Write the folder of a comparison that rests on the two runs."""
    train, unlearn = run_of(made, "train"), run_of(made, "unlearn")

    def row(name, role, value):
        cell = {"value": value, "standard_error": 0.5, "per_seed": [value], "band": {"low": 1.0, "high": 2.0}}
        return {"name": name, "role": role, "cells": {"unlearning_accuracy": cell}, "failed_seeds": 0, "verdict": "fails"}

    text = config.to_yaml(config.resolve({"data": "digits", "model": "mlp"}).lasting())
    said = {"original/abc/0": str(train), "unlearned/0/salun/lr=1/0": str(unlearn)}
    record = {
        "title": "One request",
        "table": {"rows": [row("original", "original", 1.0), row("salun/lr=1", "unlearned", 2.5)]},
        "provenance": {"command": "expunge evaluate", "seconds": 3.0, "config": text, "runs": said},
    }
    runs.write_json(folder / "record.json", [record])
    (folder / "report.html").write_text("<html></html>")
    (folder / "table.csv").write_text("row\n")


def test_a_comparison_is_the_parent_of_its_runs(made, place):
    tmp_path = place
    from mlflow import MlflowClient

    folder = tmp_path / "compare-0123456789abcdef"
    comparison(made, folder)
    assert send([folder], chosen(tmp_path, *ALL)) == [f"{name}: 3 sent, 0 there already, 0 not finished" for name in ALL]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = {run.data.tags["expunge.run"]: run for run in client.search_runs([client.get_experiment_by_name("expunge").experiment_id])}
    parent, child = found[folder.name], found[run_of(made, "unlearn").name]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id and child.data.metrics["final/unlearning_accuracy"] == 2.5
    assert parent.data.metrics["table/salun/lr 1/unlearning_accuracy"] == 2.5 and parent.data.params["data.name"] == "digits"
    assert {one.path for one in client.list_artifacts(parent.info.run_id)} == {"record.json", "report.html", "runs.json", "table.csv"}
    assert send([folder], chosen(tmp_path, *ALL)) == [f"{name}: 0 sent, 3 there already, 0 not finished" for name in ALL]
    (path,) = (tmp_path / "wandb").glob(f"offline-run-*/run-{folder.name}.wandb")
    assert any("table-file" in item.value_json for record in records_of_wandb(path) for item in record.history.item)


def test_a_command_reports_its_comparison_to_its_trackers(made, tmp_path):
    folder = tmp_path / "bench-0123456789abcdef"
    comparison(made, folder)
    with Followed(Display(), chosen(tmp_path, "json_lines")) as followed:
        for stage in ("train", "unlearn"):
            followed.report({"event": "found", "title": "x", "folder": str(run_of(made, stage))})
        followed.report({"event": "result", "folder": str(folder)})
    assert len(list((tmp_path / "json_lines").glob("*.jsonl"))) == 3
    with Followed(Display(), chosen(tmp_path, "json_lines")) as followed:
        pass
    assert not any(courier.is_alive() for courier in followed.couriers)


def test_every_tracker_is_a_component():
    assert registry.names("trackers") == ALL
    for name in ALL:
        tracker = registry.find("trackers", name)()
        assert tracker.summary() and tracker.source and config.build("trackers", tracker.tree(), "track") == tracker


@pytest.mark.parametrize(
    "words,found",
    [
        (["track=tensorbord"], "Did you mean 'tensorboard'"),
        (["track=mlflow", "track.mlflow.every=0"], "track.mlflow.every: expected a positive integer, got 0"),
        (["track.mlflow.every=2"], "the tracker 'mlflow' is not chosen"),
        (["track=3"], "expected a list"),
    ],
)
def test_wrong_words_are_refused(words, found):
    from expunge.errors import BadInput

    with pytest.raises(BadInput, match=found):
        config.resolve(config.read(None, words))


def test_a_package_that_is_missing_names_its_extra(monkeypatch):
    from expunge.errors import BadInput

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"expunge\[mlflow\]"):
        Followed(Display(), config.resolve({"track": "mlflow"}).track)


def test_a_printed_configuration_reads_back(capsys):
    command("config", *SMALL, "track=[tensorboard]", "track.tensorboard.folder=x")
    tree = config.parse_yaml(capsys.readouterr().out, "printed")
    assert config.resolve(tree).track[0].folder == "x" and "track" not in config.resolve(tree).lasting()
    assert "track" not in config.resolve({}).tree()


def test_without_trackers_nothing_of_them_is_made(monkeypatch):
    monkeypatch.setattr(following, "Followed", None)
    monkeypatch.setattr(carrying, "Courier", None)
    assert type(cli.shared.make_progress(())).__name__ == "Progress" and subjects.stage_of
