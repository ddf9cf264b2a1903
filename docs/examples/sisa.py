"""Train so that deletion is cheap and exact: four shards with two slices each, on scikit-learn's digits."""

import tempfile
from pathlib import Path

import torch

from expunge.data.datasets.digits import Digits
from expunge.methods.exact.sharded_training import Sisa
from expunge.methods.exact.sharding import Plan
from expunge.models.mlp import Mlp
from expunge.training.recipes.tiny import Tiny


def build(seed: int) -> torch.nn.Module:
    """Return a newly initialised net."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Mlp(hidden=(64,)).build(10, (1, 8, 8))


def main(epochs: int = 8) -> tuple[float, float]:
    """Train, delete three examples, and return the test accuracy and the share of the training that was repeated."""
    data = Digits().load("cpu")
    with tempfile.TemporaryDirectory() as folder:
        sisa = Sisa(
            Path(folder),
            data.source,
            torch.as_tensor(data.train_index),
            build=build,
            recipe=Tiny(epochs=epochs),
            num_classes=10,
            plan=Plan(shards=4, slices=2),
            data=data.fingerprint,
        )
        sisa.train()
        work = sisa.delete([3, 14, 159])
        model = sisa.model()
    x, y = next(data.source.batches(torch.as_tensor(data.test_index), 1000, augment=False, seed=0, epoch=0))
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).double().mean())
    return accuracy, work.share


if __name__ == "__main__":
    print("test accuracy {:.1%}; the deletion repeated {:.0%} of the training".format(*main()))
