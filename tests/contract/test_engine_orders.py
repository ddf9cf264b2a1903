"""Which examples each order visits, in what batches, epoch by epoch."""

import pytest
import torch

from conftest import SIZE, make_context, make_net
from expunge.engine.loop import run_phase
from expunge.engine.measure import mean_loss
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream, even_sizes
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd


class Visits:
    """Terms on a forget and a retain stream of chosen sizes, and what they were given."""

    def __init__(self, forget=40, retain=100, **term):
        self.steps: list[tuple[str, int, tuple[int, ...]]] = []
        self.context = make_context(net=make_net())
        self.streams = {
            "forget": Stream("forget", self.context.stream("forget").source, torch.arange(forget)),
            "retain": Stream("retain", self.context.stream("retain").source, torch.arange(SIZE - retain, SIZE)),
        }
        self.context._streams = self.streams
        self.term = term
        self.forwards: list[int] = []
        self.context.model.register_forward_hook(lambda module, inputs, output: self.forwards.append(len(inputs[0])))

    def loss(self, context, batch, student):
        self.steps.append((batch.name, batch.epoch, tuple(batch.index.tolist())))
        return cross_entropy(context, batch, student)

    def run(self, **changes):
        terms = [Term("forget", self.loss, **self.term), Term("retain", self.loss)]
        return run_phase(self.context, Phase(terms, batch_size=20).but(**changes))

    def of(self, name):
        return [(epoch, index) for stream, epoch, index in self.steps if stream == name]

    def seen(self, name):
        return sorted(number for _, index in self.of(name) for number in index)


def everything(visits, name, times=1):
    return sorted(visits.streams[name].index.tolist() * times)


def names(visits):
    return [name[0] for name, _, _ in visits.steps]


def test_zip_visits_the_longer_stream_once_and_starts_the_shorter_again():
    visits = Visits(forget=40, retain=100)
    assert visits.run(epochs=2).steps == 10
    assert names(visits) == ["f", "r"] * 10
    assert visits.seen("retain") == everything(visits, "retain", 2)
    passes = [epoch for epoch, _ in visits.of("forget")]
    assert passes == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    for number in (0, 1, 3, 4):  # each whole pass visits all 40 once, in an order of its own
        assert sorted(sum((index for epoch, index in visits.of("forget") if epoch == number), ())) == list(range(40))
    assert len({index for _, index in visits.of("forget")}) == 10


def test_zip_with_more_to_forget_than_to_keep_skips_nothing():
    visits = Visits(forget=110, retain=30)
    assert visits.run().steps == 6
    assert visits.seen("forget") == everything(visits, "forget")
    assert set(visits.seen("retain")) == set(everything(visits, "retain"))
    truncated = list(zip(torch.arange(110).split(20), torch.arange(30).split(20), strict=False))
    assert sum(len(forget) for forget, _ in truncated) == 40, "the published zip() stops after two batches, and the check above sees it"


def test_epoch_of_decides_the_length():
    visits = Visits(forget=40, retain=100)
    assert visits.run(epoch_of="forget", epochs=3).steps == 6
    assert visits.seen("forget") == everything(visits, "forget", 3)
    assert len(visits.seen("retain")) == 120
    with pytest.raises(ValueError, match="epoch_of='surrogate' is none of the phase's streams"):
        Visits().run(epoch_of="surrogate")


def test_sequential_passes_over_each_stream_in_the_order_of_the_terms():
    visits = Visits(forget=50, retain=100)
    assert visits.run(order="sequential", epochs=2).steps == 16
    assert names(visits) == list("fff" + "rrrrr") * 2
    assert visits.seen("forget") == everything(visits, "forget", 2)
    assert visits.seen("retain") == everything(visits, "retain", 2)
    assert [len(index) for _, index in visits.of("forget")] == [17, 17, 16] * 2


@pytest.mark.parametrize("order", ["zip", "sequential", "interleave", "mixed"])
def test_no_order_ends_an_epoch_in_a_batch_of_a_few(order):
    """An epoch of three full batches and two examples; plain chunks would estimate BatchNorm's statistics on those two."""
    visits = Visits(forget=62, retain=62)
    assert visits.run(order=order).steps == {"zip": 4, "sequential": 8, "interleave": 8, "mixed": 7}[order]
    assert set(visits.forwards) == ({17, 18} if order == "mixed" else {15, 16})
    assert visits.seen("retain") == everything(visits, "retain")


@pytest.mark.parametrize("count,size", [(0, 5), (1, 5), (5, 5), (6, 5), (66, 64), (4162, 64), (7, 1), (100, 33)])
def test_an_epoch_is_spread_evenly_over_the_fewest_batches(count, size):
    sizes = even_sizes(count, size)
    assert len(sizes) == -(-count // size) and sum(sizes) == count
    assert not sizes or (max(sizes) <= size and max(sizes) - min(sizes) <= 1)


def test_a_batch_norm_net_survives_an_epoch_of_one_example_too_many():
    """66 examples in batches of 64: statistics of the last batch, of two, were what evaluation then used."""
    losses = {}
    for count in (64, 66):
        context = make_context(net=make_net())
        examples = Stream("retain", context.stream("retain").source, torch.arange(count))
        run_phase(context, Phase([Term(examples, cross_entropy)], epochs=20, batch_size=64, augment=False, optimizer=sgd(0.02)))
        losses[count] = mean_loss(context, "validation")
    assert losses[66] < 1.3 * losses[64]


def test_interleave_takes_turns():
    visits = Visits(forget=40, retain=100)
    assert visits.run(order="interleave").steps == 10
    assert names(visits) == ["f", "r"] * 5
    assert visits.seen("retain") == everything(visits, "retain")


def test_mixed_is_one_joint_forward_over_one_shuffled_pass():
    visits = Visits(forget=50, retain=100)
    assert visits.run(order="mixed", epochs=2).steps == 16
    assert visits.forwards == ([19] * 6 + [18] * 2) * 2
    assert visits.seen("forget") == everything(visits, "forget", 2)
    assert visits.seen("retain") == everything(visits, "retain", 2)
    shares = [len(index) for _, index in visits.of("forget")]
    assert len(set(shares)) > 1, "each batch has its own mixture"


def test_mixed_is_the_mean_over_the_joint_batch():
    """The same gradient as one stream that holds both parts, in the same order."""
    joint = Visits(forget=50, retain=100)
    joint.run(order="mixed", steps=1)
    index = torch.tensor([number for _, _, part in joint.steps for number in part])
    net = make_net().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batch = next(joint.streams["retain"].__class__("all", joint.streams["retain"].source, index).batches(20))
    torch.nn.functional.cross_entropy(net(batch.x), batch.y).backward()
    optimizer.step()
    for name, value in joint.context.model.named_parameters():
        torch.testing.assert_close(value, net.get_parameter(name), rtol=1e-5, atol=1e-7)


def test_mixed_draws_do_not_depend_on_the_batch_size():
    order = {}
    for size in (10, 35):
        visits = Visits(forget=50, retain=100)
        visits.run(order="mixed", batch_size=size)
        order[size] = [visits.of("forget"), visits.of("retain")]
    flat = [[number for _, index in part for number in index] for size in (10, 35) for part in order[size]]
    assert flat[:2] == flat[2:]


def test_batch_size_by_stream():
    visits = Visits(forget=40, retain=100)
    visits.run(batch_size={"forget": 8, "retain": 50})
    assert {len(index) for _, index in visits.of("forget")} == {8}
    assert {len(index) for _, index in visits.of("retain")} == {50}
    assert len(visits.of("retain")) == 5 and visits.seen("forget") == everything(visits, "forget")
    with pytest.raises(ValueError, match="at least one example, got 0"):
        Visits().run(batch_size=0)


@pytest.mark.parametrize("steps,epochs,expected", [(3, 5, 3), (7, 5, 7), (99, 2, 10), (0, 5, 0), (None, 2, 10), (5, 1, 5)])
def test_steps_shorten_a_phase(steps, epochs, expected):
    visits = Visits()
    result = visits.run(steps=steps, epochs=epochs)
    assert result.steps == expected == len(visits.of("forget"))
    assert result.epochs == -(-expected // 5)


def test_zero_epochs_do_nothing():
    result = Visits().run(epochs=0)
    assert (result.steps, result.epochs) == (0, 0)


def test_every_counts_steps_across_epochs():
    visits = Visits(every=3)
    visits.run(epochs=2)
    assert names(visits) == list("frrrfrrrfrrrfr")
    assert len(visits.forwards) == 14, "a term that has no turn costs no forward"


@pytest.mark.parametrize("retain,forget,every", [(100, 40, 2), (240, 140, 3), (100, 60, 4)])
def test_a_stream_is_passed_without_a_break_in_the_turns_of_its_term(retain, forget, every):
    """Batches of steps in which nobody looks at them would be lost: some examples would never be seen, and others often."""
    visits = Visits(forget=forget, retain=retain, every=every)
    steps = visits.run(epochs=6).steps
    batches = [index for _, index in visits.of("forget")]
    passes, held = -(-steps // every) // (forget // 20), forget // 20
    assert len(batches) == -(-steps // every) and passes >= 2
    for number in range(passes):
        assert sorted(sum(batches[number * held : (number + 1) * held], ())) == list(range(forget))


@pytest.mark.parametrize("order", ["zip", "interleave"])
@pytest.mark.parametrize("retain,forget", [(100, 40), (100, 80), (100, 100), (180, 40), (100, 20)])
def test_a_stream_can_be_passed_once_in_an_epoch(order, retain, forget):
    visits = Visits(forget=forget, retain=retain, every="pass")
    visits.run(epochs=3, epoch_of="retain", order=order)
    for epoch in range(3):
        assert sorted(sum((index for number, index in visits.of("forget") if number == epoch), ())) == list(range(forget))
    assert visits.seen("retain") == everything(visits, "retain", 3)
    if (order, retain, forget) == ("zip", 180, 40):
        assert names(visits) == list("fr" + "r" * 4 + "fr" + "r" * 3) * 3, "the passes are spread over the epoch"


def test_with_more_to_forget_than_to_keep_every_step_of_a_pass_has_a_batch():
    visits = Visits(forget=140, retain=60, every="pass")
    visits.run(epochs=2, epoch_of="retain")
    assert names(visits) == list("fr") * 6 and len(set(visits.seen("forget"))) > 60
    with pytest.raises(ValueError, match="the terms on 'forget' disagree"):
        terms = [Term("forget", cross_entropy, every="pass"), Term("forget", cross_entropy), Term("retain", cross_entropy)]
        run_phase(make_context(net=make_net()), Phase(terms))


def test_every_counts_a_streams_own_turns_when_interleaved():
    """Counted in steps, every=2 would give one stream all of its turns and the other none."""
    visits = Visits(every=2)
    visits.run(order="interleave", epochs=2)
    assert len(visits.of("forget")) == 5 and len(visits.of("retain")) == 10


def test_a_step_without_any_term_changes_nothing():
    """Momentum and weight decay must not act on a turn that is left out."""
    nets = {}
    for epochs in (1, 2):
        visits = Visits(forget=20, retain=20, every=2)
        terms = [Term("forget", visits.loss, every=2)]
        run_phase(visits.context, Phase(terms, epochs=epochs, batch_size=20))
        nets[epochs] = visits.context.model.state_dict()
        assert len(visits.steps) == 1
    assert all(torch.equal(value, nets[2][name]) for name, value in nets[1].items())


def test_shuffled_differently_each_epoch_phase_and_seed():
    orders = set()
    for seed in (0, 1):
        for phase in (0, 1):
            visits = Visits(forget=40, retain=40)
            visits.context.seed, visits.context.phase = seed, phase
            visits.run(epochs=2)
            orders |= {visits.of("retain")[:2][0][1], visits.of("retain")[2:][0][1]}
    assert len(orders) == 8


def test_impossible_combinations_are_refused():
    term = Term("forget", cross_entropy)
    with pytest.raises(ValueError, match="order must be one of"):
        Phase([term], order="zipped")
    with pytest.raises(ValueError, match="norm must be one of"):
        Phase([term], norm="eval")
    with pytest.raises(ValueError, match="precision must be one of"):
        Phase([term], precision="float16")
    for order in ("sequential", "interleave"):
        with pytest.raises(ValueError, match="a combiner needs the gradients of all groups in one step"):
            Phase([term], order=order, combine=lambda gradients, state: [])
    for order in ("sequential", "interleave", "mixed"):
        with pytest.raises(ValueError, match="needs another stream's batch in the same step"):
            Phase([Term("forget", cross_entropy, uses=("retain",))], order=order)
    with pytest.raises(ValueError, match="at least one term on a stream"):
        run_phase(make_context(net=make_net()), Phase([]))


def test_losses_that_are_not_per_example_are_refused():
    def mean(context, batch, student):
        return cross_entropy(context, batch, student).mean()

    with pytest.raises(TypeError, match=r"mean on retain must return one loss per example, shape \(180,\), got \(\)"):
        run_phase(make_context(net=make_net()), Phase([Term("retain", mean)]))


class CountedSource:
    """A source that notes how often it is asked, and for how many examples."""

    def __init__(self, source):
        self.source, self.labels, self.asked = source, source.labels, []

    def __len__(self):
        return len(self.source)

    def batches(self, order, size, **how):
        self.asked.append(len(order))
        return self.source.batches(order, size, **how)


def test_a_stream_is_read_in_one_pass_an_epoch_in_every_order():
    for order in ("zip", "sequential", "interleave", "mixed"):  # every pass over a streamed source starts its reading processes
        visits = Visits(forget=40, retain=100)
        sources = {name: CountedSource(stream.source) for name, stream in visits.streams.items()}
        for name, stream in visits.streams.items():
            stream.source = sources[name]
        visits.context.example(2)
        assert [source.asked for source in sources.values()] == [[], [2]], "two examples are enough to see how a model works"
        visits.run(order=order, epoch_of="retain" if order in ("zip", "interleave") else None)
        assert sources["retain"].asked[1:] == [100], order
        assert set(sources["forget"].asked) == {40} and len(sources["forget"].asked) <= 3, order
