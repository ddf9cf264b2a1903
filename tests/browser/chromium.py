"""A real browser for the tests of pages: Debian's Chromium, driven by Playwright, with an empty profile and no network."""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars"
).split()


@pytest.fixture(scope="session")
def chromium():
    """A running browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (uv sync --group dev)")
    if CHROMIUM is None:
        pytest.skip("needs chromium on the PATH (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Return a function that opens a file as a reader does, and at the end of the test sees that nothing was printed or asked for.

    ``drawn`` waits for every figure (True), for everything but figures (False), or for nothing.
    """
    contexts, strange = [], []

    def note(kind, text):
        strange.append(f"{kind}: {text}"[:300])

    def open_page(path: Path, width: int = 1280, theme: str = "light", drawn: bool | None = True, **more):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: note("console", message.text))
        page.on("pageerror", lambda error: note("error", str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or note("request", request.url))
        page.goto(path.as_uri())
        if drawn is not None:
            page.wait_for_selector("html[data-drawn=all]" if drawn else "html[data-ready]", state="attached", timeout=90_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert strange == []


@pytest.fixture
def keep():
    """Return a function that keeps a picture where EXPUNGE_SCREENSHOTS says, for people to look at."""

    def take(page, name: str, element: str | None = None):
        folder = os.environ.get("EXPUNGE_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            shot = {"path": str(Path(folder) / f"{name}.png")}
            page.locator(element).first.screenshot(**shot) if element else page.screenshot(full_page=True, **shot)

    return take
