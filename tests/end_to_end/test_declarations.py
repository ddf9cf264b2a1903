"""When margins were declared: noted before the first run, and compared with what was there."""

import json
import shutil

import pytest

from expunge import config
from expunge.bench import compare, declarations
from expunge.bench.request import request_of
from expunge.report import headline

SMALL = ["data=digits", "model=mlp", "model.hidden=[8]", "train=tiny", "train.epochs=1", "forget=random", "evaluate.workers=1"]
SMALL += ["evaluate.seeds=2", "evaluate.retrained=2", "method=finetune", "method.epochs=1"]


def asked(out, *words):
    return request_of(config.resolve(config.read(None, [*SMALL, f"out={out}", *words])), "One request")


def work_of(request):
    return request.workplace(request.rows[0])


def evaluated(out, *words):
    """Evaluate with the words, and return the record."""
    return compare.compare([asked(out, *words)], lambda event: None, "typed")[0][0]


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Return a store and the record of an evaluation that was the first of all."""
    out = tmp_path_factory.mktemp("early")
    return out, evaluated(out, "evaluate.margins={RA: 1.0}")


def test_margins_of_the_first_evaluation_count_and_stay(early):
    out, record = early
    (declared,) = record["declared"].values()
    assert declared["models"] == {"there": 0, "of": 2} and declared["before"] == []
    assert "before any result of the method was in this store" in headline.card(record, "finetune").sentence
    again = evaluated(out, "evaluate.margins={retain_accuracy: 1.0}", "evaluate.batch_size=100")
    assert again["declared"] == record["declared"], "the same margins by another name"


def test_margins_that_were_changed_after_results_are_named(early, tmp_path):
    shutil.copytree(early[0], tmp_path / "store")
    changed = evaluated(tmp_path / "store", "evaluate.margins={RA: 2.0}")
    (declared,) = changed["declared"].values()
    assert declared["models"]["there"] == 2 and [other["margins"] for other in declared["before"]] == [{"retain_accuracy": 1.0}]
    reasons = headline.card(changed, "finetune").unmet
    assert any("2 of its 2 models were there and the method had been evaluated with retain_accuracy ± 1" in reason for reason in reasons)
    shutil.rmtree(tmp_path / "store" / "declared")
    declarations.note([asked(tmp_path / "store", "evaluate.margins={RA: 3.0}")])
    found = declarations.found(work_of(asked(tmp_path / "store", "evaluate.margins={RA: 3.0}")))
    assert found["models"]["there"] == 2, "models are found without any note"


@pytest.mark.parametrize("words", ["method.lr=0.3", "seed=5", "forget_seed=3", "evaluate.seeds=1", "evaluate.tier=standard"])
def test_other_settings_seeds_and_tiers_of_the_same_method_are_no_fresh_start(tmp_path, words):
    first = asked(tmp_path)
    declarations.note([first])
    declarations.mark(work_of(first))
    assert declarations.found(work_of(first)) is None, "it has no margins"
    later = asked(tmp_path, words, "evaluate.margins={RA: 1.0}")
    declarations.note([later])
    assert [other["margins"] for other in declarations.found(work_of(later))["before"]] == [{}]


@pytest.mark.parametrize("words", ["method=gradient_ascent", "forget.fraction=0.2", "addons=[sam]"])
def test_another_method_or_request_is_a_fresh_start(tmp_path, words):
    first = asked(tmp_path)
    declarations.note([first])
    declarations.mark(work_of(first))
    later = asked(tmp_path, words, "evaluate.margins={RA: 1.0}")
    declarations.note([later])
    assert declarations.found(work_of(later))["before"] == []


def test_an_evaluation_that_ended_before_any_model_was_there_gives_nothing_away(tmp_path):
    declarations.note([asked(tmp_path, "evaluate.margins={RA: 9.0}")])
    later = asked(tmp_path, "evaluate.margins={RA: 1.0}")
    declarations.note([later])
    found = declarations.found(work_of(later))
    assert found["before"] == [] and found["models"]["there"] == 0
    declarations.mark(work_of(later))
    declarations.note([later])
    assert declarations.found(work_of(later)) == found, "the first note stays"


def test_notes_hold_settings_and_no_results(early):
    (path,) = (early[0] / "declared").glob("*.json")
    held = json.loads(path.read_text())
    assert set(held) == {"time", "margins", "method", "addons", "forget", "models", "before", "seen"} and held["seen"]


def test_machines_that_share_an_address_share_the_notes(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "first"))
    address = f"file://{tmp_path}/there"
    declarations.note([asked(address)])
    declarations.mark(work_of(asked(address)))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "second"))
    later = asked(address, "evaluate.margins={RA: 1.0}")
    declarations.note([later])
    assert [other["margins"] for other in declarations.found(work_of(later))["before"]] == [{}]


def test_who_cannot_write_only_looks_on(tmp_path, monkeypatch):
    first = work_of(asked(tmp_path))
    declarations.note([asked(tmp_path)])
    monkeypatch.setattr(declarations.os, "access", lambda path, mode: False)
    declarations.mark(first)
    assert not json.loads(next((tmp_path / "declared").glob("*.json")).read_text())["seen"]


def test_of_two_that_see_results_at_once_the_first_time_stays(tmp_path, monkeypatch):
    request = asked(tmp_path, "evaluate.margins={RA: 1.0}")
    declarations.note([request])
    (path,) = (tmp_path / "declared").glob("*.json")
    hold = declarations.locks.hold

    def after_another(folder, **how):
        path.write_text(json.dumps({**json.loads(path.read_text()), "seen": "2026-01-01T00:00:00+00:00"}))
        return hold(folder, **how)

    monkeypatch.setattr(declarations.locks, "hold", after_another)
    declarations.mark(work_of(request))
    assert json.loads(path.read_text())["seen"] == "2026-01-01T00:00:00+00:00"
