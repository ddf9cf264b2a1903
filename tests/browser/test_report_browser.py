"""The report in a real browser: it draws, sorts, filters, unfolds, compares and prints, in both themes, from a phone to a wall.

Set ``EXPUNGE_SCREENSHOTS=FOLDER`` to keep pictures.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from browser.report_record import METHODS, NAMES, failure, record
from browser.report_runs import comparison
from expunge.report import html

pytestmark = pytest.mark.slow

CHARTS = "[...document.querySelectorAll('.chart')].filter((each) => each.clientWidth)"
SIDEWAYS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A page about runs that were made, with its record."""
    (made,), folder = comparison(tmp_path_factory.mktemp("real"))
    return folder / "report.html", made


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A page about eight methods and one that gave no model, without run folders, with its record."""
    made = record(failures={"noisy_ascent": failure()})
    path = tmp_path_factory.mktemp("plain") / "report.html"
    html.write([made], path)
    return path, made


def names(page):
    """Return the rows of the leaderboard that are shown, in order."""
    return page.eval_on_selector_all(".results tbody:not([hidden]) th bdi", "(each) => each.map((cell) => cell.textContent)")


def test_every_figure_is_drawn_and_nothing_is_loaded(visit, real, keep):
    page = visit(real[0])
    drawn = page.evaluate(f"{CHARTS}.map((each) => [each.dataset.chart, each.querySelectorAll('.main-svg').length > 0])")
    assert len(drawn) == 14 and all(there for _, there in drawn), drawn
    assert page.evaluate("document.querySelectorAll('.absent').length") == 1, "only epsilon, which this tier does not measure"
    sections = page.eval_on_selector_all("article > section", "(each) => each.map((section) => section.id)")
    for section in sections:
        keep(page, section, f"#{section}")
    assert len(sections) == 9


@pytest.mark.parametrize("width", [360, 768, 1280, 3840])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_every_width_in_both_themes(visit, real, keep, width, theme):
    page = visit(real[0], width, theme)
    scroll, client = page.evaluate(SIDEWAYS)
    assert scroll <= client == width
    page.evaluate(
        "document.querySelectorAll('details').forEach((each) => { each.open = true; }); document.querySelector('.unfold').click()"
    )
    page.click(".show-all")
    page.wait_for_timeout(500)
    assert page.evaluate(SIDEWAYS)[0] <= client
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])
    assert (red + green + blue < 200) == (theme == "dark")
    wide = page.evaluate(f"{CHARTS}.filter((each) => each.querySelector('.main-svg') && each.scrollWidth > each.clientWidth + 1).length")
    assert wide == 0, "a figure is wider than its place"
    keep(page, f"whole-{width}-{theme}")


def test_the_theme_button_goes_round_and_figures_follow(visit, real):
    page = visit(real[0])
    seen = []
    for _ in range(4):
        seen.append((page.get_attribute(".theme", "aria-label"), page.evaluate("getComputedStyle(document.body).backgroundColor")))
        page.click(".theme")
        page.wait_for_timeout(300)
    assert [label for label, _ in seen] == ["Colours: as the system", "Colours: dark", "Colours: light", "Colours: as the system"]
    assert seen[0][1] == seen[2][1] != seen[1][1]
    ink = page.evaluate("document.querySelector('[data-chart=roc]').layout.font.color")
    assert ink == page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()")


def test_sorting_keeps_the_reference_rows_and_puts_lost_rows_last(visit, plain):
    page = visit(plain[0], drawn=False)
    head = page.locator(".results thead th", has_text="UA").first
    head.locator("button").click()
    up = names(page)
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").press("Enter")
    down = names(page)
    assert head.get_attribute("aria-sort") == "descending"
    for order in (up, down):
        assert order[:2] == ["original", "retrained"] and order[-1] == "noisy_ascent"
    assert up[2:-1] == down[2:-1][::-1] and up[2] == "finetune" and up[-2] == "gradient_ascent"
    page.click(".results thead th.first button")
    assert names(page)[2:] == sorted([*METHODS, "noisy_ascent"])


def test_rows_are_filtered_by_family_addon_and_name(visit, plain):
    page = visit(plain[0], drawn=False)
    families = page.eval_on_selector_all(".by-family option", "(each) => each.map((option) => option.textContent)")
    assert "relabeling" in families and "ascent" in families
    page.select_option(".by-family", "relabeling")
    assert {"random_label", "salun"} <= set(names(page)) and "scrub" not in names(page)
    page.select_option(".by-addon", "saliency_mask")
    assert names(page) == ["original", "retrained", "salun"] and "1 of 9 methods" in page.inner_text(".shown")
    page.select_option(".by-addon", "")
    page.select_option(".by-family", "")
    page.fill(".by-name", "FINE")
    assert names(page) == ["original", "retrained", "finetune", "finetune_l1"]


def test_one_seed_alone_shows_its_own_numbers(visit, plain):
    page, made = visit(plain[0], drawn=False), plain[1]
    page.select_option(".by-seed", "2")
    columns = page.eval_on_selector_all(".results thead th", "(each) => each.map((head) => head.dataset.metric)")
    lines = page.eval_on_selector_all(
        ".results tr.unlearned, .results tr.retrained",
        "(each) => each.map((line) => [line.querySelector('bdi').textContent, "
        "[...line.cells].map((cell) => cell.querySelector('.one-seed')?.textContent)])",
    )
    rows, checked = {row["name"]: row for row in made["table"]["rows"]}, 0
    for name, texts in lines:
        for metric, text in zip(columns, texts, strict=False):
            if metric and text:
                value = rows[name]["cells"][metric]["per_seed"][2]
                assert float(text.replace("−", "-")) == pytest.approx(value, abs=0.5001 * 10.0 ** -len(text.partition(".")[2]))
                checked += 1
    assert checked > 50
    assert page.evaluate("getComputedStyle(document.querySelector('tr.unlearned .value')).display") == "none"
    page.select_option(".by-seed", "")
    assert page.evaluate("document.querySelectorAll('.one-seed').length") == 0


def test_a_row_unfolds_its_settings_its_source_and_its_curve(visit, real):
    page, made = visit(real[0], drawn=False), real[1]
    button = page.locator(".unfold").first
    name = button.inner_text().split()[0]
    more = page.locator(f"#{button.get_attribute('aria-controls')}")
    assert not more.is_visible() and button.get_attribute("aria-expanded") == "false"
    button.focus()
    page.keyboard.press("Enter")
    assert more.is_visible() and button.get_attribute("aria-expanded") == "true"
    text, method = more.inner_text(), made["methods"][name]
    assert all(key in text for key in method["hyperparameters"]) and method["source"][:40] in text
    more.locator(".main-svg").first.wait_for()
    drawn = more.locator(".chart").evaluate("(each) => each.data.map((trace) => trace.name).filter(Boolean)")
    assert drawn and all(" on " in label for label in drawn)
    page.keyboard.press("Enter")
    assert not more.is_visible()


def test_the_slider_says_what_the_attack_finds_there(visit, real):
    page = visit(real[0])
    found = page.evaluate("JSON.parse(document.getElementById('expunge-figures').textContent)[0].losses")
    page.select_option(".forgetting .row-pick", "ssd")
    for kind in ("loss", "margin"):
        page.check(f".scale input[value={kind}]")
        for at in (10, 48, 90):
            page.locator(".threshold").fill(str(at))
            shown = page.eval_on_selector_all(
                ".attack-table tbody tr",
                "(each) => each.map((line) => [line.querySelector('bdi').textContent, "
                "...[...line.cells].slice(1).map((cell) => Number(cell.dataset.number))])",
            )
            assert [line[0] for line in shown] == ["original", "ssd", "retrained"]
            for row, *values in shown:
                counts = found[kind]["rows"][row]
                rates = [sum(c[:at] if kind == "loss" else c[at:]) / sum(c) for c in (counts["forget"], counts["unseen"], counts["retain"])]
                assert values == pytest.approx([*rates, rates[0] - rates[1]])
            line = page.evaluate("document.querySelector('[data-chart=losses]').layout.shapes[0].x0")
            assert line == pytest.approx(found[kind]["edges"][at])
    before = page.inner_text(".threshold-at")
    page.locator(".threshold").focus()
    page.keyboard.press("ArrowLeft")
    assert page.inner_text(".threshold-at") != before


def test_two_models_stand_side_by_side_with_what_they_disagree_about(visit, real):
    page = visit(real[0])
    held = page.evaluate("JSON.parse(document.getElementById('expunge-figures').textContent)[0].pairs")
    page.select_option(".first-model", "original")
    page.select_option(".second-model", "salun")
    page.select_option(".compare-part", "forget")
    page.wait_for_timeout(400)
    chosen = [k for k in range(len(held["index"])) if held["parts"][held["part"][k]] == "forget"]
    first, second = (held["rows"][row]["answer"] for row in ("original", "salun"))
    apart = [k for k in chosen if first[k] != second[k]]
    assert f"They agree on {len(chosen) - len(apart)} of {len(chosen)} forget examples" in page.inner_text(".compare-words")
    matrix = page.evaluate("document.querySelector('[data-chart=pairs]').data[0].z")
    assert np.sum(matrix) == len(chosen) and np.sum(matrix) - np.trace(matrix) == len(apart)
    assert page.locator(".disagreements li").count() == min(24, len(apart))
    page.select_option(".second-model", "original")
    assert "None." in page.inner_text(".disagreements")


def test_figures_show_the_numbers_of_the_record(visit, real):
    page, made = visit(real[0]), real[1]
    points = (
        "document.querySelector('[data-chart=tradeoff]').data.filter((trace) => trace.text && trace.name !== 'seeds')"
        ".flatMap((trace) => trace.text.map((name, at) => [name, trace.x[at], trace.y[at]]))"
    )
    rows = {row["name"]: row["cells"] for row in made["table"]["rows"]}
    seen = page.evaluate(points)
    assert {name for name, *_ in seen} == {"retrained", "salun", "ssd"}
    for name, x, y in seen:
        assert x == made["cost"][name]["seconds_ratio"] and y == rows[name]["average_gap"]["value"]
    page.select_option(".closeness", "churn")
    page.select_option(".tradeoff .cost", "utility")
    page.wait_for_timeout(300)
    for name, x, y in page.evaluate(points):
        lost = rows["retrained"]["test_accuracy"]["value"] - rows[name]["test_accuracy"]["value"]
        assert y == rows[name]["churn"]["value"] and x == pytest.approx(lost)
    seeds = page.evaluate("document.querySelector('[data-chart=tradeoff]').data.find((trace) => trace.name === 'seeds').y")
    assert sorted(seeds) == sorted(value for name in ("salun", "ssd") for value in rows[name]["churn"]["per_seed"])
    figures = page.evaluate("JSON.parse(document.getElementById('expunge-figures').textContent)[0]")
    drawn = page.evaluate("document.querySelector('[data-chart=roc]').data.map((trace) => [trace.name, trace.y])")
    assert dict(filter(lambda pair: pair[0], drawn))["retrained"][:-1] == pytest.approx(figures["roc"]["rows"]["retrained"]["tpr"])
    text = page.locator("#request-1-leaderboard").inner_text()
    for name in ("unlearning_accuracy", "test_accuracy"):
        assert f"{rows['salun'][name]['value']:.1f}" in text.replace("−", "-")


def test_the_method_is_chosen_once_for_all_figures(visit, real):
    page = visit(real[0])
    page.select_option(".inside .row-pick", "salun")
    page.wait_for_timeout(500)
    assert set(page.eval_on_selector_all(".row-pick", "(each) => each.map((select) => select.value)")) == {"salun"}
    for kind in ("roc", "examples", "probe", "relearning"):
        assert "salun" in page.evaluate(f"document.querySelector('[data-chart={kind}]').data.map((trace) => trace.name)"), kind
    assert page.locator(".gallery li img").count() > 4
    page.check(".flat input[value=tsne]")
    page.wait_for_timeout(300)
    figures = page.evaluate("JSON.parse(document.getElementById('expunge-figures').textContent)[0].inside.map.rows.original.tsne")
    xs = page.evaluate(
        "document.querySelector('[data-chart=map]').data.filter((trace) => trace.meta === 'original').flatMap((trace) => trace.x)"
    )
    assert sorted(xs) == sorted(x for x, _ in figures)


def test_everything_can_be_taken_along(visit, real):
    page = visit(real[0])
    curve = ".forgetting [data-chart=roc] ~ figcaption .chart-csv"
    for selector, name, start in (
        (".save-json", "record.json", "{"),
        (".save-figures", "figures.json", "{"),
        (".save-config", "config.yaml", "data:"),
        (curve, "roc.csv", "model,series,x,y,value"),
    ):
        with page.expect_download() as waiting:
            page.locator(selector).first.click()
        assert waiting.value.suggested_filename == name
        assert Path(waiting.value.path()).read_text(encoding="utf-8").startswith(start)


@pytest.mark.parametrize("name", ["<img src=x onerror=\"document.title='broken in'\">", "\u202eשלום ' \" & </script>", "x" * 300])
def test_what_users_wrote_runs_nothing_and_breaks_no_page(visit, tmp_path, name):
    hostile = record(title=name, names=(name, *NAMES[1:]), methods={"finetune": METHODS["finetune"]}, seeds=2, retrained=3, scale=4)
    hostile["table"]["rows"][2]["name"] = name
    for key in ("cost", "methods"):
        hostile[key][name] = hostile[key].pop("finetune")
    hostile["histograms"]["loss"]["rows"][name] = hostile["histograms"]["loss"]["rows"].pop("finetune")
    path = tmp_path / "hostile.html"
    html.write([hostile], path)
    page = visit(path, 360)
    assert page.title() == f"expunge: {name}" and page.locator("main img").count() == 0
    assert page.evaluate(SIDEWAYS)[0] <= 360
    assert name in names(page)


def test_it_prints_with_everything_unfolded(visit, real, tmp_path):
    page = visit(real[0])
    closed = page.evaluate("document.querySelectorAll('details:not([open])').length")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert closed > 5 and page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == closed
    pdf = page.pdf(path=str(tmp_path / "report.pdf"), prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and len(pdf) > 100_000


def test_twenty_methods_with_five_seeds_are_painted_within_a_second(visit, tmp_path):
    methods = {f"{name}_{turn}": means for turn in range(3) for name, means in METHODS.items()}
    many = record(methods=dict(list(methods.items())[:20]), seeds=5, retrained=10, scale=4, metrics=None)
    path = tmp_path / "many.html"
    html.write([many], path)
    page = visit(path, drawn=False)
    paints = page.evaluate("performance.getEntriesByType('paint').map((entry) => entry.startTime)")
    assert paints and max(paints) < 1000, f"first paint after {max(paints):.0f} ms"
    assert path.stat().st_size < 8e6


def test_without_scripts_the_tables_are_there(visit, plain):
    page = visit(plain[0], drawn=None, java_script_enabled=False)
    assert page.locator("noscript p").count() == 1 or "JavaScript" in page.inner_text("main")
    assert page.locator(".results tbody th").count() >= 11


AXE = os.environ.get("EXPUNGE_AXE")


@pytest.mark.download
@pytest.mark.skipif(AXE is None, reason="set EXPUNGE_AXE to the axe.min.js of `npm pack axe-core`")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(visit, real, theme):
    page = visit(real[0], theme=theme, bypass_csp=True)
    page.evaluate(
        "document.querySelectorAll('details').forEach((each) => { each.open = true; }); document.querySelector('.unfold').click()"
    )
    page.wait_for_timeout(800)
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run(document)")
    assert len(found["passes"]) > 30
    assert [(each["impact"], each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []
