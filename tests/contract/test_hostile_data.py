"""Files that are damaged, odd or made to mislead: read rightly, or refused with one line before any training."""

import io
import json
import tarfile

import layouts
import numpy as np
import pytest
import torch
from PIL import Image

from expunge import config
from expunge.data.dataset import from_tensors
from expunge.data.datasets.webdataset import number_labels
from expunge.data.names import Names
from expunge.data.pictures import Files, decode
from expunge.errors import BadInput
from expunge.representation import downstream


def build(name: str, **fields):
    return config.build("datasets", {"name": name, "size": 16, **fields}, "data")


def encoded(picture: Image.Image, kind: str, **more) -> bytes:
    held = io.BytesIO()
    picture.save(held, kind, **more)
    return held.getvalue()


# Pictures


RAMP = np.repeat(np.linspace(0, 65535, 32).astype(np.uint16)[None], 32, axis=0)
"""From black to white in 16 bits."""


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_cut_off(kind):
    """Pillow's own conversion makes every grey above 255 of 65535 white."""
    found = decode(encoded(Image.fromarray(RAMP), kind), 32)
    assert np.array_equal(found, np.repeat(((RAMP.astype(int) + 128) // 257)[:, :, None], 3, axis=2))
    assert found.min() == 0 and found.max() == 255 and 126 < found.mean() < 129


def test_sixteen_bits_are_scaled_in_downstream_sets_too(tmp_path):
    for number, name in enumerate("ab"):
        (tmp_path / "domain" / name).mkdir(parents=True)
        (tmp_path / "domain" / name / "0.png").write_bytes(encoded(Image.fromarray(RAMP if number else 65535 - RAMP), "PNG"))
    (part,) = downstream.read(tmp_path, (3, 32, 32))
    assert torch.equal(part.x[1], torch.from_numpy(((RAMP.astype(int) + 128) // 257).astype(np.float32) / 255).expand(3, 32, 32))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [(RAMP.astype(np.float32) / 65535, "floating point"), (RAMP.astype(np.int32) * 30000, "of 32 bits")],
    ids=["floating point", "32 bits"],
)
def test_pixels_without_a_white_are_refused(pixels, words):
    with pytest.raises(BadInput, match=f"{words}, and nothing says which value is white"):
        decode(encoded(Image.fromarray(pixels), "TIFF"), 16)


@pytest.mark.filterwarnings("ignore:.*(Truncated|Corrupt):UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "PPM", "WEBP"])
def test_truncated_pictures_are_refused(kind):
    content = encoded(layouts.picture(3), kind)
    whole = decode(content, 16)
    for share in (0.0, 0.01, 0.3, 0.6, 0.95):
        with pytest.raises(BadInput, match="cannot be read as a picture"):
            decode(content[: int(share * len(content))], 16)
    assert np.array_equal(decode(content, 16), whole)


# Names that lead elsewhere


@pytest.mark.parametrize("name", ["../secret.png", "real/../../secret.png", "real/../x/y.png", "/etc/picture.png"])
def test_lists_do_not_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(BadInput, match="leads out of the folder"):
        Files(tmp_path, Names(["real/a/b.png", name]))
    assert len(Files(tmp_path, Names(["real/a..b/c.png", "real/..a/c.png", ""]))) == 3


def test_domainnet_names_the_line_that_leads_out_and_the_number_that_is_none(tmp_path):
    layouts.write_domainnet(tmp_path / "root")
    layouts.put(tmp_path / "airplane" / "real_000_000000.jpg", 1)
    path = tmp_path / "root" / "real_train.txt"
    whole = path.read_text()
    path.write_text(f"../airplane/real_000_000000.jpg 0\n{whole}")
    with pytest.raises(BadInput, match=r"'\.\./airplane/real_000_000000.jpg' leads out"):
        build("domainnet", root=tmp_path / "root").load()
    path.write_text(f"real/airplane/real_000_000000.jpg {'9' * 5000}\n{whole}")
    with pytest.raises(BadInput, match="line 1"):
        build("domainnet", root=tmp_path / "root").load()


def table(root, paths, labels=None, names=None):
    """Write training and test rows whose pictures are named by their path."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    pictures = pyarrow.array([{"bytes": None, "path": str(path)} for path in paths], kind)
    held = pyarrow.table({"image": pictures, "label": labels or list(range(len(paths)))})
    if names:
        label = {"_type": "ClassLabel", "names": names}
        features = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
        held = held.replace_schema_metadata({"huggingface": json.dumps(features)})
    for part in ("train", "test"):
        parquet.write_table(held, root / f"{part}-0.parquet")


def test_tables_do_not_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "table"
    for number, place in enumerate((root / "pictures" / "0.png", root / "pictures" / "1.png", tmp_path / "secret.png")):
        layouts.put(place, number)

    def load(*paths):
        table(root, paths)
        return build("huggingface", root=root, image="image", cache=tmp_path / "cache").load()

    assert load("pictures/0.png", root / "pictures" / "1.png").train_size == 2, "paths start at the table, not where the command is typed"
    for odd in ("../secret.png", "pictures/../../secret.png", tmp_path / "secret.png"):
        with pytest.raises(BadInput, match="lies outside the data set"):
            load("pictures/0.png", odd)


# Labels


def test_numbers_that_are_no_classes_are_refused_without_counting_to_them():
    for label in (10**9, 10**30, int("9" * 4000)):
        with pytest.raises(BadInput, match="would make"):
            number_labels(Names(["0", str(label)]), None)
    with pytest.raises(BadInput, match="would make"):
        number_labels(Names(["0", "9" * 5000]), None)
    pictures, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 2**40])
    with pytest.raises(BadInput, match="would make 1099511627777 classes for 4 examples"):
        from_tensors(pictures, labels, pictures, labels)
    assert number_labels(Names(["1".zfill(20), "2".zfill(20), "0" * 20]), None)[0].tolist() == [1, 2, 0], "leading zeros are no digits"
    assert len(number_labels(Names(["0", "30000"]), None)[1]) == 30001, "gaps are allowed: a part of a large set has them"


def test_labels_of_tables_that_are_no_classes_are_refused(tmp_path):
    layouts.put(tmp_path / "table" / "0.png", 0)

    def load(labels, names=None):
        table(tmp_path / "table", ["0.png"] * len(labels), labels, names)
        return build("huggingface", root=tmp_path / "table", image="image", cache=tmp_path / "cache").load()

    with pytest.raises(BadInput, match="would make"):
        load([0, 10**12])
    with pytest.raises(BadInput, match="train row 1 has the label 2, and there are 2 class names"):
        load([0, 2], ["1", "2"])  # and not the class that is called 2
    for odd in ([0.5, 1.5], [[0], [1]], ["a", ""]):
        with pytest.raises(BadInput, match="which is no class"):
            load(odd)


def shard(path, members, **more):
    """Write a tar file of members, each a name with content or a description."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **more) as made:
        for name, content in members:
            described = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                described.size = len(content)
                made.addfile(described, io.BytesIO(content))
            else:
                described.type, described.linkname = content
                made.addfile(described)
    return path


def samples(count=3, start=0):
    return [
        each for n in range(start, start + count) for each in ((f"{n:03}.png", layouts.encoded(n)), (f"{n:03}.cls", str(n % 2).encode()))
    ]


@pytest.fixture
def shards(tmp_path):
    """Return what reads a folder of two shards of which the first holds these members."""
    shard(tmp_path / "test-0.tar", samples(2))

    def load(members=None, **fields):
        if members is not None:
            shard(tmp_path / "train-0.tar", members)
        return build("webdataset", root=tmp_path, cache=tmp_path / "cache", **fields).load()

    return load


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([("900.png", (tarfile.LNKTYPE, "000.png")), ("900.cls", (tarfile.LNKTYPE, "000.cls"))], "the member '900.png' is a link"),
        ([("900.png", (tarfile.SYMTYPE, "000.png")), ("900.cls", b"1")], "the member '900.png' is a link"),
        ([("900.png", (tarfile.FIFOTYPE, "")), ("900.cls", b"1")], "the member '900.png' is no file"),
        ([("000.cls", b"1")], "the sample '000' has two labels"),
    ],
)
def test_members_that_would_be_lost_in_silence_are_refused(shards, more, words):
    assert shards(samples()).train_size == 3
    with pytest.raises(BadInput, match=words):
        shards(samples() + more)


def test_sparse_members_are_refused(shards, tmp_path):
    """What lies at their place is another picture's bytes, or none."""
    content = layouts.encoded(1)
    shards(samples())
    described = tarfile.TarInfo("900.png")
    described.size = len(content) + 512
    with tarfile.open(tmp_path / "train-0.tar", "w", format=tarfile.PAX_FORMAT) as made:
        for name, held in samples():
            plain = tarfile.TarInfo(name)
            plain.size = len(held)
            made.addfile(plain, io.BytesIO(held))
        described.pax_headers = {"GNU.sparse.map": f"0,{len(content)}", "GNU.sparse.size": str(len(content) + 512)}
        described.size = len(content)
        made.addfile(described, io.BytesIO(content))
    with pytest.raises(BadInput, match="the member '900.png' is sparse"):
        shards()


def test_shards_that_are_cut_off_damaged_or_joined_are_refused(shards, tmp_path):
    path = tmp_path / "train-0.tar"
    assert shards(samples(4)).train_size == 4
    whole = path.read_bytes()
    with tarfile.open(path) as opened:
        third = opened.getmembers()[4].offset
    for damaged, words in (
        (whole[:third], "is cut off"),
        (whole[: third + 100], "is cut off"),
        (whole[: third + 600], "damaged"),
        (whole[:third] + b"\xff" * 512 + whole[third + 512 :], f"from byte {third} on: it is damaged there, or several files were joined"),
        (whole + whole, "several files were joined"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match=words):
            shards()
    path.write_bytes(whole + bytes(10240))
    assert shards().train_size == 4, "more zeros are what tar files end with"


@pytest.mark.parametrize("label", [b'{"label": null}', b'{"label": [1, 2]}', b'{"label": 0.5}', b'{"label": ""}', b'{"other": 1}'])
def test_fields_that_hold_no_class_are_refused(shards, label):
    held = [(name, b'{"label": 1}' if name.endswith("cls") else content) for name, content in samples()]
    members = [(name.replace("cls", "json"), label if name == "001.cls" else content) for name, content in held]
    with pytest.raises(BadInput, match="the label of '001' cannot be read"):
        shards(members, label="json:label")
