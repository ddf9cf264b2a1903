"""Unlearn on the forget set, restore the features' geometry on the retain set."""

from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.methods.features.published_names import PUBLISHED
from expunge.methods.features.two_phases import Restoring


class UnlearnRestore(Restoring):
    """In every epoch one pass that leaves the forget set, then one that restores on the retain set what the original's features look like.

    The second pass minimises cross entropy plus a distillation loss to the original: the row-normalised similarities of a batch (spkd),
    its relative distances and angles (rkd), the features themselves (akd), their linear CKA (cka) or the softened logits (kd). The source's
    names choose the fields: ``unlearn_restore:PL_RKD``, or ``PL_RKD`` alone. Names without a restoring loss (``PL``) read the forget set
    alone.

    Source: Are We Truly Forgetting? (UUEF), arXiv 2503.06991: SGD 0.9 / 5e-4, lr 1e-5, 15 epochs, batches of 128, weights 10 and 10, on
    ImageNet and whole classes; PL_KD has weights 1 and 1, RKD_IL has 20 (read here as both). On the bundled Fashion-MNIST lr 1e-5 does
    nothing; 1e-4 takes a class's forget accuracy from 100 to 0 % with retain accuracy 99 %, and 1e-3 destroys (SPKD). For other requests
    1e-3 is the default: forget accuracy 99 % of 100, nothing else lost.
    """

    aliases = ("GA_SPKD", "UUEF", *PUBLISHED)
    source = "Are We Truly Forgetting?, arXiv 2503.06991; SPKD: Tung and Mori, ICCV 2019; RKD: Park et al., CVPR 2019"
    deviations = (
        "layers=all takes every block with its output averaged over pixels; the code takes the four stages of a ResNet",
        "an interleaved epoch is one pass over the forget set, whichever set is longer",
        "where no class is forgotten as a whole, a pseudo label is the original's best wrong class; the best class would be the true one",
        "the teacher belongs to the run; the code keeps it on a function, where it leaks into the next run",
        "a crop is a share of the side of any picture; the code crops 224 pixels",
        "where the forget set alone is read (PL, RL_imagenet, AKD_aug, PL_SPKD_df), BatchNorm is frozen",
    )

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase."""
        yield from self.phases(ctx, "original")
