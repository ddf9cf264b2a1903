"""The augmentation of the speed recipe, written naively."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from expunge.data.augmentation import draw
from expunge.data.source import TensorSource
from expunge.errors import BadInput
from expunge.training.shifts import AlternatingSource, flipped_in

PICTURES = torch.randint(0, 256, (30, 3, 9, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
SOURCE = TensorSource(PICTURES, torch.arange(30) % 3)


def shown(order, size, epoch, shift=2, flip=True, seed=4, augment=True):
    found = AlternatingSource(SOURCE, shift, flip).batches(order, size, augment=augment, seed=seed, epoch=epoch)
    return torch.cat([x for x, _ in found])


def reflect(position, length):
    return -position if position < 0 else 2 * (length - 1) - position if position >= length else position


@given(epoch=some.integers(0, 5), size=some.integers(1, 30), shift=some.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_pixels_come_from_the_reflected_and_flipped_picture(epoch, size, shift):
    order = torch.randperm(30, generator=torch.Generator().manual_seed(epoch))
    found = shown(order, size, epoch, shift)
    source = AlternatingSource(SOURCE, shift)
    draws, flipped = draw(source.shifts, 4, epoch, order), flipped_in(4, epoch, order)
    for row, index in enumerate(order.tolist()):
        for y, x in ((0, 0), (4, 3), (8, 6)):
            column = 6 - x if flipped[row] else x
            there = (reflect(y + int(draws.rows[row]) - shift, 9), reflect(column + int(draws.columns[row]) - shift, 7))
            assert found[row, 1, y, x] == pytest.approx(int(PICTURES[index, 1, there[0], there[1]]) / 255)


def test_two_epochs_show_every_picture_both_ways():
    order = torch.arange(30)
    first, second, third = (shown(order, 7, epoch, shift=0) for epoch in (0, 1, 2))
    assert torch.equal(second, first.flip(3)) and torch.equal(third, first)
    assert 5 < flipped_in(4, 0, order).sum() < 25


def test_leaving_pictures_out_changes_nothing_for_the_others():
    order = torch.arange(30)
    assert torch.equal(shown(order, 30, 3)[::3], shown(order[::3], 4, 3))


def test_without_augmentation_pictures_are_the_data_sets_own():
    assert torch.equal(shown(torch.arange(30), 8, 0, augment=False), PICTURES / 255)


def test_no_flips_when_not_wanted():
    assert torch.equal(shown(torch.arange(30), 8, 1, shift=0, flip=False), PICTURES / 255)


def test_inputs_that_are_no_pictures_are_refused():
    flat = AlternatingSource(TensorSource(torch.rand(6, 5), torch.zeros(6, dtype=torch.int64)))
    with pytest.raises(BadInput, match="train.augment=data"):
        next(flat.batches(torch.arange(6), 3, augment=True, seed=0, epoch=0))
