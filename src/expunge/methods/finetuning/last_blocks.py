"""Training of a net's end, which CF-k and EU-k share."""

from expunge.engine.context import Context
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd


def train_last_blocks(ctx: Context, blocks: int, *, lr: float, epochs: int, batch_size: int) -> Phase:
    """Return the phase that trains the last blocks on the retain set; running statistics before them are frozen by the engine.

    Raises:
        BadInput: the model has fewer blocks.
    """
    return Phase(
        [Term("retain", cross_entropy)],
        epochs=epochs,
        optimizer=sgd(lr),
        batch_size=batch_size,
        trainable=frozenset(ctx.architecture.last_blocks(blocks)),
        name=f"train the last {blocks} blocks" if blocks > 1 else "train the head",
    )
