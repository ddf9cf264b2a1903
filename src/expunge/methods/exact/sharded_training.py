"""SISA: train constituents on shards in slices, and after a deletion train again only what has seen the example."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.engine import randomness
from expunge.engine.stream import Source, Stream
from expunge.errors import BadInput
from expunge.methods.exact.ensemble import MeanOfProbabilities
from expunge.methods.exact.sharding import Plan
from expunge.runs import atomic_write, read_json, write_json
from expunge.training.recipe import Recipe
from expunge.training.train import train

_METADATA = "expunge"


@dataclass
class Work:
    """What was trained.

    Attributes:
        stages: ``(shard, slice, examples)`` of every stage that was trained.
        forward: examples passed forward.
        backward: examples passed backward.
        whole: examples of all stages together, which is what training from scratch would pass over in each epoch of the recipe.
    """

    stages: list[tuple[int, int, int]] = field(default_factory=list)
    forward: int = 0
    backward: int = 0
    whole: int = 0

    @property
    def share(self) -> float:
        """Share of a training from scratch, in examples, that was done."""
        return sum(examples for _, _, examples in self.stages) / max(1, self.whole)


class Sisa:
    """An ensemble that forgets exactly: after `delete` it is, bit for bit, what training without the deleted examples gives.

    A constituent starts from its own initial weights. Stage r runs the whole recipe on slices 0 to r with a new optimiser, and is kept as
    a safetensors file with a digest of everything that it has seen. `train` repeats the stages whose digest is not the present
    one; deleting examples changes digests from their slice on. Both can be killed at any time and called again. Files of repeated
    stages are replaced only when `delete` gets to them: until it returns, old weights lie in the folder.

    Exactness needs a model and recipe whose result depends on seed and data alone: no early stopping on other data, and on a GPU
    deterministic kernels. Requests chosen after looking at the outputs are outside of what replay proves.

    Source: Bourtoule et al., Machine Unlearning, IEEE S&P 2021, arXiv 1912.03817. Deviations: probabilities are averaged, not votes
    counted; shards and slices are hashes, so their sizes vary; no optimiser state passes from stage to stage.

    Args:
        folder: where checkpoints lie.
        source: where the examples are.
        index: data set indices of the training examples, int64 ``[n]``.
        build: returns a newly initialised classifier for a seed.
        recipe: how each stage is trained.
        num_classes: number of logits.
        plan: shards, slices and seed.
        data: name or hash of the data, which is part of every digest.
        report: called with one mapping for each event.

    Raises:
        BadInput: the folder belongs to another training.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        index: Tensor,
        *,
        build: Callable[[int], nn.Module],
        recipe: Recipe,
        num_classes: int,
        plan: Plan,
        data: str = "",
        report: Callable[[dict[str, Any]], None] | None = None,
    ):
        self.folder, self.source, self.plan = Path(folder), source, plan
        self.index = torch.as_tensor(index, dtype=torch.int64).sort().values
        self.build, self.recipe, self.num_classes = build, recipe, num_classes
        self.report = report or (lambda event: None)
        identity = {"shards": plan.shards, "slices": plan.slices, "seed": plan.seed, "classes": num_classes}
        self.identity = {**identity, "recipe": recipe.tree(), "data": data}
        self.deleted: set[int] = self._read_deleted()

    @property
    def remaining(self) -> Tensor:
        """Indices of the examples that are not deleted, int64, ascending."""
        gone = torch.tensor(sorted(self.deleted), dtype=torch.int64)
        return self.index[~torch.isin(self.index, gone)]

    def train(self) -> Work:
        """Train every stage that is missing or out of date, and return what was done.

        Raises:
            Diverged: a stage stopped being finite.
        """
        self._write_deleted()
        work, remaining = Work(), self.remaining
        for shard in range(self.plan.shards):
            stages = self.plan.stages_of(shard, remaining)
            work.whole += sum(map(len, stages))
            self._train_shard(shard, stages, work)
        return work

    def delete(self, index: Iterable[int]) -> Work:
        """Forget examples exactly and return what had to be trained again.

        Raises:
            BadInput: an example is not, or no longer, among the training data.
        """
        asked = {int(number) for number in index}
        unknown = sorted(asked - set(self.remaining.tolist()))
        if unknown:
            state = "deleted already" if unknown[0] in self.deleted else "not among the training data"
            raise BadInput("delete", f"example {unknown[0]} is {state}.", "Name examples by data set index.")
        self.deleted |= asked
        return self.train()

    def model(self) -> MeanOfProbabilities:
        """Return the ensemble in eval mode; a shard that has lost all its examples has no vote.

        Raises:
            BadInput: a stage is missing or out of date, or no example is left.
        """
        parts, remaining = [], self.remaining
        for shard in range(self.plan.shards):
            stages = self.plan.stages_of(shard, remaining)
            if not len(stages[-1]):
                continue
            net, digests = self._start(shard, stages)
            state = self._load(shard, self.plan.slices - 1, digests[-1])
            if state is None:
                raise BadInput(str(self.folder), f"shard {shard} is not trained on the remaining data.", "Call train() first.")
            net.load_state_dict(state)
            parts.append(net)
        if not parts:
            raise BadInput("delete", "no example is left.", "Start anew with other data.")
        return MeanOfProbabilities(parts).eval()

    def _train_shard(self, shard: int, stages: list[Tensor], work: Work) -> None:
        net, digests = self._start(shard, stages)
        fresh = 0
        while fresh < len(stages) and (state := self._load(shard, fresh, digests[fresh])) is not None:
            net.load_state_dict(state)
            fresh += 1
        for place in range(fresh, len(stages)):
            if len(stages[place]):
                stream = Stream("train", self.source, stages[place])
                seed = randomness.derive(self.plan.seed, "sisa", shard, place)
                outcome = train(net, stream, self.recipe, seed=seed, num_classes=self.num_classes)
                work.stages.append((shard, place, len(stages[place])))
                work.forward += outcome.cost["forward"]
                work.backward += outcome.cost["backward"]
            self._save(shard, place, digests[place], net.state_dict())
            self.report({"event": "stage", "shard": shard, "slice": place, "examples": len(stages[place])})

    def _start(self, shard: int, stages: list[Tensor]) -> tuple[nn.Module, list[str]]:
        """Return the constituent with its initial weights, and for each stage the digest of all that goes into it."""
        net = self.build(randomness.derive(self.plan.seed, "sisa/initialise", shard))
        digest = hashlib.sha256(f"{json.dumps(self.identity, sort_keys=True)} {shard} {_hash(net.state_dict())}".encode()).hexdigest()
        digests = []
        for examples in stages:
            seen = torch.stack([examples, self.source.labels[examples]])
            digest = hashlib.sha256(digest.encode() + seen.numpy().tobytes()).hexdigest()
            digests.append(digest)
        return net, digests

    def _path(self, shard: int, place: int) -> Path:
        return self.folder / f"shard-{shard:03d}" / f"slice-{place:03d}.safetensors"

    def _save(self, shard: int, place: int, digest: str, state: Mapping[str, Tensor]) -> None:
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        header = json.dumps({"digest": digest, "weights": _hash(tensors)})  # one entry: the order of several is random in the file
        with atomic_write(self._path(shard, place)) as temporary:
            save_file(tensors, temporary, {_METADATA: header})

    def _load(self, shard: int, place: int, digest: str) -> dict[str, Tensor] | None:
        """Return a stage's weights; None if they are missing, damaged, or of other data."""
        path = self._path(shard, place)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as opened:
                header = json.loads((opened.metadata() or {}).get(_METADATA, "{}"))
                if header.get("digest") != digest:
                    return None
                state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, ValueError) as error:
            self._warn(f"{path} is damaged ({str(error).splitlines()[0][:100]}); the stage is trained again.")
            return None
        if header.get("weights") != _hash(state):
            self._warn(f"{path} has changed since it was written; the stage is trained again.")
            return None
        return state

    def _warn(self, message: str) -> None:
        self.report({"event": "warning", "message": message})

    def _read_deleted(self) -> set[int]:
        path = self.folder / "sisa.json"
        if not path.is_file():
            return set()
        found = read_json(path)
        if found["identity"] != json.loads(json.dumps(self.identity)):
            raise BadInput(
                str(self.folder), "holds a training with another plan, recipe or data.", "Choose another folder, or the same settings."
            )
        return set(found["deleted"])

    def _write_deleted(self) -> None:
        # Before any training, so that a deletion that is killed half-way is finished by the next call.
        write_json(self.folder / "sisa.json", {"identity": self.identity, "deleted": sorted(self.deleted)})


def _hash(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes."""
    hashed = hashlib.sha256()
    for name, value in sorted(state.items()):
        value = value.detach().cpu().contiguous()
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
