"""The official layouts: what is read from them, exactly, and what is said when something is missing or wrong."""

import layouts
import numpy as np
import pytest
import torch

from expunge import config
from expunge.data.datasets.imagenet import unique
from expunge.data.picture_set import held_out
from expunge.data.pictures import decode
from expunge.errors import BadInput


def build(name: str, **fields):
    return config.build("datasets", {"name": name, **fields}, "data")


def names_of(data, part: str) -> list[str]:
    keys = list(data.keys)
    return keys[: data.train_size] if part == "train" else keys[data.train_size :]


def labels_by_name(data) -> dict[str, str]:
    return {key: data.class_names[label] for key, label in zip(data.keys, data.labels.tolist(), strict=True)}


@pytest.mark.filterwarnings("ignore:data. no training example is of classes")
def test_celeba_classes_are_codes_of_attributes(tmp_path):
    layouts.write_celeba(tmp_path)
    data = build("celeba", root=tmp_path, size=16).load()
    assert data.class_names == (
        "none", "Chubby", "Gray_Hair", "Gray_Hair+Chubby", "Male", "Male+Chubby", "Male+Gray_Hair", "Male+Gray_Hair+Chubby",
    )  # fmt: skip
    # Bits of the picture's number are Bald, Chubby, Gray_Hair, Male, and its place in eight says the part: 3 validation, 6 and 7 test.
    expected = {n: 4 * (n >> 3 & 1) + 2 * (n >> 2 & 1) + (n >> 1 & 1) for n in range(24)}
    for part, wanted in (("train", (0, 1, 2, 4, 5)), ("test", (6, 7))):
        numbers = [n for n in range(24) if n % 8 in wanted]
        assert names_of(data, part) == [f"img_align_celeba/{n + 1:06}.jpg" for n in numbers]
        index = data.train_index if part == "train" else data.test_index
        assert data.labels[index].tolist() == [expected[n] for n in numbers]
    more = build("celeba", root=tmp_path, size=16, with_validation=True).load()
    assert (data.train_size, more.train_size) == (15, 18)
    assert build("celeba", root=tmp_path, attributes=("Male",), size=16).load().class_names == ("none", "Male")
    with pytest.raises(BadInput, match=r"no attribute 'Mail'. Did you mean 'Male'"):
        build("celeba", root=tmp_path, attributes=("Mail",)).load()


@pytest.mark.filterwarnings("ignore:data. no training example is of classes")
def test_celeba_reads_the_tables_with_commas_too(tmp_path):
    layouts.write_celeba(tmp_path)
    text = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()[1:]
    rows = ["image_id," + ",".join(text[0].split()), *(",".join(row.split()) for row in text[1:])]
    plain = build("celeba", root=tmp_path, size=16).load().labels
    (tmp_path / "list_attr_celeba.txt").unlink()
    (tmp_path / "list_attr_celeba.csv").write_text("\n".join(rows))
    parts = (tmp_path / "list_eval_partition.txt").read_text().replace(" ", ",")
    (tmp_path / "list_eval_partition.txt").unlink()
    (tmp_path / "list_eval_partition.csv").write_text("image_id,partition\n" + parts)
    assert torch.equal(build("celeba", root=tmp_path, size=16).load().labels, plain)


def test_office_home_holds_out_a_share_of_each_class(tmp_path):
    layouts.write_domains(tmp_path, each=10)
    data = build("office_home", root=tmp_path, size=16).load()
    assert data.class_names == ("Bike", "Mug") and data.name == "office_home real_world"
    assert torch.bincount(data.labels[data.test_index]).tolist() == [2, 2] and data.train_size == 16
    assert all(key.startswith("Real World/") and key.split("/")[1] == name for key, name in labels_by_name(data).items())
    everything = build("office_home", root=tmp_path, size=16, domain="all").load()
    assert (everything.train_size, len(everything.test_index)) == (64, 16)
    other = build("office_home", root=tmp_path, size=16, split_seed=3).load()
    assert set(names_of(other, "test")) != set(names_of(data, "test"))


def test_held_out_examples_stay_when_others_are_added():
    labels = np.repeat([0, 1], 20)
    chosen = held_out(labels, 0.2, 2)
    assert [chosen[labels == label].sum() for label in (0, 1)] == [4, 4]
    assert held_out(np.array([0, 1, 1]), 0.2, 2).tolist().count(True) == 1  # the single example of class 0 is for training


def test_cub_follows_its_lists(tmp_path):
    layouts.write_cub(tmp_path / "CUB_200_2011")
    for root in (tmp_path, tmp_path / "CUB_200_2011"):
        data = build("cub", root=root, size=16).load()
        assert data.class_names == ("Black_footed_Albatross", "Laysan_Albatross") and data.labels.tolist() == [0, 0, 1, 1] * 2
        assert [key[-8:] for key in names_of(data, "train")] == ["0000.jpg", "0002.jpg"] * 2
        assert all(name in key for key, name in labels_by_name(data).items())
    path = tmp_path / "CUB_200_2011" / "train_test_split.txt"
    path.write_text(path.read_text().partition("\n")[2])
    with pytest.raises(BadInput, match="the split are about 7 pictures, images.txt about 8"):
        build("cub", root=tmp_path).load()


def test_domainnet_follows_its_lists(tmp_path):
    layouts.write_domainnet(tmp_path)
    data = build("domainnet", root=tmp_path, size=16).load()
    assert data.class_names == ("airplane", "zebra") and (data.train_size, len(data.test_index)) == (4, 4)
    assert all(key.startswith("real/") and f"/{name}/" in key for key, name in labels_by_name(data).items())
    assert all(int(key[-5]) < 2 for key in names_of(data, "train")) and all(int(key[-5]) >= 2 for key in names_of(data, "test"))
    (tmp_path / "kept.txt").write_text("zebra\n")
    kept = build("domainnet", root=tmp_path, size=16, domain="clipart", classes=tmp_path / "kept.txt")
    part = kept.listing()
    assert part.class_names == ("zebra",) and part.labels.tolist() == [0] * 4 and part.train_size == 2
    with pytest.raises(BadInput, match=r"one class only \(zebra\); at least two are needed"):
        kept.load()
    (tmp_path / "real_train.txt").write_text("airplane 0\n")
    with pytest.raises(BadInput, match="real_train.txt, line 1: expected DOMAIN/CLASS/FILE NUMBER"):
        build("domainnet", root=tmp_path).load()
    with pytest.raises(BadInput, match=r"sketch is missing.*expunge data check domainnet"):
        build("domainnet", root=tmp_path, domain="sketch").load()


@pytest.mark.parametrize("inside", ["", "tiny-imagenet-200"])
def test_tiny_imagenet_reads_annotations_and_sorted_folders_alike(tmp_path, inside):
    layouts.write_tiny_imagenet(tmp_path / inside)
    data = build("tiny_imagenet", root=tmp_path).load()
    assert data.class_names == layouts.WORDS and (data.train_size, len(data.test_index)) == (12, 6)
    assert data.labels[data.test_index].tolist() == [0, 0, 1, 1, 2, 2]
    assert [key.rpartition("/")[2] for key in names_of(data, "test")] == [f"val_{n}.JPEG" for n in range(6)]
    folder = tmp_path / inside / "val"
    for number, file in enumerate(sorted((folder / "images").iterdir())):
        (folder / layouts.WNIDS[number // 2]).mkdir(exist_ok=True)
        file.rename(folder / layouts.WNIDS[number // 2] / file.name)
    (folder / "images").rmdir()
    (folder / "val_annotations.txt").unlink()
    again = build("tiny_imagenet", root=tmp_path).load()
    assert again.fingerprint == data.fingerprint
    (folder / "val_annotations.txt").write_text("val_0.JPEG\tn00000000\n")
    with pytest.raises(BadInput, match="line 1: expected a file and a class"):
        build("tiny_imagenet", root=tmp_path).load()


@pytest.mark.parametrize("validation", ["folders", "list", "solution", "truth"])
def test_imagenet_validation_labels_are_the_same_from_every_source(tmp_path, validation):
    layouts.write_imagenet(tmp_path, validation=validation)
    data = build("imagenet", root=tmp_path, size=16, workers=0, cache=tmp_path / "cache").load()
    assert data.class_names == layouts.WORDS and data.labels[data.train_index].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    found = {key.rpartition("/")[2]: name for key, name in labels_by_name(data).items() if "_val_" in key}
    assert found == {f"ILSVRC2012_val_{n + 1:08}.JPEG": layouts.WORDS[n * 2 % 3] for n in range(6)}


def test_imagenet_says_what_is_missing_for_flat_validation_pictures(tmp_path):
    layouts.write_imagenet(tmp_path, validation="truth")
    (tmp_path / "meta.mat").rename(tmp_path / "kept.mat")
    with pytest.raises(BadInput, match="meta.mat is missing"):
        build("imagenet", root=tmp_path).load()
    (tmp_path / "meta.mat").write_bytes(b"no table")
    with pytest.raises(BadInput, match="is not the devkit's meta.mat"):
        build("imagenet", root=tmp_path).load()
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").unlink()
    with pytest.raises(BadInput, match="nothing says which class they are of.*val.txt"):
        build("imagenet", root=tmp_path).load()


def test_classes_of_one_name_get_their_numbers():
    assert unique(["crane", "fox", "crane"], ["n1", "n2", "n3"]) == ["crane (n1)", "fox", "crane (n3)"]


def test_every_picture_goes_to_its_place(tmp_path):
    layouts.write_imagenet(tmp_path)
    data = build("imagenet", root=tmp_path, size=16, workers=0, cache=tmp_path / "cache").load()
    order = torch.tensor([17, 0, 11, 5])
    x = torch.cat([x for x, _ in data.source.batches(order, 3, augment=False, seed=0, epoch=0)])
    for row, position in zip(x, order.tolist(), strict=True):
        expected = decode((tmp_path / data.keys[position]).read_bytes(), 16, 0.875)
        assert torch.equal((row * 255).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(expected))


@pytest.mark.parametrize("name", ["celeba", "office_home", "cub", "domainnet", "tiny_imagenet", "imagenet"])
def test_an_empty_folder_is_explained(name, tmp_path):
    with pytest.raises(BadInput, match=rf"is missing.*expunge data check {name} data.root="):
        build(name, root=tmp_path).load()
    with pytest.raises(BadInput, match="does not exist"):
        build(name, root=tmp_path / "nowhere").load()
    with pytest.raises(BadInput, match="no folder is given"):
        build(name).load()


@pytest.mark.filterwarnings("ignore:data. no training example is of classes")
def test_celeba_is_found_in_the_folder_within_a_folder_of_kaggle(tmp_path):
    layouts.write_celeba(tmp_path)
    plain = build("celeba", root=tmp_path, size=16, cache=tmp_path).load()
    (tmp_path / "img_align_celeba").rename(tmp_path / "inner")
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "inner").rename(tmp_path / "img_align_celeba" / "img_align_celeba")
    assert build("celeba", root=tmp_path, size=16, cache=tmp_path).load().fingerprint == plain.fingerprint


def test_folders_that_link_to_themselves_are_read_once(tmp_path):
    layouts.write_domains(tmp_path, domains=("train", "test"))
    (tmp_path / "train" / "Bike" / "again").symlink_to(tmp_path / "train" / "Bike", target_is_directory=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "train" / "Mug").rename(tmp_path / "kept" / "Mug")
    (tmp_path / "train" / "Mug").symlink_to(tmp_path / "kept" / "Mug", target_is_directory=True)
    assert build("folder", root=tmp_path, size=16).load().train_size == 10


def damaged(layout: str, file: str, content: bytes):
    return pytest.param(layout, file, content, id=f"{layout} {file}")


@pytest.mark.parametrize(
    ("layout", "file", "content", "found"),
    [
        ("celeba", "list_attr_celeba.txt", b"2\nBald Chubby Gray_Hair Male\n", "names no pictures"),
        ("celeba", "list_attr_celeba.txt", b"\xff\xfe\x00", "cannot be read"),
        ("celeba", "list_eval_partition.txt", b"\xff\xfe\x00", "cannot be read"),
        ("cub", "image_class_labels.txt", b"".join(b"%d 3\n" % n for n in range(1, 9)), "the class '3', which classes.txt does not name"),
        ("cub", "train_test_split.txt", b"".join(b"%d 2\n" % n for n in range(1, 9)), "expected 0 or 1, got '2'"),
        ("domainnet", "real_train.txt", b"\xff\xfe\x00", "cannot be read"),
        ("domainnet", "real_train.txt", b"real/airplane/real_000_000000.jpg 1\n", "two"),
        ("imagenet list", "val.txt", b"\n", "is empty"),
        ("imagenet solution", "LOC_val_solution.csv", b"ImageId,Other\na,b\n", "no columns ImageId and PredictionString"),
        ("imagenet solution", "LOC_val_solution.csv", b"ImageId,PredictionString\nILSVRC2012_val_00000001,\n", "line 2"),
        ("imagenet truth", "ILSVRC2012_validation_ground_truth.txt", b"1\n2\n3\n1\n2\n9\n", "line 6: '9' is no number of meta.mat"),
        ("imagenet truth", "ILSVRC2012_validation_ground_truth.txt", b"1\n2\n3\n1\n2\nx\n", "line 6: 'x' is no number of meta.mat"),
        ("tiny_imagenet", "val/val_annotations.txt", b"\xff\xfe\x00", "cannot be read"),
        ("tiny_imagenet", "words.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_list_is_named(layout, file, content, found, tmp_path):
    name, _, validation = layout.partition(" ")
    write = getattr(layouts, f"write_{name}")
    write(tmp_path, **({"validation": validation} if validation else {}))
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BadInput, match=found) as error:
        build(name, root=tmp_path, size=16).load()
    assert file.rpartition("/")[2] in str(error.value) or "lists" in str(error.value)


def test_a_class_that_training_lacks_is_named(tmp_path):
    layouts.write_tiny_imagenet(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").unlink()
    with pytest.raises(BadInput, match="'images', which train has not"):
        build("tiny_imagenet", root=tmp_path).load()


def test_domainnet_names_a_class_to_keep_that_there_is_not(tmp_path):
    layouts.write_domainnet(tmp_path)
    with pytest.raises(BadInput, match="data.classes.*kept.txt cannot be read"):
        build("domainnet", root=tmp_path, classes=tmp_path / "kept.txt").load()
    (tmp_path / "kept.txt").write_text("zebra\nairplan\n")
    with pytest.raises(BadInput, match="data.classes.*no class 'airplan'.*Did you mean 'airplane'"):
        build("domainnet", root=tmp_path, classes=tmp_path / "kept.txt").load()
