"""Every data set: what it promises about its examples, and what it says about files that are missing or damaged."""

import gzip
import hashlib
import pickle
import struct
import time

import layouts
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from expunge import config, registry
from expunge.data import bundled
from expunge.data.augmentation import Augmentation
from expunge.data.dataset import from_tensors
from expunge.data.source import LoaderSource, TensorSource
from expunge.errors import BadInput


def build(name: str, **fields):
    return config.build("datasets", {"name": name, **fields}, "data")


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(folder, train: int = 12, test: int = 6, compress: bool = False) -> dict[str, np.ndarray]:
    made = {}
    for prefix, count in (("train", train), ("t10k", test)):
        made[f"{prefix}-images-idx3-ubyte"] = pixels(count, 28, 28, seed=count)
        made[f"{prefix}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in made.items():
        raw = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        (folder / (name + (".gz" if compress else ""))).write_bytes(gzip.compress(raw) if compress else raw)
    return made


def write_cifar(root, monkeypatch, classes: int) -> tuple[np.ndarray, list[int]]:
    """Write files of the official format and tell torchvision their MD5 sums."""
    from torchvision import datasets

    reader = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]
    folder, key = root / reader.base_folder, "labels" if classes == 10 else "fine_labels"
    folder.mkdir(parents=True)

    def write(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    rows = pixels(4, 3072, seed=1)
    batch = {"data": rows, key: [0, 1, 2, 3]}
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(reader, part, [[name, write(name, batch)] for name, _ in getattr(reader, part)])
    names = [f"class {number}" for number in range(classes)]
    meta = {**reader.meta, "md5": write(reader.meta["filename"], {reader.meta["key"]: names})}
    monkeypatch.setattr(reader, "meta", meta)
    return rows.reshape(4, 3, 32, 32), batch[key]


def write_svhn(root, monkeypatch) -> np.ndarray:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    images, listed = pixels(5, 32, 32, 3), {}
    for part, labels in (("train", [1, 2, 10, 3, 4]), ("test", [10, 1, 2, 3, 4])):
        path = root / f"{part}_32x32.mat"
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array(labels, dtype=np.uint8)[:, None]})
        listed[part] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", listed)
    return images.transpose(0, 3, 1, 2)


def write_folder(root, parts=("train", "test"), each: int = 3) -> None:
    for part in parts:
        for label, name in enumerate(["ant", "bee"]):
            (root / part / name).mkdir(parents=True)
            for number in range(each):
                Image.fromarray(pixels(1, 20, 30, 3, seed=10 * label + number)[0]).save(root / part / name / f"{number}.png")


WRITERS = {
    "celeba": layouts.write_celeba,
    "cub": layouts.write_cub,
    "domainnet": layouts.write_domainnet,
    "huggingface": layouts.write_huggingface,
    "imagenet": layouts.write_imagenet,
    "office_home": layouts.write_domains,
    "tiny_imagenet": layouts.write_tiny_imagenet,
    "webdataset": layouts.write_shards,
}


@pytest.fixture(params=registry.names("datasets"))
def loaded(request, tmp_path, monkeypatch):
    """Each data set with the files that it needs; a new one without an entry here fails."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name, fields = request.param, {}
    if name == "mnist":
        write_idx(tmp_path)
        fields = {"root": tmp_path}
    elif name in ("cifar10", "cifar100"):
        write_cifar(tmp_path, monkeypatch, int(name[5:]))
        fields = {"root": tmp_path}
    elif name == "svhn":
        write_svhn(tmp_path, monkeypatch)
        fields = {"root": tmp_path}
    elif name == "folder":
        write_folder(tmp_path)
        fields = {"root": tmp_path, "size": 16}
    elif name == "tensors":
        y = np.arange(6) % 3
        np.savez(tmp_path / "own.npz", x_train=pixels(6, 8, 8, 3), y_train=y, x_test=pixels(6, 8, 8, 3, seed=1), y_test=y)
        fields = {"file": tmp_path / "own.npz"}
    elif name in WRITERS:
        WRITERS[name](tmp_path / "set")
        fields = {"root": tmp_path / "set", "size": 16, **({"workers": 0} if name == "imagenet" else {})}
    return lambda **more: build(name, **fields, **more).load()


@pytest.mark.filterwarnings("ignore:data. no training example is of classes")
def test_promises_of_every_data_set(loaded):
    data = loaded()
    assert data.name and data.num_classes == len(data.class_names) >= 2
    assert data.labels.dtype == torch.int64 and data.labels.device.type == "cpu" and len(data.labels) == len(data.source)
    assert 0 <= int(data.labels.min()) and int(data.labels.max()) < data.num_classes
    assert torch.equal(torch.cat([data.train_index, data.test_index]), torch.arange(len(data.source)))
    assert len(data.train_index) == data.train_size and len(data.test_index)
    assert len(data.mean) == len(data.std) == data.input_shape[0] and min(data.std) > 0
    (x, y), *_ = data.source.batches(torch.arange(4), 4, augment=True, seed=0, epoch=0)
    assert tuple(x.shape) == (4, *data.input_shape) and x.dtype == torch.float32 and 0 <= float(x.min()) and float(x.max()) <= 1
    assert torch.equal(y, data.labels[:4])
    assert loaded().fingerprint == data.fingerprint


@pytest.mark.filterwarnings("ignore:data. no training example is of classes")
def test_limits_take_the_first_examples_and_change_the_fingerprint(loaded):
    whole, part = loaded(), loaded(train_limit=4, test_limit=2)
    assert (part.train_size, len(part.test_index)) == (4, 2)
    assert part.fingerprint != whole.fingerprint
    with pytest.raises(BadInput, match="data.train_limit: there are"):
        loaded(train_limit=10**6)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist"])
def test_missing_files_are_named_with_the_way_to_get_them(name, tmp_path):
    with pytest.raises(BadInput, match=r"needs its official files.*data.root=FOLDER.*data.download=true"):
        build(name, root=tmp_path).load()
    with pytest.raises(BadInput, match="does not exist"):
        build(name, root=tmp_path / "nowhere").load()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
def test_idx_files_are_read_exactly(tmp_path, compress, place):
    made = write_idx(tmp_path / place, compress=compress)
    data = build("mnist", root=tmp_path).load()
    found = torch.cat([x for x, _ in data.source.batches(data.train_index, 5, augment=False, seed=0, epoch=0)])
    assert torch.equal(found[:, 0], torch.from_numpy(made["train-images-idx3-ubyte"]) / 255)
    assert data.labels.tolist() == [*made["train-labels-idx1-ubyte"], *made["t10k-labels-idx1-ubyte"]]


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "of another kind": lambda path: path.write_bytes(b"<html>not found</html>"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_idx_files_are_named(tmp_path, damage, compress):
    write_idx(tmp_path, compress=compress)
    path = tmp_path / ("train-labels-idx1-ubyte" + (".gz" if compress else ""))
    DAMAGE[damage](path)
    if compress and damage == "too long":
        path.write_bytes(path.read_bytes()[:-4] + gzip.compress(b"more"))
    with pytest.raises(BadInput, match="train-labels-idx1-ubyte"):
        build("mnist", root=tmp_path).load()


def test_labels_and_pictures_must_agree_in_number(tmp_path):
    write_idx(tmp_path)
    labels = np.zeros(11, dtype=np.uint8)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", 11) + labels.tobytes())
    with pytest.raises(BadInput, match="holds 11 labels for 12 pictures"):
        build("mnist", root=tmp_path).load()


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_files_are_read_exactly_and_converted_once(tmp_path, monkeypatch, classes):
    images, labels = write_cifar(tmp_path, monkeypatch, classes)
    data = build(f"cifar{classes}", root=tmp_path).load()
    batches = 5 if classes == 10 else 1
    assert data.train_size == 4 * batches and data.class_names[3] == "class 3"
    assert data.labels.tolist() == labels * (batches + 1)
    (x, _), *_ = data.source.batches(torch.arange(4), 4, augment=False, seed=0, epoch=0)
    assert torch.equal(x, torch.from_numpy(images) / 255)
    kept = list(tmp_path.rglob("*.expunge.safetensors"))
    assert len(kept) == 1
    from torchvision import datasets

    monkeypatch.setattr(getattr(datasets, f"CIFAR{classes}"), "__init__", None)
    again = build(f"cifar{classes}", root=next(tmp_path.glob("cifar-*"))).load()
    assert again.fingerprint == data.fingerprint and again.class_names == data.class_names


def test_damaged_cifar_file_is_refused_before_it_is_unpickled(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, 10)
    path, trap = tmp_path / "cifar-10-batches-py" / "data_batch_3", tmp_path / "trap"

    class Trap:
        def __reduce__(self):
            return (open, (str(trap), "w"))

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadInput, match=r"data_batch_3 is damaged or not the official file: \d+ bytes"):
        build("cifar10", root=tmp_path).load()
    assert not trap.exists()


def test_converted_file_is_made_again_when_damaged_or_when_the_official_files_change(tmp_path):
    write_idx(tmp_path)
    first = build("mnist", root=tmp_path).load().fingerprint
    (kept,) = tmp_path.glob("*.expunge.safetensors")
    kept.write_bytes(kept.read_bytes()[:50])
    assert build("mnist", root=tmp_path).load().fingerprint == first
    write_idx(tmp_path, train=13)
    assert build("mnist", root=tmp_path).load().train_size == 13


def test_svhn_is_read_exactly(tmp_path, monkeypatch):
    images = write_svhn(tmp_path, monkeypatch)
    data = build("svhn", root=tmp_path).load()
    assert data.labels.tolist() == [1, 2, 0, 3, 4, 0, 1, 2, 3, 4]
    (x, _), *_ = data.source.batches(torch.arange(5), 5, augment=False, seed=0, epoch=0)
    assert torch.equal(x, torch.from_numpy(images.copy()) / 255)
    (tmp_path / "test_32x32.mat").write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"test_32x32.mat is damaged"):
        build("svhn", root=tmp_path).load()


def test_bundled_fashion_mnist_is_balanced_and_loads_fast():
    data = build("fashion_mnist").load()
    assert (data.train_size, len(data.test_index)) == (5000, 2000)
    assert torch.bincount(data.labels[:5000]).tolist() == [500] * 10 and torch.bincount(data.labels[5000:]).tolist() == [200] * 10
    mean, std = data.source.moments(data.train_index)
    assert mean[0] == pytest.approx(0.2860, abs=0.01) and std[0] == pytest.approx(0.3530, abs=0.01)
    started = time.process_time()
    build("fashion_mnist").load()
    assert time.process_time() - started < 0.3
    assert "MIT License" in (bundled.FOLDER / "LICENSE-fashion-mnist.txt").read_text()


def test_bundled_part_is_made_from_official_files(tmp_path, monkeypatch):
    from expunge.data.bundled import make_fashion_mnist

    made = write_idx(tmp_path, train=200, test=200)
    for module in (make_fashion_mnist, bundled):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(make_fashion_mnist, "TRAIN_PER_CLASS", 10)
    monkeypatch.setattr(make_fashion_mnist, "TEST_PER_CLASS", 10)
    make_fashion_mnist.main(tmp_path)
    arrays = bundled.read_fashion_mnist()
    assert torch.bincount(arrays.y_train).tolist() == torch.bincount(arrays.y_test).tolist() == [10] * 10
    originals = {image.tobytes(): label for label, image in enumerate(made["train-images-idx3-ubyte"])}
    positions = [originals[image.numpy().tobytes()] for image in arrays.x_train[:, 0].contiguous()]
    assert positions == sorted(positions) and [p % 10 for p in positions] == arrays.y_train.tolist()


def test_mini_variant_refuses_fields_that_it_would_ignore(tmp_path):
    with pytest.raises(BadInput, match="data.variant=full"):
        build("fashion_mnist", root=tmp_path).load()
    write_idx(tmp_path)
    assert build("fashion_mnist", root=tmp_path, variant="full").load().train_size == 12


@pytest.mark.parametrize("name, default", [("digits", None), ("fashion_mnist", None)])
def test_augmentation_follows_the_field(name, default):
    plain, changed = build(name).load().source, build(name, augment=True).load().source
    order = torch.arange(64)
    batch = [next(s.batches(order, 64, augment=True, seed=0, epoch=0))[0] for s in (plain, changed)]
    untouched = next(plain.batches(order, 64, augment=False, seed=0, epoch=0))[0]
    assert torch.equal(batch[0], untouched) and not torch.equal(batch[1], untouched)


def test_folder_keeps_proportions_and_streams_what_does_not_fit(tmp_path):
    write_folder(tmp_path, ("train", "val"))
    resident = build("folder", root=tmp_path, size=16).load()
    streamed = build("folder", root=tmp_path, size=16, memory_limit_gb=0.0, workers=0).load()
    assert isinstance(resident.source, TensorSource) and isinstance(streamed.source, LoaderSource)
    assert resident.class_names == streamed.class_names == ("ant", "bee") and resident.labels.tolist() == streamed.labels.tolist()
    pairs = zip(*(d.source.batches(torch.arange(12), 5, augment=True, seed=0, epoch=1) for d in (resident, streamed)), strict=True)
    seen = [torch.equal(a, b) and torch.equal(i, j) for (a, i), (b, j) in pairs]
    assert seen == [True] * 3
    assert resident.labels[build("folder", root=tmp_path, train_limit=2, size=16).load().train_index].tolist() != []
    assert build("folder", root=tmp_path, train_limit=2, size=16).load().labels[:2].tolist() == [0, 1]


def test_folder_names_what_is_wrong(tmp_path):
    with pytest.raises(BadInput, match="data.root: no folder is given"):
        build("folder").load()
    with pytest.raises(BadInput, match=r"train is missing.*ROOT/train/CLASS"):
        build("folder", root=tmp_path).load()
    write_folder(tmp_path)
    broken = tmp_path / "train" / "bee" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"bee.1\.png cannot be read as a picture"):
        build("folder", root=tmp_path).load()
    for workers in (0, 1):
        streamed = build("folder", root=tmp_path, memory_limit_gb=0.0, workers=workers).load()
        with pytest.raises(BadInput, match=r"bee.1\.png cannot be read as a picture"):
            list(streamed.source.batches(streamed.train_index, 2, augment=False, seed=0, epoch=0))
    (tmp_path / "test" / "cat").mkdir()
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(BadInput, match="differ in their classes, for example 'cat'"):
        build("folder", root=tmp_path).load()


def test_tensors_from_both_kinds_of_file_are_the_same(tmp_path):
    arrays = {"x_train": pixels(6, 3, 8, 8), "y_train": np.arange(6) % 3, "x_test": pixels(3, 3, 8, 8), "y_test": np.arange(3)}
    np.savez(tmp_path / "own.npz", **arrays)
    save_file(arrays, tmp_path / "own.safetensors")
    one, two = (build("tensors", file=tmp_path / f"own.{kind}").load() for kind in ("npz", "safetensors"))
    assert one.fingerprint == two.fingerprint and one.input_shape == (3, 8, 8)
    last = from_tensors(*(arrays[k].transpose(0, 2, 3, 1) if "x" in k else arrays[k] for k in ("x_train", "y_train", "x_test", "y_test")))
    assert last.fingerprint == one.fingerprint


def test_tensors_never_unpickle_and_name_what_is_missing(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, x_train=np.array([{}], dtype=object), y_train=[0], x_test=[[0.0]], y_test=[0])
    with pytest.raises(BadInput, match="it holds Python objects"):
        build("tensors", file=path).load()
    np.savez(path, x_train=np.zeros((2, 3)))
    with pytest.raises(BadInput, match="holds no y_train, x_test, y_test; found x_train"):
        build("tensors", file=path).load()
    np.savez(path, x_train=np.zeros((1, 3)), y_train=["cat"], x_test=np.zeros((1, 3)), y_test=["cat"])
    with pytest.raises(BadInput, match="own.npz holds text or dates in y_train. Save numbers from 0"):
        build("tensors", file=path).load()
    np.savez(path, x_train=np.zeros((1, 3), dtype=np.clongdouble), y_train=[0], x_test=np.zeros((1, 3)), y_test=[0])
    with pytest.raises(BadInput, match="own.npz cannot be read"):
        build("tensors", file=path).load()
    for name in ("own.npz", "own.safetensors", "own.pt"):
        (tmp_path / name).write_bytes(b"damaged file")
        with pytest.raises(BadInput, match=name):
            build("tensors", file=tmp_path / name).load()
    with pytest.raises(BadInput, match="does not exist"):
        build("tensors", file=tmp_path / "nothing.npz").load()
    with pytest.raises(BadInput, match="no file is given"):
        build("tensors").load()


def test_arrays_that_do_not_fit_together_are_refused():
    x, y = pixels(6, 3, 8, 8), np.arange(6) % 3
    wrong = {
        "one label for each of 6": (x, y[:5], x, y),
        "one shape and type": (x, y, x[:, :1], y),
        "both are needed": (x, y, x[:0], y[:0]),
        "labels are whole numbers": (x, y.astype(np.float32), x, y.astype(np.float32)),
        "labels count from 0": (x, y - 1, x, y),
        "uint8 pictures or floating point": (x.astype(np.int64), y, x.astype(np.int64), y),
    }
    for message, arrays in wrong.items():
        with pytest.raises(BadInput, match=message):
            from_tensors(*arrays)
    with pytest.raises(BadInput, match="label 2, but there are 2 class names"):
        from_tensors(x, y, x, y, class_names=("a", "b"))
    with pytest.raises(BadInput, match="only uint8 pictures are augmented"):
        from_tensors(x / 255, y, x / 255, y, augmentation=Augmentation())


def test_data_of_one_class_is_refused():
    x, y = pixels(6, 3, 8, 8), np.arange(6) % 2
    for names in (None, ("cat", "dog")):
        with pytest.raises(BadInput, match=r"one class only \((0|cat)\); at least two are needed"):
            from_tensors(x, y * 0, x, y * 0, class_names=names)
    with pytest.raises(BadInput, match=r"one class only \(1\).*where data.train_limit is given, raise it"):
        build("digits", train_limit=1).load()


def test_classes_in_the_test_part_alone_are_refused_or_said(tmp_path):
    x, y = pixels(6, 3, 8, 8), np.arange(6) % 3
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y + 1)
    for limits in ({}, {"train_limit": 3, "test_limit": 1}):
        with pytest.raises(BadInput, match="the test part holds labels that no training example has: 3.*Leave these test examples out"):
            build("tensors", file=tmp_path / "own.npz", **limits).load()
    with pytest.warns(UserWarning, match="no training example is of classes in the test part: dog. No model can learn them"):
        from_tensors(x, y, x, y + 1, class_names=("ant", "bee", "cat", "dog"))
    with pytest.warns(UserWarning, match="0, 3, 4, 5, 6 and 3 more"):
        build("digits", train_limit=2, test_limit=100).load()


def test_fingerprint_changes_with_one_pixel_and_with_one_label():
    x, y = pixels(6, 3, 8, 8), np.arange(6) % 3
    base = from_tensors(x, y, x, y).fingerprint
    other_x, other_y = x.copy(), y.copy()
    other_x[3, 1, 2, 2] ^= 1
    other_y[0] = 1
    assert len({base, from_tensors(other_x, y, x, y).fingerprint, from_tensors(x, other_y, x, y).fingerprint}) == 3


def test_moments_are_those_of_numpy():
    x, y = pixels(50, 3, 8, 8), np.arange(50) % 3
    data = from_tensors(x, y, pixels(9, 3, 8, 8, seed=5), y[:9])
    np.testing.assert_allclose(data.mean, (x / 255).mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.std, (x / 255).std((0, 2, 3)), rtol=1e-6)


@pytest.mark.download
def test_official_files_are_fetched(tmp_path):
    assert build("mnist", root=tmp_path, download=True).load().train_size == 60_000


def test_unreachable_download_is_explained(tmp_path, monkeypatch):
    import urllib.error

    from torchvision.datasets import CIFAR10

    def refuse(*arguments, **fields):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(CIFAR10, "__init__", refuse)
    with pytest.raises(BadInput, match=r"data.download: the files of cifar10 could not be fetched.*no route.*data.root=FOLDER"):
        build("cifar10", root=tmp_path, download=True).load()
