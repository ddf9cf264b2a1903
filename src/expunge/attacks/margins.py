"""Margin and state matrices ``[models, examples]``: conventions, checks, balanced designs and folds.

A state says what one model did with one example: `OUT` never seen, `IN` trained on, `FORGET` trained on and then unlearned.
"""

from collections.abc import Iterator

import numpy as np

from expunge.errors import BadInput

OUT, IN, FORGET = 0, 1, 2
_ELEMENTS = 1 << 20


def check(margins: np.ndarray, where: str = "margins") -> np.ndarray:
    """Return the matrix when it is a finite floating-point one.

    Raises:
        BadInput: another type or number of axes, no model or no example, or entries that are not finite.
    """
    if not isinstance(margins, np.ndarray) or margins.ndim != 2 or not np.issubdtype(margins.dtype, np.floating):
        raise BadInput(where, f"expected a floating-point matrix [models, examples], got {_describe(margins)}.")
    if 0 in margins.shape:
        raise BadInput(where, f"expected at least one model and one example, got {list(margins.shape)}.")
    for part in chunks(margins.shape):
        if not np.isfinite(margins[:, part]).all():
            models, examples = np.nonzero(~np.isfinite(margins[:, part]))
            first = f"model {models[0]}, example {examples[0] + part.start}"
            raise BadInput(where, f"margins must be finite; the first that is not is {first}.", "Recompute that model or leave it out.")
    return margins


def check_pair(unlearned: np.ndarray, retrained: np.ndarray) -> None:
    """Refuse two pools that are not finite matrices over the same number of examples.

    Raises:
        BadInput: one is not a finite matrix, or their numbers of examples differ.
    """
    check(unlearned, "unlearned")
    check(retrained, "retrained")
    if unlearned.shape[1] != retrained.shape[1]:
        found = f"unlearned holds {unlearned.shape[1]} examples, retrained holds {retrained.shape[1]}."
        raise BadInput("margins", found, "Take both pools' margins of the same examples in the same order.")


def check_states(states: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the states when they fit the margins.

    Raises:
        BadInput: another shape than the margins', or a code that is not 0, 1 or 2.
    """
    if not isinstance(states, np.ndarray) or states.shape != shape:
        raise BadInput("states", f"expected the margins' shape {list(shape)}, got {_describe(states)}.")
    if not np.isin(np.unique(states), (OUT, IN, FORGET)).all():
        raise BadInput("states", f"expected codes 0 (out), 1 (in) and 2 (forget), got {np.unique(states).tolist()}.")
    return states


def chunks(shape: tuple[int, int], elements: int = _ELEMENTS) -> Iterator[slice]:
    """Yield slices of the examples so that a block of all models holds about ``elements`` entries."""
    models, examples = shape
    width = max(1, elements // max(1, models))
    for start in range(0, examples, width):
        yield slice(start, min(start + width, examples))


def design(models: int, examples: int, states: int = 3, seed: int = 0) -> np.ndarray:
    """Return a balanced plan of membership, uint8 ``[models, examples]``.

    Models come in blocks of ``states``. In a block each example takes each state exactly once, and each model has equally many examples
    of each state (to within one). With 2 states this is the antithetic design: model 2j + 1 trains on the complement of model 2j.
    A larger pool of the same seed begins with the smaller one.

    Args:
        models: a multiple of ``states``.
        examples: number of examples whose membership varies.
        states: 2 for OUT and IN; 3 for OUT, IN and FORGET.
        seed: of the plan.

    Raises:
        BadInput: ``models`` is no multiple of ``states``, or ``states`` is neither 2 nor 3.
    """
    if states not in (2, 3):
        raise BadInput("states", f"expected 2 (out, in) or 3 (out, in, forget), got {states}.")
    if models < states or models % states:
        raise BadInput("models", f"a balanced design needs a multiple of {states} models, got {models}.")
    plan = np.empty((models, examples), dtype=np.uint8)
    for block in range(models // states):
        group = np.random.default_rng([seed, block]).permutation(examples) % states
        for member in range(states):
            plan[block * states + member] = (group + member) % states
    return plan


def folds(models: int, count: int, seed: int = 0, block: int = 1) -> np.ndarray:
    """Return each model's fold, int64 ``[models]``, from 0 to count - 1, of sizes as equal as whole blocks allow.

    Args:
        models: number of models.
        count: number of folds, at least 2.
        seed: of the assignment.
        block: so many consecutive models stay together (2 for antithetic pairs, 3 for the design with three states), so that
            every fold is as balanced as the pool.

    Raises:
        BadInput: fewer than 2 folds, or fewer blocks than folds.
    """
    blocks = -(-models // block)
    if count < 2:
        raise BadInput("folds", f"the attack's models must not be its targets: expected at least 2 folds, got {count}.")
    if blocks < count:
        found = f"{count} folds need at least {count * block} models in blocks of {block}, got {models}."
        raise BadInput("folds", found, "Take fewer folds or more models.")
    order = np.random.default_rng(seed).permutation(blocks)
    assigned = np.empty(blocks, dtype=np.int64)
    assigned[order] = np.arange(blocks) % count
    return np.repeat(assigned, block)[:models]


def _describe(array: object) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
