"""What the figures of a report show is what the run folders hold, and what is not there is said."""

import copy
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from browser.report_runs import comparison
from expunge.errors import BadInput
from expunge.pools import evidence
from expunge.report import epsilons, html, page, plots, ranks
from expunge.report.figures import attacker, epochs, gallery, payload
from expunge.report.figures.models import find, short


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    (record,), folder = comparison(tmp_path_factory.mktemp("figures"))
    return record, folder, payload.of(record, folder)


@pytest.fixture(scope="module")
def models(made):
    record, folder, _ = made
    return find(record, folder)


def naive_margins(models, row, part):
    """Return the margin of each example of a part under each model, from the files and the definition."""
    index, found = getattr(models.split, part), []
    for folder in models.folders[row].values():
        z = evidence.load(folder / "logits.npy")[index].astype(float)
        p = np.exp(z - z.max(1, keepdims=True))
        p = (p / p.sum(1, keepdims=True))[np.arange(len(index)), models.data.labels.numpy()[index]]
        found.append(np.log(p) - np.log1p(-p))
    return np.stack(found)


def test_every_figure_is_there_and_plain(made):
    _, _, found = made
    assert [name for name in page.FIGURES if found[name].get("reason")] == []
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["missing"] == [] and set(found["folders"]) == {"original", "retrained", "salun", "ssd"}
    assert all(link.startswith("data:image/webp;base64,") for link in found["pictures"].values()) and len(found["pictures"]) > 50


def test_counts_below_a_threshold_are_those_of_the_examples(made, models):
    _, _, found = made
    checked = 0
    for name, sign in (("loss", -1), ("margin", 1)):
        edges = np.array(found["losses"][name]["edges"])
        for row in ("original", "salun", "retrained"):
            for part in ("forget", "unseen"):
                margins = naive_margins(models, row, part)
                values = np.log1p(np.exp(-margins)) if name == "loss" else margins
                counts = found["losses"][name]["rows"][row][part]
                for at in (20, 48, 80):
                    held = sum(counts[:at]) if sign < 0 else sum(counts[at:])
                    naive = np.sum(values < edges[at]) if sign < 0 else np.sum(values >= edges[at])
                    assert abs(held - naive) <= 1  # an example on an edge itself
                    checked += 1
    assert checked == 36


def test_roc_is_the_mean_over_models_of_the_plain_one(made, models):
    _, _, found = made
    forget, unseen = naive_margins(models, "ssd", "forget"), naive_margins(models, "ssd", "unseen")
    held = found["roc"]["rows"]["ssd"]
    labels = np.r_[np.ones(forget.shape[1]), np.zeros(unseen.shape[1])]
    areas = [roc_auc_score(labels, np.r_[ours, theirs]) for ours, theirs in zip(forget, unseen, strict=True)]
    assert held["auc"] == pytest.approx(np.mean(areas), abs=1e-4) and held["auc_low"] < held["auc"] < held["auc_high"]
    for at, rate in list(zip(found["roc"]["fpr"], held["tpr"], strict=True))[::6]:
        naive = []
        for ours, theirs in zip(forget, unseen, strict=True):
            allowed = [t for t in np.sort(theirs) if np.mean(theirs > t) <= at + 1e-6]
            naive.append(np.mean(ours > allowed[0]))
        assert rate == pytest.approx(np.mean(naive), abs=1e-3)


def test_areas_of_examples_and_the_gallery_agree_with_pairs_of_models(made, models):
    _, _, found = made
    ours, theirs = naive_margins(models, "salun", "forget"), naive_margins(models, "retrained", "forget")[4:]
    wins = (ours[:, None] > theirs[None]) + 0.5 * (ours[:, None] == theirs[None])
    areas = wins.mean(axis=(0, 1))
    assert attacker.example_areas(models, "salun") == pytest.approx(areas, abs=1e-9)
    assert found["examples"]["rows"]["salun"]["mean"] == pytest.approx(areas.mean(), abs=1e-3)
    assert sum(found["examples"]["rows"]["salun"]["shares"]) == pytest.approx(1, abs=1e-3)
    place = {int(one): k for k, one in enumerate(models.split.forget)}
    ends = found["gallery"]["rows"]["salun"]
    for entry in ends["remembered"] + ends["overdone"]:
        assert entry["score"] == pytest.approx(areas[place[entry["index"]]], abs=1e-3)
        assert entry["label"] == int(models.data.labels[entry["index"]])
    assert ends["remembered"][0]["score"] == pytest.approx(areas.max(), abs=1e-3)


def test_with_too_few_models_the_gallery_goes_by_probabilities(made):
    record, folder, _ = made
    few = copy.deepcopy(record)
    few["provenance"]["runs"] = {key: path for key, path in few["provenance"]["runs"].items() if int(key[-1]) < 4}
    models = find(few, folder)
    found = gallery.of(models)
    assert found["by"] == "probability"
    p = {row: (1 / (1 + np.exp(-naive_margins(models, row, "forget")))).mean(axis=0) for row in ("ssd", "retrained")}
    place = {int(one): k for k, one in enumerate(models.split.forget)}
    for end, sign in (("remembered", 1), ("overdone", -1)):
        entries = found["rows"]["ssd"][end]
        gaps = [sign * (p["ssd"] - p["retrained"])[place[entry["index"]]] for entry in entries]
        assert min(gaps) > 0.005 and gaps == sorted(gaps, reverse=True)
        assert [sign * entry["score"] for entry in entries] == pytest.approx(gaps, abs=1e-3)


def test_confusion_adds_up_and_pairs_are_what_the_models_say(made, models):
    _, _, found = made
    for shares in found["confusion"]["rows"].values():
        assert np.sum(shares, axis=1) == pytest.approx(np.ones(len(shares)), abs=0.01)
    held = found["pairs"]
    logits = evidence.load(models.folders["ssd"][0] / "logits.npy")[held["index"]]
    assert held["rows"]["ssd"]["answer"] == logits.argmax(1).tolist()
    assert [held["parts"][k] for k in held["part"]].count("forget") == min(300, len(models.split.forget))


def test_a_model_beside_itself_is_alike_in_every_block(made):
    inside = made[2]["inside"]
    original, salun = inside["rows"]["original"], inside["rows"]["salun"]
    assert original["cka_original"] == pytest.approx([1] * len(inside["blocks"])) and set(original["moved"]) == {0.0}
    assert original["distance_original"] == [0.0] * len(inside["blocks"])
    assert max(salun["moved"]) < 0.95 and min(inside["rows"]["retrained"]["moved"]) > 0.9, "a mask shows, retraining moves everything"
    assert original["probe"][-1] >= original["probe"][0] - 0.1 and len(inside["floor"]["cka"]) == len(inside["blocks"])
    assert set(inside["map"]["rows"]) == set(inside["rows"])


@pytest.mark.slow
def test_figures_are_the_same_every_time(made):
    assert payload.of(made[0], made[1]) == made[2]


@pytest.mark.slow
def test_whole_classes_have_figures_too(tmp_path):
    (record,), folder = comparison(tmp_path, "class")
    found = payload.of(record, folder)
    assert [name for name in page.FIGURES if found[name].get("reason")] == []
    assert found["confusion"]["true"] == ["3"] and len(found["confusion"]["predicted"]) == 10


def test_epochs_take_whatever_numbers_events_hold(tmp_path):
    lines = [
        {"time": 0, "event": "start"}, {"event": "epoch", "losses": {"lost": 9}},
        {"time": 10.0, "event": "start"},
        {"time": 11.0, "event": "epoch", "epoch": 1, "name": "a", "losses": {"x": 2.0}, "values": {"angle": {"p": 0.5}}, "ok": True},
        {"time": 12.0, "event": "edit", "name": "cut"},
        {"time": 13.5, "event": "epoch", "epoch": 1, "name": "b", "losses": {"x": float("nan")}, "lr": 0.1},
    ]  # fmt: skip
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"time": 3, "ev'
    (tmp_path / "events.jsonl").write_text(text)
    found = epochs.run(tmp_path, 3)
    assert found["phases"] == [[1, "a"], [2, "b"]] and found["edits"] == [[1, "cut"]] and found["seed"] == 3
    assert found["series"] == {
        "losses": {"x": [[1, 2.0], [2, None]]}, "values": {"angle: p": [[1, 0.5]]}, "lr": {"lr": [[2, 0.1]]},
        "seconds": {"since the start": [[1, 1.0], [2, 3.5]]},
    }  # fmt: skip
    assert epochs.run(tmp_path / "gone")["series"] == {}


def test_gone_folders_are_named_and_the_rest_is_shown(made, tmp_path):
    record, folder, _ = made
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder.parent, moved)
    stranger = copy.deepcopy(record)
    stranger["provenance"]["runs"] = {key: f"/nowhere/{path.rsplit('/', 1)[-1]}" for key, path in record["provenance"]["runs"].items()}
    for seed in (0, 1):
        shutil.rmtree(moved / stranger["provenance"]["runs"][f"unlearned/0/ssd/{seed}"].rsplit("/", 1)[-1])
    found = payload.of(stranger, moved / folder.name)
    assert found["missing"] == ["2 run folders of ssd"] and not found["losses"].get("reason")
    assert found["losses"]["models"]["ssd"] == 2 and "ssd" not in found["examples"]["rows"] and "salun" in found["examples"]["rows"]
    assert "2 run folders of ssd" in html.render([stranger], [found])
    empty = payload.of(stranger, tmp_path / "void" / "compare-x")
    assert all(empty[name]["reason"].startswith("the run folders are not there") for name in page.FIGURES)
    assert "the run folders are not there any more" in html.render([stranger], [empty])


def test_ranks_are_places_by_distance_to_the_band():
    head = {"tested": True, "target": "retrained", "band": {"low": 9, "high": 11, "mean": 10}}
    free = {"tested": True, "target": "higher", "band": {"low": 9, "high": 11, "mean": 10}}
    untested = {"tested": False, "target": "retrained", "band": None}
    rows = [("original", "original", 10, 10), ("a", "unlearned", 10.5, 8), ("b", "unlearned", 9.5, 12), ("c", "unlearned", 14, 9.5)]
    table = {
        "metrics": {"x": head, "y": free, "z": untested},
        "rows": [{"name": n, "role": role, "cells": {"x": {"value": x}, "y": {"value": y}, "z": {"value": 0}}} for n, role, x, y in rows],
    }
    assert ranks.mean_ranks(table) == {"a": (1.5 + 3) / 2, "b": (1.5 + 1.5) / 2, "c": (3 + 1.5) / 2}


def test_bounds_on_epsilon_need_a_value_and_a_ceiling():
    assert epsilons.bound_of({"details": {"epsilon": {"clopper_pearson": {"value": 0.3, "ceiling": 2.8}}}}) == {
        "value": 0.3,
        "ceiling": 2.8,
    }
    assert epsilons.bound_of({"details": {"epsilon": {"value": 1, "ceiling": 2}}}) == {"value": 1.0, "ceiling": 2.0}
    for epsilon in ("not measurable at n = 3", None, {"value": None, "ceiling": 2}, {"point": 1}):
        assert epsilons.bound_of({"details": {"epsilon": epsilon}}) is None


def test_short_numbers_keep_four_digits_and_drop_what_is_none():
    assert short([1 / 3, float("inf"), 12345.678, [2, "a", None]]) == [0.3333, None, 12350.0, [2, "a", None]]


@pytest.mark.parametrize("figure", sorted(plots.FIGURES))
def test_every_figure_for_papers_is_drawn(made, tmp_path, monkeypatch, figure):
    monkeypatch.setattr(payload, "of", lambda record, beside, only: made[2])
    files = [plots.write(made[1], figure, tmp_path / f"{name}.svg") for name in ("one", "two")]
    text = files[0].read_text(encoding="utf-8")
    assert text == files[1].read_text(encoding="utf-8") and "<text" in text, "the same again, with letters that stay letters"
    assert "mathdefault" not in text


def test_a_drawing_that_cannot_be_made_says_why(made, tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "of", lambda record, beside, only: payload.nothing(record))
    for arguments, said in (
        ({"figure": "rock"}, "no figure is called 'rock'. Did you mean 'roc'"),
        ({"figure": "roc"}, "the run folders are not there"),
        ({"figure": "metric", "metric": "churm"}, "no metric 'churm'"),
        ({"figure": "metric", "row": "salum"}, "no row is called 'salum'"),
        ({"figure": "metric", "request": 2}, "there are 1 requests"),
        ({"figure": "metric", "out": tmp_path / "a.jpg"}, "which format"),
    ):
        with pytest.raises(BadInput, match=said):
            plots.write(made[1], **{"out": tmp_path / "x.png", **arguments})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix, start", [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_papers_take_every_format(made, tmp_path, suffix, start):
    place = plots.write(made[1], "metric", tmp_path / f"metric.{suffix}", metric="test_accuracy", row="ssd")
    assert place.read_bytes().startswith(start)
