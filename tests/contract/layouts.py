"""Small folders laid out like the official data sets, of the real pictures that come with the package."""

import io
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from expunge.data.bundled import read_fashion_mnist

WNIDS = ("n01440764", "n01443537", "n02119789")
WORDS = ("tench", "goldfish", "kit fox")
ATTRIBUTES = ("Bald", "Chubby", "Gray_Hair", "Male")


@cache
def _tiles() -> np.ndarray:
    return read_fashion_mnist().x_train[:, 0].numpy()


def picture(number: int, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """Return a real picture in colour, width x height; another for each number."""
    return Image.fromarray(_tiles()[number]).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def encoded(number: int, kind: str = "PNG", size: tuple[int, int] = (48, 36)) -> bytes:
    """Return an encoded real picture."""
    held = io.BytesIO()
    picture(number, size).save(held, kind)
    return held.getvalue()


def put(path: Path, number: int, size: tuple[int, int] = (48, 36)) -> None:
    """Write a real picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, size).save(path)


def write_celeba(root: Path, count: int = 24) -> None:
    """Write ``count`` faces that are none: every fourth is for validation or testing."""
    rows, parts = [], []
    for number in range(count):
        name = f"{number + 1:06}.jpg"
        put(root / "img_align_celeba" / name, number, (36, 44))
        signs = [1 if number >> bit & 1 else -1 for bit in range(len(ATTRIBUTES))]
        rows.append(f"{name} " + " ".join(f"{sign:2}" for sign in signs))
        parts.append(f"{name} {(0, 0, 0, 1, 0, 0, 2, 2)[number % 8]}")
    (root / "list_attr_celeba.txt").write_text(f"{count}\n{' '.join(ATTRIBUTES)} \n" + "\n".join(rows) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


def write_domains(root: Path, domains=("Art", "Clipart", "Product", "Real World"), classes=("Bike", "Mug"), each: int = 5) -> None:
    """Write DOMAIN/CLASS/PICTURE."""
    for place, domain in enumerate(domains):
        for label, name in enumerate(classes):
            for number in range(each):
                put(root / domain / name / f"{number:05}.jpg", 100 * place + 10 * label + number)


def write_cub(root: Path, each: int = 4) -> None:
    """Write two kinds of birds with the official lists."""
    names, files = ("001.Black_footed_Albatross", "002.Laysan_Albatross"), []
    for label, name in enumerate(names):
        for number in range(each):
            files.append((f"{name}/{name[4:]}_{number:04}.jpg", label + 1, int(number % 2 == 0)))
            put(root / "images" / files[-1][0], 10 * label + number)
    lists = {"images": 0, "image_class_labels": 1, "train_test_split": 2}
    for name, column in lists.items():
        (root / f"{name}.txt").write_text("".join(f"{number} {row[column]}\n" for number, row in enumerate(files, 1)))
    (root / "classes.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(names, 1)))


def write_domainnet(root: Path, each: int = 4) -> None:
    """Write two domains with their lists."""
    for domain in ("clipart", "real"):
        rows = []
        for label, name in enumerate(("airplane", "zebra")):
            for number in range(each):
                rows.append((f"{domain}/{name}/{domain}_{label:03}_{number:06}.jpg", label, number))
                put(root / rows[-1][0], 10 * label + number)
        for part, first in (("train", True), ("test", False)):
            chosen = [f"{file} {label}\n" for file, label, number in rows if (number < each // 2) == first]
            (root / f"{domain}_{part}.txt").write_text("".join(chosen))


def write_tiny_imagenet(root: Path, each: int = 4) -> None:
    """Write three classes, the validation pictures in one folder."""
    annotations = []
    for label, wnid in enumerate(WNIDS):
        for number in range(each):
            put(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 10 * label + number, (64, 64))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        for number in range(2):
            annotations.append(f"val_{2 * label + number}.JPEG\t{wnid}\t0\t0\t63\t63\n")
            put(root / "val" / "images" / f"val_{2 * label + number}.JPEG", 500 + 10 * label + number, (64, 64))
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(annotations)))
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "words.txt").write_text("".join(f"{wnid}\t{word}, and more\n" for wnid, word in zip(WNIDS, WORDS, strict=True)))


def write_imagenet(root: Path, each: int = 4, validation: str = "folders") -> None:
    """Write three classes; ``validation`` is folders, list, solution or truth: how the labels of the validation pictures are told."""
    files = []
    for label, wnid in enumerate(WNIDS):
        for number in range(each):
            put(root / "train" / wnid / f"{wnid}_{number}.JPEG", 10 * label + number, (60, 40))
    for number in range(6):
        files.append((f"ILSVRC2012_val_{number + 1:08}.JPEG", number * 2 % 3))
        folder = root / "val" / WNIDS[files[-1][1]] if validation == "folders" else root / "val"
        put(folder / files[-1][0], 500 + number, (40, 60))
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {word}, Latin\n" for wnid, word in zip(WNIDS, WORDS, strict=True)))
    if validation == "list":
        (root / "val.txt").write_text("".join(f"{file} {label}\n" for file, label in files))
    if validation == "solution":
        rows = [f"{Path(file).stem},{WNIDS[label]} 1 2 3 4 {WNIDS[label]} 5 6 7 8\n" for file, label in files]
        (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(reversed(rows)))
    if validation == "truth":
        _write_devkit(root, [label for _, label in files])


def _write_devkit(root: Path, labels: list[int]) -> None:
    """Write the ground truth with numbers of its own, as the devkit has them, and the table that explains them."""
    from scipy.io import savemat

    numbers = {2: 1, 0: 2, 1: 3}
    synsets = np.zeros((3, 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for row, (label, number) in enumerate(numbers.items()):
        synsets[row, 0] = (number, WNIDS[label], WORDS[label])
    savemat(root / "meta.mat", {"synsets": synsets})
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{numbers[label]}\n" for label in labels))


def write_shard(path: Path, samples: list[tuple[str, bytes, str]], ending: str = "jpg") -> None:
    """Write (key, picture, label) as a shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for key, content, label in samples:
            for suffix, held in ((ending, content), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(held)
                shard.addfile(member, io.BytesIO(held))


def write_shards(root: Path, train: int = 12, test: int = 6, each: int = 5) -> None:
    """Write shards of a few samples with three classes."""
    for part, start, count in (("train", 0, train), ("val", 500, test)):
        samples = [(f"{part}{number:06}", encoded(start + number, "JPEG"), str(number % 3)) for number in range(count)]
        for shard in range(0, count, each):
            write_shard(root / f"{part}-{shard // each:06}.tar", samples[shard : shard + each])


def write_huggingface(root: Path, train: int = 12, test: int = 6, kind: str = "arrow") -> None:
    """Write a table of three classes with a key column, as ``save_to_disk`` or as parquet."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, disable_progress_bars

    disable_progress_bars()
    features = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee", "cat"]), "file": Value("string")})
    made = {}
    for part, start, count in (("train", 0, train), ("validation", 500, test)):
        pictures = [{"bytes": encoded(start + number), "path": None} for number in range(count)]
        columns = {"image": pictures, "label": [number % 3 for number in range(count)], "file": [f"{part}-{n}" for n in range(count)]}
        made[part] = Dataset.from_dict(columns, features=features)
    if kind == "arrow":
        DatasetDict(made).save_to_disk(str(root))
    for part, table in made.items() if kind == "parquet" else ():
        root.mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(root / f"{part}-00000-of-00001.parquet"))
