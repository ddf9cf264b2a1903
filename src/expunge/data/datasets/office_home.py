"""Office-Home: everyday objects in four domains."""

from pathlib import Path
from typing import Literal

import numpy as np

from expunge.config import Fraction, NonNegativeInt, hyper
from expunge.data.datasets.folder import class_folders
from expunge.data.names import Names
from expunge.data.picture_set import Listing, PictureDataset, Place, held_out
from expunge.data.pictures import Files

FOLDERS = {
    "art": ("Art",),
    "clipart": ("Clipart",),
    "product": ("Product",),
    "real_world": ("Real World", "Real_World", "RealWorld"),
}


class OfficeHome(PictureDataset):
    """About 15,500 pictures of 65 everyday objects, in the domains Art, Clipart, Product and Real World.

    There is no official split: of each class a share is drawn for testing. For transfer, give the folder as ``evaluate.downstream``.
    """

    source = "Venkateswara et al., Deep hashing network for unsupervised domain adaptation, CVPR 2017"
    deviations = ("Which fifth is tested depends on no other choice, and each class has its share; the published code draws over all.",)
    layout = tuple(Place(names, f"{names[0]} pictures, 65 folders", needed=False) for names in FOLDERS.values())

    root: Path | None = hyper(None, "folder with Art, Clipart, Product and Real World")
    domain: Literal["art", "clipart", "product", "real_world", "all"] = hyper("real_world", "whose pictures")
    test_fraction: Fraction = hyper(0.2, "share of each class that is tested", gt=0, lt=1)
    split_seed: NonNegativeInt = hyper(2, "draws the tested pictures; 2 in the published code")

    def listing(self) -> Listing:
        """Return the pictures in alphabetical order; see `expunge.data.picture_set.PictureDataset.listing`."""
        root = self.folder()
        wanted = list(FOLDERS) if self.domain == "all" else [self.domain]
        found = {domain: class_folders(root, self._place(domain)) for domain in wanted}
        classes = sorted({name for domain in found.values() for name in domain})
        samples = [(file, classes.index(name)) for domain in found.values() for name, files in domain.items() for file in files]
        labels = np.array([label for _, label in samples], dtype=np.int64)
        tested = held_out(labels, self.test_fraction, self.split_seed)
        whole = Listing(Files(root, Names(file for file, _ in samples)), labels, len(labels), tuple(classes))
        return whole.take(np.flatnonzero(~tested), np.flatnonzero(tested))

    def _place(self, domain: str) -> Path:
        place = Place(FOLDERS[domain], f"{FOLDERS[domain][0]} pictures, 65 folders")
        return place.require(self.folder(), self.name)

    def title(self) -> str:
        """Return the name with the domain."""
        return f"{self.name} {self.domain}"
