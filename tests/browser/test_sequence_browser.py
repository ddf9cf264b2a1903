"""The page about a stream of requests in a real browser: Plotly unpacks as its policy allows, and every curve is drawn."""

import pytest

from expunge.report import drift as drawn
from expunge.requests import drift

WORDS = ["data=digits", "model=mlp", "train=tiny", "train.epochs=1", "forget=random", "method=finetune", "method.epochs=1"]


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    out = tmp_path_factory.mktemp("stream")
    words = [*WORDS, "evaluate.seeds=2", "evaluate.retrained=2", "evaluate.workers=1", f"out={out}"]
    return drift.serve(drift.read(None, words, 2, "fresh"), lambda event: None, "typed")


def test_every_curve_is_drawn(visit, stream):
    records, folder = stream
    page = visit(folder / "report.html", drawn=None)
    wanted = [figure["id"] for figure in drawn.figures(records[0], "drift-1")]
    for name in wanted:
        page.wait_for_selector(f"#{name} .main-svg", state="attached", timeout=30_000)
    assert len(wanted) > 5 and page.locator(".js-plotly-plot").count() == len(wanted)


def test_a_browser_that_cannot_unpack_says_so_in_the_place_of_the_curves(chromium, stream):
    records, folder = stream
    with chromium.new_context() as context:
        context.add_init_script("delete window.DecompressionStream")
        page = context.new_page()
        page.goto((folder / "report.html").as_uri())
        said = page.locator(".drift-figure").all_text_contents()
    assert len(said) == len(drawn.figures(records[0])) and all("need a browser of 2023 or later" in text for text in said)
