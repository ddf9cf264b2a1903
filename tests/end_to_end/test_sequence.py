"""Requests one after another: what each step sees, and what it should have forgotten."""

import numpy as np
import pytest

from expunge import config
from expunge.errors import BadInput
from expunge.pools import stages
from expunge.pools.workplace import Workplace
from expunge.requests import sequence

WORDS = ["data=digits", "model=mlp", "model.hidden=[16]", "train=tiny", "train.epochs=2", "forget=random", "method=finetune"]


def workplace(out, *words: str) -> Workplace:
    return Workplace(config.resolve(config.read(None, [*WORDS, "method.epochs=1", f"out={out}", *words])))


def test_steps_forget_one_request_each_and_remember_what_is_gone(tmp_path):
    work = workplace(tmp_path)
    split, labels = work.split, work.data.labels.numpy()
    requests = sequence.divide(split, 5)
    found = sequence.steps(split, labels, requests)
    assert len(found) == 5 and found[-1].so_far.retain.tolist() == split.retain.tolist()
    for step, part in zip(found, requests, strict=True):
        gone = np.concatenate(requests[: step.number + 1])
        assert step.request.forget.tolist() == part.tolist() and step.so_far.forget.tolist() == sorted(gone.tolist())
        assert step.request.retain.tolist() == step.so_far.retain.tolist() == np.setdiff1d(split.train, gone).tolist()
        assert step.so_far.train.tolist() == split.train.tolist()
    assert len({one.fingerprint for step in found for one in (step.request, step.so_far)}) == 10
    assert [part.tolist() for part in sequence.divide(split, 5)] == [part.tolist() for part in requests]


def test_each_step_starts_where_the_one_before_ended(tmp_path):
    work = workplace(tmp_path)
    found = sequence.steps(work.split, work.data.labels.numpy(), sequence.divide(work.split, 3))
    runs = sequence.unlearn(work, found, 0)
    starts = [run.record["identity"]["original"] for run in runs]
    assert starts == [stages.original(work, 0).record["weights"], *(run.record["weights"] for run in runs[:-1])]
    assert [run.folder for run in sequence.unlearn(work, found, 0)] == [run.folder for run in runs]
    oracles = sequence.retrained(work, found, 0)
    assert [run.record["examples"] for run in oracles] == [len(step.so_far.retain) for step in found]
    assert oracles[-1].folder == stages.retrained(work, 0).folder


def test_classes_that_vanish_are_set_apart_when_they_vanish(tmp_path):
    work = workplace(tmp_path, "forget=class", "forget.classes=[2,5]")
    split, labels = work.split, work.data.labels.numpy()
    first, second = (split.forget[labels[split.forget] == label] for label in (2, 5))
    one, two = sequence.steps(split, labels, [first, second])
    assert one.request.kind == two.request.kind == "class" and one.request.forget_classes == (2,) and two.request.forget_classes == (5,)
    assert set(labels[one.so_far.test_forgotten]) == {2} and 5 in labels[one.so_far.test] and two.so_far.forget_classes == (2, 5)
    (half, rest) = sequence.steps(split, labels, [first[:10], np.sort(np.concatenate([first[10:], second]))])
    assert half.request.kind == "subclass" and not len(half.so_far.test_forgotten) and rest.so_far.kind == "class"


def test_requests_that_are_no_partition_are_refused(tmp_path):
    work = workplace(tmp_path)
    split, labels = work.split, work.data.labels.numpy()
    for wrong in ([split.forget[:-1]], [split.forget, split.forget[:1]], [split.forget, split.forget[:0]]):
        with pytest.raises(BadInput, match="Each example of the forget set must be in one request"):
            sequence.steps(split, labels, wrong)
    with pytest.raises(BadInput, match="cannot be 0 requests"):
        sequence.divide(split, 0)
