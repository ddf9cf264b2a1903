"""Scores and curvature products against loops, explicit matrices and double backward."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import make_context
from expunge.data.source import TensorSource
from expunge.engine.context import Context
from expunge.engine.derivatives import (
    batch_fisher,
    conjugate_gradient,
    fisher_diagonal,
    fisher_product,
    gradient,
    hessian_product,
    per_example_gradients,
    published_woodfisher,
)
from expunge.engine.parameters import flat, unflat
from expunge.engine.stream import Stream

CLOSE = {"rtol": 2e-4, "atol": 2e-6}


def tiny_context(examples: int = 12, seed: int = 0, net: nn.Module | None = None) -> Context:
    """Return a context of 4 numbers -> 3 classes with a hidden layer, small enough for explicit matrices."""
    made = torch.Generator().manual_seed(5)
    x, y = torch.randn(examples, 4, generator=made), torch.randint(3, (examples,), generator=made)
    if net is None:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    source = TensorSource(x, y)
    return Context(net, {"retain": Stream("retain", source, torch.arange(examples))}, needs={"retain"}, seed=seed, num_classes=3)


def everything(context: Context, name: str = "retain"):
    """Return the whole stream as one batch."""
    stream = context.stream(name)
    return next(stream.batches(len(stream)))


def example_gradient(context: Context, x, y) -> torch.Tensor:
    """Return the flat gradient of one example's cross entropy by an ordinary backward in eval mode."""
    context.model.eval()
    loss = F.cross_entropy(context.model(x[None]), y[None])
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(context.model.parameters()))])


def loop(context: Context, name: str = "retain") -> torch.Tensor:
    """Return one flat gradient per example ``[n, P]``."""
    batch = everything(context, name)
    return torch.stack([example_gradient(context, x, y) for x, y in zip(batch.x, batch.y, strict=True)])


def assert_same(found, wanted, **tolerance):
    torch.testing.assert_close(flat(found), wanted, **(tolerance or CLOSE))


@pytest.mark.parametrize("make", [tiny_context, lambda: make_context("random")])
def test_per_example_gradients_are_those_of_a_loop(make):
    context = make()
    name = "forget" if "forget" in context.needs else "retain"
    found = per_example_gradients(context, everything(context, name))
    wanted = loop(context, name)
    assert len(wanted) > 10
    torch.testing.assert_close(torch.cat([value.flatten(1) for value in found.values()], dim=1), wanted, **CLOSE)


def test_empirical_fisher_is_the_mean_of_squares_of_a_loop():
    context = make_context("random")
    assert_same(fisher_diagonal(context, "forget"), loop(context, "forget").square().mean(0))


def test_exact_fisher_is_the_expectation_over_the_models_labels():
    context = tiny_context()
    batch, total = everything(context), 0
    p = context.model(batch.x).softmax(1).detach()
    for x, row in zip(batch.x, p, strict=True):
        for label in range(3):
            total = total + row[label] * example_gradient(context, x, torch.tensor(label)).square()
    assert_same(fisher_diagonal(context, "retain", "exact"), total / len(batch))


def test_sampled_fisher_is_unbiased_for_the_exact_one():
    exact = flat(fisher_diagonal(tiny_context(), "retain", "exact"))
    draws = torch.stack([flat(fisher_diagonal(tiny_context(seed=seed), "retain", "sampled")) for seed in range(200)])
    error = (draws.mean(0) - exact) / (draws.std(0) / 200**0.5 + 1e-12)
    assert float(error.abs().max()) < 4.5 and not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("kind", ["empirical", "exact", "sampled"])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_fisher_does_not_depend_on_the_batch_size(kind, size):
    context = make_context("random")
    assert_same(fisher_diagonal(context, "forget", kind, size=size), flat(fisher_diagonal(context, "forget", kind, size=13)))


def test_the_published_form_depends_on_the_batch_size():
    context = tiny_context()
    one, all_at_once, exact = (flat(batch_fisher(context, "retain", size)) for size in (1, 12, 1))
    assert float((all_at_once - one).norm() / one.norm()) > 0.1
    torch.testing.assert_close(one, flat(fisher_diagonal(context, "retain", "exact")), **CLOSE)
    assert torch.equal(one, exact)


def test_the_published_form_is_its_formula():
    context, total = tiny_context(), 0
    for batch in context.stream("retain").batches(5):
        logits = context.model(batch.x)
        p = logits.softmax(1).detach()
        for label in range(3):
            loss = F.cross_entropy(logits, torch.full_like(batch.y, label))
            found = torch.autograd.grad(loss, list(context.model.parameters()), retain_graph=True)
            total = total + p[:, label].mean() * torch.cat([part.reshape(-1) for part in found]).square()
    assert_same(batch_fisher(context, "retain", 5), total / 3)


def test_the_published_form_is_zero_for_what_the_model_does_not_use():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    found = batch_fisher(tiny_context(net=Half()), "retain", 5)
    assert not found["unused.weight"].any() and not found["unused.bias"].any() and found["used.weight"].all()


def test_gradient_is_the_sum_over_examples_and_not_over_batch_means():
    context = make_context("random")
    wanted = loop(context, "forget").sum(0)
    for size in (7, 40):
        assert_same(gradient(context, "forget", size=size), wanted, rtol=1e-3, atol=1e-5)
    assert_same(gradient(context, "forget", reduction="mean"), wanted / 40)
    means = sum(
        flat(gradient(context, context.stream("forget").subset(part), reduction="mean"))
        for part in context.stream("forget").index.split(32)  # 32 + 8, as published masks are made
    )
    assert float(torch.cosine_similarity(means, wanted, dim=0)) < 0.999


@pytest.mark.parametrize("score", [gradient, fisher_diagonal, batch_fisher])
def test_scores_leave_statistics_modes_and_weights_alone(score):
    context = make_context("random")
    context.model.train()
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    score(context, "forget")
    assert context.model.training and all(parameter.requires_grad for parameter in context.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in context.model.state_dict().items())


def test_fisher_product_is_the_explicit_matrix():
    context = tiny_context()
    g = loop(context)
    v = torch.randn(g.shape[1], generator=torch.Generator().manual_seed(2))
    like = dict(context.model.named_parameters())
    assert_same(fisher_product(context, "retain", unflat(v, like), size=5), g.T @ (g @ v) / len(g))


def test_hessian_product_is_double_backward():
    context = tiny_context()
    parameters, batch = list(context.model.parameters()), everything(context)
    v = torch.randn(sum(p.numel() for p in parameters), generator=torch.Generator().manual_seed(2))
    first = torch.autograd.grad(F.cross_entropy(context.model(batch.x), batch.y), parameters, create_graph=True)
    slope = (torch.cat([part.reshape(-1) for part in first]) * v).sum()
    wanted = torch.cat([part.reshape(-1) for part in torch.autograd.grad(slope, parameters)])
    assert_same(hessian_product(context, "retain", unflat(v, dict(context.model.named_parameters())), size=5), wanted)


@pytest.mark.parametrize("seed", range(5))
def test_conjugate_gradients_solve_the_system(seed):
    made = torch.Generator().manual_seed(seed)
    half = torch.randn(9, 9, generator=made, dtype=torch.float64)
    matrix, right = half @ half.T + 0.5 * torch.eye(9), torch.randn(9, generator=made, dtype=torch.float64)
    like = {"a": torch.zeros(2, 2, dtype=torch.float64), "b": torch.zeros(5, dtype=torch.float64)}
    solution, residual = conjugate_gradient(lambda v: unflat(matrix @ flat(v), like), unflat(right, like), tolerance=1e-10)
    torch.testing.assert_close(flat(solution), torch.linalg.solve(matrix, right), rtol=1e-6, atol=1e-8)
    assert residual < 1e-9


def test_conjugate_gradients_report_what_they_did_not_reach():
    right = {"a": torch.tensor([1.0, 1.0, 1.0])}
    scale = torch.tensor([1.0, 10.0, 100.0])
    solution, residual = conjugate_gradient(lambda v: {"a": scale * v["a"]}, right, iterations=1)
    true = float((scale * solution["a"] - right["a"]).norm() / right["a"].norm())
    assert residual == pytest.approx(true, rel=1e-4) and residual > 0.1


def literal_woodfisher(g: torch.Tensor, v: torch.Tensor, constant: int) -> torch.Tensor:
    """Return the published recursion, step by step: o is never anything but a multiple of the first gradient."""
    o, k = g[0].clone(), v.clone()
    for each in g[1:]:
        t = torch.dot(o, each)
        k = k - torch.dot(k, each) / (constant + t) * o
        o = o - t / (constant + t) * o
    return k


@pytest.mark.parametrize("constant", [5, 10, 1000])
def test_published_woodfisher_is_the_literal_recursion(constant):
    context = tiny_context(examples=40)
    g = loop(context).double()[: constant + 2]
    assert len(g) == min(40, constant + 2)
    v = torch.randn(g.shape[1], generator=torch.Generator().manual_seed(2))
    found = published_woodfisher(context, "retain", unflat(v, dict(context.model.named_parameters())), constant)
    torch.testing.assert_close(flat(found).double(), literal_woodfisher(g, v.double(), constant), rtol=1e-5, atol=1e-5)


def test_published_woodfisher_is_no_inverse_fisher_product():
    context = tiny_context(examples=40)
    g = loop(context).double()
    v = 10 * torch.randn(g.shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    true = torch.linalg.solve(torch.eye(len(v), dtype=torch.float64) + g.T @ g / len(g), v)
    published = literal_woodfisher(g, v, len(g))
    assert float((published - true).norm() / (v - true).norm()) > 0.5


def test_passes_are_charged():
    context = make_context("random")
    context.cost.watch(context.model)
    per_example_gradients(context, everything(context, "forget"))
    assert (context.cost.forward, context.cost.backward) == (40, 40)
    gradient(context, "forget")
    assert (context.cost.forward, context.cost.backward) == (80, 80)
    vector = {name: torch.ones_like(value) for name, value in context.model.named_parameters()}
    fisher_product(context, "forget", vector)
    assert context.cost.forward > 80 and context.cost.backward > 80


def test_forward_mode_warns_nobody():
    code = (
        "import torch; from expunge.engine.derivatives import jvp\n"
        "print(jvp(torch.nn.functional.silu, (torch.ones(2),), (torch.ones(2),))[1].shape)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
