"""Downstream sets from folders, against pictures that were drawn for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expunge.errors import BadInput
from expunge.representation import downstream


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), colour, dtype=np.uint8)).save(path)


def test_a_tree_of_domains_and_classes(tmp_path):
    paint(tmp_path / "art" / "dog" / "1.png", (255, 0, 0))
    paint(tmp_path / "art" / "cat" / "1.png", (0, 255, 0), (20, 12))
    paint(tmp_path / "photo" / "dog" / "1.png", (0, 0, 255))
    (tmp_path / "art" / "dog" / "notes.txt").write_text("no picture")
    found = downstream.read(tmp_path, (3, 8, 8))
    assert [part.name for part in found] == ["art", "photo"]
    assert found[0].labels.tolist() == [0, 1] and found[1].labels.tolist() == [1], "a class has one number in every domain"
    assert found[0].x.shape == (2, 3, 8, 8)
    assert [found[0].x[1, 0].min().item(), found[0].x[0, 1].min().item()] == pytest.approx([1, 1])
    grey = downstream.read(tmp_path, (1, 8, 8))[0].x
    assert grey.shape == (2, 1, 8, 8) and grey[:, 0, 0, 0].tolist() == pytest.approx([0.587, 0.299])


def test_sheets_of_pictures(tmp_path):
    count, side = 30, 4
    pictures = np.repeat(np.arange(count, dtype=np.uint8), side * side * 3).reshape(count, side, side, 3)
    padded = np.concatenate([pictures, np.zeros((20, side, side, 3), np.uint8)])
    sheet = padded.reshape(2, 25, side, side, 3).swapaxes(1, 2).reshape(2 * side, 25 * side, 3)
    Image.fromarray(sheet).save(tmp_path / "all-00.png")
    labels, domains = np.arange(count) % 3, np.arange(count) % 2
    np.savez(tmp_path / "labels.npz", label=labels, domain=domains, domain_names=np.array(["even", "odd"]))
    found = downstream.read(tmp_path, (3, side, side))
    assert [part.name for part in found] == ["even", "odd"]
    assert (found[1].x[:, 0, 0, 0] * 255).round().tolist() == list(range(1, count, 2))
    assert found[1].labels.tolist() == (np.arange(1, count, 2) % 3).tolist()
    np.savez(tmp_path / "labels.npz", label=np.arange(80) % 3)
    with pytest.raises(BadInput, match="50 pictures, and there are 80 labels"):
        downstream.read(tmp_path, (3, side, side))


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(BadInput, match="there is no folder"):
        downstream.read(tmp_path / "none", (3, 8, 8))
    with pytest.raises(BadInput, match="holds no pictures"):
        downstream.read(tmp_path, (3, 8, 8))
    with pytest.raises(BadInput, match="not pictures"):
        downstream.read(tmp_path, (20,))


def test_fingerprint_sees_other_files(tmp_path):
    paint(tmp_path / "art" / "dog" / "1.png", (255, 0, 0))
    once = downstream.fingerprint(tmp_path)
    assert once == downstream.fingerprint(tmp_path)
    paint(tmp_path / "art" / "dog" / "2.png", (255, 0, 0))
    assert downstream.fingerprint(tmp_path) != once


def test_a_large_set_is_decoded_batch_by_batch_and_is_the_same(tmp_path, monkeypatch):
    for number in range(7):
        paint(tmp_path / ("art", "photo")[number % 2] / "dog" / f"{number}.png", (30 * number, 255, 0), (20, 12 + number))
    held = downstream.read(tmp_path, (1, 8, 8))
    monkeypatch.setattr(downstream, "HELD_BYTES", 0)
    for part, once in zip(downstream.read(tmp_path, (1, 8, 8)), held, strict=True):
        assert isinstance(part.x, downstream.Lazy) and len(part.x) == len(once.x) and part.labels.tolist() == once.labels.tolist()
        batches = list(part.x.split(2))
        assert max(map(len, batches)) == 2 and torch.equal(torch.cat(batches), once.x)


def test_a_set_that_is_too_small_for_transfer_is_refused_before_it_is_decoded(tmp_path):
    for number in range(24):
        (tmp_path / "art" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "art" / "ab"[number % 2] / f"{number}.png").write_text("no picture")
    downstream.check(tmp_path, 20)
    with pytest.raises(BadInput, match="the domain art of .* has 20 pictures to remember and 4 to ask about; transfer takes the 21"):
        downstream.check(tmp_path, 21)
    for number in range(4, 24):
        (tmp_path / "art" / "ab"[number % 2] / f"{number}.png").unlink()
    with pytest.raises(BadInput, match="4 pictures to remember and 0 to ask about"):
        downstream.check(tmp_path, 1)


def test_damaged_pictures_and_sheets_are_named(tmp_path):
    paint(tmp_path / "art" / "dog" / "1.png", (255, 0, 0))
    (tmp_path / "art" / "dog" / "2.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="2.png is no picture"):
        downstream.read(tmp_path, (3, 8, 8))
    (tmp_path / "labels.npz").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(BadInput, match="labels.npz: cannot be read"):
        downstream.read(tmp_path, (3, 8, 8))
