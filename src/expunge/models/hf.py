"""Any image classifier of Hugging Face transformers."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from expunge.config import Flag, Text, hyper
from expunge.models.model import Model
from expunge.models.published import attempt, check_known, require, without_vain_retries


class Hf(Model):
    """An image classifier of Hugging Face transformers: a kind (``hf:vit``), a name on the hub, or a folder."""

    source = "https://huggingface.co/docs/transformers"
    prefix_field = "architecture"
    packages = ("transformers",)

    architecture: Text
    pretrained: Flag = hyper(False, "start from published weights; the head is new when the number of classes differs")
    options: dict[str, Any] = hyper({}, "fields of the architecture's configuration, for example {hidden_size: 192}")

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network behind an adapter that returns its logits.

        Raises:
            BadInput: transformers is not installed, there is no such architecture, or it cannot take these pictures.
        """
        transformers = require("transformers", "huggingface")
        kinds = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        elsewhere = "/" in self.architecture or Path(self.architecture).is_dir()
        if not elsewhere:
            check_known("transformers", self.architecture, kinds, "https://huggingface.co/models")
        chosen = {"num_labels": num_classes, "image_size": input_shape[1], "num_channels": input_shape[0], **self.options}
        make_config = transformers.AutoConfig.from_pretrained if elsewhere else transformers.AutoConfig.for_model
        classifier = transformers.AutoModelForImageClassification

        def make() -> nn.Module:
            config = make_config(self.architecture, **chosen)
            if self.pretrained:
                return classifier.from_pretrained(self.architecture, config=config, ignore_mismatched_sizes=True)
            return classifier.from_config(config)

        with without_vain_retries() if elsewhere and not Path(self.architecture).is_dir() else nullcontext():
            return LogitsOnly(attempt(f"hf:{self.architecture}", input_shape, make))


class LogitsOnly(nn.Module):
    """A classifier of transformers whose output is the tensor of logits."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for normalised pictures ``[B, C, H, W]``."""
        return self.net(pixel_values=x).logits
