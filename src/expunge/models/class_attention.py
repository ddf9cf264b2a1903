"""Small convolutional network whose answer is its attention to one key for each class."""

from torch import Tensor, nn

from expunge.config import PositiveInt, hyper
from expunge.models.model import Model
from expunge.models.small_cnn import SmallCnn


class ClassAttention(Model):
    """The convolutions of `small_cnn`, a query made of what they see, and a learned key for each class.

    The probabilities are the attention weights ``softmax(K q / sqrt(width) + b)``, so that dropping a key shares its weight out among the
    other classes in proportion; that is what ``method=class_key_removal``, an alias of the control `head_surgery`, does. The features,
    here the scaled query, stay those of a network that was trained on the class.

    Source: sachit3022/unlearning (class-specific attention, an idea without code there); the design is ours.
    """

    source = "sachit3022/unlearning, class-specific attention; the design is ours"

    width: PositiveInt = hyper(64, "numbers of the query and of each key")
    channels: PositiveInt = hyper(16, "channels of the first convolution; the others have 2 and 4 times as many")

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network.

        Raises:
            BadInput: pictures with a side below 8 pixels.
        """
        encoder = SmallCnn(width=self.channels).build(self.width, input_shape)
        return ClassAttentionNet(encoder, self.width, num_classes)


class ClassAttentionNet(nn.Module):
    """An encoder that makes the query, and the keys.

    Args:
        encoder: pictures to queries ``[B, width]``.
        width: numbers of the query.
        num_classes: number of keys.
    """

    def __init__(self, encoder: nn.Module, width: int, num_classes: int):
        super().__init__()
        self.encoder = encoder
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Linear(width, num_classes)
        self.scale = width**-0.5
        nn.init.normal_(self.keys.weight)
        nn.init.zeros_(self.keys.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for normalised pictures ``[B, C, H, W]``."""
        return self.keys(self.query(x) * self.scale)

    def query(self, x: Tensor) -> Tensor:
        """Return the queries, ``[B, width]``."""
        return self.norm(self.encoder(x))
