"""Any classifier of the timm collection."""

from contextlib import nullcontext
from typing import Any

from torch import nn

from expunge.config import Flag, Text, hyper
from expunge.models.model import Model
from expunge.models.published import attempt, check_known, require, without_vain_retries


class Timm(Model):
    """A classifier of the timm collection by its name there, for example ``timm:resnet18``."""

    source = "https://github.com/huggingface/pytorch-image-models"
    prefix_field = "architecture"
    packages = ("timm",)

    architecture: Text
    pretrained: Flag = hyper(False, "start from published weights; the head is new when the number of classes differs")

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network, resized to the pictures where its kind allows it.

        Raises:
            BadInput: timm is not installed, has no such architecture, or it cannot take these pictures.
        """
        timm = require("timm", "timm")
        if not timm.is_model(self.architecture):
            check_known("timm", self.architecture, timm.list_models(), "timm.list_models()")
        options: dict[str, Any] = {"num_classes": num_classes, "in_chans": input_shape[0]}
        fixed = getattr(timm.get_pretrained_cfg(self.architecture), "fixed_input_size", False)

        def make() -> nn.Module:
            if fixed:
                try:
                    return timm.create_model(self.architecture, self.pretrained, img_size=tuple(input_shape[1:]), **options)
                except TypeError:  # of one size, and it takes no other
                    pass
            return timm.create_model(self.architecture, self.pretrained, **options)

        with without_vain_retries() if self.pretrained else nullcontext():
            return attempt(f"timm:{self.architecture}", input_shape, make)
