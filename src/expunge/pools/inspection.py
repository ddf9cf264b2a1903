"""What is found by looking inside a finished run, kept in its folder: ``inspection-FINGERPRINT.npz``, found again and never written twice.

A run's record is left as it is. The fingerprint covers the request, the settings, the weights of the run and of its original, and the code,
so that a file is found exactly when it would come out the same.

Intended calls. While planning, one job for each run, after it and after the original of the same seed::

    key = f"inspected/{number}/{label}/{seed}"
    Job = inspection.job(key, tree, model=f"unlearned/{number}/{label}/{seed}", original=f"original/{shared}/{seed}")

for retrained models and for the originals likewise, an original with itself; ``model`` and ``original`` are keys of jobs or run folders.
``settings`` changes what the tier looks for, for example ``settings={"block_examples": 256}``, and ``downstream`` is a folder of pictures.
Afterwards, in whatever process::

    arrays = inspection.load(work, run, original, settings, downstream)
    evidence.view(..., inspection=arrays)

A run that diverged is not looked into: its job returns an empty text and `load` an empty mapping.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge import config
from expunge.config import fingerprint
from expunge.data.split import PARTS
from expunge.engine.randomness import derive
from expunge.errors import BadInput
from expunge.models import checkpoint
from expunge.pools import remote, store
from expunge.pools.executor import Job
from expunge.pools.store import Run
from expunge.pools.workplace import Workplace, code_fingerprint
from expunge.representation import downstream as downstream_sets
from expunge.representation.inside import SETTINGS, Settings, Subject, look
from expunge.representation.neighbors import Downstream
from expunge.runs import atomic_write

Report = Callable[[dict[str, Any]], None]
Arrays = dict[str, np.ndarray]

_DOWNSTREAM: dict[tuple[str, str, tuple[int, ...]], list[Downstream]] = {}


def job(
    key: str, tree: dict[str, Any], model: str, original: str | None, settings: Mapping[str, Any] | None = None, downstream: str = ""
) -> Job:
    """Return the job that looks into one run.

    Args:
        key: of the job.
        tree: the experiment; its request says which examples are asked about, its tier what for.
        model: key of the job that makes the run, or its folder.
        original: of the original of the same seed, likewise; ``model`` itself for an original, None where there is none.
        settings: changes to the tier's settings.
        downstream: folder of pictures for transfer.
    """
    arguments = {"tree": tree, "folder": model, "original_folder": original, "settings": dict(settings or {}), "downstream": downstream}
    after = tuple(dict.fromkeys(part for part in (model, original) if part is not None and not Path(part).is_dir()))
    return Job(key, "expunge.pools.inspection:inspect_job", arguments, after)


def inspect_job(
    tree: dict[str, Any],
    folder: str,
    original_folder: str | None,
    results: dict[str, str],
    report: Report,
    settings: Mapping[str, Any] | None = None,
    downstream: str = "",
) -> str:
    """Look into one run: what a worker does.

    Returns:
        The path of the file; empty for a run that diverged.
    """
    work = Workplace(config.resolve(tree), report)
    run = store.find(results.get(folder, folder))
    original = store.find(results.get(original_folder, original_folder)) if original_folder is not None else None
    path, _ = _inspected(work, run, original, settings_of(work, settings), downstream)
    return str(path or "")


def inspect(
    work: Workplace, run: Run, original: Run | None, settings: Settings | None = None, report: Report | None = None, downstream: str = ""
) -> Arrays:
    """Return what is found inside a run, looking where nobody has.

    Args:
        work: the experiment with its request.
        run: a finished run; one that diverged gives nothing.
        original: the original of the same seed; the run itself if it is one; None leaves out what compares with it.
        settings: what is looked for; the tier's if None.
        report: hears ``start``, ``found`` and ``end``; the workplace's if None.
        downstream: folder of pictures for transfer.

    Returns:
        See `expunge.representation.inside.look`.

    Raises:
        BadInput: no request, the downstream set cannot be read, or the model's features are not finite.
    """
    if report is not None:
        work = Workplace(work.experiment, report)
    return _inspected(work, run, original, settings or settings_of(work), downstream)[1]


def load(work: Workplace, run: Run, original: Run | None, settings: Settings | None = None, downstream: str = "") -> Arrays:
    """Return what was found inside a run, memory-mapped; nothing for a run that diverged.

    Raises:
        BadInput: nobody has looked with these settings, or the file is damaged.
    """
    if run.status != "ok":
        return {}
    path = path_of(work, run, original, settings or settings_of(work), downstream)
    if not remote.pull_file(path, work.report):
        raise BadInput(str(path), "there is no such inspection.", "Run the command that made the run again; it goes on.")
    return read(path)


def settings_of(work: Workplace, changes: Mapping[str, Any] | None = None) -> Settings:
    """Return what a workplace's tier looks for, with changes."""
    return SETTINGS[work.experiment.evaluate.tier].but(**(changes or {}))


def path_of(work: Workplace, run: Run, original: Run | None, settings: Settings, downstream: str = "") -> Path:
    """Return where the inspection of a run lies, or would lie."""
    compared = _compared(original, settings)
    identity = {
        "split": work.split.fingerprint,
        "settings": dataclasses.asdict(settings),
        "weights": run.record["weights"],
        "original": compared.record["weights"] if compared is not None else None,
        "downstream": downstream_sets.fingerprint(Path(downstream)) if settings.deep and downstream else None,
        "device": work.device.type,
        "threads": work.experiment.evaluate.threads if work.device.type == "cpu" else None,
        "code": code_fingerprint("engine", "models", "data", "representation", "pools"),
    }
    return run.folder / f"inspection-{fingerprint(identity)}.npz"


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as ``np.savez`` does, atomically and without Python objects; equal arrays give equal bytes.

    Raises:
        ValueError: an array of Python objects.
    """
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read(path: Path) -> Arrays:
    """Return the arrays of a file by name, memory-mapped: those of a whole comparison do not fit into memory at once.

    Raises:
        BadInput: the file is missing, damaged, compressed or holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.filename.removesuffix(".npy"): _mapped(path, archive, member) for member in archive.infolist()}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadInput(str(path), f"cannot be read: {error}.", "Delete the file; it is made again.") from None


def _mapped(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version](file)
        start = file.tell()
    shape, by_column, dtype = header
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if start + size != member.file_size:
        raise ValueError(f"{member.filename} holds {member.file_size - start} bytes, expected {size}")
    offset = _content_offset(path, member) + start
    if not shape or not size:
        return np.frombuffer(archive.read(member)[start:], dtype=dtype).reshape(shape)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if by_column else "C")


def _content_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin: after its local header, whose extra field can differ from that of the archive's index."""
    with open(path, "rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return member.header_offset + 30 + name + extra


def _inspected(work: Workplace, run: Run, original: Run | None, settings: Settings, downstream: str) -> tuple[Path | None, Arrays]:
    if run.status != "ok":
        return None, {}
    path = path_of(work, run, original, settings, downstream)
    title = f"inside {run.record['title']}"
    damaged = False
    if remote.pull_file(path, work.report):
        try:
            found = read(path)
        except BadInput:
            path.unlink(missing_ok=True)
            damaged = True
        else:
            remote.push_file(path, work.report)
            work.report({"event": "found", "title": title, "folder": str(run.folder)})
            return path, found
    work.report({"event": "start", "title": title, "folder": str(run.folder)})
    if work.device.type == "cpu":
        torch.set_num_threads(work.experiment.evaluate.threads)
    found = look(_subject(work, run, original, settings, downstream), settings)
    write(path, found)
    remote.push_file(path, work.report, anew=damaged)
    work.report({"event": "end", "title": title, "folder": str(run.folder), "status": "ok"})
    return path, read(path)


def _subject(work: Workplace, run: Run, original: Run | None, settings: Settings, downstream: str) -> Subject:
    streams = {part: work.split.stream(part, work.data) for part in PARTS if len(work.split.index(part))}
    model, compared = _model(work, run), _compared(original, settings)
    before = None
    if compared is not None:
        before = model if compared.folder == run.folder else _model(work, compared)
    sets = _downstream(downstream, work.data.input_shape) if settings.deep and downstream else []
    untrained = work.new_model(derive(work.experiment.seed, "untrained teacher"), weights=False).eval() if settings.deep else None
    return Subject(model, before, streams, work.split.kind, sets, untrained)


def _compared(original: Run | None, settings: Settings) -> Run | None:
    """Return the original that a run is compared with; None where nothing is compared, or where the original diverged."""
    return original if settings.deep and original is not None and original.status == "ok" else None


def _model(work: Workplace, run: Run) -> nn.Module:
    model = work.new_model(0, weights=False)
    checkpoint.load_into(model, run.folder / "weights.safetensors")
    return model.eval()


def _downstream(folder: str, input_shape: tuple[int, ...]) -> list[Downstream]:
    key = folder, downstream_sets.fingerprint(Path(folder)), tuple(input_shape)
    if key not in _DOWNSTREAM:
        _DOWNSTREAM[key] = downstream_sets.read(Path(folder), input_shape)
    return _DOWNSTREAM[key]
