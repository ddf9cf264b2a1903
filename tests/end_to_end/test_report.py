"""The report as a reader gets it: one file, complete, harmless, with the numbers of the record and no others."""

import base64
import copy
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from browser.report_record import METHODS, NAMES, failure, record
from expunge.errors import BadInput
from expunge.metrics.table import Failure
from expunge.report import html, terminal
from expunge.report.cautions import cautions
from expunge.report.columns import columns, percent
from expunge.report.histograms import FLOOR, shares

HOSTILE = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "שלום \u202eevil", "{{ 7 * 7 }}", "<!--", "a'b&amp;c")


class Page(HTMLParser):
    """Every element with its attributes, and the text inside each kind of element."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while tag in self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def records(self):
        return json.loads(next(text for text in self.texts["script"] if text.startswith("[")))


@pytest.fixture(scope="module")
def one():
    lost = {"lost": failure(), "half_lost": failure()}
    return record(methods={name: METHODS[name] for name in ("finetune", "salun")}, seeds=4, retrained=5, failures=lost)


@pytest.fixture(scope="module")
def page(one):
    return Page(html.render([one]))


def test_the_file_is_whole_or_absent(one, tmp_path):
    path = tmp_path / "report.html"
    html.write([one], path)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert 4e6 < path.stat().st_size < 6.5e6
    before = path.read_bytes()
    broken = copy.deepcopy(one)
    broken["table"]["rows"][0]["cells"]["churn"]["value"] = float("nan")
    with pytest.raises(BadInput, match="not finite"):
        html.write([broken], path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_nothing_is_loaded_from_a_network(page):
    loads = [
        (tag, key, value) for tag, attributes in page.elements for key, value in attributes.items() if key in ("src", "href", "action")
    ]
    assert loads
    assert all(value.startswith(("#", "data:")) for _, _, value in loads), loads
    assert not any(tag in ("link", "img", "iframe", "object", "embed", "base") for tag, _ in page.elements)
    assert not re.search(r"url\(|@import", "".join(page.texts["style"]))
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy and "unsafe-eval" not in policy


def test_the_inlined_numbers_are_those_of_the_record(page, one):
    assert page.records() == [json.loads(json.dumps(one))]


def test_printed_numbers_are_those_of_the_record(page, one):
    printed = [attributes["data-sort"] for tag, attributes in page.elements if tag == "td" and attributes.get("data-sort")]
    for row in one["table"]["rows"]:
        for cell in row["cells"].values():
            assert str(cell["value"]) in printed
    assert len([row for row in one["table"]["rows"] if row["cells"]]) == 4


def test_what_users_wrote_is_shown_and_does_nothing(one):
    hostile = copy.deepcopy(one)
    hostile["title"] = HOSTILE[0]
    hostile["request"] |= {"class_names": list(HOSTILE), "forget_classes": list(HOSTILE), "kind": "class", "data": HOSTILE[1]}
    hostile["provenance"] |= {"command": HOSTILE[1], "config": "".join(HOSTILE)}
    hostile["table"]["rows"][2]["name"] = HOSTILE[1]
    hostile["table"]["rows"][-1] |= {"reason": HOSTILE[0], "verdict": f"fails: {HOSTILE[0]}"}
    hostile["methods"][HOSTILE[1]] = dict(one["methods"]["finetune"], source=HOSTILE[0], deviations=list(HOSTILE))
    text = html.render([hostile])
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert "img" not in {tag for tag, _ in page.elements}
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert page.records() == [hostile]
    assert HOSTILE[0] in page.texts["h1"][0]
    assert "{{ 7 * 7 }}" in page.texts["pre"][0]


def test_a_row_that_gave_no_model_stays_with_its_reason(page, one):
    lost = [row for row in one["table"]["rows"] if row["status"] == "diverged"]
    assert [row["name"] for row in lost] == ["lost", "half_lost"]
    cells = [text for text in page.texts["td"] if "forget is not finite" in text]
    assert len(cells) == 2 and all("4 of 4 seeds" in cell for cell in cells)


def test_a_row_that_lost_some_seeds_shows_numbers_and_reason():
    partly = record(methods={"salun": METHODS["salun"]}, seeds=2, retrained=3, scale=4)
    partly["table"]["rows"][2] |= {"status": "diverged", "reason": "1 of 2 seeds; number 1: gone", "failed_seeds": 1}
    partly["table"]["rows"][2]["verdict"] = "fails: diverged (1 of 2 seeds; number 1: gone)"
    page = Page(html.render([partly]))
    assert any("diverged, 1 of 2 seeds" in text for text in page.texts["th"])
    assert any("diverged (1 of 2 seeds; number 1: gone)" in text for text in page.texts["li"])


def test_reference_rows_are_pinned_first(page):
    names = [text for text in page.texts["bdi"] if text in ("original", "retrained", "finetune", "salun")]
    assert names[:2] == ["finetune", "salun"], "the verdict list has methods only"
    assert names[2:6] == ["original", "retrained", "finetune", "salun"]


def test_a_method_never_reads_as_proven(page):
    text = " ".join(page.texts["main"]).lower()
    assert "no evidence of failure" in text
    assert not re.search(
        r"\b(passes|passed|successfully|indistinguishable|proven|guaranteed)\b",
        text.replace("passes through", "").replace("passes, of", "").replace("passesof", ""),
    )


def test_an_original_that_cannot_be_told_apart_is_flagged(one):
    blind = copy.deepcopy(one)
    blind["table"]["rows"][0]["verdict"] = "no evidence of failure: inside the retrained band on 6 of 6 tests"
    assert "means nothing here" in html.render([blind])
    assert "means nothing here" not in html.render([one])


def test_two_requests_have_their_own_sections_and_numbers(one):
    other = record(title="Class bird", methods={"scrub": METHODS["scrub"]}, seeds=2, retrained=3, scale=2)
    other["request"] |= {"kind": "class", "forget_classes": ["bird"], "scenario": {"name": "class", "classes": ["bird"]}}
    page = Page(html.render([one, other]))
    assert [held["title"] for held in page.records()] == [one["title"], "Class bird"]
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers)) > 10
    anchors = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a" and attributes["href"].startswith("#")}
    assert anchors <= set(identifiers)
    assert any("all examples of the class “bird”" in text for text in page.texts["p"])


def test_one_seed_and_one_retrained_model_give_a_report_that_says_so():
    thin = record(methods={"finetune": METHODS["finetune"]}, seeds=1, retrained=1, scale=4)
    page = Page(html.render([thin]))
    text = " ".join(page.texts["main"])
    assert "A single seed" in text and "no verdict" in text and "±\u202f" not in "".join(page.texts["td"])


def test_records_of_another_format_are_refused(one):
    with pytest.raises(BadInput, match="reads format 1"):
        html.render([{**one, "format": 2}])
    with pytest.raises(BadInput, match="no record"):
        html.render([])


def test_csv_holds_every_number_in_full_precision(one, page):
    lines = list(csv.DictReader(io.StringIO(terminal.csv(one))))
    found = {(line["row"], line["metric"]): line for line in lines}
    for row in one["table"]["rows"]:
        for name, cell in row["cells"].items():
            line = found[row["name"], name]
            assert float(line["value"]) == cell["value"]
            assert [float(value) for value in line["per_seed"].split()] == cell["per_seed"]
            assert line["in_band"] == ("" if cell["in_band"] is None else str(cell["in_band"]).lower())
    assert float(found["salun", "seconds_ratio"]["value"]) == METHODS["salun"]["seconds"]
    assert found["lost", ""]["status"] == "diverged"
    link = next(attributes["href"] for _, attributes in page.elements if attributes.get("download") == "table.csv")
    assert base64.b64decode(link.partition(",")[2]).decode() == terminal.csv(one)


@pytest.mark.parametrize("width", [160, 120, 80, 40])
def test_terminal_table_fits_its_terminal(one, width):
    console = Console(width=width, file=io.StringIO())
    console.print(terminal.table(one))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if re.match(r" ?[✕○?] \w+ +[\d–d−]", line)]
    assert [row.split()[1] for row in rows] == ["original", "retrained", "finetune", "salun", "lost", "half_lost"]
    assert "UA" in console.file.getvalue() and ("▼" in rows[0] or "▲" in rows[0])
    assert len([line for line in lines if re.match(r"[✕○?] \w+ (fails|no)\b", line)]) == 6
    assert ("±" in rows[0]) == (width >= 120)


def test_terminal_is_not_steered_by_names(one):
    hostile = copy.deepcopy(one)
    hostile["title"] = "[red]x[/] \x1b[2J"
    hostile["table"]["rows"][2]["name"] = "[bold]\x1b]0;evil\x07"
    console = Console(width=120, file=io.StringIO())
    console.print(terminal.table(hostile))
    text = console.file.getvalue()
    assert "\x1b" not in text and "\x07" not in text and "[red]x[/]" in text


def test_columns_start_with_the_key_metrics_and_keep_all(one):
    shown = columns(one["table"])
    assert [column.name for column in shown][:3] == ["unlearning_accuracy", "retain_accuracy", "test_accuracy"]
    assert sorted(column.name for column in shown) == sorted(one["table"]["metrics"])
    assert all(column.about for column in shown)


def test_costs_read_as_shares_of_retraining():
    assert [percent(ratio) for ratio in (None, 0.0, 0.0042, 0.0123, 0.5, 12.0)] == ["–", "0 %", "0.42 %", "1.2 %", "50 %", "1200 %"]


def test_histograms_share_edges_and_count_every_loss_once():
    generator = np.random.default_rng(0)
    losses = {"a": {"forget": np.array([0.0, 1e-9, 0.5]), "unseen": generator.exponential(1.0, (3, 100))}, "b": {"forget": np.array([7.5])}}
    made = shares(losses)
    assert len(made["edges"]) == 41 and made["edges"][0] == pytest.approx(FLOOR) and made["edges"][-1] >= 7.5
    assert np.allclose(np.diff(np.log(made["edges"])), np.diff(np.log(made["edges"]))[0])
    for parts in made["rows"].values():
        for part in parts.values():
            assert sum(part) == pytest.approx(1)
    assert made["rows"]["a"]["forget"][0] == pytest.approx(2 / 3)
    assert made["rows"]["b"]["forget"][-1] == 1
    for bad in (np.array([]), np.array([np.nan]), np.array([-0.1])):
        with pytest.raises(BadInput, match="a.forget"):
            shares({"a": {"forget": bad}})


def test_the_synthetic_record_is_what_the_report_reads(one):
    assert len(NAMES) == 10 and Failure in {type(outcome) for outcome in failure()}
    assert json.loads(json.dumps(one, allow_nan=False)) == one


def test_copies_are_told_apart_by_their_places():
    request = {"duplicates": {"forget_in_retain": 0, "forget_in_test": 2, "retain_in_test": 3}, "retrained": 4, "seeds": 4}
    assert cautions(request, []) == [
        "2 forget examples have an exact copy in the test set.",
        "3 retain examples have an exact copy in the test set.",
    ]
