"""Cards, audits and doses in a real browser, with a real keyboard, down to the width of a phone.

Set ``EXPUNGE_SCREENSHOTS=FOLDER`` to keep the pictures.
"""

import re

import pytest

from browser.report_record import full
from expunge.report import html
from expunge.report.epsilons import bound_of

pytestmark = pytest.mark.slow

OPEN = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"


@pytest.fixture(scope="module")
def made():
    return full()


@pytest.fixture(scope="module")
def report(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiers") / "report.html"
    html.write([made], path)
    return path


@pytest.fixture
def page(report, visit):
    return visit(report, drawn=False)


def test_every_row_has_a_card_of_six_parts_that_can_be_read(page, made):
    cards = page.evaluate(
        f"""{OPEN}; [...document.querySelectorAll('.card')].map((card) => ({{
            name: card.querySelector('summary bdi').textContent,
            tiles: [...card.querySelectorAll('.tile')].map((tile) => tile.innerText),
            sizes: [...card.querySelectorAll('.tile p, .tile h4')].map((each) => parseFloat(getComputedStyle(each).fontSize)),
            clipped: [...card.querySelectorAll('.tile, .tile p')].filter((each) => each.scrollWidth > each.clientWidth + 1).length,
            heads: card.querySelectorAll('h4').length, text: card.innerText }}))"""
    )
    assert [card["name"] for card in cards] == ["finetune", "gradient_ascent", "salun", "noisy_ascent", "original", "retrained"]
    for card in cards:
        assert len(card["tiles"]) == card["heads"] == 6 and min(map(len, card["tiles"])) > 30
        assert min(card["sizes"]) >= 13 and card["clipped"] == 0
        assert ("not claimed" in card["text"]) == (card["name"] not in ("original", "retrained"))
        assert "four times in five" in card["text"]
    assert "avg. gap" in cards[0]["text"] and "KLOM" in cards[0]["text"]


def test_a_card_and_an_audit_open_by_keyboard_alone(page):
    focused = "((each) => each && each.tagName === 'SUMMARY' ? each.parentElement.className : '')(document.activeElement)"
    for kind in ("card", "audit"):
        for _ in range(160):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == kind:
                break
        assert page.evaluate(focused) == kind
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert page.evaluate("document.activeElement.parentElement.open") is False
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.parentElement.open") is True
        page.keyboard.press("Space")
        assert page.evaluate("document.activeElement.parentElement.open") is False


@pytest.mark.parametrize("width", [360, 1280, 2560])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_sideways_with_all_columns_and_everything_open(report, visit, keep, width, theme):
    page = visit(report, width, theme)
    for choice in ("key", "outputs", "attacks", "all"):
        page.evaluate(f"document.querySelector('.show-{choice}').click()")
        scroll, client = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert scroll <= client == width, choice
    page.evaluate("document.querySelector('.show-key').click()")
    page.evaluate(OPEN)
    scroll, client = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert scroll <= client
    keep(page, f"tiers-{width}-{theme}")


def test_the_choice_of_columns_shows_those_columns_and_no_others(page, made):
    visible = "[...document.querySelectorAll('.results thead th.column')].filter((each) => each.offsetParent).length"
    explained = "[...document.querySelectorAll('.glossary .column')].filter((each) => getComputedStyle(each).display !== 'none').length"
    counts = page.evaluate("[...document.querySelectorAll('.groups .quiet')].map((each) => Number(each.textContent))")
    assert counts[-1] == len(made["table"]["metrics"]) == sum(counts[1:-1])
    choices = page.evaluate("[...document.querySelectorAll('.groups input')].map((each) => each.className)")
    for choice, count in zip(choices, counts, strict=True):
        page.evaluate(f"document.querySelector('.{choice}').click()")
        assert page.evaluate(visible) == count + 2 * (choice == "show-all"), "passes and memory belong to all columns"
        assert page.evaluate(explained) == count


def test_what_is_outside_has_a_mark_and_words_beside_its_colour(page):
    bare = page.evaluate(
        """[...document.querySelectorAll('.audit-table td.above, .audit-table td.below, .headline td.above, .tile.off')]
            .filter((each) => !/[▲▼◆]/.test(each.textContent) || !each.querySelector('.hidden')).map((each) => each.textContent)"""
    )
    assert bare == []


def numbers(found) -> list[float]:
    """Return every number in a part of a record."""
    if isinstance(found, bool) or found is None or isinstance(found, str):
        return []
    if isinstance(found, (int, float)):
        return [float(found)]
    return [number for item in (found.values() if isinstance(found, dict) else found) for number in numbers(item)]


def test_every_number_of_cards_audits_and_doses_is_one_of_the_record(page, made):
    texts = page.evaluate(
        f"""{OPEN}; [...document.querySelectorAll(`.tile .big, .tile .where, .headline td .value, .headline .band-row td,
            .audit-table td .value, .audit-table td small, .audit-table td.quiet, .details td, .dose-table td,
            .completeness td .value, .completeness td small`)]
            .map((each) => each.textContent.replace(/−/g, '-').replace(/(\\d),(?=\\d{{3}})/g, '$1'))"""
    )
    table, words = made["table"], str([made["audits"], made["doses"]])
    parts = [made["audits"], made["doses"], made["cost"], table["metrics"], table["rows"]]
    known = [abs(number) for part in parts for number in numbers(part)]
    reference = next(row for row in table["rows"] if row["role"] == "retrained")["cells"]
    for row in table["rows"]:
        known += [
            abs(row["cells"][name]["value"] - reference[name]["value"]) for name in ("retain_accuracy", "test_accuracy") if row["cells"]
        ]
    known += [100 * number for number in known]
    tokens = {token for text in texts for token in re.findall(r"\d*\.?\d+(?:e-?\d+)?", text)} - {"0.0001"}
    assert len(tokens) > 300
    strange = [token for token in tokens if not any(same(token, number) for number in known) and token not in words]
    assert strange == []


def same(token: str, number: float) -> bool:
    """Return whether a printed number is a number of the record, rounded."""
    digits, _, power = token.partition("e")
    decimals = len(digits.partition(".")[2]) - int(power or 0)
    return abs(float(token) - number) <= 0.5000001 * 10.0**-decimals


def test_bounds_on_epsilon_stand_under_their_ceilings(page, made):
    cells = page.eval_on_selector_all(
        ".epsilon-table td[data-number]", "(each) => each.map((cell) => [Number(cell.dataset.number), cell.innerText])"
    )
    held = [bound for head in made["audits"]["audits"].values() for cell in head["rows"].values() if (bound := bound_of(cell))]
    assert sorted(number for number, _ in cells) == sorted(bound["value"] for bound in held) and len(cells) > 3
    ceilings = {f"{bound['ceiling']:.2f}" for bound in held}
    assert all(text.rsplit("of ", 1)[1].strip() in ceilings for _, text in cells)
