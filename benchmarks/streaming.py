"""Memory and speed of the streaming path, on a set whose decoded pictures are larger than the memory that is allowed.

    python benchmarks/streaming.py [FOLDER] [PICTURES] [LIMIT_MB]

Writes PICTURES JPEG files (6,000 unless told otherwise) of 256 x 256 pixels to FOLDER, the bundled Fashion-MNIST enlarged, as a folder,
as WebDataset shards and as a Hugging Face table. Each path then runs in a process of its own that may take LIMIT_MB (400) of private memory
on top of what the imported libraries take (RLIMIT_DATA), its reading processes likewise; decoded at 224 pixels, the whole set is 0.86 GB.
Shown: the largest private memory of all processes together above the start, for half of the set and for all of it; pictures per second in
shuffled and augmented order, after the files have been read once; and what loading the set as a whole does under the same limit.
"""

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

SIZE, BATCH, WORKERS = 224, 64, 2
PATHS = ("folder", "webdataset", "huggingface")


def write(root: Path, count: int) -> None:
    """Write the set in its three forms; what is there is kept."""
    from PIL import Image

    from expunge.data.bundled import read_fashion_mnist

    if (root / f"done-{count}").exists():
        return
    arrays = read_fashion_mnist()
    samples = []
    for number in range(count):
        label = int(arrays.y_train[number % 5000])
        name = f"{'train' if number % 10 else 'test'}/{label}/{number:06}.jpg"
        held = io.BytesIO()
        turned = (
            Image.fromarray(arrays.x_train[number % 5000, 0].numpy())
            .resize((256, 256), Image.Resampling.BICUBIC)
            .rotate(number // 5000 * 7)
        )
        turned.convert("RGB").save(held, "JPEG", quality=90)
        path = root / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held.getvalue())
        samples.append((name, label))
    _write_shards(root, samples)
    _write_table(root, samples)
    (root / f"done-{count}").touch()


def _write_shards(root: Path, samples: list[tuple[str, int]]) -> None:
    (root / "webdataset").mkdir(exist_ok=True)
    for part in ("train", "test"):
        chosen = [sample for sample in samples if sample[0].startswith(part)]
        for start in range(0, len(chosen), 1000):
            with tarfile.open(root / "webdataset" / f"{part}-{start // 1000:04}.tar", "w") as shard:
                for name, label in chosen[start : start + 1000]:
                    shard.add(root / "folder" / name, Path(name).name)
                    member = tarfile.TarInfo(f"{Path(name).stem}.cls")
                    member.size = 1
                    shard.addfile(member, io.BytesIO(str(label).encode()))


def _write_table(root: Path, samples: list[tuple[str, int]]) -> None:
    from datasets import Dataset, DatasetDict, Features, Image, Value, disable_progress_bars

    disable_progress_bars()
    features, made = Features({"image": Image(), "label": Value("int64")}), {}
    for part in ("train", "test"):
        chosen = [sample for sample in samples if sample[0].startswith(part)]
        pictures = [{"bytes": (root / "folder" / name).read_bytes(), "path": None} for name, _ in chosen]
        made[part] = Dataset.from_dict({"image": pictures, "label": [label for _, label in chosen]}, features=features)
    DatasetDict(made).save_to_disk(str(root / "huggingface"))


class Watch(threading.Thread):
    """The largest private memory, in bytes, of this process and its children together."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.stopped = 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.1):
            self.most = max(self.most, private())


def private() -> int:
    """Return the anonymous and shared memory of this process and its children, in bytes; what a fork shares is counted once."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = 0
    for process in (str(os.getpid()), *children):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return total


def measure(root: Path, path: str, count: int, limit_mb: int, way: str) -> dict[str, float | str]:
    """Return what one path takes in this process."""
    import torch

    from expunge import config
    from expunge.data.dataset import Dataset

    torch.set_num_threads(1)
    fields = {"name": path, "root": root / path, "size": SIZE, "workers": WORKERS, "cache": root / "cache", "crop": "resized"}
    if way == "whole":
        fields |= {"crop": "shift", "memory_limit_gb": 100.0}
    fields |= {"train_limit": count * 9 // 10, "test_limit": count // 10}
    built = config.build("datasets", fields, "data")
    assert isinstance(built, Dataset)
    if path == "huggingface":
        import datasets  # noqa: F401  # its own memory is no part of the measurement
    in_use = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, ((in_use << 10) + (limit_mb << 20),) * 2)
    watch, before = Watch(), private()
    watch.start()
    data = built.load()
    rates = []
    for epoch in range(2):
        order, started, seen = torch.randperm(data.train_size), time.perf_counter(), 0
        for x, _ in data.source.batches(order, BATCH, augment=True, seed=0, epoch=epoch):
            seen += len(x)
        assert seen == data.train_size
        rates.append(seen / (time.perf_counter() - started))
    watch.stopped.set()
    return {"pictures_per_second": max(rates), "private_mb": (watch.most - before) / 2**20, "decoded_mb": count * 3 * SIZE**2 / 2**20}


def run(root: Path, path: str, count: int, limit_mb: int, way: str) -> dict[str, float | str]:
    """Return what a process of its own measures, or how it failed."""
    command = [sys.executable, __file__, "--measure", str(root), path, str(count), str(limit_mb), way]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return {"failed": done.stderr.strip().splitlines()[-1][:100]}


def main(folder: str = "", pictures: str = "6000", limit_mb: str = "400") -> None:
    count, limit = int(pictures), int(limit_mb)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(folder or temporary)
        write(root, count)
        decoded = count * 3 * SIZE**2 / 2**20
        print(f"{count:,} JPEG pictures, {decoded:,.0f} MB decoded, limit {limit} MB a process, {WORKERS} reading processes")
        print(f"{'path':<14}{'way':<10}{'pictures':>10}{'decoded MB':>12}{'private MB':>12}{'pictures/s':>12}")
        for path in PATHS:
            for way, part in (("streamed", count // 2), ("streamed", count), ("whole", count)):
                found = run(root, path, part, limit, way)
                if "failed" in found:
                    print(f"{path:<14}{way:<10}{part:>10,}   {found['failed']}")
                    continue
                shown = [float(found[key]) for key in ("decoded_mb", "private_mb", "pictures_per_second")]
                print(f"{path:<14}{way:<10}{part:>10,}{shown[0]:>12,.0f}{shown[1]:>12,.0f}{shown[2]:>12,.0f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])))
    else:
        main(*sys.argv[1:])
