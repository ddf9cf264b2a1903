"""Exact and certified removal: replay is bit-identical, and the certificate's bound holds where it is measured."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from conftest import CLASSES, SIZE, SOURCE, make_net
from expunge.data.source import TensorSource
from expunge.engine.stream import Stream
from expunge.errors import BadInput, NotApplicable
from expunge.methods.certified.linear_head import CertifiedHead, signs, unit
from expunge.methods.certified.newton import CURVATURE_SLOPE, curvatures, gradient, hessians, objective, removal
from expunge.methods.exact.ensemble import MeanOfProbabilities
from expunge.methods.exact.sharded_training import Sisa
from expunge.methods.exact.sharding import Plan
from expunge.training.recipes.tiny import Tiny

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
FEW = 48


def small_source() -> TensorSource:
    made = torch.Generator().manual_seed(3)
    y = torch.arange(FEW) % 3
    return TensorSource(torch.randn(FEW, 6, generator=made) + 2 * torch.eye(6)[y], y)


SMALL = small_source()


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(6, 3)


def sisa(folder: Path, index=None, *, plan: Plan | None = None, **more) -> Sisa:
    settings = {"build": linear, "recipe": Tiny(epochs=1, batch_size=8), "num_classes": 3, "plan": plan or Plan(3, 2), **more}
    return Sisa(folder, SMALL, torch.arange(FEW) if index is None else index, **settings)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.integers(0, FEW - 1), unique=True, min_size=1, max_size=20), st.integers(1, 4))
def test_deletion_is_training_without_the_data_bit_for_bit(tmp_path_factory, gone: list[int], requests: int) -> None:
    forgetting = sisa(tmp_path_factory.mktemp("forgetting"))
    forgetting.train()
    for start in range(requests):
        forgetting.delete(gone[start::requests])
    kept = torch.tensor(sorted(set(range(FEW)) - set(gone)))
    never = sisa(tmp_path_factory.mktemp("never"), kept)
    never.train()
    assert files(forgetting.folder) == files(never.folder) and len(files(never.folder)) == 6
    backwards = sisa(tmp_path_factory.mktemp("backwards"))
    backwards.train()
    backwards.delete(gone[::-1])
    assert files(backwards.folder) == files(never.folder)
    x = next(Stream("all", SMALL, kept).batches(FEW)).x
    assert torch.equal(forgetting.model()(x), never.model()(x))


def test_replay_is_exact_with_batch_norm_too(tmp_path: Path) -> None:
    common = {"build": make_net, "recipe": Tiny(epochs=1, batch_size=32), "num_classes": CLASSES, "plan": Plan(2, 2)}
    one = Sisa(tmp_path / "one", SOURCE, torch.arange(SIZE), **common)
    one.train()
    one.delete([5, 77])
    other = Sisa(tmp_path / "other", SOURCE, torch.tensor([i for i in range(SIZE) if i not in (5, 77)]), **common)
    other.train()
    assert files(one.folder) == files(other.folder)
    with safe_open(one._path(0, 1), framework="pt") as opened:
        assert "1.running_mean" in set(opened.keys())


def test_only_the_tail_of_the_shard_is_trained_again(tmp_path: Path) -> None:
    ensemble = sisa(tmp_path, plan=Plan(3, 3))
    first = ensemble.train()
    assert len(first.stages) == 9 and first.share == 1 and first.forward == first.backward == first.whole
    before, index = files(tmp_path), torch.arange(FEW)
    example = int(index[(ensemble.plan.shard_of(index) == 1) & (ensemble.plan.slice_of(index) == 1)][0])
    work = ensemble.delete([example])
    stages = [len(part) for part in ensemble.plan.stages_of(1, ensemble.remaining)]
    assert work.stages == [(1, 1, stages[1]), (1, 2, stages[2])]
    assert work.forward == stages[1] + stages[2] and work.share == pytest.approx(work.forward / work.whole)
    after = files(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"shard-001/slice-001.safetensors", "shard-001/slice-002.safetensors"}
    assert ensemble.train().stages == []


def test_a_deletion_moves_no_other_example() -> None:
    plan, index = Plan(4, 3, seed=2), torch.arange(1000)
    kept = index[index % 7 != 0]
    for shard in range(4):
        for whole, part in zip(plan.slices_of(shard, index), plan.slices_of(shard, kept), strict=True):
            assert torch.equal(whole[whole % 7 != 0], part) and len(part) > 30
    assert not torch.equal(plan.shard_of(index), Plan(4, 3, seed=3).shard_of(index))


@pytest.mark.parametrize("plan", [Plan(1), Plan(5), Plan(2, 4), Plan(4, 3)])
def test_the_expected_share_is_the_average_over_examples(plan: Plan) -> None:
    index = torch.arange(6000)
    whole, repeated = 0, 0.0
    for shard in range(plan.shards):
        parts, stages = plan.slices_of(shard, index), [len(stage) for stage in plan.stages_of(shard, index)]
        whole += sum(stages)
        repeated += sum(len(part) * sum(stages[place:]) for place, part in enumerate(parts)) / len(index)
    assert repeated / whole == pytest.approx(plan.expected_share, rel=0.05)
    assert Plan(1).expected_share == 1 and Plan(5).expected_share == pytest.approx(0.2)


class Killed(Exception):
    pass


def test_a_deletion_that_is_killed_is_finished_by_the_next_call(tmp_path: Path) -> None:
    sisa(tmp_path / "killed").train()

    def kill(event):
        raise Killed

    with pytest.raises(Killed):
        sisa(tmp_path / "killed", report=kill).delete(range(0, FEW, 3))
    again = sisa(tmp_path / "killed")
    assert again.deleted == set(range(0, FEW, 3))
    with pytest.raises(BadInput, match="not trained on the remaining data"):
        again.model()
    assert 0 < again.train().share < 1
    whole = sisa(tmp_path / "whole")
    whole.train()
    whole.delete(range(0, FEW, 3))
    assert files(again.folder) == files(whole.folder)


def test_damaged_and_foreign_files_are_not_used(tmp_path: Path) -> None:
    events: list[dict] = []
    ensemble = sisa(tmp_path, report=events.append)
    ensemble.train()
    good, path = files(tmp_path), ensemble._path(1, 0)
    for broken in (path.read_bytes()[:-1] + b"\x01", path.read_bytes()[:40]):
        path.write_bytes(broken)
        ensemble.train()
        assert files(tmp_path) == good
    assert sum("trained again" in event.get("message", "") for event in events) == 2
    with pytest.raises(BadInput, match="another plan"):
        sisa(tmp_path, plan=Plan(2, 2))


def test_wrong_requests_change_nothing(tmp_path: Path) -> None:
    ensemble = sisa(tmp_path)
    ensemble.train()
    ensemble.delete([3])
    before = files(tmp_path)
    for wrong, words in (([3], "deleted already"), ([FEW], "not among")):
        with pytest.raises(BadInput, match=words):
            ensemble.delete(wrong)
    assert files(tmp_path) == before
    with pytest.raises(BadInput, match="shards"):
        Plan(0)


def test_a_shard_without_examples_has_no_vote(tmp_path: Path) -> None:
    ensemble = sisa(tmp_path, plan=Plan(2))
    ensemble.train()
    index = torch.arange(FEW)
    ensemble.delete(index[ensemble.plan.shard_of(index) == 0].tolist())
    assert len(ensemble.model().constituents) == 1
    ensemble.delete(ensemble.remaining.tolist())
    with pytest.raises(BadInput, match="no example is left"):
        ensemble.model()


def test_the_ensemble_averages_probabilities() -> None:
    parts = [linear(seed) for seed in range(3)]
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    expected = sum(part(x).softmax(1) for part in parts) / 3
    torch.testing.assert_close(MeanOfProbabilities(parts)(x).exp(), expected)
    torch.testing.assert_close(MeanOfProbabilities(parts)(x).softmax(1), expected)


# Certified removal


def head(loss: str = "logistic", n: int = 200, **more) -> CertifiedHead:
    made = torch.Generator().manual_seed(1)
    y = torch.arange(n) % 3
    x = torch.randn(n, 5, generator=made) + 1.5 * torch.eye(5)[y]
    return CertifiedHead(x, y, 3, loss=loss, **more)


def test_ridge_removal_is_solving_without_the_examples() -> None:
    fitted = head("ridge", penalty=1e-2)
    for gone in ([0], [5, 9, 77], list(range(100, 150))):
        receipt = fitted.remove(gone)
        assert receipt.bound == 0
    x, t = fitted.x[fitted.kept], fitted.targets[fitted.kept]
    assert len(x) == 146
    expected = torch.linalg.solve(x.T @ x + 1e-2 * len(x) * torch.eye(5, dtype=x.dtype), x.T @ t - fitted.noise.T).T
    assert float((fitted.weights - expected).abs().max()) < 1e-8
    assert fitted.residual() < 1e-8


def test_ridge_removal_does_not_depend_on_the_order() -> None:
    one, other = head("ridge"), head("ridge")
    one.remove([1, 2, 3])
    for row in (3, 1, 2):
        other.remove([row])
    assert float((one.weights - other.weights).abs().max()) < 1e-9


def test_a_step_with_the_hessian_of_all_data_is_not_exact() -> None:
    """The wrong version: curvature of what goes is left in."""
    fitted = head("ridge")
    gone = torch.arange(50)
    kept = torch.arange(50, 200)
    w, _ = removal(fitted.weights, fitted.x, fitted.x[gone], fitted.targets[gone], penalty=fitted.penalty, loss="ridge")
    left = gradient(w, fitted.x[kept], fitted.targets[kept], penalty=fitted.penalty, noise=fitted.noise, loss="ridge")
    assert float(left.norm()) > 1e-2


@pytest.mark.parametrize("size", [1, 4, 25])
@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_the_measured_residual_is_below_the_bound(size: int, penalty: float) -> None:
    fitted = head(penalty=penalty, epsilon=1e9)
    assert fitted.residual() < 1e-7
    for start in range(0, 100, size):
        before = fitted.residual()
        receipt = fitted.remove(list(range(start, start + size)))
        assert 0 < fitted.residual() <= receipt.spent
        assert fitted.residual() <= before + receipt.bound and receipt.bound > 1e-9
    assert not bool(fitted.kept[:100].any())


def test_the_bound_is_the_papers_formula() -> None:
    fitted = head()
    kept, gone = fitted.x[3:], fitted.x[:3]
    _, bound = removal(fitted.weights, kept, gone, fitted.targets[:3], penalty=fitted.penalty, loss="logistic")
    squares = []
    for k in range(3):
        w = fitted.weights[k]
        delta = 3 * fitted.penalty * w
        for x, t in zip(gone, fitted.targets[:3, k], strict=True):
            delta = delta - t * x / (1 + torch.exp(t * (x @ w)))
        h = fitted.penalty * len(kept) * torch.eye(5, dtype=w.dtype)
        for x in kept:
            p = 1 / (1 + torch.exp(-(x @ w)))
            h = h + p * (1 - p) * torch.outer(x, x)
        step = torch.linalg.inv(h) @ delta
        slope = 1 / (6 * math.sqrt(3))
        squares.append(float(slope * torch.linalg.svdvals(kept)[0] * step.norm() * (kept @ step).norm()) ** 2)
    assert bound == pytest.approx(math.sqrt(sum(squares)), rel=1e-9)


@pytest.mark.parametrize("loss", ["logistic", "ridge"])
def test_gradient_and_curvature_are_those_of_the_objective(loss: str) -> None:
    fitted = head(loss, n=20)
    given = {"penalty": 0.1, "noise": fitted.noise, "loss": loss}
    w = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = torch.autograd.functional.jacobian(lambda v: objective(v, fitted.x, fitted.targets, **given), w)
    torch.testing.assert_close(gradient(w, fitted.x, fitted.targets, **given), value)
    whole = torch.autograd.functional.hessian(lambda v: objective(v, fitted.x, fitted.targets, **given), w)
    blocks = torch.stack([whole[k, :, k] for k in range(3)])
    torch.testing.assert_close(hessians(w, fitted.x, penalty=0.1, loss=loss), blocks)
    z = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    slope = (curvatures(z, loss)[1:] - curvatures(z, loss)[:-1]).abs() / (z[1] - z[0])
    assert float(slope.max()) == pytest.approx(CURVATURE_SLOPE[loss], rel=1e-6, abs=1e-12)


def test_the_budget_is_kept_and_its_end_refused() -> None:
    fitted = head(deviation=0.3, delta=1e-5)
    assert fitted.budget == pytest.approx(0.3 / math.sqrt(2 * math.log(1.5e5)))
    removed, spent = 0, fitted.spent
    with pytest.raises(NotApplicable, match="refit"):
        for row in range(200):
            before, weights, kept = fitted.spent, fitted.weights.clone(), fitted.kept.clone()
            receipt = fitted.remove([row])
            removed, spent = removed + 1, spent + receipt.bound
            assert fitted.spent == pytest.approx(spent) and spent <= fitted.budget
    assert removed >= 3 and torch.equal(fitted.weights, weights) and torch.equal(fitted.kept, kept) and fitted.spent == before
    fitted.refit(seed=1)
    assert fitted.spent < 1e-7 and int(fitted.kept.sum()) == 200 - removed
    assert fitted.remove([removed]).removed == 1


def test_the_state_survives_a_file(tmp_path: Path) -> None:
    fitted = head()
    fitted.remove([0, 1])
    fitted.save(tmp_path / "head.safetensors")
    made = torch.Generator().manual_seed(1)
    y = torch.arange(200) % 3
    x = torch.randn(200, 5, generator=made) + 1.5 * torch.eye(5)[y]
    loaded = CertifiedHead.load(tmp_path / "head.safetensors", x, y)
    assert loaded.spent == fitted.spent and loaded.budget == fitted.budget
    assert loaded.remove([7]) == fitted.remove([7]) and torch.equal(loaded.weights, fitted.weights)
    with pytest.raises(BadInput, match="200 examples"):
        CertifiedHead.load(tmp_path / "head.safetensors", x[:10], y[:10])


def test_wrong_inputs_are_named() -> None:
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
    wrong: list[tuple[tuple, dict, str]] = [
        ((x, y[:3], 2), {}, "features"),
        ((x, y, 1), {}, "labels"),
        ((x, y, 2), {"penalty": 0.0}, "penalty"),
        ((x, y, 2), {"delta": 1.0}, "delta"),
        ((x, y, 2), {"epsilon": math.nan}, "epsilon"),
    ]
    for arguments, more, words in wrong:
        with pytest.raises(BadInput, match=words):
            CertifiedHead(*arguments, **more)
    fitted = CertifiedHead(x, y, 2, loss="ridge")
    fitted.remove([2])
    for rows, words in (([2], "removed already"), ([6], "does not exist"), ([-1], "does not exist"), ([0, 1, 3, 4, 5], "no example")):
        with pytest.raises(BadInput, match=words):
            fitted.remove(rows)


def test_the_head_sits_on_a_frozen_encoder() -> None:
    net = make_net().eval()
    batch = next(Stream("some", SOURCE, torch.arange(60)).batches(60))
    with torch.no_grad():
        features: Tensor = net[:7](batch.x)
    fitted = CertifiedHead(features, batch.y, CLASSES)
    whole = fitted.on(net, batch.x)
    torch.testing.assert_close(whole(batch.x).double(), fitted.logits(features), rtol=1e-4, atol=1e-5)
    assert float(unit(features).norm(dim=1).max()) <= 1 + 1e-12 and signs(batch.y, CLASSES).sum(1).eq(2 - CLASSES).all()


def test_the_examples_of_the_documentation_run() -> None:
    accuracy, share = runpy.run_path(str(EXAMPLES / "sisa.py"))["main"](epochs=2)
    assert accuracy > 0.7 and 0 < share < 1
    accuracy, removed = runpy.run_path(str(EXAMPLES / "certified_head.py"))["main"]()
    assert accuracy > 0.75 and removed > 5
