"""The report as a reader gets it: one file, complete, harmless, with the numbers of the record and no others."""

import base64
import copy
import csv
import gzip
import hashlib
import io
import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from rich.console import Console

from browser.report_record import METHODS, METRICS, NAMES, failure, full, record
from expunge.errors import BadInput
from expunge.metrics.table import Failure
from expunge.report import audits, doses, html, results, terminal
from expunge.report.cautions import cautions
from expunge.report.columns import KEY, columns, group, percent
from expunge.report.headline import card
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
def deep():
    """A record of the highest tier."""
    return full(metrics=METRICS, shadows=12)


@pytest.fixture(scope="module")
def page(one):
    return Page(html.render([one]))


def test_the_file_is_whole_or_absent(one, tmp_path):
    path = tmp_path / "report.html"
    html.write([one], path)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert 1.9e6 < path.stat().st_size < 3e6
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
    assert [tag for tag, _ in page.elements].count("script") == 4
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
    assert names[:4] == ["original", "retrained", "finetune", "salun"], "the headline"
    assert names[4:8] == ["finetune", "salun", "original", "retrained"], "the cards: what the reader came for, then the controls"
    assert names[8:12] == ["original", "retrained", "finetune", "salun"], "the table"


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


def test_many_rows_are_thinned_with_a_note_and_cost_no_time(one):
    many = copy.deepcopy(one)
    row, method = many["table"]["rows"][2], many["methods"]["finetune"]
    many["table"]["rows"] += [{**row, "name": f"</script>{number}"} for number in range(100_000)]
    many["methods"] |= {f"</script>{number}": method for number in range(100_000)}
    start = time.process_time()
    thin, left_out = html.page.thin(many)
    assert left_out == 100_004 - 200 and len(thin["table"]["rows"]) == 202 and len(thin["methods"]) <= 200
    text = html.render([many])
    assert time.process_time() - start < 20 and len(text) < 7e6
    assert "99,804 further rows" in text and "</script>5" not in text


def test_the_numbers_of_figures_cannot_end_their_element(one):
    held = html.payload.nothing(one) | {"classes": list(HOSTILE), "pictures": {"1": HOSTILE[0]}, "folders": {HOSTILE[1]: [HOSTILE[0]]}}
    page = Page(html.render([one], [held]))
    assert [tag for tag, _ in page.elements].count("script") == 4 and "img" not in {tag for tag, _ in page.elements}
    figures = json.loads([text for text in page.texts["script"] if text.startswith("[")][1])
    assert figures[0]["classes"] == list(HOSTILE)


def test_plotly_is_packed_as_the_policy_allows_it(page):
    packed = next(text for text in page.texts["script"] if text.startswith("H4sI"))
    script = gzip.decompress(base64.b64decode(packed))
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv"))
    assert script.decode() == get_plotlyjs().replace("\r\n", "\n")
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" in policy


def test_without_run_folders_every_section_says_what_is_missing(page):
    said = [text for text in page.texts["p"] if "the run folders are not there any more" in text]
    assert len(said) >= 7
    headings = [text for text in page.texts["h2"]]
    assert headings == [
        "Verdict",
        "Leaderboard",
        "Trade-off",
        "Forgetting, seen",
        "Audits",
        "Inside",
        "Along the way",
        "Compare",
        "Provenance",
    ]


def test_results_are_read_from_folders_and_written_beside_them(one, tmp_path):
    for name in ("compare-a", "bench-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps([{**one, "title": name}]))
    assert results.write([tmp_path / "bench-b"]) == tmp_path / "bench-b" / "report.html"
    place = results.write([tmp_path], tmp_path / "all.html")
    assert [record["title"] for record in Page(place.read_text(encoding="utf-8")).records()] == ["bench-b", "compare-a"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match="holds no compare-"):
        results.write([empty])
    with pytest.raises(BadInput, match="no such file or folder"):
        results.write([tmp_path / "gone"])


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
    with pytest.raises(BadInput, match="reads format 2"):
        html.render([{**one, "format": 1}])
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
    assert [found["salun", name]["kind"] for name in ("churn", "seconds_ratio")] == ["metric", "cost"]
    assert found["lost", ""]["status"] == "diverged"
    link = next(attributes["href"] for _, attributes in page.elements if attributes.get("download") == "table.csv")
    assert base64.b64decode(link.partition(",")[2]).decode() == terminal.csv(one)


def test_csv_holds_audits_and_doses(deep):
    lines = list(csv.DictReader(io.StringIO(terminal.csv(deep))))
    found = {(line["row"], line["metric"]): line for line in lines}
    assert len(found) == len(lines), "no two lines are about the same"
    for name, head in deep["audits"]["audits"].items():
        for row, cell in head["rows"].items():
            line = found[row, name]
            assert line["kind"] == "audit" and float(line["value"]) == cell["value"]
            assert [line["p_value"], line["p_holm"]] == ["" if cell[key] is None else repr(cell[key]) for key in ("p_value", "p_holm")]
            assert line["band_high"] == ("" if head["null"]["high"] is None else repr(head["null"]["high"]))
    for name, held in deep["doses"].items():
        assert float(found["", f"{name}.spearman"]["value"]) == held["spearman"]
        assert found["", f"{name}.detectable"]["value"] == ("" if held["detectable"] is None else repr(held["detectable"]))
        among = found["", f"{name}.detectable_among_all"]
        assert among["reason"] == "among 12 tests" and among["value"] == (
            "" if held["adjusted"]["detectable"] is None else repr(held["adjusted"]["detectable"])
        )
        for dose, power in zip(held["doses"], held["power"], strict=True):
            assert float(found["", f"{name}.power.{dose:g}"]["value"]) == power


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40])
def test_terminal_headline_fits_its_terminal_and_names_every_part(deep, width):
    console = Console(width=width, file=io.StringIO())
    console.print(terminal.table(deep))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    shown = text[text.index("Told apart from retrained models") :]
    for word in ("whole", "forget", "unlearned", "retraining", "cost", *METHODS.keys() & deep["cost"].keys()):
        assert word in shown
    assert " to " in shown or width == 80, "the interval goes before a part does"
    assert "▲" in shown and "▼" in shown, "colour is never the only sign"


@pytest.mark.parametrize("width", [160, 120, 80, 40])
def test_terminal_table_fits_its_terminal(one, width):
    console = Console(width=width, file=io.StringIO())
    console.print(terminal.table(one))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if re.match(r" ?[✕○?] \w+ +[\d–d−]", line)][:6]
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
    assert all(group(name) == "inside" for name in ("linear_probe", "retain_only_relearning")) and group("rmia") == "attacks"
    assert group("nobody_knows") == "outputs" and set(KEY) >= {"rmia", "lira_online", "linear_probe", "retain_only_relearning"}
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


def test_audits_say_where_a_value_lies_as_the_record_has_it(deep):
    made = audits.present(deep)
    assert made["reason"] is None and [name for name, _ in made["skipped"]] == ["forgetting quality", "one-run epsilon", "swap advantage"]
    for shown in made["audits"]:
        head = deep["audits"]["audits"][shown["name"]]
        assert shown["summary"] == head["summary"] and len(shown["cells"]) == len(made["rows"])
        for row, cell in zip(made["rows"], shown["cells"], strict=True):
            held = head["rows"].get(row)
            assert (cell is None) == (held is None)
            if cell is None:
                continue
            assert cell["value"] == held["value"]
            assert (cell["side"] in ("above", "below")) == (held["in_band"] is False or held["finding"] is not None) == bool(cell["mark"])
            if held["in_band"] is False:
                assert cell["bar"] is None or cell["bar"]["shape"] != "dot"
    assert made["notes"] == ["noisy_ascent: no models to compare."]


def test_audits_say_what_could_not_be_measured_and_how_tight_a_bound_can_be(deep):
    page = Page(html.render([deep]))
    text = " ".join(page.texts["main"])
    assert "not measurable at n =" in text and "a perfect attack:" in text and "noticed in 80 % of cases" in text
    assert "needs 16 models on each side, there are 8 and 8" in text
    assert "no two models of this row agree on what there is" in text


def test_without_enough_models_the_page_says_so_and_what_to_do(one):
    text = " ".join(Page(html.render([one])).texts["main"])
    assert one["audits"]["reason"] in text
    assert audits.present(one)["audits"] == []
    assert doses.present(one) is None and "How small a leak would be noticed" not in text


def test_rows_of_copies_are_named_and_not_judged(deep):
    copied = copy.deepcopy(deep)
    copied["audits"]["copies"] = ["finetune"]
    for head in copied["audits"]["audits"].values():
        head["rows"].pop("finetune", None)
    assert "finetune: not compared, because two of its models are the same." in audits.present(copied)["notes"]
    assert "finetune" not in audits.present(copied)["rows"] and html.render([copied])


def test_an_audit_that_a_row_has_too_few_models_for_keeps_its_reason(deep):
    thin = copy.deepcopy(deep)
    cell = thin["audits"]["audits"]["klom"]["rows"]["salun"]
    cell |= {"value": None, "note": "not measured: needs 8 models on each side", "in_band": None, "p_value": None, "p_holm": None}
    text = html.render([thin])
    assert text.count("not measured: needs 8 models on each side") >= 2
    assert [line for line in csv.DictReader(io.StringIO(terminal.csv(thin))) if line["metric"] == "klom" and line["row"] == "salun"][0][
        "value"
    ] == ""


def test_doses_stand_from_the_most_sensitive_metric_to_the_blind_one(deep):
    made = doses.present(deep)
    seen = [row["detectable_value"] for row in made["rows"]]
    there = [value for value in seen if value is not None]
    assert there == sorted(there) and seen[len(there) :] == [None] * (len(seen) - len(there)) and 0 < len(there) < len(seen)
    for row in made["rows"]:
        held = deep["doses"][row["name"]]
        assert [point["seen"] for point in row["points"]] == [power >= 0.8 for power in held["power"]]
        assert row["detectable"] or row["reason"] == held["reason"]
        assert row["among_value"] == held["adjusted"]["detectable"]
        heights = [point["y"] for point in row["points"]]
        assert heights == pytest.approx([doses.HEIGHT - doses.EDGE - 30 * power for power in held["power"]], abs=0.01)
    unknown = {"doses": {"churn": {"spearman": None, "p_value": None, "doses": [], "power": [], "detectable": None, "reason": "too few"}}}
    (row,) = doses.present(deep | unknown)["rows"]
    assert row["spearman"] is None and row["points"] == [] and html.render([deep | unknown])


def test_completeness_is_shown_for_tests_that_have_it(deep):
    page = Page(html.render([deep]))
    shown = [attributes["data-number"] for tag, attributes in page.elements if tag == "td" and "data-number" in attributes]
    indices = [
        cell["completeness"]["value"]
        for row in deep["table"]["rows"]
        for cell in row["cells"].values()
        if cell.get("completeness") is not None
    ]
    assert len(indices) > 5 and {str(index) for index in indices} <= set(shown)


@pytest.mark.parametrize("value, text", [(0.5, ".50"), (1.0, "1.00"), (0.0, ".00"), (-0.3, "−.30"), (-0.001, ".00"), (10.5, "10.50")])
def test_numbers_of_the_headline_keep_every_digit_before_the_point(deep, value, text):
    changed = copy.deepcopy(deep)
    cell = changed["audits"]["audits"]["set_classifier"]["rows"]["salun"]
    cell |= {"value": value, "interval": None, "in_band": True, "finding": None}
    entry = card(changed, "salun").entries[0]
    assert entry.short == text and f"AUC of {text};" in entry.sentence and entry.mark == ""
    cell |= {"in_band": False, "side": "above"}
    assert card(changed, "salun").entries[0].mark == "▲" and card(changed, "salun").entries[0].inside is False
