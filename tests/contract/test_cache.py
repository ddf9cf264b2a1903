"""The evidence cache: rows survive crashes, corruption is found, strangers never meet, several processes fill one pool."""

import multiprocessing

import numpy as np
import pytest

from expunge.errors import BadInput
from expunge.metrics.scores import margin
from expunge.pools.cache import BLOCK_ROWS, FORGET, IN, EvidenceCache

N, C = 37, 4
LABELS = np.arange(N) % C


def logits(row: int) -> np.ndarray:
    return np.random.default_rng(row).normal(0, 8, (N, C)).astype(np.float32)


def state(row: int) -> np.ndarray:
    return np.random.default_rng(1000 + row).integers(0, 3, N).astype(np.uint8)


def cache(folder, **changes) -> EvidenceCache:
    return EvidenceCache(folder / "pool", {"data": "a", "split": "s", **changes}, LABELS, C)


def test_what_is_written_is_read(tmp_path):
    made = cache(tmp_path)
    rows = [0, 3, BLOCK_ROWS - 1, BLOCK_ROWS, 5 * BLOCK_ROWS + 2]
    for row in rows:
        made.write(row, logits(row), state(row))
    again = cache(tmp_path)
    assert again.rows() == rows and again.rows(upto=4) == [0, 3]
    for place, row in enumerate(rows):
        np.testing.assert_allclose(again.margins(rows)[place], margin(logits(row), LABELS), rtol=1e-6)
        assert np.array_equal(again.states(rows)[place], state(row))
        assert np.array_equal(again.correct(rows)[place], logits(row).argmax(1) == LABELS)
        np.testing.assert_allclose(again.logits(row), logits(row), rtol=1e-3, atol=1e-3)


def test_margins_come_from_float32_logits_and_not_from_the_rounded_ones(tmp_path):
    made = cache(tmp_path)
    close = np.zeros((N, C), np.float32)
    close[:, 0] = 20.0
    close[:, 1] = 20.001  # the same float16 number as 20
    made.write(0, close, state(0))
    np.testing.assert_allclose(made.margins([0])[0], margin(close, LABELS), rtol=1e-6)
    rounded = margin(made.logits(0), LABELS)
    assert np.abs(rounded - margin(close, LABELS)).max() > 1e-4


@pytest.mark.parametrize("name", ["margin", "correct", "state", "logits"])
def test_a_flipped_bit_is_found_and_the_row_can_be_written_again(tmp_path, name):
    made = cache(tmp_path)
    made.write(0, logits(0), state(0))
    made.write(1, logits(1), state(1))
    path = tmp_path / "pool" / "block-00000" / f"{name}.npy"
    array = np.load(path, mmap_mode="r+")
    array[1].view(np.uint8).reshape(-1)[0] ^= 1
    array.flush()
    assert cache(tmp_path).rows() == [0]
    made.write(1, logits(1), state(1))
    assert cache(tmp_path).rows() == [0, 1]


def test_a_row_that_is_there_is_not_touched_by_a_second_writer(tmp_path, monkeypatch):
    made = cache(tmp_path)
    made.write(0, logits(0), state(0))
    monkeypatch.setattr(EvidenceCache, "_checked", lambda self, *given: given)
    block = made._block(0)
    before = {name: (tmp_path / "pool" / "block-00000" / f"{name}.npy").stat().st_mtime_ns for name in block}
    made.write(0, logits(0), state(0))
    assert {name: (tmp_path / "pool" / "block-00000" / f"{name}.npy").stat().st_mtime_ns for name in block} == before
    made.write(0, logits(5), state(0))
    assert made.rows() == [0] and not np.array_equal(made.margins([0])[0], block["margin"][1])


def test_a_row_that_a_crash_left_unfinished_is_not_there(tmp_path, monkeypatch):
    made = cache(tmp_path)
    made.write(0, logits(0), state(0))
    whole, calls = EvidenceCache._crc, []

    def crash(*arguments):
        calls.append(arguments)
        if len(calls) > 1:  # the first asks whether the row that is there is whole
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(EvidenceCache, "_crc", crash)
    with pytest.raises(KeyboardInterrupt):
        made.write(0, logits(9), state(9))
    monkeypatch.undo()
    assert len(calls) == 2
    assert cache(tmp_path).rows() == []
    with pytest.raises(BadInput, match="row 0 is not there"):
        made.margins([0])


@pytest.mark.parametrize("change", [{"data": "b"}, {"split": "t"}, {"recipe": "other"}])
def test_evidence_about_different_things_never_meets(tmp_path, change):
    cache(tmp_path)
    with pytest.raises(BadInput, match="never meets") as error:
        cache(tmp_path, **change)
    assert next(iter(change)) in str(error.value)


def test_other_labels_never_meet(tmp_path):
    cache(tmp_path)
    with pytest.raises(BadInput, match="labels"):
        EvidenceCache(tmp_path / "pool", {"data": "a", "split": "s"}, LABELS[::-1].copy(), C)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: (logits(0)[:-1], state(0)), "expected float32 logits"),
        (lambda: (logits(0).astype(np.float64), state(0)), "float64"),
        (lambda: (logits(0) * np.nan, state(0)), "not finite"),
        (lambda: (logits(0), state(0) + 3), "states 0, 1 or 2"),
    ],
)
def test_wrong_rows_are_refused(tmp_path, wrong, message):
    with pytest.raises(BadInput, match=message):
        cache(tmp_path).write(0, *wrong())


def _fill(folder, rows):
    made = cache(folder)
    for row in rows:
        made.write(row, logits(row), state(row))


def test_two_processes_fill_one_pool(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path, range(start, 3 * BLOCK_ROWS, 2))) for start in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    made = cache(tmp_path)
    assert made.rows() == list(range(3 * BLOCK_ROWS))
    np.testing.assert_allclose(made.margins([101])[0], margin(logits(101), LABELS), rtol=1e-6)
    assert not list(tmp_path.rglob(".*"))


def test_states_count(tmp_path):
    made = cache(tmp_path)
    made.write(0, logits(0), np.full(N, FORGET))
    made.write(1, logits(1), np.full(N, IN))
    assert (made.states([0, 1]).sum(1) == [FORGET * N, IN * N]).all()
