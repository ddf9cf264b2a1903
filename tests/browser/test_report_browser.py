"""The report in a real browser: it draws, sorts and prints without an error or a request, in both themes and on a phone.

Set ``EXPUNGE_SCREENSHOTS=FOLDER`` to keep the pictures.
"""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from browser.report_record import METHODS, failure, record
from expunge.report import html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH (apt-get install chromium)")]

QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync",
         "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=6000")  # fmt: skip
DARK = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")


def browse(path: Path, profile: Path, *arguments: str) -> tuple[str, list[str]]:
    """Open a file; return what the browser printed and the lines of its console."""
    command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", *arguments, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def report(folder):
    path = folder / "report.html"
    html.write([record(failures={"noisy_ascent": failure()})], path)
    return path


@pytest.fixture(scope="module")
def dom(report, folder):
    text, console = browse(report, folder / "profile-dom", "--dump-dom", "--window-size=1280,6000")
    assert console == []
    return text


def with_script(report: Path, name: str, script: str) -> Path:
    """Return a copy of the report that also runs ``script`` and leaves its answer in the title, as JSON."""
    text = report.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    probe = f"<script>setTimeout(() => {{ document.title = JSON.stringify((() => {{ {script} }})()); }}, 1500);</script></body>"
    path = report.with_name(name)
    path.write_text(text.replace("</body>", probe), encoding="utf-8")
    return path


def answer(report: Path, folder: Path, script: str, *arguments: str):
    """Return what ``script`` returns inside the page."""
    path = with_script(report, "probe.html", script)
    text, console = browse(path, folder / "profile-probe", "--dump-dom", *arguments)
    assert console == []
    finder = Title()
    finder.feed(text)
    return json.loads(finder.title)


class Title(HTMLParser):
    """The page's title (Plotly's drawings have titles too; the first is the page's)."""

    title, inside = "", False

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "title" and not self.title

    def handle_data(self, data):
        if self.inside:
            self.title += data

    def handle_endtag(self, tag):
        self.inside = False


def test_both_charts_are_drawn(dom):
    charts = re.split(r'<div class="chart ', dom)[1:]
    assert len(charts) == 2
    assert all("main-svg" in chart for chart in charts)
    assert all(f">{name}<" in dom for name in METHODS)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_draws_in_both_themes_and_widths_without_a_console_line(report, folder, width, theme):
    kept = Path(os.environ.get("EXPUNGE_SCREENSHOTS", folder))
    kept.mkdir(parents=True, exist_ok=True)
    picture, height = kept / f"report-{width}-{theme}.png", 6000 if width > 1000 else 9000
    # A browser window is at least 500 pixels wide; a frame is not.
    frame = folder / f"frame-{width}.html"
    frame.write_text(f'<body style="margin:0"><iframe src="report.html" style="border:0;width:{width}px;height:{height}px"></iframe>')
    arguments = (f"--window-size={max(width, 500)},{height}", f"--screenshot={picture}", *(DARK if theme == "dark" else ()))
    _, console = browse(frame, folder / f"profile-{width}-{theme}", *arguments)
    assert console == []
    with Image.open(picture) as image:
        shot = image.convert("L").crop((0, 0, width, height))
    brightness = sum(shot.resize((50, 50)).tobytes()) / 2500
    assert (brightness < 80) == (theme == "dark")
    assert min(shot.tobytes()) < 100 < 150 < max(shot.tobytes())


@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_itself_never_scrolls_sideways(report, folder, width):
    measure = "parent.postMessage([document.documentElement.scrollWidth, document.documentElement.clientWidth], '*')"
    with_script(report, "inner.html", measure)
    outer = folder / f"outer-{width}.html"
    listen = "<script>addEventListener('message', (event) => { document.title = JSON.stringify(event.data); })</script>"
    outer.write_text(f'{listen}<iframe src="inner.html" style="border:0;width:{width}px;height:6000px"></iframe>')
    text, console = browse(outer, folder / f"profile-outer-{width}", "--dump-dom", f"--window-size={max(width, 500)},6000")
    assert console == []
    scroll, client = json.loads(re.search(r"<title>(.*?)</title>", text)[1])
    assert client == width
    assert scroll <= client


def test_sorting_keeps_the_reference_rows_and_puts_lost_rows_last(report, folder):
    script = """
        const table = document.querySelector(".results");
        const heads = [...table.querySelectorAll("thead th")];
        const names = () => [...table.querySelectorAll("tbody th bdi")].map((cell) => cell.textContent);
        const head = heads.find((cell) => cell.textContent.includes("UA"));
        head.querySelector("button").click();
        const up = names(), sorted = head.getAttribute("aria-sort");
        head.querySelector("button").click();
        return { up, down: names(), sorted, buttons: heads.every((cell) => cell.querySelector("button")) };"""
    found = answer(report, folder, script, "--window-size=1280,6000")
    assert found["buttons"] and found["sorted"] == "ascending"
    for order in (found["up"], found["down"]):
        assert order[:2] == ["original", "retrained"] and order[-1] == "noisy_ascent"
    assert found["up"][2:-1] == found["down"][2:-1][::-1]
    assert found["up"][2] == "finetune" and found["up"][-2] == "gradient_ascent"


def test_the_charts_show_the_numbers_of_the_record(report, folder):
    script = """
        const record = JSON.parse(document.getElementById("expunge-records").textContent)[0];
        const points = () => document.querySelector(".cost-chart").data
            .flatMap((trace) => trace.text.map((name, at) => [name, trace.x[at], trace.y[at]]));
        const cost = points();
        const losses = document.querySelector(".loss-chart").data
            .filter((trace) => trace.name === "forget").map((trace) => trace.y.slice(0, -1));
        const select = document.querySelector(".closeness");
        select.value = "churn";
        select.dispatchEvent(new Event("change"));
        return { record, cost, losses, churn: points() };"""
    found = answer(report, folder, script, "--window-size=1280,6000")
    rows = {row["name"]: row for row in found["record"]["table"]["rows"]}
    assert {name for name, *_ in found["cost"]} == {"retrained", *METHODS}
    for name, x, _ in found["cost"]:
        assert x == found["record"]["cost"][name]["seconds_ratio"]
    for name, _, y in found["churn"]:
        assert y == rows[name]["cells"]["churn"]["value"]
    held = found["record"]["histograms"]["loss"]["rows"]
    assert found["losses"][:2] == [held["original"]["forget"], held["retrained"]["forget"]]


def test_what_users_wrote_runs_nothing(folder):
    name = "<img src=x onerror=\"document.title='broken in'\">"
    hostile = record(title=name, methods={"finetune": METHODS["finetune"]}, seeds=2, retrained=3, scale=4)
    hostile["table"]["rows"][2]["name"] = name
    for key in ("cost", "methods"):
        hostile[key][name] = hostile[key].pop("finetune")
    hostile["histograms"]["loss"]["rows"][name] = hostile["histograms"]["loss"]["rows"].pop("finetune")
    path = folder / "hostile.html"
    html.write([hostile], path)
    text, console = browse(path, folder / "profile-hostile", "--dump-dom", "--window-size=1280,6000")
    assert console == [], "the policy had to block something"
    finder = Title()
    finder.feed(text)
    assert finder.title == f"expunge: {name}"
    assert "<img" not in re.sub(r"<(script|title)\b.*?</\1>", "", text, flags=re.DOTALL)


def test_it_prints(report, folder):
    pdf = folder / "report.pdf"
    _, console = browse(report, folder / "profile-print", f"--print-to-pdf={pdf}")
    assert console == []
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 50_000
