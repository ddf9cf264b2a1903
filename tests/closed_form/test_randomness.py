"""Random numbers are keyed by (seed, purpose, epoch, example): uniform, independent, and the same in any company."""

import numpy as np
import pytest
import torch
from scipy import stats

from conftest import CLASSES, SOURCE, make_context, make_net, split
from expunge.data.augmentation import Augmentation
from expunge.data.source import TensorSource
from expunge.engine import randomness, targets
from expunge.engine.loop import run_phase
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy, match

INDEX = torch.arange(20_000)
ALPHA = 1e-4


# Distribution. The seeds are fixed, so that a test either passes always or never.


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31])
@pytest.mark.parametrize("high", [2, 9, 10, 1000])
def test_integers_are_uniform(seed, high):
    values = randomness.integers(seed, "labels", 3, INDEX, high)
    assert int(values.min()) == 0 and int(values.max()) == high - 1
    assert stats.chisquare(np.bincount(values.numpy(), minlength=high)).pvalue > ALPHA


@pytest.mark.parametrize("draw", [0, 1])
def test_uniform_and_normal(draw):
    assert stats.kstest(randomness.uniform(0, "u", 0, INDEX, draw).numpy(), "uniform").pvalue > ALPHA
    assert stats.kstest(randomness.normal(0, "n", 0, INDEX, draw).numpy(), "norm").pvalue > ALPHA


def test_every_bit_is_fair():
    bits = randomness.bits(0, "bits", 0, INDEX)
    ones = np.array([int(((bits >> place) & 1).sum()) for place in range(64)])
    assert abs(ones - 10_000).max() < 5 * (20_000 / 4) ** 0.5
    assert len(bits.unique()) == len(INDEX)


VARIATIONS = {
    "seed": {"seed": 1},
    "purpose": {"purpose": "b"},
    "epoch": {"epoch": 1},
    "draw": {"draw": 1},
    "neighbour": {"index": INDEX + 1},
    "far": {"index": INDEX + 10**9},
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_streams_of_numbers_are_independent(name):
    """A 10 x 10 table of two streams: no cell is more common than chance allows; nor are the ranks related."""
    same = {"seed": 0, "purpose": "a", "epoch": 0, "index": INDEX, "draw": 0}
    a, b = randomness.uniform(**same), randomness.uniform(**{**same, **VARIATIONS[name]})
    table = np.bincount((10 * (a * 10).floor() + (b * 10).floor()).long().numpy(), minlength=100)
    assert stats.chisquare(table).pvalue > ALPHA
    assert abs(stats.pearsonr(a.numpy(), b.numpy()).statistic) < 5 / len(INDEX) ** 0.5


def test_planted_additive_key_is_caught():
    """Numbers keyed by ``seed + epoch`` repeat: epoch 1 of seed 0 is epoch 0 of seed 1."""

    def careless(seed, epoch):
        return randomness.uniform(seed + epoch, "a", 0, INDEX)

    assert torch.equal(careless(0, 1), careless(1, 0))
    assert not torch.equal(randomness.uniform(0, "a", 1, INDEX), randomness.uniform(1, "a", 0, INDEX))
    assert randomness.derive(0, "a", 11) != randomness.derive(0, "a1", 1)
    assert randomness.derive(1, 1) != randomness.derive(11)


def test_first_epochs_of_many_seeds_are_independent():
    """One example, 20,000 seeds; then 20,000 epochs."""
    one = torch.tensor([0])
    by_seed = torch.cat([randomness.uniform(seed, "a", 0, one) for seed in range(5000)])
    by_epoch = torch.cat([randomness.uniform(0, "a", epoch, one) for epoch in range(5000)])
    assert stats.kstest(by_seed.numpy(), "uniform").pvalue > ALPHA
    assert stats.kstest(by_epoch.numpy(), "uniform").pvalue > ALPHA
    assert abs(stats.pearsonr(by_seed.numpy(), by_epoch.numpy()).statistic) < 5 / 5000**0.5


def test_shuffle_is_a_fair_permutation():
    ten = torch.arange(10)
    places = torch.stack([torch.argsort(randomness.shuffle(seed, "a", 0, ten)) for seed in range(3000)])
    for example in range(10):
        assert stats.chisquare(np.bincount(places[:, example].numpy(), minlength=10)).pvalue > ALPHA
    assert torch.equal(randomness.shuffle(0, "a", 0, INDEX).sort().values, INDEX)


# Company: batch size, order and other examples change nothing.


def test_a_value_belongs_to_its_example():
    everything = randomness.bits(0, "a", 2, INDEX)
    some = INDEX[torch.randperm(len(INDEX), generator=torch.Generator().manual_seed(0))][:500]
    assert torch.equal(randomness.bits(0, "a", 2, some), everything[some])
    assert torch.equal(torch.cat([randomness.bits(0, "a", 2, part) for part in INDEX.split(77)]), everything)


def test_leaving_examples_out_keeps_the_order_of_the_others():
    kept = INDEX[INDEX % 3 != 0]
    order = randomness.shuffle(0, "retain", 5, INDEX)
    assert torch.equal(order[order % 3 != 0], randomness.shuffle(0, "retain", 5, kept))


def labels_by_example(size, seed=0, epochs=1, redraw="epoch", exclude_true=True, part=None, phase=0):
    """Return {(example, epoch): label} of the random labels that a phase trains on."""
    found = {}
    target = targets.random_label(redraw, exclude_true)

    def note(context, batch):
        drawn = target(context, batch)
        found.update({(int(i), batch.epoch): int(label) for i, label in zip(batch.index, drawn, strict=True)})
        return drawn

    context = make_context(net=make_net(), seed=seed)
    context.phase = phase
    stream = context.stream("forget") if part is None else context.stream("forget").subset(part)
    run_phase(context, Phase([Term(stream, match(note))], epochs=epochs, batch_size=size))
    return found


def test_random_labels_do_not_depend_on_batch_size_or_company():
    expected = labels_by_example(40, epochs=2)
    assert len(expected) == 80
    assert labels_by_example(7, epochs=2) == expected
    half = split("random")["forget"][::2]
    alone = labels_by_example(40, epochs=2, part=half)
    assert len(alone) == 40 and all(expected[key] == label for key, label in alone.items())


def test_planted_labels_by_batch_order_depend_on_the_batch_size():
    """Drawn from the global generator, batch by batch, the same check fails."""

    def draw(size):
        torch.manual_seed(0)
        return {
            int(i): int(label)
            for epoch in range(2)
            for batch in Stream("forget", SOURCE, split("random")["forget"]).batches(size, epoch=epoch, shuffle=True)
            for i, label in zip(batch.index, torch.randint(CLASSES, (len(batch),)), strict=True)
            if torch.rand(1) is not None
        }

    assert draw(40) != draw(7)


def test_random_labels_are_redrawn_when_they_should_be():
    per_epoch = labels_by_example(40, epochs=2)
    first, second = ({i: label for (i, epoch), label in per_epoch.items() if epoch == e} for e in (0, 1))
    assert first != second
    once = labels_by_example(40, epochs=2, redraw="once")
    assert all(once[i, 0] == once[i, 1] for i in first)
    assert labels_by_example(40, phase=1) != labels_by_example(40, phase=0), "a repeated phase of one epoch draws anew"
    assert labels_by_example(40, phase=1, redraw="once") == labels_by_example(40, redraw="once")


def test_seed_zero_is_a_seed():
    assert labels_by_example(40, seed=0) == labels_by_example(40, seed=0)
    assert labels_by_example(40, seed=0) != labels_by_example(40, seed=1)
    states = [context.fresh_state()["0.weight"] for context in (make_context(seed=0), make_context(seed=1), make_context(seed=0))]
    assert torch.equal(states[0], states[2]) and not torch.equal(states[0], states[1])


def test_random_labels_are_uniform_over_the_right_classes():
    context = make_context(net=make_net())
    batch = next(Stream("all", SOURCE, torch.arange(500)).batches(500))
    drawn = torch.cat([targets.random_label()(context, type(batch)(batch.x, batch.y, batch.index, "all", e)) for e in range(40)])
    shift = (drawn - batch.y.repeat(40)) % CLASSES
    assert int(shift.min()) == 1
    assert stats.chisquare(np.bincount(shift.numpy(), minlength=CLASSES)[1:]).pvalue > ALPHA
    allowed = targets.random_label(exclude_true=False)(context, batch)
    assert bool((allowed == batch.y).any()) and int(allowed.max()) == CLASSES - 1


def pictures(size, part=None, epoch=0, seed=0):
    """Return {example: augmented picture} for one epoch of a shuffled, augmented stream."""
    made = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    source = TensorSource((made * 255).to(torch.uint8), torch.zeros(60, dtype=torch.int64), augmentation=Augmentation(pad=2))
    index = torch.arange(60) if part is None else part
    return {
        int(i): x
        for batch in Stream("s", source, index).batches(size, seed=seed, epoch=epoch, shuffle=True, augment=True)
        for i, x in zip(batch.index, batch.x, strict=True)
    }


def test_augmentation_does_not_depend_on_batch_size_or_company():
    expected = pictures(60)
    for found in (pictures(7), pictures(60, part=torch.arange(0, 60, 3)), pictures(1, part=torch.tensor([5]))):
        assert found and all(torch.equal(x, expected[i]) for i, x in found.items())
    for other in (pictures(60, epoch=1), pictures(60, seed=1)):
        assert sum(not torch.equal(x, expected[i]) for i, x in other.items()) > 45


def test_batches_of_a_phase_are_keyed_by_seed_and_phase():
    def order(seed, phase):
        seen = []

        def note(context, batch, student):
            seen.extend(batch.index.tolist())
            return cross_entropy(context, batch, student)

        context = make_context(net=make_net(), seed=seed)
        context.phase = phase
        run_phase(context, Phase([Term("forget", note)]))
        return tuple(seen)

    assert order(0, 0) == order(0, 0)
    assert len({order(0, 0), order(1, 0), order(0, 1), order(1, 1)}) == 4


def test_generators_are_apart():
    draws = {
        key: float(torch.rand(1, generator=randomness.generator("cpu", *key))) for key in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0,)]
    }
    assert len(set(draws.values())) == 5
