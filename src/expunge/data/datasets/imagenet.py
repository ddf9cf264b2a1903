"""ImageNet (ILSVRC 2012)."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from expunge.config import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, hyper
from expunge.data.datasets.folder import class_folders, from_folders
from expunge.data.picture_set import Listing, PictureDataset, Place, picture_files, read_lines
from expunge.data.pictures import SUFFIXES
from expunge.errors import BadInput

KAGGLE, DEVKIT, TRUTH = "ILSVRC/Data/CLS-LOC/", "ILSVRC2012_devkit_t12/data/", "ILSVRC2012_validation_ground_truth.txt"


class Imagenet(PictureDataset):
    """1,281,167 training and 50,000 validation pictures of 1,000 classes; the validation pictures are the test pictures here.

    Classes are in the order of their WordNet numbers, as in every published model. Pictures are streamed, and random parts of them are cut
    out while training.
    """

    aliases = ("imagenet1k",)
    source = "Russakovsky et al., ImageNet large scale visual recognition challenge, IJCV 2015"
    deviations = ("Tested pictures keep their proportions; the code of arXiv 2304.04934 and 2503.06991 squeezes both sides to 256.",)
    layout = (
        Place(("train", f"{KAGGLE}train"), "training pictures, train/n01440764/*.JPEG"),
        Place(("val", f"{KAGGLE}val"), "validation pictures, val/n01440764/*.JPEG, or all in one folder with one of the following"),
        Place(
            ("val.txt", TRUTH, f"{DEVKIT}{TRUTH}", "LOC_val_solution.csv"),
            "labels of the validation pictures, where they are in one folder",
            needed=False,
        ),
        Place(("meta.mat", f"{DEVKIT}meta.mat"), "numbers of the devkit, which its ground truth needs", needed=False),
        Place(("LOC_synset_mapping.txt", "synset_words.txt", "words.txt"), "synset names, n01440764 tench, Tinca tinca", needed=False),
    )

    root: Path | None = hyper(None, "folder with train and val")
    size: PositiveInt = hyper(224, "pixels on a side")
    central: Fraction = hyper(0.875, "share of the shorter side that is kept; 0.875 is the usual resize to 256 and cut of 224", gt=0)
    crop: Literal["shift", "resized"] = hyper(
        "resized",
        "while training, shift moves a picture by some pixels, resized cuts out 8 to 100 % of it; pictures are then always streamed",
    )
    memory_limit_gb: NonNegativeFloat = hyper(4.0, "largest size of all pictures together that is kept on the device, with crop=shift")
    workers: NonNegativeInt = hyper(8, "processes that read pictures when they are not kept on the device")

    def listing(self) -> Listing:
        """Return the pictures in alphabetical order; see `expunge.data.picture_set.PictureDataset.listing`."""
        root, synsets = self.folder(), self.place("synset names").found(self.folder())
        train = class_folders(root, self.require("training"))
        validation = self.require("validation")
        test = class_folders(root, validation) if any(validation.glob("*/")) else self._flat(root, validation, list(train))
        words = read_synsets(synsets) if synsets is not None else {}
        return from_folders(root, train, test, unique([words.get(wnid, wnid) for wnid in train], list(train)))

    def _flat(self, root: Path, folder: Path, wnids: list[str]) -> dict[str, list[str]]:
        """Return class -> files of validation pictures that lie in one folder."""
        files = list(picture_files(root, folder, SUFFIXES))
        path = self.place("labels").found(root)
        if path is None:
            raise BadInput(
                "data.root",
                f"the validation pictures in {folder} lie in one folder, and nothing says which class they are of.",
                f"Sort them into folders, or add one of {', '.join(self.place('labels').names)}.",
            )
        meta = self.place("numbers of the devkit").found(root)
        label = read_validation_labels(path, meta, [file.rpartition("/")[2] for file in files], wnids)
        found: dict[str, list[str]] = {wnid: [] for wnid in wnids}
        for file in files:
            stem = Path(file).stem
            if stem not in label:
                raise BadInput("data.root", f"{path} says nothing about {file}.", "Get the official list again.")
            found.setdefault(label[stem], []).append(file)
        return found


def read_validation_labels(path: Path, meta: Path | None, files: Sequence[str], wnids: Sequence[str]) -> dict[str, str]:
    """Return the WordNet number of each validation picture by its name without ending.

    Args:
        path: Kaggle's LOC_val_solution.csv; a list of files with class numbers from 0 or WordNet numbers; or the devkit's ground truth, one
            number a line in the order of the pictures.
        meta: the devkit's meta.mat, for its ground truth.
        files: names of the pictures, in alphabetical order.
        wnids: WordNet numbers of the classes, in alphabetical order.

    Raises:
        BadInput: the list does not fit the pictures.
    """
    lines = [line for line in read_lines(path) if line.strip()]
    if not lines:
        raise BadInput("data.root", f"{path} is empty.", "Get the official list again.")
    if path.suffix == ".csv":
        return _solution(path, lines)
    if len(lines[0].split()) == 1:
        return _ground_truth(path, meta, lines, files)
    found = {}
    for number, line in enumerate(lines, 1):
        file, _, label = line.rpartition(" ")
        if label.isdecimal() and int(label) < len(wnids):
            label = wnids[int(label)]
        if label not in wnids:
            raise BadInput("data.root", f"{path}, line {number}: {label!r} is no class of train/ and no number below {len(wnids)}.")
        found[Path(file).stem] = label
    return found


def _solution(path: Path, lines: list[str]) -> dict[str, str]:
    rows = csv.DictReader(lines)
    if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
        raise BadInput("data.root", f"{path} has no columns ImageId and PredictionString.", "Get the official list again.")
    found = {}
    for row in rows:
        words = (row["PredictionString"] or "").split()
        if not words:
            raise BadInput("data.root", f"{path}, line {rows.line_num}: {row['ImageId']} has no class.", "Get the official list again.")
        found[row["ImageId"]] = words[0]
    return found


def _ground_truth(path: Path, meta: Path | None, lines: list[str], files: Sequence[str]) -> dict[str, str]:
    if meta is None:
        raise BadInput("data.root", f"{path} holds numbers of the devkit, and its meta.mat is missing.", "Put meta.mat beside it.")
    if len(lines) != len(files):
        raise BadInput("data.root", f"{path} has {len(lines)} numbers for {len(files)} pictures.", "Unpack all validation pictures.")
    wnid_of = {str(number): wnid for number, wnid in read_meta(meta).items()}
    odd = next((number for number, line in enumerate(lines, 1) if line.strip() not in wnid_of), None)
    if odd is not None:
        raise BadInput("data.root", f"{path}, line {odd}: {lines[odd - 1][:60]!r} is no number of {meta.name}.", "Get the devkit again.")
    return {Path(file).stem: wnid_of[line.strip()] for file, line in zip(files, lines, strict=True)}


def read_meta(path: Path) -> dict[int, str]:
    """Return the WordNet number of each number of the devkit, from its meta.mat.

    Raises:
        BadInput: another file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        synsets = loadmat(path, squeeze_me=True, struct_as_record=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except (MatReadError, ValueError, KeyError, TypeError, IndexError, OSError, NotImplementedError) as error:
        raise BadInput("data.root", f"{path} is not the devkit's meta.mat: {error}.", "Get the devkit again.") from None


def read_synsets(path: Path) -> dict[str, str]:
    """Return WordNet number -> first name, from lines such as ``n01440764 tench, Tinca tinca``."""
    found = {}
    for line in read_lines(path):
        columns = line.split(None, 1)
        if len(columns) == 2:
            found[columns[0]] = columns[1].partition(",")[0].strip()
    return found


def unique(names: list[str], wnids: list[str]) -> list[str]:
    """Return names of which none is there twice: crane (bird and machine) and maillot are, in ImageNet, and get their numbers."""
    return [name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]
