"""What add-ons ask of a method before any work."""

from expunge.engine.method import Method

_OPTIMISES = frozenset({"lr", "epochs", "steps", "rounds"})


def changes_nothing(method: Method) -> str:
    """Return why an add-on that rewrites steps is pointless; empty if the method has any."""
    return "it leaves the model as it is, so there is no step to rewrite." if method.name == "original" else ""


def trains_anew(method: Method) -> str:
    """Return why an add-on that keeps weights of the original contradicts the method; empty if it does not."""
    if "recipe" in method.needs:
        return "it trains a new model, and frozen weights would carry the original's into it."
    return ""


def takes_no_gradient_step(method: Method) -> str:
    """Return why an add-on that acts on optimiser steps has nothing to act on; empty if it has.

    A method that optimises declares a learning rate, epochs or a recipe among its fields and needs.
    """
    if "recipe" in method.needs or _OPTIMISES & set(type(method).model_fields):
        return ""
    return "it takes no gradient step."
