"""Pictures that are read as they are needed: the same batches from files, shards and tables, keyed randomness, honest fingerprints."""

import hashlib
import math
import os
import shutil
import signal
import time

import layouts
import numpy as np
import pytest
import torch
from PIL import Image

from expunge import config
from expunge.data import contents
from expunge.data.augmentation import Augmentation
from expunge.data.datasets.webdataset import number_labels
from expunge.data.names import Names
from expunge.data.pictures import Cut, Files, decode
from expunge.data.shards import split_name
from expunge.data.source import LoaderSource, TensorSource
from expunge.data.split import make_split
from expunge.engine.stream import Stream
from expunge.errors import BadInput
from expunge.pools.feed import _plain

OLD = (1_600_000_000, 1_600_000_000)
"""A time long past, for files that are trusted by their time."""


def build(name: str, **fields):
    return config.build("datasets", {"name": name, **fields}, "data")


def batches(data, order, size=4, augment=False, seed=0, epoch=0):
    return [(x, y) for x, y in data.source.batches(torch.as_tensor(order), size, augment=augment, seed=seed, epoch=epoch)]


def pixels(data, order, **fields):
    return torch.cat([x for x, _ in batches(data, order, **fields)])


def age(root):
    for path in root.rglob("*"):
        os.utime(path, OLD)


@pytest.fixture
def three(tmp_path):
    """The same 18 pictures in files, in shards and in a table, streamed."""
    for label, name in enumerate("abc"):
        for number in range(18):
            if number % 3 == label:
                part, place = ("train", number) if number < 12 else ("test", 500 + number - 12)
                (tmp_path / "files" / part / name).mkdir(parents=True, exist_ok=True)
                (tmp_path / "files" / part / name / f"{place:03}.png").write_bytes(layouts.encoded(place))
    for part, start, count in (("train", 0, 12), ("test", 500, 6)):
        samples = [(f"{part}/{start + n:03}", layouts.encoded(start + n), str(n % 3)) for n in range(count)]
        for shard in range(0, count, 5):
            layouts.write_shard(tmp_path / "shards" / f"{part}-{shard:03}.tar", samples[shard : shard + 5], "png")
    layouts.write_huggingface(tmp_path / "table")
    fields = {"size": 16, "memory_limit_gb": 0.0, "workers": 0, "cache": tmp_path / "cache"}
    return {
        "folder": lambda **more: build("folder", root=tmp_path / "files", **{**fields, **more}).load(),
        "webdataset": lambda **more: build("webdataset", root=tmp_path / "shards", **{**fields, **more}).load(),
        "huggingface": lambda **more: build("huggingface", root=tmp_path / "table", key="file", **{**fields, **more}).load(),
    }


def test_files_shards_and_tables_give_the_same_pictures(three):
    files, shards, table = (load() for load in three.values())
    assert all(isinstance(data.source, LoaderSource) for data in (files, shards, table))
    assert torch.equal(pixels(shards, range(18)), pixels(table, range(18)))
    assert shards.fingerprint == table.fingerprint and shards.labels.tolist() == table.labels.tolist() == [n % 3 for n in range(12)] + [
        n % 3 for n in range(6)
    ]
    by_number = {int(key[-7:-4]): place for place, key in enumerate(files.keys)}
    order = [by_number[n] for n in [*range(12), *range(500, 506)]]
    assert torch.equal(pixels(files, order), pixels(shards, range(18)))
    assert table.class_names == ("ant", "bee", "cat") and list(table.keys)[:2] == ["train-0", "train-1"]


@pytest.mark.parametrize("kind", ["folder", "webdataset", "huggingface"])
@pytest.mark.parametrize("crop", ["shift", "resized"])
def test_batches_do_not_depend_on_batch_size_order_or_workers(three, kind, crop):
    data, workers = three[kind](crop=crop), three[kind](crop=crop, workers=2)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    one = pixels(data, order, size=18, augment=True, seed=3, epoch=1)
    assert torch.equal(one, pixels(data, order, size=5, augment=True, seed=3, epoch=1))
    assert torch.equal(one[order.argsort()], pixels(workers, range(18), size=4, augment=True, seed=3, epoch=1))
    for other in ({"seed": 4, "epoch": 1}, {"seed": 3, "epoch": 2}):
        assert not torch.equal(one, pixels(data, order, size=18, augment=True, **other))
    assert torch.equal(pixels(data, range(18)), pixels(data, range(18), seed=9, epoch=9))


@pytest.mark.parametrize("kind", ["folder", "webdataset", "huggingface"])
def test_what_fits_is_kept_and_is_the_same(three, kind):
    streamed, kept = three[kind](), three[kind](memory_limit_gb=1.0)
    assert not isinstance(kept.source, LoaderSource)
    assert torch.equal(pixels(streamed, range(18), augment=True, seed=1), pixels(kept, range(18), augment=True, seed=1))
    assert list(kept.keys) == list(streamed.keys) and kept.class_names == streamed.class_names


def test_a_stream_is_shuffled_by_key(three):
    data = three["webdataset"]()
    stream = Stream("train", data.source, data.train_index)
    orders = [torch.cat([b.index for b in stream.batches(size, seed=1, epoch=2, shuffle=True)]).tolist() for size in (3, 12)]
    assert orders[0] == orders[1] != sorted(orders[0])


def test_what_is_cut_while_it_is_decoded_is_trained_one_model_at_a_time(three):
    with pytest.raises(ValueError, match="augmentation of its own"):
        _plain(three["folder"](crop="resized").source)
    assert _plain(three["folder"]().source)[1] is not None
    pictures = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(BadInput, match="data.crop: random parts are cut out of pictures that are read anew"):
        TensorSource(pictures, torch.zeros(4, dtype=torch.int64), augmentation=Augmentation(cut=0.5))


def test_examples_are_forgotten_by_key(three, tmp_path):
    wanted = {"folder": ["train/a/003.png", "c/005.png"], "webdataset": ["train/003", "train/005"], "huggingface": ["train-3", "train-5"]}
    for kind, keys in wanted.items():
        data = three[kind]()
        scenario = config.build("scenarios", {"name": "keys", "keys": keys}, "forget")
        chosen = scenario.choose(data, data.train_index.numpy(), 0)
        assert torch.equal(pixels(data, chosen), pixels(three["webdataset"](), [3, 5]))
        assert make_split(data, scenario, 0, validation_fraction=0.0).forget.tolist() == sorted(chosen.tolist())
    (tmp_path / "asked.txt").write_text("key\ntrain-3\n\ntrain-5\n")
    scenario = config.build("scenarios", f"keys:{tmp_path / 'asked.txt'}", "forget")
    assert scenario.choose(three["huggingface"](), np.arange(12), 0).tolist() == [3, 5]


def test_keys_come_from_a_column_of_a_table(three, tmp_path):
    asked = tmp_path / "asked.csv"

    def ask(text):
        asked.write_text(text)
        return config.build("scenarios", f"keys:{asked}", "forget").choose(three["folder"](), np.arange(12), 0).tolist()

    assert (
        ask("ticket,File\nT-1,train/a/000.png\n\nT-2, b/004.png\n") == ask("train/a/000.png\nb/004.png\n") == ask('"a/000.png"\nb/004.png')
    )
    for text, problem in (
        ("ticket,path\nT-1,a/000.png\n", "has the columns ticket, path. Exactly one of them must be called key or file"),
        ("file,key\na/000.png,a/000.png\n", "Exactly one of them"),
        ("ticket,file\nT-1\n", "line 2: 1 cells, the header has 2"),
        ("ticket,file\n", "holds no keys"),
        ("file\ntest/a/nothing.png\n", "no training example has the key"),
    ):
        with pytest.raises(BadInput, match=problem):
            ask(text)


def test_wrong_keys_are_explained(three, tmp_path):
    data = three["folder"]()

    def ask(data=data, **fields):
        return config.build("scenarios", {"name": "keys", **fields}, "forget").choose(data, np.arange(12), 0)

    with pytest.raises(BadInput, match=r"no training example has the key 'a/004.png'. Did you mean 'train/b/004.png'"):
        ask(keys=["a/004.png"])
    with pytest.raises(BadInput, match=r"no training example has the key '\?'. Keys look like 'train/a/000.png'"):
        ask(keys=["?"])
    with pytest.raises(BadInput, match="exactly one"):
        ask()
    with pytest.raises(BadInput, match="pets have no keys|have no keys"):
        ask(build("digits").load(), keys=["1"])
    (tmp_path / "asked.txt").write_text("key\n")
    with pytest.raises(BadInput, match="holds no keys"):
        ask(file=tmp_path / "asked.txt")
    shutil.copytree(tmp_path / "files" / "train" / "a", tmp_path / "files" / "train" / "b", dirs_exist_ok=True)
    with pytest.raises(BadInput, match="2 training examples have the key '003.png': train/a/003.png, train/b/003.png"):
        ask(three["folder"](), keys=["003.png"])


def test_copies_are_counted_in_streamed_data(three, tmp_path):
    shutil.copy(tmp_path / "files" / "train" / "a" / "003.png", tmp_path / "files" / "train" / "b" / "copy.png")
    data = three["folder"]()
    scenario = config.build("scenarios", {"name": "keys", "keys": ["a/003.png"]}, "forget")
    found = make_split(data, scenario, 0, validation_fraction=0.0).duplicates
    assert found == {"forget_in_retain": 1, "forget_in_test": 0, "retain_in_test": 0}


@pytest.mark.parametrize("kind", ["folder", "webdataset", "huggingface"])
def test_content_is_read_once_and_the_fingerprint_says_what_changed(three, kind, tmp_path, monkeypatch):
    root = tmp_path / {"folder": "files", "webdataset": "shards", "huggingface": "table"}[kind]
    age(root)
    first = three[kind]().fingerprint
    calls = []
    real = contents.digest
    for module in ("expunge.data.contents.digest", "expunge.data.shards.digest", "expunge.data.rows.digest"):
        monkeypatch.setattr(module, lambda content: calls.append(1) or real(content))
    assert three[kind]().fingerprint == first and not calls
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    again = build(kind, root=moved, size=16, memory_limit_gb=0.0, workers=0, cache=tmp_path / "cache").load()
    assert again.fingerprint == first and calls
    assert three[kind](size=17).fingerprint != first and three[kind](central=0.5).fingerprint != first


def test_a_file_that_changed_under_its_old_size_is_noticed(three, tmp_path):
    age(tmp_path / "files")
    first = three["folder"]().fingerprint
    path = tmp_path / "files" / "train" / "a" / "003.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    assert three["folder"]().fingerprint != first


def test_a_file_written_just_now_is_not_trusted_by_its_time(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"first")
    state = os.stat(tmp_path / "a.bin")
    first = contents.digests(tmp_path, Names(["a.bin"]), tmp_path / "cache").tobytes()
    (tmp_path / "a.bin").write_bytes(b"other")
    os.utime(tmp_path / "a.bin", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert contents.digests(tmp_path, Names(["a.bin"]), tmp_path / "cache").tobytes() != first
    assert first == hashlib.blake2b(b"first", digest_size=16).digest()


def test_what_was_read_before_an_interruption_is_kept(tmp_path, monkeypatch):
    for number in range(6):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]))
        os.utime(tmp_path / f"{number}.bin", OLD)
    names, real, read = Names(f"{n}.bin" for n in range(6)), contents._read, []
    monkeypatch.setattr(contents, "AT_ONCE", 2)

    def interrupted(root, names):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(list(names))
        return real(root, names)

    monkeypatch.setattr(contents, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        contents.digests(tmp_path, names, tmp_path / "cache")
    monkeypatch.setattr(contents, "_read", lambda root, names: read.append(list(names)) or real(root, names))
    contents.digests(tmp_path, names, tmp_path / "cache")
    assert read == [["0.bin", "1.bin"], ["2.bin", "3.bin"], ["4.bin", "5.bin"]]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_are_read_as_the_library_reads_them(three, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    shards = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"), key=lambda path: (path.name[:2] == "te", path.name))]
    theirs = list(webdataset.WebDataset(shards, shardshuffle=False))
    data = three["webdataset"]()
    assert [sample["__key__"] for sample in theirs] == list(data.keys)
    raw = data.source.dataset.raw
    assert [sample["png"] for sample in theirs] == [raw.read(position) for position in range(18)]
    assert [int(sample["cls"]) for sample in theirs] == data.labels.tolist()


def test_members_are_named_as_in_the_library():
    base = pytest.importorskip("webdataset.tariterators").base_plus_ext
    names = ["a/b.c.jpg", "b.jpg", "a.b/c.seg.png", "dir/x.cls"]
    assert [split_name(name) for name in names] == [base(name) for name in names]
    assert split_name("./a/b.jpg") == ("a/b", "jpg")


def test_labels_may_be_names_or_fields(tmp_path):
    assert number_labels(Names(["b", "a", "b"]), None)[1] == ("a", "b")
    numbers, names = number_labels(Names(["2", "0"]), None)
    assert numbers.tolist() == [2, 0] and names == ("0", "1", "2")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert number_labels(Names(["1", "0"]), tmp_path / "names.txt")[1] == ("cat", "dog")
    for label in ("2", "cow"):
        with pytest.raises(BadInput, match="there are 2 class names, and a label"):
            number_labels(Names(["cat" if label == "cow" else "0", label]), tmp_path / "names.txt")


def test_wrong_shards_are_named(tmp_path):
    def load(**fields):
        return build("webdataset", root=tmp_path, cache=tmp_path / "cache", **fields).load()

    with pytest.raises(BadInput, match=r"holds no \*train\*.tar"):
        load()
    layouts.write_shard(tmp_path / "train-0.tar", [("a", layouts.encoded(0, "JPEG"), "0"), ("b", layouts.encoded(2, "JPEG"), "1")])
    with pytest.raises(BadInput, match=r"holds no \*test\*.tar or \*val\*.tar"):
        load()
    with pytest.raises(BadInput, match="holds both training and test samples"):
        load(test="*.tar")
    layouts.write_shard(tmp_path / "test-0.tar", [("a", b"", "0")], "txt")
    with pytest.raises(BadInput, match=r"test-0.tar: the sample 'a' has no picture"):
        load()
    (tmp_path / "test-0.tar").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(BadInput, match=r"test-0.tar: is no uncompressed tar file"):
        load()
    layouts.write_shard(tmp_path / "test-0.tar", [("a", layouts.encoded(0, "JPEG"), "0")] * 2)
    with pytest.raises(BadInput, match="'a' is there twice"):
        load()
    layouts.write_shard(tmp_path / "test-0.tar", [("a", layouts.encoded(1, "JPEG"), "1")])
    assert list(load().keys) == ["train-0/a", "train-0/b", "test-0/a"]
    with pytest.raises(BadInput, match="the sample 'a' has no label"):
        load(label="json:label")


def test_wrong_tables_are_named(tmp_path):
    pytest.importorskip("datasets")
    layouts.write_huggingface(tmp_path / "table")

    def load(root=tmp_path / "table", **fields):
        return build("huggingface", root=root, cache=tmp_path / "cache", **fields).load()

    with pytest.raises(BadInput, match="no split 'trian'. Did you mean 'train'"):
        load(train="trian")
    with pytest.raises(BadInput, match="data.test: 'train' holds the training rows"):
        load(test="train")
    with pytest.raises(BadInput, match="data.image: train has no column 'picture'"):
        load(image="picture")
    with pytest.raises(BadInput, match="data.key: there is no column"):
        load(key="name")
    with pytest.raises(BadInput, match="one split of a data set"):
        load(tmp_path / "table" / "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="neither dataset_dict.json nor parquet files"):
        load(tmp_path / "empty")
    with pytest.raises(BadInput, match="data.download=true"):
        load("nobody/nothing")


def test_parquet_files_are_read_as_the_table(three, tmp_path):
    layouts.write_huggingface(tmp_path / "parquet", kind="parquet")
    data = build("huggingface", root=tmp_path / "parquet", size=16, memory_limit_gb=0.0, workers=0, cache=tmp_path / "cache").load()
    assert data.class_names == ("ant", "bee", "cat")
    assert torch.equal(pixels(data, range(18)), pixels(three["huggingface"](), range(18)))


@pytest.mark.parametrize("size", [(60, 40), (37, 300), (300, 37), (1, 1)])
def test_cut_parts_lie_inside_and_have_the_stated_sizes(size):
    boxes = [Cut(0, epoch, 0.08).box(*size) for epoch in range(200)]
    assert all(0 <= b.left < b.right <= size[0] and 0 <= b.top < b.bottom <= size[1] for b in boxes)
    if size != (60, 40):
        return
    areas = np.array([(b.right - b.left) * (b.bottom - b.top) for b in boxes]) / (60 * 40)
    ratios = np.array([(b.right - b.left) / (b.bottom - b.top) for b in boxes])
    assert areas.min() > 0.07 and areas.max() > 0.85 and 0.3 < areas.mean() < 0.6
    assert 0.65 < ratios.min() and ratios.max() < 1.5 and len(set(boxes)) > 190


def test_cut_parts_are_distributed_as_in_torchvision():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(3, 375, 500)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(1500)])
    ours = np.array([(b.top, b.left, b.bottom - b.top, b.right - b.left) for b in (Cut(0, n, 0.08).box(500, 375) for n in range(1500))])
    error = np.sqrt(theirs.var(0) / 1500 + ours.var(0) / 1500)
    assert (np.abs(theirs.mean(0) - ours.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(theirs.std(0), ours.std(0), rtol=0.1)


def test_central_part_is_the_usual_resize_and_cut():
    made = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    smooth = Image.fromarray(made).resize((512, 384), Image.Resampling.BICUBIC)
    import io

    held = io.BytesIO()
    smooth.save(held, "PNG")
    ours = decode(held.getvalue(), 224, 0.875)
    resized = np.asarray(smooth.resize((math.ceil(512 * 256 / 384), 256), Image.Resampling.BILINEAR))
    left = (resized.shape[1] - 224) // 2
    theirs = resized[16:240, left : left + 224]
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 3


def test_nobody_is_warned_of_more_processes_than_processors(three, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    assert pixels(three["folder"](workers=2), [0, 1]).shape == (2, 3, 16, 16)


def test_a_reading_process_that_is_killed_is_explained():
    class Deadly:
        def __len__(self):
            return 4

        def __getitem__(self, position):
            if position == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return torch.zeros(1, 4, 4, dtype=torch.uint8), 0

    source = LoaderSource(Deadly(), torch.zeros(4, dtype=torch.int64), workers=1)
    with pytest.raises(BadInput, match="data.workers: a process that reads examples was killed"):
        list(source.batches(torch.arange(4), 2, augment=False, seed=0, epoch=0))


def test_damaged_pictures_are_named_from_worker_processes(three, tmp_path):
    (tmp_path / "files" / "train" / "b" / "001.png").write_bytes(layouts.encoded(1)[:200])
    for workers in (0, 2):
        with pytest.raises(BadInput, match=r"train/b/001.png cannot be read as a picture"):
            pixels(three["folder"](workers=workers), range(18))


def test_files_that_vanish_are_named(tmp_path):
    layouts.put(tmp_path / "a.png", 0)
    files = Files(tmp_path, Names(["a.png"]))
    assert files.read(0) == (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    for act in (lambda: files.read(0), files.stamp, lambda: files.digests(tmp_path / "cache")):
        with pytest.raises(BadInput, match="a.png cannot be read: No such file"):
            act()


def test_names_are_a_sequence_that_takes_little_memory():
    texts = [f"train/n{number:05}/picture_{number}.JPEG" for number in range(1000)] + ["", "bäume/ß.png"]
    names = Names(texts)
    assert list(names) == texts and names[-1] == texts[-1] and list(names[2:4]) == texts[2:4]
    assert list(names.take(np.array([5, 0]))) == [texts[5], texts[0]] and names == Names(iter(texts)) != Names(texts[:-1])
    assert names.places()[texts[7]] == 7
    assert names.bytes.nbytes + names.ends.nbytes < sum(map(len, texts)) + 9 * len(texts)


def test_a_million_names_are_quick():
    started = time.process_time()
    names = Names(f"train/{number}" for number in range(200_000))
    assert names.take(np.arange(0, 200_000, 2))[3] == "train/6"
    assert time.process_time() - started < 2


def tables(root, **parts):
    """Write a table with a picture and a label column for each part, given by its labels; (labels, names) for a class feature."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

    made = {}
    for part, labels in parts.items():
        labels, kind = (labels[0], ClassLabel(names=labels[1])) if isinstance(labels, tuple) else (labels, None)
        kind = kind or Value("string" if any(isinstance(label, str) for label in labels) else "int64")
        column = "image" if part != "odd" else "picture"
        pictures = [{"bytes": layouts.encoded(number), "path": None} for number in range(len(labels))]
        made[part] = Dataset.from_dict({column: pictures, "label": labels}, features=Features({column: Image(), "label": kind}))
    DatasetDict(made).save_to_disk(str(root))


def test_classes_of_two_tables_go_by_their_names(tmp_path):
    pytest.importorskip("datasets")
    tables(tmp_path / "table", train=([0, 1, 2], ["ant", "bee", "cat"]), test=([0, 1], ["cat", "ant"]))
    data = build("huggingface", root=tmp_path / "table", cache=tmp_path / "cache", size=16).load()
    assert data.class_names == ("ant", "bee", "cat") and data.labels.tolist() == [0, 1, 2, 2, 0]
    tables(tmp_path / "other", train=([0, 1], ["ant", "bee"]), test=([0], ["dog"]))
    with pytest.raises(BadInput, match="the test rows have the class 'dog', which the training rows have not"):
        build("huggingface", root=tmp_path / "other", cache=tmp_path / "cache", size=16).load()


def test_labels_of_tables_that_are_none_are_named(tmp_path):
    pytest.importorskip("datasets")

    def load(name, **fields):
        return build("huggingface", root=tmp_path / name, cache=tmp_path / "cache", size=16, **fields).load()

    tables(tmp_path / "negative", train=[0, 1], test=[0, -1])
    with pytest.raises(BadInput, match="data.label: test row 1 has the label -1"):
        load("negative")
    tables(tmp_path / "missing", train=[0, None], test=[0])
    with pytest.raises(BadInput, match="data.label: train row 1 has no label"):
        load("missing")
    tables(tmp_path / "texts", train=["ant", None], test=["bee"])
    with pytest.raises(BadInput, match="data.label: train row 1 has no label"):
        load("texts")
    tables(tmp_path / "none", train=[0], odd=[0])
    with pytest.raises(BadInput, match="data.image: odd has no column 'image'"):
        load("none", test="odd")


def test_parquet_files_are_found_as_the_hub_lays_them_out(tmp_path):
    pytest.importorskip("datasets")
    layouts.write_huggingface(tmp_path / "plain", kind="parquet")
    plain = build("huggingface", root=tmp_path / "plain", cache=tmp_path / "cache", size=16).load()
    (tmp_path / "snapshot" / "plain_text").mkdir(parents=True)
    for path in (tmp_path / "plain").iterdir():
        path.rename(tmp_path / "snapshot" / "plain_text" / path.name)
    assert build("huggingface", root=tmp_path / "snapshot", cache=tmp_path / "cache", size=16).load().fingerprint == plain.fingerprint
    damaged = tmp_path / "snapshot" / "plain_text" / "train-00000-of-00001.parquet"
    damaged.write_bytes(b"PAR1 no table")
    with pytest.raises(BadInput, match="snapshot cannot be read"):
        build("huggingface", root=tmp_path / "snapshot", cache=tmp_path / "cache", size=16).load()


def test_wrong_patterns_and_names_of_shards_are_explained(tmp_path):
    layouts.write_shards(tmp_path)
    for pattern in (f"{tmp_path}/*.tar", "", "**.tar/**x"):
        with pytest.raises(BadInput, match="data.train"):
            build("webdataset", root=tmp_path, cache=tmp_path / "cache", train=pattern).load()
    with pytest.raises(BadInput, match="data.class_names: .*names.txt cannot be read"):
        build("webdataset", root=tmp_path, cache=tmp_path / "cache", class_names=tmp_path / "names.txt").load()
    layouts.write_shard(tmp_path / "train-9.tar", [("a", layouts.encoded(0, "JPEG"), "-1")])
    with pytest.raises(BadInput, match="label '-1'"):
        build("webdataset", root=tmp_path, cache=tmp_path / "cache", train="train-9.tar").load()


def test_what_was_read_for_another_part_of_a_folder_is_kept(tmp_path, monkeypatch):
    layouts.write_domains(tmp_path / "home", domains=("Art", "Clipart"))
    age(tmp_path / "home")
    fields = {"root": tmp_path / "home", "cache": tmp_path / "cache", "memory_limit_gb": 0.0, "workers": 0, "size": 16}
    build("office_home", domain="art", **fields).load()
    build("office_home", domain="clipart", **fields).load()
    monkeypatch.setattr("expunge.data.contents._read", lambda root, names: pytest.fail(f"{len(names)} files are read again"))
    for domain in ("art", "clipart"):
        build("office_home", domain=domain, **fields).load()
