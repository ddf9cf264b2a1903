"""Crops and flips against a loop over pictures that does what the papers say, and the properties that a batch must not change."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as transforms

from expunge.data.augmentation import Augmentation, Trigger, augment, draw
from expunge.data.source import LoaderSource, TensorSource
from expunge.engine import randomness


def naive(image: torch.Tensor, augmentation: Augmentation, seed: int, epoch: int, index: int) -> torch.Tensor:
    """Return one picture uint8 ``[C, H, W]``, padded, cropped, flipped, as float in [0, 1]."""
    where = torch.tensor([index])
    row, column = (int(randomness.integers(seed, "augment/crop", epoch, where, 2 * augmentation.pad + 1, draw=k)) for k in (0, 1))
    height, width = image.shape[1:]
    pad = ((0, 0), (augmentation.pad,) * 2, (augmentation.pad,) * 2)
    padded = torch.from_numpy(np.pad(image.numpy(), pad, mode="reflect" if augmentation.fill == "reflect" else "constant"))
    image = transforms.crop(padded, row, column, height, width)
    if augmentation.flip and float(randomness.uniform(seed, "augment/flip", epoch, where)) < 0.5:
        image = transforms.hflip(image)
    return image.float() / 255


def pictures(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def collect(source, order, size, **choices) -> torch.Tensor:
    settings = {"augment": True, "seed": 0, "epoch": 0, **choices}
    return torch.cat([x for x, _ in source.batches(order, size, **settings)])


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    height=st.integers(6, 9),
    width=st.integers(6, 9),
    pad=st.integers(0, 5),
    flip=st.booleans(),
    fill=st.sampled_from(["zero", "reflect"]),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 200),
)
def test_equals_the_loop_over_pictures(count, channels, height, width, pad, flip, fill, seed, epoch):
    images, augmentation = pictures(count, channels, height, width), Augmentation(pad, flip, fill)
    source = TensorSource(images, torch.zeros(count, dtype=torch.int64), augmentation=augmentation)
    order = torch.arange(count).flip(0)
    found = collect(source, order, 4, seed=seed, epoch=epoch)
    expected = torch.stack([naive(images[index], augmentation, seed, epoch, index) for index in order.tolist()])
    assert torch.equal(found, expected)


def test_result_does_not_depend_on_batch_size_or_order():
    images = pictures(60, 3, 8, 8)
    source = TensorSource(images, torch.arange(60), augmentation=Augmentation())
    whole = collect(source, torch.arange(60), 60, seed=5, epoch=2)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for size in (1, 7, 60):
        assert torch.equal(collect(source, order, size, seed=5, epoch=2), whole[order])
    part = order[:11]
    assert torch.equal(collect(source, part, 4, seed=5, epoch=2), whole[part])


def test_seeds_and_epochs_differ_and_seed_zero_is_a_seed():
    source = TensorSource(pictures(40, 3, 8, 8), torch.arange(40), augmentation=Augmentation())
    made = {choice: collect(source, torch.arange(40), 16, seed=choice[0], epoch=choice[1]) for choice in [(0, 0), (0, 1), (1, 0)]}
    drawn = [draw(Augmentation(), *choice, torch.arange(40)) for choice in [(0, 0), (0, 1), (1, 0)]]
    assert [torch.equal(one, other) for part in zip(*drawn, strict=True) for one, other in [part[:2], part[::2]]] == [False] * 6
    assert not torch.equal(made[0, 0], made[0, 1]) and not torch.equal(made[0, 0], made[1, 0])
    assert torch.equal(made[0, 0], collect(source, torch.arange(40), 16, seed=0, epoch=0))


def test_plain_batches_equal_to_tensor_and_lie_channels_last():
    images = pictures(20, 3, 8, 8)
    source = TensorSource(images, torch.arange(20), augmentation=Augmentation())
    (x, y), *_ = source.batches(torch.arange(20), 20, augment=False, seed=0, epoch=0)
    assert torch.equal(x, images.float() / 255) and x.dtype == torch.float32 and torch.equal(y, torch.arange(20))
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_every_crop_and_both_sides_occur_equally_often():
    draws = draw(Augmentation(), 0, 0, torch.arange(81_000))
    cells = torch.bincount(draws.rows * 9 + draws.columns, minlength=81)
    assert len(cells) == 81 and int((cells - 1000).abs().max()) < 6 * 1000**0.5
    assert abs(float(draws.flipped.double().mean()) - 0.5) < 0.01


def test_no_augmentation_leaves_pictures_and_the_global_generator_alone():
    images = pictures(10, 1, 8, 8)
    source = TensorSource(images, torch.arange(10))
    state = torch.get_rng_state()
    assert torch.equal(collect(source, torch.arange(10), 3), images.float() / 255)
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_does_not_change_its_input():
    images = pictures(10, 3, 8, 8).permute(0, 2, 3, 1).contiguous()
    before = images.clone()
    for pad in (0, 2):
        augment(images, Augmentation(pad), 0, 0, torch.arange(10))
        assert torch.equal(images, before)


def test_trigger_is_stamped_before_the_augmentation_and_on_chosen_pictures_only():
    images, chosen = pictures(12, 3, 10, 10), torch.arange(12) % 3 == 0
    source = TensorSource(images, torch.arange(12), augmentation=Augmentation(2))
    altered = source.altered(source.labels, Trigger(4, 255), chosen)
    expected = images.clone()
    expected[chosen, :, 4:8, 4:8] = 255
    assert torch.equal(collect(altered, torch.arange(12), 5, augment=False), expected.float() / 255)
    stamped_first = TensorSource(expected, torch.arange(12), augmentation=Augmentation(2))
    assert torch.equal(collect(altered, torch.arange(12), 5), collect(stamped_first, torch.arange(12), 5))
    assert torch.equal(collect(source, torch.arange(12), 5, augment=False), images.float() / 255)


class Listed(torch.utils.data.Dataset):
    """A map-style dataset that gives tensors, or PIL pictures."""

    def __init__(self, images: torch.Tensor, as_pil: bool = False):
        self.images, self.as_pil = images, as_pil

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int):
        image = self.images[position]
        return (transforms.to_pil_image(image) if self.as_pil else image), position % 4


@pytest.mark.parametrize("as_pil", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_streamed_batches_equal_resident_ones(channels, as_pil):
    images = pictures(30, channels, 8, 8)
    resident = TensorSource(images, torch.arange(30) % 4, augmentation=Augmentation(2))
    streamed = LoaderSource(Listed(images, as_pil), augmentation=Augmentation(2))
    order = torch.arange(30).flip(0)[:23]
    assert torch.equal(streamed.labels, resident.labels)
    for augmented in (False, True):
        pairs = list(zip(resident.batches(order, 7, augment=augmented, seed=1, epoch=3),
                         streamed.batches(order, 7, augment=augmented, seed=1, epoch=3), strict=True))  # fmt: skip
        assert len(pairs) == 4
        for (x, y), (other_x, other_y) in pairs:
            assert torch.equal(x, other_x) and torch.equal(y, other_y)
            assert other_x.is_contiguous(memory_format=torch.channels_last)


def test_streamed_batches_do_not_depend_on_workers_and_two_streams_can_take_turns():
    source = [LoaderSource(Listed(pictures(16, 3, 8, 8)), torch.arange(16) % 4, augmentation=Augmentation(), workers=k) for k in (0, 1)]
    state = torch.get_rng_state()
    one, two = (list(s.batches(torch.arange(16), 5, augment=True, seed=0, epoch=0)) for s in source)
    assert len(one) == 4 and all(torch.equal(a, b) for (a, _), (b, _) in zip(one, two, strict=True))
    first, second = (source[1].batches(torch.arange(k, 16), 4, augment=False, seed=0, epoch=0) for k in (0, 8))
    turns = [next(first)[1].tolist(), next(second)[1].tolist(), next(first)[1].tolist(), next(second)[1].tolist()]
    assert turns == [[0, 1, 2, 3]] * 4
    assert torch.equal(torch.get_rng_state(), state)


def test_float_inputs_pass_through_in_any_shape():
    made = torch.Generator().manual_seed(0)
    for shape in ((5,), (3, 4, 4), (2, 6)):
        x = torch.randn(9, *shape, generator=made)
        source = TensorSource(x.double(), torch.arange(9))
        assert torch.equal(collect(source, torch.tensor([4, 0, 8]), 2), x[[4, 0, 8]])
