"""Thin residual network with 44 layers."""

from torch import nn

from expunge.models.residual import ThinResidual, ThinResNet


class ResNet44(ThinResidual):
    """Residual network with 44 layers and 0.66 million weights, for pictures of about 32 pixels."""

    source = "He et al., CVPR 2016, arXiv 1512.03385, section 4.2"

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network."""
        return ThinResNet(44, num_classes, input_shape[0], self.shortcut, self.width)
