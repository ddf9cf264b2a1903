"""The ledger of requests: only added to, whole after any kill, and every change of a line is found."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from expunge.data.split_file import hash_tree
from expunge.errors import BadInput
from expunge.requests import listing
from expunge.requests.ledger import START, Ledger, read_requests
from expunge.requests.verify import verify_ledger


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "ledger.jsonl")
    made.receive("T-1", [5, 3, 4], by="mail 17")
    made.receive("T-2", [9])
    return made


def test_requests_have_a_status_that_follows_the_events(ledger):
    assert Ledger(ledger.path.parent / "none.jsonl").head == START
    one, two = ledger.requests().values()
    assert (one.name, one.by, one.keys, one.status) == ("T-1", "mail 17", (3, 4, 5), "waiting") and two.keys == (9,)
    ledger.note("started", "T-1")
    ledger.note("failed", "T-1", reason="diverged")
    assert ledger.requests()["T-1"].status == "failed" and ledger.requests()["T-1"].facts["reason"] == "diverged"
    ledger.note("started", "T-1")
    ledger.note("served", "T-1", record="abc")
    ledger.note("withdrawn", "T-2")
    assert [known.status for known in ledger.requests().values()] == ["served", "withdrawn"]
    assert len(ledger.entries()) == 7 and ledger.head == ledger.entries()[-1].hash
    ledger.receive("T-3", [9])  # what was withdrawn may be asked for again


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda ledger: ledger.receive("T-1", [7]), "in the ledger already"),
        (lambda ledger: ledger.receive("T-3", [4, 7]), r"1 of its examples \(4\) are in T-1 already"),
        (lambda ledger: ledger.receive("T-3", []), "names no example"),
        (lambda ledger: ledger.receive("T-3", [-1]), "Count from 0"),
        (lambda ledger: ledger.receive("", [1]), "Give a name"),
        (lambda ledger: ledger.receive("T\x1b[2J", [1]), "Give a name"),
        (lambda ledger: ledger.note("served", "T-9"), "no request is called 'T-9'"),
        (lambda ledger: ledger.note("eaten", "T-1"), "no event"),
        (lambda ledger: [ledger.note("withdrawn", "T-1"), ledger.note("served", "T-1")], "is withdrawn already"),
    ],
)
def test_wrong_lines_are_refused_and_nothing_is_written(ledger, act, words):
    before = len(ledger.entries())
    with pytest.raises(BadInput, match=words):
        act(ledger)
    assert len(ledger.entries()) - before in (0, 1 if "withdrawn" in words else 0)


def test_a_changed_a_missing_and_an_added_line_are_found(ledger):
    ledger.note("started", "T-1")
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    for changed, words in (
        (lines[0].replace(b"3-5", b"3-6"), "was changed"),
        (b"", "taken out or put in"),
        (lines[0] + lines[0], "taken out or put in"),
    ):
        ledger.path.write_bytes(changed + b"".join(lines[1:]))
        with pytest.raises(BadInput, match=words):
            ledger.entries()
    ledger.path.write_bytes(b"".join(lines[:2]))
    assert len(ledger.entries()) == 2, "lines cut off at the end are found by a hash that was kept, and only by it"


def written_anew(path, requests):
    """Write a ledger with other keys, each line with a hash that fits, as whoever owns the file can."""
    forged = Ledger(path)
    for name, keys in requests.items():
        forged.receive(name, keys)
    return forged


def test_a_ledger_that_was_written_anew_is_found_by_a_head_that_was_noted(ledger, tmp_path):
    noted = ledger.head
    ledger.note("started", "T-1")
    (tmp_path / "forged").mkdir()
    forged = written_anew(tmp_path / "forged" / "ledger.jsonl", {"T-1": [3, 4], "T-2": [9]})
    forged.note("started", "T-1")
    assert [check.passed for check in verify_ledger(forged.path)] == [True], "the file alone does not tell"
    assert [check.passed for check in verify_ledger(forged.path, noted)] == [True, False]
    chain, head = verify_ledger(ledger.path, noted.upper())
    assert (
        chain.passed
        and head.passed
        and head.words == "line 2 has the hash that was noted: nothing up to it was changed since; 1 lines were added"
    )
    assert ledger.place(ledger.head) == 3 and ledger.place("f" * 64) is None
    ledger.path.write_bytes(b"".join(ledger.path.read_bytes().splitlines(keepends=True)[:1]))
    assert [check.passed for check in verify_ledger(ledger.path, noted)] == [True, False], "lines were cut off"


@pytest.mark.parametrize("head", ["", "5ab026a805f26c7d", START, "g" * 64])
def test_a_part_of_a_hash_or_that_of_no_line_is_refused(ledger, head):
    with pytest.raises(BadInput, match="Give all 64 digits"):
        verify_ledger(ledger.path, head)


def test_an_unfinished_line_counts_for_nothing_and_the_next_one_is_whole(ledger):
    whole = ledger.path.read_bytes()
    for cut in (1, 40, len(whole.splitlines()[1]) - 2):
        torn = whole + whole.splitlines()[1][:cut]
        ledger.path.write_bytes(torn)
        assert len(ledger.entries()) == 2 and ledger.unfinished == 1
        ledger.note("started", "T-2")
        assert [entry.event for entry in ledger.entries()] == ["received", "received", "started"] and ledger.unfinished == 1


WRITER = """
import sys
from pathlib import Path
from expunge.requests.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(10_000):
    ledger.receive(f"{sys.argv[2]}-{number}", [int(sys.argv[3]) + number])
    print(number, flush=True)
"""


def test_two_writers_and_a_kill_leave_every_line_that_was_acknowledged(tmp_path):
    path = tmp_path / "ledger.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, start], stdout=subprocess.PIPE, text=True)
        for name, start in (("a", "0"), ("b", "100000"))
    ]
    end = time.monotonic() + 60
    while time.monotonic() < end and (not path.exists() or path.read_bytes().count(b"\n") < 12):
        time.sleep(0.05)
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
    said = {name: writer.communicate()[0].split() for name, writer in zip("ab", writers, strict=True)}
    found = Ledger(path).requests()
    assert sum(map(len, said.values())) >= 10
    for name, numbers in said.items():
        assert {f"{name}-{number}" for number in numbers} <= set(found), "a line that was acknowledged is gone"
    Ledger(path).receive("after", [500_000])
    assert list(Ledger(path).requests())[-1] == "after"


def test_requests_of_a_file(tmp_path):
    path = tmp_path / "july.csv"
    path.write_text("ticket,id,date\nT-17,3,x\nT-18,1,x\nT-17,4,x\n")
    assert read_requests(path) == {"T-17": [3, 4], "T-18": [1]}
    path.write_text("index\n3\n4\n")
    assert read_requests(path) == {"july": [3, 4]}
    for text, words in (("name\n3\n", "must be called id or index"), ("id\n3.5\n", "line 2.*whole number")):
        path.write_text(text)
        with pytest.raises(BadInput, match=words):
            read_requests(path)


def test_a_line_is_json_with_the_hash_of_the_one_before(ledger):
    first, second = map(json.loads, ledger.path.read_text().splitlines())
    assert first["previous"] == START and second["previous"] == first["hash"] and len(first["hash"]) == 64


def forged(**held) -> str:
    """Return a line that fits its own hash."""
    return json.dumps({**held, "hash": hash_tree(held)}) + "\n"


LINE = {"number": 0, "time": "", "event": "served", "request": "Z", "facts": {}, "previous": START}


@pytest.mark.parametrize(
    "text",
    [forged(), forged(**LINE), forged(**{**LINE, "event": "received"}), forged(**{**LINE, "event": "eaten"}), '{"a": NaN, "hash": "x"}\n'],
    ids=["no previous", "served before it came", "no keys", "no event", "not a number"],
)
def test_a_line_that_fits_its_hash_and_means_nothing_is_a_finding(tmp_path, text):
    (tmp_path / "ledger.jsonl").write_text(text)
    with pytest.raises(BadInput):
        Ledger(tmp_path / "ledger.jsonl").requests()
    assert [check.passed for check in verify_ledger(tmp_path / "ledger.jsonl")] == [False]


def test_a_line_that_was_damaged_after_it_was_whole_is_not_taken_for_an_unfinished_one(ledger):
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-80] + b"\xff" + whole[-79:])
    with pytest.raises(BadInput, match="line 2.*damaged"):
        ledger.entries()


def test_what_was_served_is_in_the_order_in_which_that_was_done(ledger):
    for name in ("T-2", "T-1"):
        ledger.note("started", name)
        ledger.note("served", name)
    assert [known.name for known in ledger.served()] == ["T-2", "T-1"]


@pytest.mark.parametrize("second", [",2", "B\x1b,2", "B,99999999999999999999", f"B,{'9' * 5000}"])
def test_of_a_file_with_one_wrong_request_none_is_added(tmp_path, second):
    (tmp_path / "requests.csv").write_text(f"ticket,id\nA,1\n{second}\n")
    with pytest.raises(BadInput):
        listing.change(tmp_path / "ledger.jsonl", tmp_path / "requests.csv", "", None)
    assert not (tmp_path / "ledger.jsonl").exists()


def test_a_request_that_was_withdrawn_is_not_silently_left_out_when_it_comes_again(ledger, tmp_path):
    ledger.note("withdrawn", "T-2")
    (tmp_path / "again.csv").write_text("ticket,id\nT-2,9\n")
    with pytest.raises(BadInput, match="T-2.*Give another name"):
        listing.change(ledger.path, tmp_path / "again.csv", "", None)


@pytest.mark.parametrize("text", ["id\n3\n4\n", "ticket,id\nT-1,3", '{\n"a": 1\n}\n', "[1, 2]\n", "garbage", "3"])
@pytest.mark.parametrize("act", ["show", "add", "withdraw", "receive", "serve"])
def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_was(tmp_path, text, act):
    path, asked = tmp_path / "user.csv", tmp_path / "asked.csv"
    path.write_text(text)
    asked.write_text("id\n7\n")
    acts = {
        "show": lambda: listing.table(path),
        "add": lambda: listing.change(path, asked, "", None),
        "withdraw": lambda: listing.change(path, None, "", "T-1"),
        "receive": lambda: Ledger(path).receive("T-1", [3]),
        "serve": lambda: listing.serve(path, None, ["data=digits"], print, "fresh", None),
    }
    with pytest.raises(BadInput, match="no whole line of a ledger: it is another file"):
        acts[act]()
    assert path.read_text() == text


def test_a_ledger_whose_first_line_was_never_finished_goes_on(ledger):
    first = ledger.path.read_bytes().splitlines()[0]
    for cut in (1, 5, 23, 40, len(first) - 2):
        for torn in (first[:cut], first[:cut] + b"\n" + first[: cut + 1]):
            ledger.path.write_bytes(torn)
            assert ledger.entries() == [] and ledger.unfinished == torn.count(b"\n") + 1
            listing.change(ledger.path, None, "", None)
            ledger.receive("T-9", [7])
            assert list(ledger.requests()) == ["T-9"]
    ledger.path.write_bytes(b"")
    assert ledger.entries() == []
