"""Methods against a discriminator: each against its formula in plain torch, and against the wrong version it is known for."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_methods_gradient import ADAM_NOISE, assert_same, batches, method, plain_sgd
from torch import Tensor, nn

from conftest import CLASSES, make_context, trained_net
from expunge import registry
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.measure import accuracy
from expunge.engine.run import run
from expunge.engine.stream import Batch
from expunge.errors import BadInput
from expunge.methods.adversarial.betrayal import visible
from expunge.methods.adversarial.contrastive_untrain_averaged import averages, fit_logistic, spread
from expunge.methods.adversarial.opponents import Comparator, Judge, Opponent, counterpart, doubt

BOTH = {"forget", "retain"}
ALL = BOTH | {"validation"}


# Pairs and opponents


def test_a_counterpart_has_the_class_and_depends_on_the_example_alone() -> None:
    context = make_context(needs=ALL)
    chosen: dict[int, dict[int, int]] = {7: {}, 40: {}}
    for size, found in chosen.items():
        for batch in batches(context, "forget", size):
            other = counterpart(context, batch, "validation")
            assert torch.equal(other.y, batch.y) and torch.isin(other.index, context.stream("validation").index).all()
            assert other.x.shape == batch.x.shape
            found.update(zip(batch.index.tolist(), other.index.tolist(), strict=True))
    assert chosen[7] == chosen[40] and len(chosen[40]) == 40 and len(set(chosen[40].values())) > 15
    (batch,) = batches(context, "forget", 40)
    first, second = (counterpart(context, batch, "validation", draw).index for draw in (0, 1))
    assert (first != second).any()


def test_a_counterpart_needs_every_class() -> None:
    context = make_context(needs=ALL)
    whole = context.stream("validation")
    context._streams["validation"] = whole.subset(whole.index[whole.labels != 3])
    with pytest.raises(BadInput, match="no example of class 3"):
        counterpart(context, batches(context, "forget", 40)[0], "validation")


@pytest.mark.parametrize("make", [Judge, Comparator])
def test_an_opponent_learns_and_the_student_is_untouched(make: type[nn.Module]) -> None:
    context = make_context(needs=ALL)
    opponent, again = (Opponent(context, lambda: make(CLASSES), 0.01) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(opponent.net.parameters(), again.net.parameters(), strict=True))
    made = torch.Generator().manual_seed(0)
    inputs = 1 if make is Judge else 2
    ones, zeros = (tuple(torch.randn(64, CLASSES, generator=made) + shift for _ in range(inputs)) for shift in (1.0, -1.0))
    if make is Comparator:  # only the relation between the two tells them apart
        ones, zeros = (ones[0], ones[0]), (ones[0], -ones[0])
    source = torch.zeros(CLASSES, requires_grad=True)
    for _ in range(60):
        opponent.learn(tuple(x + source for x in ones), tuple(x + source for x in zeros))
    assert source.grad is None and opponent.accuracy(ones, zeros) > 0.9
    before = [p.clone() for p in opponent.net.state_dict().values()]
    judged = opponent.judge(*(x + source for x in ones))
    (slope,) = torch.autograd.grad(doubt(judged).sum(), source)
    assert slope.abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(before, opponent.net.state_dict().values(), strict=True))


def test_doubt_is_minus_the_cross_entropy_of_one() -> None:
    z = torch.linspace(-5, 5, 11)
    torch.testing.assert_close(doubt(z), -F.binary_cross_entropy_with_logits(z, torch.ones(11), reduction="none"))


def test_the_reference_discriminator_says_nothing() -> None:
    """The mean of a LayerNorm's output is zero whatever it is given; two towers see the difference."""
    x, y = torch.randn(2, 50, CLASSES, generator=torch.Generator().manual_seed(0))
    published = nn.Sequential(nn.Linear(CLASSES, CLASSES // 2), nn.LayerNorm(CLASSES // 2))
    assert published(x - y).mean(1).abs().max() < 1e-4
    assert Comparator(CLASSES)(x, y).std() > 1e-2


# The games


class PlainOpponent:
    """A discriminator and its optimiser, as anybody would write them."""

    def __init__(self, make: Callable[[], nn.Module]):
        with torch.random.fork_rng():
            torch.manual_seed(randomness.derive(0, "opponent"))
            self.net = make()
        self.adam = torch.optim.Adam(self.net.parameters(), lr=0.01)

    def step(self, ones: list[Tensor], zeros: list[Tensor]) -> None:
        self.net.train()
        labels = torch.cat([torch.ones(len(ones[0])), torch.zeros(len(zeros[0]))])
        said = self.net(*[torch.cat(pair).detach() for pair in zip(ones, zeros, strict=True)])
        self.adam.zero_grad()
        F.binary_cross_entropy(said.sigmoid(), labels).backward()
        self.adam.step()
        self.net.eval()

    def one(self, *inputs: Tensor) -> Tensor:
        """Binary cross entropy of being one."""
        said = self.net(*inputs)
        return F.binary_cross_entropy_with_logits(said, torch.ones_like(said))


def original(x: Tensor) -> Tensor:
    with torch.no_grad():
        return trained_net().eval()(x)


def play(expected: nn.Module, optimizer: torch.optim.Optimizer, losses: list[Callable[[nn.Module], Tensor]]) -> None:
    torch.manual_seed(randomness.derive(0, "torch", 0, 0))  # the discriminator's dropout
    expected.train()
    for loss in losses:
        optimizer.zero_grad()
        loss(expected).backward()
        optimizer.step()


def untrain_losses(name: str, context: Context, size: int, weight: float) -> list[Callable[[nn.Module], Tensor]]:
    opponent = PlainOpponent(lambda: Judge(CLASSES) if name == "contrastive_untrain" else Comparator(CLASSES))

    def loss(f: Batch, r: Batch) -> Callable[[nn.Module], Tensor]:
        v, v2 = (original(counterpart(context, f, "validation", draw).x) for draw in (0, 1))

        def value(net: nn.Module) -> Tensor:
            z = net(f.x)
            others = [] if name == "contrastive_untrain" else [v2]
            opponent.step([z, *others], [v, *others])
            return -opponent.one(z, *others) + weight * F.cross_entropy(net(r.x), r.y)

        return value

    return [loss(f, r) for f, r in zip(batches(context, "forget", size), batches(context, "retain", size), strict=False)]


@pytest.mark.parametrize("name", ["contrastive_untrain", "contrastive_untrain_pairs"])
def test_contrastive_untraining_is_an_adversarial_game(name: str) -> None:
    context, fresh = make_context(needs=ALL), make_context(needs=ALL)
    run(context, method(name, epochs=1, batch_size=10, retain_weight=0.5, lr=1e-3))
    expected = trained_net()
    losses = untrain_losses(name, fresh, 10, 0.5)
    assert len(losses) == 4
    play(expected, torch.optim.Adam(expected.parameters(), lr=1e-3), losses)
    assert_same(context.model, expected, but=ADAM_NOISE, atol=1e-4)


def test_the_student_deceives_the_discriminator_and_does_not_help_it() -> None:
    """Against a discriminator that stays as it is, descending on `doubt` makes forget examples look less like ones."""
    context, net = make_context(needs=ALL), trained_net()
    opponent = Opponent(context, lambda: Judge(CLASSES), 0.01)
    (forget,) = batches(context, "forget", 40)
    unseen = original(counterpart(context, forget, "validation").x)
    for _ in range(30):
        opponent.learn((original(forget.x),), (unseen,))
    optimizer, said = torch.optim.SGD(net.parameters(), lr=0.05), []
    for _ in range(5):
        judged = opponent.judge(net.eval()(forget.x))
        said.append(float(judged.detach().mean()))
        optimizer.zero_grad()
        doubt(judged).mean().backward()
        optimizer.step()
    assert said[-1] < said[0]


def test_untraining_ends_when_the_discriminator_is_deceived() -> None:
    for chance, patience, epochs in ((1.0, 0, 1), (1.0, 2, 3), (0.0, 0, 5)):
        context = make_context(needs=ALL)
        outcome = run(context, method("contrastive_untrain", epochs=5, chance=chance, patience=patience))
        assert outcome.phases[0]["epochs"] == epochs


def test_averages_leave_an_incomplete_group_out() -> None:
    values = torch.arange(11.0)
    torch.testing.assert_close(averages(values, 4), torch.tensor([1.5, 5.5]))
    torch.testing.assert_close(averages(values, 16), torch.tensor([5.0]))
    assert spread(torch.tensor([1.0, 3.0]), 7).tolist() == [2.0] * 7


def test_the_regression_is_gradient_descent() -> None:
    made = torch.Generator().manual_seed(1)
    ones, zeros = torch.rand(5, generator=made), 1 + 2 * torch.rand(7, generator=made)
    slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([slope, offset], lr=0.01)
    for _ in range(200):
        sgd.zero_grad()
        said = slope * torch.cat([ones, zeros]).double() + offset
        F.binary_cross_entropy_with_logits(said, torch.cat([torch.ones(5), torch.zeros(7)]).double()).backward()
        sgd.step()
    assert fit_logistic(ones, zeros, 200) == pytest.approx((float(slope.detach()), float(offset.detach())))
    assert slope < 0


def test_averaged_untraining_meets_a_fresh_regression_in_every_batch() -> None:
    context, fresh = make_context(needs=ALL), make_context(needs=ALL)
    run(context, method("contrastive_untrain_averaged", epochs=1, batch_size=18, group_size=4, fit_steps=100, retain_weight=0.5))

    def loss(f: Batch, r: Batch) -> Callable[[nn.Module], Tensor]:
        v = counterpart(fresh, f, "validation")
        known = F.cross_entropy(original(v.x), v.y, reduction="none")
        groups = len(f) // 4

        def value(net: nn.Module) -> Tensor:
            own = F.cross_entropy(net(f.x), f.y, reduction="none")
            ones = torch.stack([own[4 * k : 4 * k + 4].mean() for k in range(groups)])
            zeros = torch.stack([known[4 * k : 4 * k + 4].mean() for k in range(groups)])
            slope, offset = fit_logistic(ones.detach(), zeros, 100)
            return (torch.sigmoid(slope * ones + offset)).log().mean() + 0.5 * F.cross_entropy(net(r.x), r.y)

        return value

    losses = [loss(f, r) for f, r in zip(batches(fresh, "forget", 18), batches(fresh, "retain", 18), strict=False)]
    assert len(losses) == 3
    expected = trained_net()
    play(expected, torch.optim.Adam(expected.parameters(), lr=1e-3), losses)
    assert_same(context.model, expected, but=ADAM_NOISE, atol=1e-4)


def test_contrastive_train_starts_anew_and_imitates() -> None:
    context, fresh = make_context(needs={"retain"}), make_context(needs={"retain"})
    run(context, method("contrastive_train", epochs=1, batch_size=90, lr=1e-3, label_weight=0.5))
    expected = trained_net()
    expected.load_state_dict(fresh.fresh_state("contrastive_train"))
    opponent = PlainOpponent(lambda: Comparator(CLASSES))

    def loss(batch: Batch) -> Callable[[nn.Module], Tensor]:
        t = original(batch.x)
        shuffled = torch.cat([t[-1:], t[:-1]])

        def value(net: nn.Module) -> Tensor:
            z = net(batch.x)
            opponent.step([z, t], [z, shuffled])
            return opponent.one(z, t) + 0.5 * F.cross_entropy(z, batch.y)

        return value

    losses = [loss(batch) for batch in batches(fresh, "retain", 90)]
    assert len(losses) == 4
    play(expected, torch.optim.Adam(expected.parameters(), lr=1e-3), losses)
    for key, value in context.model.state_dict().items():
        if key not in ADAM_NOISE:  # from new weights many gradients are small, and Adam's steps are not
            torch.testing.assert_close(value, expected.state_dict()[key], atol=5e-5, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


def test_contrastive_train_from_the_original_keeps_its_weights_at_first() -> None:
    steps = list(method("contrastive_train", renew=False).steps(make_context(needs={"retain"})))
    assert not any(isinstance(step, Edit) for step in steps)


@pytest.mark.parametrize("evidence", ["loss", "logits", "both"])
@pytest.mark.parametrize("name", ["adversarial", "adversarial_source_free"])
def test_hiding_is_a_game_against_an_attacker(name: str, evidence: str) -> None:
    chosen = method(name, epochs=1, batch_size=20, evidence=evidence, weight=0.7)
    context, fresh = make_context(needs=chosen.needs), make_context(needs=ALL)
    run(context, chosen)
    opponent = PlainOpponent(lambda: Judge({"loss": 1, "logits": CLASSES, "both": CLASSES + 1}[evidence]))

    def seen(z: Tensor, y: Tensor) -> Tensor:
        loss, ordered = F.cross_entropy(z, y, reduction="none")[:, None], z.sort(1, descending=True).values
        return {"loss": loss, "logits": ordered, "both": torch.cat([loss, ordered], 1)}[evidence]

    def loss(f: Batch, r: Batch, v: Batch) -> Callable[[nn.Module], Tensor]:
        def value(net: nn.Module) -> Tensor:
            own = seen(net(f.x), f.y)
            other = net(v.x)
            opponent.step([own], [seen(other, v.y)])
            said = opponent.net(own)
            hidden = F.binary_cross_entropy_with_logits(said, torch.zeros_like(said))
            if name == "adversarial":
                return 0.7 * hidden + F.cross_entropy(net(r.x), r.y)
            return 0.7 * hidden + F.kl_div(other.log_softmax(1), original(v.x).softmax(1), reduction="batchmean")

        return value

    parts = (batches(fresh, part, 20)[:2] for part in ("forget", "retain", "validation"))
    expected = trained_net()
    play(expected, plain_sgd(expected, 0.01), [loss(*part) for part in zip(*parts, strict=True)])
    assert_same(context.model, expected)


def test_the_attacker_cannot_go_by_the_class() -> None:
    z, y = torch.randn(20, CLASSES, generator=torch.Generator().manual_seed(1)), torch.arange(20) % CLASSES
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(0))
    renamed = order.argsort()[y]
    for evidence in ("loss", "logits", "both"):
        torch.testing.assert_close(visible(z[:, order], renamed, evidence), visible(z, y, evidence))


@pytest.mark.parametrize("name", ["adversarial", "adversarial_source_free"])
def test_hidden_data_are_answered_less_well(name: str) -> None:
    chosen = method(name, epochs=40)
    context = make_context(needs=chosen.needs | {"retain"})
    run(context, chosen)
    assert accuracy(context, "forget") < 0.8 < accuracy(context, "retain")


def test_the_sources_names_find_their_methods() -> None:
    expected = {
        "untrain": "contrastive_untrain", "untrain_contrastive": "contrastive_untrain_pairs",
        "batch_averaging": "contrastive_untrain_averaged", "gan": "adversarial",
    }  # fmt: skip
    assert {alias: registry.find("methods", alias).name for alias in expected} == expected
