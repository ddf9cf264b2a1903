"""A folder of runs watched while they are made: by the terminal, by the server, and by a reader with a browser."""

import http.client
import json
import threading
import time

import pytest
from rich.console import Console

from browser.watched_runs import Slow
from expunge import runs
from expunge.errors import BadInput
from expunge.report.watching import builder, keeper, terminal
from expunge.report.watching import folder as folders
from expunge.report.watching.server import Server

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
    made = Server(folder)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.close()


def get(server, path, host=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.server_address[1]}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_states_of_runs_are_read_from_their_folders(folder, monkeypatch):
    seen = folders.look(folder)
    assert seen["counts"] == {"running": 1, "ok": 1} and seen["results"] == []
    first, second = seen["runs"]
    assert [first["title"], first["state"], first["epoch"], first["phase"]] == ["unlearn salun", "running", 1, "first phase: 1 of 3"]
    assert first["losses"] == {"x on forget": [[1, 2.5]]} and second["seconds"] == 12.5
    begin(folder / "unlearn-aa", name="first phase", epoch=2, epochs=3, losses={"x on forget": 1.5})
    assert folders.look(folder)["runs"][0]["losses"] == {"x on forget": [[1, 2.5], [2, 1.5]]}
    now = time.time()
    monkeypatch.setattr(folders.time, "time", lambda: now + 600)
    assert folders.look(folder)["counts"] == {"silent": 1, "ok": 1}


def test_the_terminal_shows_the_same_and_is_not_steered_by_names(folder):
    console = Console(width=100)
    with console.capture() as captured:
        console.print(terminal.table({**folders.look(folder), "comparisons": []}, "http://127.0.0.1:1/"))
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
        Server(folder, server.server_address[1])
    with pytest.raises(BadInput, match="no such folder"):
        Server(folder / "gone")


def test_a_comparison_in_progress_is_led_to(server, folder):
    """``/`` is the report that grows as soon as there is one; afterwards the place of a comparison leads to its result."""
    assert get(server, "/growing/xx")[0] == get(server, "/growing/../x")[0] == 404
    one = {"id": "xx", "state": "running", "page": 5, "result": "", "command": "expunge bench x"}
    server.keeper.close()
    server.keeper.seen = {**server.keeper.seen, "comparisons": [{**one, "id": "yy", "page": 0}, one]}
    made = server.keeper._builder.pages["xx"] = builder.Page(folder / "pages", 5)
    made.folder.mkdir()
    (made.folder / "report.html").write_text("it grows")
    assert get(server, "/") == (302, "") and get(server, "/growing/xx") == (200, "it grows")
    assert get(server, "/runs")[0] == 200 and "expunge bench x" in get(server, "/runs")[1]
    server.keeper.seen["comparisons"][1] = {**one, "state": "done", "result": "bench-\r\nX: y"}
    assert get(server, "/")[0] == 200 and get(server, "/growing/xx") == (302, "")


def test_the_stream_tells_what_changes(server, folder, monkeypatch):
    monkeypatch.setattr(keeper, "EVERY", 0.02)
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


@pytest.fixture
def quick(monkeypatch):
    """Let pages be built one right after another."""
    monkeypatch.setattr(builder, "PAUSE", 0.1)
    monkeypatch.setattr(builder, "SHARE", 1.0)


@pytest.fixture
def slow(tmp_path):
    made = Slow(tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    yield made
    made.stop()


@pytest.fixture
def open_page(chromium, slow, quick):
    """Return a function that opens the page of a server on the folder of the slow comparison; nothing strange may happen there."""
    server, strange = Server(slow.out), []
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def visit(width=1280, **more):
        page = chromium.new_page(viewport={"width": width, "height": 900}, **more)
        page.on("console", lambda message: strange.append(message.text))
        page.on("pageerror", lambda error: strange.append(str(error)))
        page.on("request", lambda request: request.url.startswith((server.address, "data:", "blob:")) or strange.append(request.url))
        page.goto(server.address)
        return page

    yield visit
    server.close()
    assert strange == []


def follows(page, row):
    """Wait for a page that shows a row, and follows."""
    page.wait_for_selector(f"tbody.method[data-row={row}]", state="attached", timeout=90_000)
    page.wait_for_selector("html[data-follows=yes]", state="attached")


def top_of(page, selector):
    return page.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().top")


@pytest.mark.slow
def test_a_row_appears_while_the_report_is_open_and_the_reader_stays_where_he_was(slow, open_page, keep):
    page = open_page()
    slow.start("retrained")
    page.locator(".comparisons", has_text="0 of 3 rows").wait_for(timeout=60_000)
    page.locator(".comparisons", has_text="The report begins with the first row that is whole.").wait_for()
    slow.let("salun")
    page.wait_for_url("**/growing/*", timeout=90_000)
    follows(page, "salun")
    assert page.title() == "In progress: Digits" and page.inner_text(".underway-counts") == "1 of 3 rows, 14 of 22 jobs"
    assert page.locator("tbody.method").count() == 1 and "So far 1 of 3 rows are finished." in page.inner_text(".lead")
    page.click(".underway-more summary")
    assert page.locator(".underway-list li").all_inner_texts() == ["ssd: 0 of 2 seeds", "finetune: 0 of 2 seeds"]
    keep(page, "growing-1")
    page.check(".show-all")
    page.click("th[data-metric=test_accuracy] button")
    page.click("[data-row=salun] .unfold")
    page.click(".glossary summary")
    page.evaluate("document.querySelector('.results').scrollIntoView({behavior: 'instant'})")
    page.evaluate("document.querySelector('.results-scroll').scrollLeft = 150")
    before = top_of(page, ".results")
    slow.let("ssd")
    follows(page, "ssd")
    assert page.locator("[data-row=salun] .more").is_visible() and not page.locator("[data-row=ssd] .more").is_visible()
    assert page.is_checked(".show-all") and page.get_attribute("th[data-metric=test_accuracy]", "aria-sort") == "ascending"
    assert page.evaluate("document.querySelector('.glossary').open && document.querySelector('.underway-more').open")
    assert abs(top_of(page, ".results") - before) < 3 and page.evaluate("document.querySelector('.results-scroll').scrollLeft") == 150
    assert "2 of 3 rows" in page.inner_text(".brand")
    keep(page, "growing-2")
    page.evaluate("document.querySelector('section.tradeoff').scrollIntoView({behavior: 'instant'})")
    slow.end()
    page.wait_for_url("**/report/compare-*#request-1-tradeoff", timeout=90_000)
    assert page.title() == "expunge: Digits" and page.locator("tbody.method").count() == 3 and not page.locator(".underway").count()
    assert abs(top_of(page, "section.tradeoff")) < 150
    page.close()


@pytest.mark.slow
def test_a_reader_who_holds_the_page_still_is_asked(slow, open_page, keep):
    page = open_page(360, color_scheme="dark")
    slow.start("salun")
    page.wait_for_url("**/growing/*", timeout=90_000)
    follows(page, "salun")
    page.uncheck(".underway-auto")
    slow.let("ssd")
    page.locator(".underway-news", has_text="1 more row is there: show").wait_for(timeout=90_000)
    assert page.inner_text(".underway-brief") == "2 of 3 rows" and page.locator("tbody.method").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.click(".underway-news button")
    follows(page, "ssd")
    assert not page.is_checked(".underway-auto"), "held still until the reader says otherwise"
    slow.stop()
    page.locator(".underway.stopped .underway-news", has_text="run again: expunge evaluate digits.yaml <b>").wait_for()
    assert page.inner_text(".brand").startswith("expunge stopped")
    keep(page, "growing-stopped-360")
    page.goto(page.url.partition("growing")[0])
    page.locator("[data-comparison]", has_text="Stopped").get_by_text("The report as far as it came").click()
    page.wait_for_url("**/growing/*")
    page.close()
