"""Forget and retain set come as separate data in the Python interface: an index must mean one example there too."""

import pytest
import torch
from registry_world import same, small
from torch.utils.data import TensorDataset

import expunge
from conftest import CLASSES, SIZE, SOURCE, trained_net
from expunge import registry
from expunge.data.joined import JoinedSource, joined
from expunge.data.source import LoaderSource, TensorSource
from expunge.engine.context import Context
from expunge.engine.run import run
from expunge.engine.stream import Stream

X, Y = (torch.cat(parts) for parts in zip(*SOURCE.batches(torch.arange(SIZE + 100), 100, augment=False, seed=0, epoch=0), strict=True))
FORGET, RETAIN = torch.arange(240), torch.arange(240, SIZE)
VALIDATION, SURROGATE = torch.arange(SIZE, SIZE + 50), torch.arange(SIZE + 50, SIZE + 100)
RECIPE = registry.find("recipes", "tiny")(epochs=1)
GIVEN = {"forget": FORGET, "retain": RETAIN, "validation": VALIDATION, "surrogate": SURROGATE}
"""More is forgotten than kept, so that an index of one part that is taken for one of another is out of range, or of the wrong example."""


def read(source, order, size):
    return list(source.batches(order, size, augment=False, seed=0, epoch=0))


@pytest.mark.parametrize("size", [7, [3, 10, 1, 26]])
@pytest.mark.parametrize("loaded", [False, True])
def test_joined_sources_are_one_source(size, loaded):
    parts = [X[:15], X[15:22], X[22:60]]
    labels = [Y[:15], Y[15:22], Y[22:60]]
    sources = [TensorSource(x, y) for x, y in zip(parts, labels, strict=True)]
    if loaded:
        sources[1] = LoaderSource(TensorDataset(parts[1], labels[1]))
    whole, order = TensorSource(X[:60], Y[:60]), torch.randperm(60, generator=torch.Generator().manual_seed(0))[:40]
    for (x, y), (found, truth) in zip(read(whole, order, size), read(JoinedSource(sources), order, size), strict=True):
        assert torch.equal(x, found) and torch.equal(y, truth) and x.stride() == found.stride()
    streams = joined({"a": Stream("a", sources[0], torch.arange(15)), "b": Stream("b", sources[1], torch.tensor([6, 2]))})
    assert torch.equal(next(streams["b"].batches(2)).x, X[[21, 17]]) and streams["b"].index.tolist() == [21, 17]


def through_the_interface(method, addons):
    needed = set(method.needs).union(*(addon.needs for addon in addons))
    data = {name: (X[index], Y[index]) for name, index in GIVEN.items() if name in needed or name in ("forget", "retain")}
    artefacts = {"recipe": RECIPE} if "recipe" in needed else {}
    artefacts |= {"oracle": trained_net(1)} if "oracle" in needed else {}
    return data, expunge.unlearn(trained_net(), method, addons=addons, kind="random", **data, **artefacts).model.state_dict()


CASES = [*registry.names("methods"), "finetune+lottery_ticket", "ssd reference", "lfssd reference"]


@pytest.mark.parametrize("case", [case for case in CASES if "random" in registry.find("methods", case.split("+")[0].split()[0]).scenarios])
def test_a_method_does_the_same_to_parts_as_to_one_data_set(case):
    name, _, addon = case.partition("+")
    fields = {"fidelity": "reference"} if name.endswith(" reference") else {}
    method = small("methods", name.split()[0], "random", **fields)
    addons = [small("addons", addon)] if addon else []
    data, found = through_the_interface(method, addons)
    sources, start = TensorSource(*(torch.cat(part) for part in zip(*data.values(), strict=True))), 0
    streams = {}
    for key, (x, _) in data.items():
        streams[key], start = Stream(key, sources, torch.arange(start, start + len(x))), start + len(x)
    needs = set(method.needs).union(*(addon.needs for addon in addons))
    context = Context(
        trained_net(), streams, needs=needs, seed=0, num_classes=CLASSES, kind="random", recipe=RECIPE,
        oracle=trained_net(1) if "oracle" in needs else None,
    )  # fmt: skip
    run(context, method, addons)
    assert same(found, dict(context.model.state_dict()))
