"""What the verb `certificate` does and prints."""

from expunge import config
from expunge.audits import certificates
from expunge.audits.claim import LEAST, Examined, examine
from expunge.errors import BadInput


def examined(name: str, words: list[str], models: int, seed: int) -> Examined:
    """Return what an audit of a certified procedure finds.

    Raises:
        BadInput: wrong input, or a certificate that does not exist because its budget does not suffice.
    """
    if models < LEAST:
        raise BadInput("--models", f"got {models}.", f"Make {LEAST} at least; 512 can show an epsilon of 3.5.")
    if seed < 0:
        raise BadInput("--seed", f"expected an integer of at least 0, got {seed}.")
    return examine(certificates.certificate(name, dict(map(config.parse_override, words))), models, seed)


def lines(found: Examined) -> list[str]:
    """Return the claim, the four readings and the verdict."""
    claim, bounds = found.claim, found.bounds
    exact, normal = bounds.clopper_pearson, bounds.gaussian
    return [
        f"claim: epsilon {claim.epsilon:.3g} at delta {claim.delta:.3g} for {claim.examples} examples ({claim.about})",
        f"models: {found.models} of each kind; an attack was fitted on half of them and tried on the others",
        f"at least, by exact binomial limits: {exact.value:.2f} (a perfect attack: {exact.ceiling:.2f})",
        f"at least, if both laws are normal with one spread: {normal.value:.2f} (a perfect attack: {normal.ceiling:.2f})",
        f"estimate, no bound: {bounds.point:.2f}",
        "from one run: not valid here, nobody's membership was drawn at random",
        found.verdict,
    ]
