"""The table for a publication: the record's numbers and no others, ranks by a naive count, safe texts, published numbers kept apart."""

import copy
import csv
import io
import itertools
import json
import re

import pytest

from browser.report_record import METHODS, failure, record
from expunge.errors import BadInput
from expunge.metrics.table import Failure
from expunge.report import formats, publication, published
from expunge.statistics import holm

NAMES = ("finetune", "gradient_ascent", "salun")
METRICS = ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "loss_auc", "jensen_shannon", "average_gap", "svc_membership")
HOSTILE = "a|b <script>alert(1)</script> \\input{x} 50% & $x_1$ #2 *c* ~^ [l](u)"


@pytest.fixture(scope="module")
def one():
    """Return a record with three methods, one row that failed and one of which one seed did."""
    lost = {"lost": failure()}
    made = record(methods={name: METHODS[name] for name in NAMES}, seeds=4, retrained=5, failures=lost, metrics=METRICS, scale=2)
    made["provenance"]["runs"] = {f"unlearned/0/{name}/{seed}": f"runs/unlearn-{name}{seed}" for name in NAMES for seed in range(4)}
    made["provenance"]["runs"] |= {f"retrained/0/{seed}": f"runs/train-{seed}" for seed in range(5)}
    return made


@pytest.fixture
def folder(one, tmp_path):
    """Return a folder that holds the record as a bench leaves it."""
    (tmp_path / "bench-0").mkdir()
    (tmp_path / "bench-0" / "record.json").write_text(json.dumps([one]))
    return tmp_path


def lines_of(made, *arguments):
    return {(line.role, line.name): line for line in publication.section(made, *arguments).lines}


def rows_of(made):
    """Return the rows of a Parquet file as plain values, by its own reader."""
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    return parquet.read_table(pyarrow.BufferReader(made)).to_pylist()


def audit(label, target, rows, null, **more):
    """Return what a record says of one audit; ``rows`` maps a row to (value, interval, p value)."""
    cells = {name: {"value": value, "interval": ends, "p_value": p_value} for name, (value, ends, p_value) in rows.items()}
    return {"label": label, "unit": "", "target": target, "limits": (0, 1), "null": null, "rows": cells, **more}


@pytest.fixture
def audited(one):
    """Return a record with an audit that has a band and a game that has none, and a row that was tuned on retrained models."""
    made = copy.deepcopy(one)
    null = {"mean": 0.5, "low": 0.4, "high": 0.6, "draws": 200}
    areas = {"original": (0.9, None, 0.001), "retrained": (0.5, (0.45, 0.55), 0.5), "salun": (0.7, (0.65, 0.75), 1e-6)}
    areas |= {"finetune": (0.52, (0.42, 0.62), 0.4), "gradient_ascent": (None, None, None)}
    game = {"original": (0.8, (0.7, 0.9), 0.01), "salun": (0.55, None, 0.2)}
    nothing = {"mean": 0.5, "low": None, "high": None, "draws": 0}
    found = {"example_auc": audit("per-example AUC", "retrained", areas, null), "swap": audit("swap advantage", "lower", game, nothing)}
    made["audits"] = {"reason": None, "audits": found, "skipped": {}, "models": {"control": 4, "reference": 4}}
    tuned = {"rule": "oracle_gap", "label": "oracle-tuned", "budget": 9000, "passes": 8000, "trials": 7, "study": "tune-1"}
    made["methods"]["salun"]["tuned"] = tuned
    return made


def test_audits_are_columns_with_band_gap_rank_and_holm(audited):
    lines = lines_of(audited)
    salun, finetune = lines["unlearned", "salun"], lines["unlearned", "finetune"]
    cell = salun.cells["example_auc"]
    assert (cell.value, cell.low, cell.high) == (0.7, 0.65, 0.75) and cell.gap == pytest.approx(0.2) and cell.significant
    assert (finetune.cells["example_auc"].rank, cell.rank) == (1, 2)
    assert (lines["band", "band"].cells["example_auc"].low, lines["band", "band"].cells["example_auc"].high) == (0.4, 0.6)
    assert (
        "example_auc" not in lines["unlearned", "gradient_ascent"].cells and lines["original", "original"].cells["example_auc"].gap == 0.4
    )
    judged = [row for row in audited["table"]["rows"] if row["role"] == "unlearned" and row["status"] == "finished"]
    tests = [cell for row in judged for cell in row["cells"].values() if cell["tested"] and cell["p_value"] is not None]
    expected = holm([test["p_value"] for test in tests] + [1e-6, 0.4, 0.2])
    assert cell.p_holm == pytest.approx(expected[len(tests)])
    assert "swap" not in salun.cells and lines_of(audited, ["swap"])["unlearned", "salun"].cells["swap"].value == 0.55


def test_what_was_tuned_is_marked_wherever_it_is_printed(audited, tmp_path):
    (tmp_path / "compare-0").mkdir()
    (tmp_path / "compare-0" / "record.json").write_text(json.dumps([audited]))
    note = "salun: oracle-tuned, hyper-parameters chosen by oracle_gap among 7 settings within 9,000 sample-passes"
    for form in ("markdown", "latex", "html", "json"):
        text = formats.write([tmp_path], form)
        assert "oracle-tuned" in text and "9,000 sample-passes" in text, form
    assert note in formats.write([tmp_path], "html") and "salun‡" in formats.write([tmp_path], "markdown")
    rows = [row for row in csv.DictReader(io.StringIO(formats.write([tmp_path], "csv"))) if row["row"] == "salun"]
    assert {(row["tuned"], row["tuned_rule"], row["tuned_budget"], row["oracle"]) for row in rows} == {
        ("oracle-tuned", "oracle_gap", "9000", "True")
    }


def test_parquet_holds_what_the_csv_holds_with_types(audited, tmp_path):
    (tmp_path / "compare-0").mkdir()
    (tmp_path / "compare-0" / "record.json").write_text(json.dumps([audited]))
    found, text = rows_of(formats.write([tmp_path], "parquet")), list(csv.DictReader(io.StringIO(formats.write([tmp_path], "csv"))))
    assert len(found) == len(text) > 20
    for row, plain in zip(found, text, strict=True):
        for name, value in row.items():
            shown = plain[name]
            assert (value is None and shown == "") or str(value) == shown or float(value) == float(shown), (name, value, shown)
    salun = next(row for row in found if row["row"] == "salun" and row["metric"] == "example_auc")
    assert isinstance(salun["rank"], int) and isinstance(salun["value"], float) and salun["significant"] is True and salun["oracle"] is True


def test_every_number_is_the_records(one, folder):
    found = json.loads(formats.write([folder], "json"))[0]
    by_name = {line["name"]: line for line in found["lines"] if line["role"] != "band"}
    rows = {row["name"]: row for row in one["table"]["rows"]}
    assert [line["name"] for line in found["lines"]] == ["original", "retrained", "band", *NAMES, "lost"]
    checked = 0
    for name, metric in itertools.product(rows, found["metrics"]):
        if metric not in rows[name]["cells"]:
            continue
        ours, cell = by_name[name]["cells"][metric], rows[name]["cells"][metric]
        assert (ours["value"], ours["low"], ours["high"]) == (cell["value"], cell["interval"]["low"], cell["interval"]["high"])
        if name != "retrained":
            assert ours["gap"] == cell["value"] - rows["retrained"]["cells"][metric]["value"]
        checked += 1
    assert checked >= 5 * 5
    text = list(csv.DictReader(io.StringIO(formats.write([folder], "csv"))))
    values = {(line["row"], line["metric"]): line["value"] for line in text if line["role"] != "band"}
    assert float(values["salun", "unlearning_accuracy"]) == rows["salun"]["cells"]["unlearning_accuracy"]["value"]
    assert by_name["finetune"]["cost"]["seconds"] == one["cost"]["finetune"]["seconds"]


def test_significance_is_holm_over_all_tests_of_all_finished_rows(one):
    held = [row for row in one["table"]["rows"] if row["name"] in NAMES]
    tests = [
        (row["name"], name, cell["p_value"])
        for row in held
        for name, cell in row["cells"].items()
        if cell["tested"] and cell["p_value"] is not None
    ]
    expected = holm([p_value for *_, p_value in tests])
    found = publication.adjust(one["table"]["rows"])
    assert len(found) == len(tests) > 6
    for (name, metric, _), value in zip(tests, expected, strict=True):
        assert found[name, metric] == pytest.approx(value)


def row(name, low, high, role="unlearned", status="finished"):
    cell = {"value": (low + high) / 2, "interval": None if low is None else {"low": low, "high": high}, "tested": True, "p_value": 0.5}
    return {"name": name, "role": role, "status": status, "cells": {"m": cell}}


def test_rows_that_overlap_share_a_rank():
    rows = [row("retrained", 10, 10, "retrained"), row("a", 9, 11), row("b", 8, 9.5), row("c", 14, 16), row("d", 3, 5), row("e", 0, 1)]
    assert publication.ranks(rows, "m", "retrained") == {"a": 1, "b": 1, "c": 3, "d": 3, "e": 5}
    assert publication.ranks(rows, "m", "report") == {}
    assert publication.ranks(rows, "m", "higher") == {"a": 1, "b": 2, "c": 1, "d": 4, "e": 5}
    assert publication.ranks(rows, "m", "zero_up_to_band") == {"a": 1, "b": 1, "c": 5, "d": 1, "e": 1}
    failed = [*rows[:2], row("b", 8, 9.5, status="diverged")]
    assert publication.ranks(failed, "m", "retrained") == {"a": 1}
    assert publication.ranks(rows[1:], "m", "retrained") == {}


@pytest.mark.parametrize("target", ["retrained", "higher", "lower", "zero_up_to_band"])
def test_shortfall_equals_the_extremes_over_the_interval(target):
    naive = {"retrained": lambda x: abs(x - 4), "higher": lambda x: max(0, 4 - x)}.get(target, lambda x: max(0, x - 4))
    for low, high in itertools.combinations_with_replacement(range(9), 2):
        values = [naive(low + (high - low) * step / 60) for step in range(61)]
        assert publication.shortfall(target, 4, low, high) == pytest.approx((min(values), max(values)), abs=0.07)


def test_failed_rows_and_readers_of_retrained_models_are_marked(one):
    made = copy.deepcopy(one)
    made["methods"]["salun"]["name"] = "oracle_match"
    half = next(row for row in made["table"]["rows"] if row["name"] == "finetune")
    half |= {"status": "diverged", "reason": "1 of 4 seeds; seed 2: too fast"}
    found = lines_of(made)
    assert found["unlearned", "salun"].oracle and not found["unlearned", "gradient_ascent"].oracle
    assert found["unlearned", "lost"].cells == {} and "seed 0" in found["unlearned", "lost"].failure
    assert found["unlearned", "finetune"].cells and all(cell.rank is None for cell in found["unlearned", "finetune"].cells.values())
    text = formats.as_markdown([publication.section(made)])
    assert "| salun‡ |" in text and "| lost† | diverged |" in text and "| finetune† |" in text
    assert "† finetune: diverged: 1 of 4 seeds; seed 2: too fast" in text and "somebody who must unlearn does not have" in text


def test_one_seed_has_neither_interval_nor_rank(one):
    made = record(methods={"salun": METHODS["salun"]}, seeds=1, retrained=4, metrics=METRICS, scale=4)
    cells = lines_of(made)["unlearned", "salun"].cells
    assert cells and all(cell.rank is None and cell.low is None for cell in cells.values())
    line = next(line for line in formats.as_markdown([publication.section(made)]).splitlines() if line.startswith("| salun"))
    assert "±" not in line and "#" not in line


@pytest.mark.parametrize("form", formats.FORMATS)
def test_texts_of_users_change_no_structure(one, form):
    plain, hostile = copy.deepcopy(one), copy.deepcopy(one)
    hostile["title"] = HOSTILE
    hostile["table"]["rows"][3]["name"] = HOSTILE
    first, second = (formats.WRITERS[form]([publication.section(made)]) for made in (plain, hostile))
    counts = {
        "csv": lambda text: [len(line) for line in csv.reader(io.StringIO(text))],
        "json": lambda text: [list(line["cells"]) for line in json.loads(text)[0]["lines"]],
        "markdown": lambda text: [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()],
        "html": lambda text: re.findall(r"</?\w+", text),
        "latex": lambda text: [len(re.findall(r"(?<!\\)&", line)) for line in text.splitlines()],
        "parquet": lambda made: [len(rows_of(made)), list(rows_of(made)[0])],
    }[form]
    assert counts(first) == counts(second)
    if form == "html":
        assert "<script" not in second
    if form == "latex":
        assert r"\textbackslash{}input\{x\} 50\% \& \$x\_1\$ \#2" in second and second.isascii()
        assert second.count("{") - second.count(r"\{") == second.count("}") - second.count(r"\}")


def test_latex_has_as_many_cells_in_every_row(one):
    text = formats.as_latex([publication.section(one)])
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    cells = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")}
    columns = re.search(r"begin\{tabular\}\{(l?r*)\}", text)[1]
    assert cells == {len(columns) - 1} and r"\midrule" in body


def test_published_numbers_stand_beside_ours_and_enter_nothing(one):
    request = {"forget": 4500, "retain": 40500}
    made = copy.deepcopy(one)
    made["request"] |= request
    made["methods"]["salun"]["addons"] = []
    settings = published.fitting(made["request"])
    assert {setting.name for setting in settings} == {"salun-random10", "sparse-random10", "rerun-random10"}
    without, beside = publication.section(made), publication.section(made, None, settings)
    ours = [line for line in beside.lines if line.role != "published"]
    assert ours == list(without.lines)
    salun = [line for line in beside.lines if line.role == "published" and line.name == "salun"]
    assert [line.cells["unlearning_accuracy"].value for line in salun] == [2.85, 0.62]
    for line in beside.lines:
        if line.role == "published":
            assert "Table" in line.source or "rerun" in line.source
            assert all((cell.low, cell.gap, cell.rank, cell.p_holm) == (None,) * 4 for cell in line.cells.values())
    text = formats.as_markdown([beside])
    assert "salun (published)" in text and "in no mean, rank or test of ours" in text


def test_a_published_row_is_found_whatever_optimizer_takes_the_steps(one):
    made = copy.deepcopy(one)
    made["request"] |= {"kind": "class", "model": "vit", "forget": 4500, "retain": 40500}
    made["methods"]["finetune"]["addons"] = [{"name": name} for name in ("prune", "last_k", "lora", "optimizer")]
    (setting,) = published.fitting(made["request"])
    lines = lines_of(made, None, [setting])
    assert lines["published", "finetune+prune+lora"].cells["unlearning_accuracy"].value == 100
    assert ("published", "finetune+prune") not in lines and ("published", "finetune") not in lines


def test_published_gaps_are_what_the_printed_cells_give():
    checked = 0
    for setting in published.SETTINGS:
        aim = setting.rows["retrained"] if "retrained" in setting.rows else {}
        for name, values in setting.rows.items():
            parts = [key for key in values if key != published.GAP]
            if published.GAP not in values or len(parts) < 4 or setting.name == "rerun-random10":
                continue
            gap = sum(abs(values[key] - aim[key]) for key in parts) / len(parts)
            wide = 0.05 if (setting.name, name) == ("sparse-random10-95", "influence") else 0.02
            assert gap == pytest.approx(values[published.GAP], abs=wide), (setting.name, name)
            checked += 1
    assert checked >= 35


def test_other_settings_are_shown_only_when_asked_for_and_the_difference_is_said(folder):
    assert "No published numbers are known" in formats.write([folder], published=True)
    text = formats.write([folder], against="salun-random10")
    assert "salun-random10 is another setting: forget 200, published 4500; retain 450, published 40500." in text
    with pytest.raises(BadInput, match="Did you mean 'salun-random10'"):
        formats.write([folder], against="salun-random11")
    with pytest.raises(BadInput, match="Did you mean 'test_accuracy'"):
        formats.write([folder], metrics=["test_acuracy"])


def test_records_that_share_their_references_become_one_table(one):
    second = copy.deepcopy(one)
    first = copy.deepcopy(one)
    first["table"]["rows"] = [row for row in first["table"]["rows"] if row["name"] != "salun"]
    second["table"]["rows"] = [row for row in second["table"]["rows"] if row["name"] != "finetune"]
    merged = publication.merge([first, second])
    assert [row["name"] for row in merged[0]["table"]["rows"]] == ["original", "retrained", "finetune", "gradient_ascent", "lost", "salun"]
    other = copy.deepcopy(second)
    other["provenance"]["runs"]["unlearned/0/salun/0"] = "runs/unlearn-other"
    names = [row["name"] for row in publication.merge([first, second, other])[0]["table"]["rows"]]
    assert names[-2:] == ["salun", "salun (2)"] and names.count("gradient_ascent") == 1
    apart = copy.deepcopy(one)
    apart["provenance"]["runs"]["retrained/0/0"] = "runs/train-other"
    assert len(publication.merge([one, apart])) == 2


def test_what_audits_found_about_a_row_goes_with_it_into_the_joined_table(audited):
    def part(names):
        made = copy.deepcopy(audited)
        made["table"]["rows"] = [row for row in made["table"]["rows"] if row["role"] != "unlearned" or row["name"] in names]
        for head in made["audits"]["audits"].values():
            head["rows"] = {name: cell for name, cell in head["rows"].items() if name in (*names, "original", "retrained")}
        return made

    names = [row["name"] for row in audited["table"]["rows"] if row["role"] == "unlearned"]
    whole, joined = publication.with_audits(audited), publication.with_audits(publication.merge([part(names[:1]), part(names[1:])])[0])
    known = {row["name"]: set(row["cells"]) for row in whole["rows"]}
    assert {row["name"]: set(row["cells"]) for row in joined["rows"]} == known
    other = part(names[1:])
    next(iter(other["audits"]["audits"].values()))["null"]["mean"] += 1
    assert publication.merge([part(names[:1]), other])  # another law: what it found is left out, and nothing breaks


def test_a_failure_of_every_kind_is_text_in_every_format():
    made = record(methods={"salun": METHODS["salun"]}, failures={"x": [Failure("failed", "a\nb | c")] * 2}, seeds=2, retrained=4, scale=4)
    for form in formats.FORMATS:
        written = formats.WRITERS[form]([publication.section(made)])
        assert "failed" in (written if isinstance(written, str) else str(rows_of(written)))
