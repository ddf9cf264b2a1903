"""One-shot edits."""

import pytest
import torch
from torch import nn

from conftest import CLASSES, make_context, make_net, trained_net
from expunge.engine import edits
from expunge.engine.parameters import leaves
from expunge.errors import BadInput


def weights(net):
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def applied(edit, net=None, **more):
    net = trained_net() if net is None else net
    context, before = make_context(net=net, **more), weights(net)
    with torch.no_grad():
        edit.apply(context)
    return before, weights(net), context


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_add_scale_assign():
    ones = {"0.weight": torch.ones(8, 3, 3, 3)}
    before, after, _ = applied(edits.add(ones, scale=-2.0))
    torch.testing.assert_close(after["0.weight"], before["0.weight"] - 2)
    assert moved(before, after) == {"0.weight"}
    before, after, _ = applied(edits.scale({"7.bias": torch.full((CLASSES,), -1.0)}))
    assert torch.equal(after["7.bias"], -before["7.bias"]) and moved(before, after) == {"7.bias"}
    before, after, _ = applied(edits.assign({"7.bias": torch.arange(5.0)}))
    assert torch.equal(after["7.bias"], torch.arange(5.0)) and moved(before, after) == {"7.bias"}


def test_zero_where_the_mask_is_zero():
    mask = {"0.weight": (torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()}
    before, after, _ = applied(edits.zero_where(mask))
    assert bool((after["0.weight"][mask["0.weight"] == 0] == 0).all())
    assert torch.equal(after["0.weight"][mask["0.weight"] == 1], before["0.weight"][mask["0.weight"] == 1])
    half = {"0.weight": torch.full((8, 3, 3, 3), 0.5)}
    before, after, _ = applied(edits.zero_where(half))
    assert moved(before, after) == set(), "a fractional mask prunes nothing"


def test_noise_has_the_deviation_of_each_entry():
    deviation = {"7.weight": torch.cat([torch.full((CLASSES, 72), 0.5), torch.zeros(CLASSES, 72)], 1)}
    draws = []
    for seed in range(8):
        before, after, _ = applied(edits.add_noise(deviation, "here"), seed=seed)
        assert moved(before, after) == {"7.weight"}
        draws.append((after["7.weight"] - before["7.weight"])[:, :72])
        assert torch.equal(after["7.weight"][:, 72:], before["7.weight"][:, 72:])
    values = torch.cat(draws)
    assert float(values.std()) == pytest.approx(0.5, rel=0.05)  # 2880 draws: standard error 1.3 %
    assert abs(float(values.mean())) < 0.05
    assert not torch.equal(draws[0], draws[1])
    _, again, _ = applied(edits.add_noise(deviation, "here"), seed=0)
    _, other, _ = applied(edits.add_noise(deviation, "elsewhere"), seed=0)
    assert torch.equal((again["7.weight"] - before["7.weight"])[:, :72], draws[0])
    assert not torch.equal((other["7.weight"] - before["7.weight"])[:, :72], draws[0])


def test_reinitialise_everything():
    before, after, _ = applied(edits.reinitialise())
    assert set(leaves(make_net())) <= moved(before, after)
    assert torch.equal(after["1.running_mean"], torch.zeros(8)) and torch.equal(after["1.running_var"], torch.ones(8))
    assert torch.equal(after["1.weight"], torch.ones(8))
    _, again, _ = applied(edits.reinitialise(), net=make_net(3))
    assert moved(again, after) == set(), "depends on the seed, not on the weights before"
    _, other, _ = applied(edits.reinitialise(), seed=1)
    assert not torch.equal(other["0.weight"], after["0.weight"])
    bound = 1 / (3 * 9) ** 0.5
    assert float(after["0.weight"].abs().max()) <= bound


def test_reinitialise_some():
    before, after, _ = applied(edits.reinitialise(["3.weight", "4.weight", "4.bias"]))
    assert moved(before, after) == {"3.weight", "4.weight", "4.bias", "4.running_mean", "4.running_var", "4.num_batches_tracked"}
    before, after, _ = applied(edits.reinitialise(["3.weight", "4.weight"], buffers=False))
    assert moved(before, after) == {"3.weight", "4.weight"}


def test_reinitialise_where():
    mask = {"3.weight": torch.zeros(16, 8, 3, 3)}
    mask["3.weight"][:4] = 1
    before, after, context = applied(edits.reinitialise_where(mask, "here"))
    assert moved(before, after) == {"3.weight"}
    assert torch.equal(after["3.weight"][4:], before["3.weight"][4:])
    assert torch.equal(after["3.weight"][:4], context.fresh_state("here")["3.weight"][:4])


def test_reinitialise_uses_the_models_own_initialisation():
    state = {name: torch.full_like(value, 3) for name, value in make_net().state_dict().items()}
    seeds = []
    _, after, _ = applied(edits.reinitialise(["7.bias"]), initialise=lambda seed: seeds.append(seed) or state)
    assert torch.equal(after["7.bias"], torch.full((CLASSES,), 3.0)) and len(seeds) == 1


def test_layers_that_cannot_be_initialised_are_named():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x + self.token

    net = nn.Sequential(Token(), make_net())
    with pytest.raises(BadInput, match=r"the layer '0' \(Token\) cannot be initialised anew"):
        applied(edits.reinitialise(), net=net)


@pytest.mark.parametrize("rows", [CLASSES + 1, CLASSES - 1])
def test_resize_head_keeps_rows_bit_for_bit(rows):
    before, after, context = applied(edits.resize_head(rows))
    shared = min(rows, CLASSES)
    assert after["7.weight"].shape == (rows, 144) and after["7.bias"].shape == (rows,)
    assert torch.equal(after["7.weight"][:shared], before["7.weight"][:shared])
    assert torch.equal(after["7.bias"][:shared], before["7.bias"][:shared])
    assert moved({k: v for k, v in before.items() if k[0] != "7"}, after) == set()
    assert context.model(next(context.stream("retain").batches(3)).x).shape == (3, rows)
    assert context.model[7].weight.requires_grad and context.model[7].out_features == rows
    if rows > CLASSES:
        assert bool((after["7.weight"][CLASSES:] != 0).any()) and float(after["7.weight"][CLASSES:].abs().max()) <= 144**-0.5


def test_recalibrate_reads_the_named_streams():
    net = trained_net()
    net[1].running_mean.fill_(9)
    before, after, context = applied(edits.recalibrate("retain"), net=net)
    assert moved(before, after) == {f"{n}.{b}" for n in "14" for b in ("running_mean", "running_var", "num_batches_tracked")}
    assert float(after["1.running_mean"].max()) < 5
