"""Residual network with 18 layers."""

from torch import nn

from expunge.models.residual import StemmedResidual, stemmed_resnet


class ResNet18(StemmedResidual):
    """Residual network with 18 layers and 11.17 million weights; the small stem suits pictures of 32 to 64 pixels."""

    source = "He et al., CVPR 2016, arXiv 1512.03385, table 1"

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network."""
        return stemmed_resnet("resnet18", num_classes, input_shape[0], self.stem)
