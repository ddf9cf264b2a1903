"""A page of the laboratory in a real browser: figures are drawn, chosen, played, and in the colours of both themes."""

import json

import numpy as np
import pytest

from expunge.lab import figures, page
from expunge.lab.lab import Figure, Section, Sheet, Table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page with a figure of two charts, one of them a film, and names that try to do harm."""
    layout, _ = figures.grid(1, 1, ["<b>title</b>"])
    plain = {"data": [figures.line([0, 1, 2], [1.0, 4.0, 2.0], "loss", "$forget")], "layout": layout}
    heat = figures.field(np.arange(25).reshape(5, 5) * 4, (0, 0), (1, 1), 2)
    frames = [{"name": f"epoch {k}", "traces": [0], "data": [{"z": [[k] * 5] * 5}]} for k in range(4)]
    film = {"data": heat, "layout": layout, "frames": frames}
    sheet = Sheet(
        "Does it draw?",
        ["One <script>document.title='bad'</script> finding."],
        [("name", "مرحبا <img src=x onerror=alert(1)>")],
        [Section("Figures", ["Text."], [Figure({"plain": plain, "film": film}, "caption"), Table(["a", "b"], [["row", "1.5"]])])],
    )
    record = {"config": {"lab": "x"}, "command": "expunge lab", "seconds": 2.0, "environment": {"python": "3"}, "found": {"a": [1, 2.5]}}
    path = tmp_path_factory.mktemp("lab") / "page.html"
    page.write("A page", sheet, record, path)
    return path, record


def ready(found):
    found.wait_for_selector(".chart .main-svg", state="attached", timeout=60_000)
    return found


def test_it_draws_chooses_and_plays(visit, made, keep):
    found = ready(visit(made[0], drawn=None))
    assert found.title() == "expunge lab: A page"
    assert found.evaluate("document.querySelector('.chart').data[0].y") == [1, 4, 2], "the figure shows the numbers that it was given"
    assert not found.is_visible(".film")
    found.select_option(".choice", "film")
    assert found.is_visible(".film") and found.text_content(".frame-name") == "epoch 0"
    found.evaluate("(() => { const s = document.querySelector('.frame'); s.value = 2; s.dispatchEvent(new Event('input')); })()")
    assert found.evaluate("document.querySelector('.chart').data[0].z[0][0]") == 2 and found.text_content(".frame-name") == "epoch 2"
    found.click(".play")
    found.locator(".frame-name", has_text="epoch 3").wait_for()
    assert json.loads(found.text_content("#lab-record")) == made[1]
    keep(found, "lab-page")


def test_colours_are_those_of_the_theme(visit, made):
    seen = {}
    for theme in ("light", "dark"):
        found = ready(visit(made[0], theme=theme, drawn=None))
        seen[theme] = found.evaluate("document.querySelector('.chart').data[0].line.color")
        assert seen[theme] == found.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--forget').trim()")
    assert seen["light"] != seen["dark"]


@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_it_fits(visit, made, width):
    found = ready(visit(made[0], width, drawn=None))
    assert found.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
