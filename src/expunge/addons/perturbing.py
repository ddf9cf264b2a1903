"""What the sharpness-aware add-ons share."""

from expunge.engine.method import Steps
from expunge.engine.phase import Phase
from expunge.engine.update import Perturb
from expunge.errors import NotApplicable


def perturbed(addon: str, steps: Steps, perturb: Perturb) -> Steps:
    """Yield the steps, phases with a perturbation.

    Raises:
        NotApplicable: a phase perturbs its weights already.
    """
    for step in steps:
        if not isinstance(step, Phase):
            yield step
            continue
        if step.perturb is not None:
            raise NotApplicable(f"addons={addon}", f"the phase {step.name!r} takes its gradients at perturbed weights already.")
        yield step.but(perturb=perturb)
