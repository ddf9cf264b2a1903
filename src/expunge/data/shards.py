"""Encoded pictures in tar files, as WebDataset lays them out, at any position: where each lies is found once and kept."""

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge.data.contents import DIGEST, State, digest, kept_arrays, stamp, states
from expunge.data.names import Names
from expunge.data.pictures import SUFFIXES
from expunge.errors import BadInput


@dataclass(frozen=True)
class Contents:
    """What a shard holds, in its order: names, labels as they are written, places and digests of the pictures."""

    names: Names
    labels: Names
    starts: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray


class Shards:
    """Pictures in uncompressed tar files.

    Args:
        paths: of the shards.
        names: keys of the pictures.
        shard: number of the shard of each, int32 ``[n]``.
        starts: first byte of each within its shard, int64 ``[n]``.
        sizes: bytes of each, int64 ``[n]``.
        known: digests of each, ``[n]`` of dtype V16.
    """

    def __init__(self, paths: Sequence[Path], names: Names, shard: np.ndarray, starts: np.ndarray, sizes: np.ndarray, known: np.ndarray):
        self.paths, self.names, self.shard, self.starts, self.sizes, self.known = paths, names, shard, starts, sizes, known

    def __len__(self) -> int:
        return len(self.names)

    def read(self, position: int) -> bytes:
        """Return the encoded picture.

        Raises:
            BadInput: its shard is gone or has become shorter.
        """
        path, size = self.paths[int(self.shard[position])], int(self.sizes[position])
        try:
            with open(path, "rb", buffering=0) as shard:
                content = os.pread(shard.fileno(), size, int(self.starts[position]))
        except OSError as error:
            raise BadInput("data.root", f"{path} cannot be read: {error.strerror}.", "Restore it, or make the experiment anew.") from None
        if len(content) < size:
            raise BadInput("data.root", f"{path} is shorter than it was.", "Restore it, or make the experiment anew.")
        return content

    def take(self, positions: np.ndarray) -> "Shards":
        """Return some of the pictures."""
        columns = (self.shard, self.starts, self.sizes, self.known)
        return Shards(self.paths, self.names.take(positions), *(column[positions] for column in columns))

    def stamp(self) -> str:
        """Return a hash of the shards' names, sizes and times, and of which pictures are chosen."""
        found = states_of(self.paths)
        return (
            stamp(Path("/"), Names(str(path.resolve()) for path in self.paths), found)
            + hashlib.sha256(self.names.bytes.tobytes()).hexdigest()
        )

    def digests(self, cache: Path) -> np.ndarray:
        """Return a digest of each picture, found when the shards were indexed."""
        return self.known


def states_of(paths: Sequence[Path]) -> State:
    """Return sizes and times of some files."""
    return states(Path("/"), Names(str(path.resolve()) for path in paths))


def index(path: Path, cache: Path, label: str) -> Contents:
    """Return what a shard holds. It is read through once; what is found is kept in the cache folder until the shard changes.

    Args:
        path: an uncompressed tar file.
        cache: folder for what is known.
        label: ending of the file with a sample's label, ``cls``; or ``json:FIELD``.

    Raises:
        BadInput: not such a file, or cut off or damaged; members that cannot be read in place; a sample without picture or label, or with
            two; or no sample.
    """
    found = states_of([path])
    state = f"3 {label} {found.sizes[0]} {found.times[0]}"
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    kept = kept_arrays(cache / f"shard-{name}.npz", state, int(found.times[0]), lambda: _arrays(_scan(path, label)))
    names, labels = (Names.of_arrays(kept[f"{part}_bytes"], kept[f"{part}_ends"]) for part in ("names", "labels"))
    return Contents(names, labels, kept["starts"], kept["sizes"], kept["digests"].view(DIGEST).reshape(-1))


def _arrays(found: Contents) -> dict[str, np.ndarray]:
    texts: dict[str, np.ndarray] = {"names_bytes": found.names.bytes, "names_ends": found.names.ends, "labels_bytes": found.labels.bytes}
    raw = found.digests.view(np.uint8).reshape(-1, 16)
    return {**texts, "labels_ends": found.labels.ends, "starts": found.starts, "sizes": found.sizes, "digests": raw}


def _scan(path: Path, label: str) -> Contents:
    samples: dict[str, dict[str, Any]] = {}
    ending, _, field = label.partition(":")
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isdir():
                    continue
                _check_member(member, path)
                key, suffix = split_name(member.name)
                opened = shard.extractfile(member)
                assert opened is not None
                if f".{suffix.lower()}" in SUFFIXES:
                    if "start" in samples.get(key, {}):
                        raise BadInput(str(path), f"the sample {key!r} is there twice, or has two pictures.", "Write the shard again.")
                    content = opened.read()
                    samples.setdefault(key, {}).update(start=member.offset_data, size=member.size, digest=digest(content))
                elif suffix == ending:
                    if "label" in samples.get(key, {}):
                        raise BadInput(str(path), f"the sample {key!r} has two labels.", "Write the shard again.")
                    samples.setdefault(key, {})["label"] = _label(opened.read(), field, path, key)
            end = shard.offset
        _check_end(path, end)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(
            str(path), f"is no uncompressed tar file, or is damaged: {error}.", "Unpack it with gunzip, or get it again."
        ) from None
    return _contents(samples, path, ending)


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    """Refuse what is no plain file: its content does not lie where it is listed, and leaving it out would lose a sample in silence."""
    kind = "sparse" if member.issparse() else "a link" if member.islnk() or member.issym() else "" if member.isfile() else "no file"
    if kind:
        remedy = "Write the shard again from plain files (tar without --sparse, and with --dereference --hard-dereference)."
        raise BadInput(str(path), f"the member {member.name!r} is {kind}.", remedy)


def _check_end(path: Path, end: int) -> None:
    """Refuse a shard that goes on behind what could be read, or does not end as tar files do: `tarfile` takes either for the end."""
    with open(path, "rb") as shard:
        shard.seek(end)
        first = shard.read(tarfile.BLOCKSIZE)
        if len(first) < tarfile.BLOCKSIZE:
            raise BadInput(str(path), "is cut off: the mark at the end of a tar file is missing.", "Get it again.")
        while first:
            if first.strip(b"\0"):
                found = f"has something else than members from byte {end} on: it is damaged there, or several files were joined."
                raise BadInput(str(path), found, "Get it again; join shards with `tar --concatenate`, or give them one by one.")
            first = shard.read(1 << 20)


def _contents(samples: dict[str, dict[str, Any]], path: Path, ending: str) -> Contents:
    for key, sample in samples.items():
        missing = "picture" if "start" not in sample else "label" if "label" not in sample else ""
        if missing:
            raise BadInput(str(path), f"the sample {key!r} has no {missing}.", f"Each needs KEY.jpg (or png) and KEY.{ending}.")
    if not samples:
        raise BadInput(str(path), "holds no pictures.", f"Each sample needs KEY.jpg (or png) and KEY.{ending}.")
    column = {name: [sample[name] for sample in samples.values()] for name in ("start", "size", "label")}
    digests = np.frombuffer(b"".join(sample["digest"] for sample in samples.values()), dtype=DIGEST)
    starts, sizes = (np.array(column[name], dtype=np.int64) for name in ("start", "size"))
    return Contents(Names(samples), Names(column["label"]), starts, sizes, digests)


def split_name(name: str) -> tuple[str, str]:
    """Return a member's key and its ending: all before the first dot of its last part, and all after it, as in WebDataset."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, ending = last.partition(".")
    return folder + slash + stem, ending


def _label(content: bytes, field: str, path: Path, key: str) -> str:
    try:
        text = content.decode("utf-8")
        found = json.loads(text)[field] if field else text.strip()
        if not isinstance(found, str | int) or found == "":
            raise ValueError(f"{found!r} is neither a number nor a name")
        return str(found)
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise BadInput(str(path), f"the label of {key!r} cannot be read: {error!r}.", "Set data.label, for example json:label.") from None


def join(paths: Sequence[Path], parts: Sequence[Contents]) -> Shards:
    """Return the pictures of several shards as one."""
    names = Names(name for part in parts for name in part.names)
    shard = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.names) for part in parts])
    starts, sizes, known = (np.concatenate([getattr(part, name) for part in parts]) for name in ("starts", "sizes", "digests"))
    return Shards(list(paths), names, shard, starts, sizes, known)
