"""Divide the runs of a bench over machines that share a folder. Who makes what depends on nothing but what is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expunge import config
from expunge.bench.request import Request, Row, inspected, jobs_of, originals, retrained, shared_key
from expunge.config import fingerprint
from expunge.errors import BadInput
from expunge.pools.executor import Job


@dataclass(frozen=True)
class Shard:
    """One of several machines.

    Attributes:
        number: from 1.
        of: how many there are.
    """

    number: int
    of: int

    def owns(self, identity: Any) -> bool:
        """Return whether this machine is to make what an identity names; exactly one of all machines is."""
        return int(fingerprint(identity), 16) % self.of == self.number - 1


def parse(text: str) -> Shard:
    """Return the shard that ``2/4`` names: the second of four.

    Raises:
        BadInput: anything else.
    """
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise BadInput(
            "--shard", f"expected i/n with i from 1 to n, got {text!r}.", "For example --shard=1/4 on the first of four machines."
        )
    return Shard(int(number), int(of))


def owners(requests: Sequence[Request]) -> dict[str, Any]:
    """Return what decides who makes each job, by the job's key: the row of what belongs to one, else the model.

    Number, folder, device and workers play no part, so that every machine comes to the same result.
    """
    found: dict[str, Any] = {}
    for number, request in enumerate(requests):
        work, name = request.workplace(), identity_of(request)
        for seed in range(originals(work)):
            key = f"original/{shared_key(work)}/{seed}"
            found[key] = [
                "original",
                fingerprint([name[part] for part in ("data", "model", "train", "seed", "training_seed") if part in name]),
                seed,
            ]
        found |= {f"retrained/{number}/{seed}": ["retrained", name, seed] for seed in range(retrained(work))}
        for row in request.rows:
            found |= {
                f"unlearned/{number}/{row.label}/{seed}": row_identity(request, row) for seed in range(work.experiment.evaluate.seeds)
            }
        found |= {key: found[run] for key, (run, _) in inspected(number, request).items()}
    return found


def identity_of(request: Request) -> dict[str, Any]:
    """Return what a request is, without where and how it is computed."""
    return {key: request.tree[key] for key in ("data", "model", "train", "forget", "seed", *config.SEEDS) if key in request.tree}


def row_identity(request: Request, row: Row) -> list[Any]:
    """Return what a row of a request is."""
    tree = request.workplace(row).experiment.tree()
    return [identity_of(request), tree["method"], tree["addons"], *([] if row.unlearning_seed is None else [row.unlearning_seed])]


def share(requests: Sequence[Request], shard: Shard) -> list[Job]:
    """Return the jobs of one machine, and the jobs of others that they need: which come after its own, so that they may be there."""
    jobs, owner = {job.key: job for job in jobs_of(requests)}, owners(requests)
    mine = {key for key in jobs if shard.owns(owner[key])}
    needed, new = set(mine), set(mine)
    while new:
        new = {before for key in new for before in jobs[key].after} - needed
        needed |= new
    trained = [job for key, job in jobs.items() if key in needed and key.startswith(("original/", "retrained/"))]
    others = [job for key, job in jobs.items() if key in needed and not key.startswith(("original/", "retrained/"))]
    return sorted(trained, key=lambda job: job.key not in mine) + others
