"""A folder of runs watched while they are made: by the terminal, by the server, and by a reader with a browser."""

import http.client
import json
import threading
import time

import pytest
from rich.console import Console

from expunge import runs
from expunge.errors import BadInput
from expunge.report import watch

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[2J"


def begin(folder, method="salun", **epoch):
    """Write the folder of a run that has begun, and one of its epochs."""
    folder.mkdir(exist_ok=True)
    log = folder / "events.jsonl"
    if not log.exists():
        runs.append_event(log, event="start", identity={"stage": "unlearn", "method": {"name": method}})
    if epoch:
        runs.append_event(log, event="epoch", **epoch)


@pytest.fixture
def folder(tmp_path):
    begin(tmp_path / "unlearn-aa", name="first phase", epoch=1, epochs=3, losses={"x on forget": 2.5})
    begin(tmp_path / "train-bb", HOSTILE)
    runs.write_json(tmp_path / "train-bb" / "record.json", {"status": "ok", "title": HOSTILE, "cost": {"seconds": 12.5}})
    return tmp_path


@pytest.fixture
def server(folder):
    made = watch.Server(folder)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.close()


def get(server, path, host=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.server_address[1]}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_states_of_runs_are_read_from_their_folders(folder, monkeypatch):
    seen = watch.look(folder)
    assert seen["counts"] == {"running": 1, "ok": 1} and seen["results"] == []
    first, second = seen["runs"]
    assert [first["title"], first["state"], first["epoch"], first["phase"]] == ["unlearn salun", "running", 1, "first phase: 1 of 3"]
    assert first["losses"] == {"x on forget": [[1, 2.5]]} and second["seconds"] == 12.5
    begin(folder / "unlearn-aa", name="first phase", epoch=2, epochs=3, losses={"x on forget": 1.5})
    assert watch.look(folder)["runs"][0]["losses"] == {"x on forget": [[1, 2.5], [2, 1.5]]}
    now = time.time()
    monkeypatch.setattr(watch.time, "time", lambda: now + 600)
    assert watch.look(folder)["counts"] == {"silent": 1, "ok": 1}


def test_the_terminal_shows_the_same_and_is_not_steered_by_names(folder):
    console = Console(width=100)
    with console.capture() as captured:
        console.print(watch.table(watch.look(folder), "http://127.0.0.1:1/"))
    text = captured.get()
    assert "1 running, 1 ok" in text and "x on forget 2.5" in text and "first phase: 1 of 3" in text and "\x1b[2J" not in text


def test_the_server_answers_this_machine_and_its_own_pages_alone(server, folder):
    assert server.server_address[0] == "127.0.0.1"
    status, text = get(server, "/")
    assert status == 200 and "<img" not in text and "unlearn salun" in text
    (folder / "compare-cc").mkdir()
    (folder / "compare-cc" / "report.html").write_text("the report")
    assert get(server, "/report/compare-cc") == (200, "the report")
    for path in ("/report/../train-bb", "/train-bb/record.json", "/report/compare-dd", "/report/%2e%2e/x"):
        assert get(server, path)[0] == 404
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example:80", ""):
        assert get(server, "/", host or "evil")[0] == 403
    with pytest.raises(BadInput, match="cannot listen on port"):
        watch.Server(folder, server.server_address[1])
    with pytest.raises(BadInput, match="no such folder"):
        watch.Server(folder / "gone")


def test_the_stream_tells_what_changes(server, folder, monkeypatch):
    monkeypatch.setattr(watch, "EVERY", 0.02)
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request("GET", "/events", headers={"Host": f"localhost:{server.server_address[1]}"})
    answer, told = connection.getresponse(), []
    while len(told) < 2:
        line = answer.readline().decode()
        if line.startswith("data: "):
            told.append(json.loads(line[6:]))
            begin(folder / "unlearn-dd", "scrub")
    connection.close()
    assert [sum(told[k]["counts"].values()) for k in (0, 1)] == [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_a_reader_sees_runs_go_on_and_the_result_appear(chromium, server, folder, keep, width):
    strange, page = [], chromium.new_page(viewport={"width": width, "height": 800})
    page.on("console", lambda message: strange.append(message.text))
    page.on("pageerror", lambda error: strange.append(str(error)))
    page.on("request", lambda request: request.url.startswith(server.address) or strange.append(request.url))
    page.goto(server.address)
    page.locator(".live", has_text="live").wait_for()
    assert "1 running, 1 finished." in page.inner_text(".counts") and "None yet" in page.inner_text(".results-list")
    begin(folder / "unlearn-aa", name="second phase", epoch=1, epochs=2, losses={"x on forget": 1.0})
    page.locator("[data-run=unlearn-aa]", has_text="second phase: 1 of 2").wait_for()
    assert page.locator("[data-run=unlearn-aa] svg").get_attribute("aria-label") == "x on forget 1"
    (folder / "compare-cc").mkdir()
    (folder / "compare-cc" / "report.html").write_text("<!doctype html><title>done</title><p>the report")
    page.locator(".results-list a", has_text="compare-cc").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    keep(page, f"watch-{width}")
    page.click(".results-list a")
    page.wait_for_url("**/report/compare-cc")
    assert page.title() == "done"
    page.close()
    assert strange == []
