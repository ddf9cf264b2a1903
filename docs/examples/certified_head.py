"""Remove examples from a linear head with a certificate, until the budget is spent, on scikit-learn's digits."""

import torch
from sklearn.datasets import load_digits

from expunge.errors import NotApplicable
from expunge.methods.certified.linear_head import CertifiedHead


def main() -> tuple[float, int]:
    """Return the test accuracy at the end and how many examples were removed before the first refusal."""
    digits = load_digits()
    x, y = torch.tensor(digits.data), torch.tensor(digits.target)  # in earnest: features of an encoder that never saw these examples
    head = CertifiedHead(x[:1400], y[:1400], 10, epsilon=1.0, delta=1e-5)
    removed = 0
    try:
        while True:
            removed += head.remove([removed]).removed
    except NotApplicable:
        head.refit(seed=1)  # a new random term; the budget is whole again
        head.remove([removed])
    accuracy = float((head.logits(x[1400:]).argmax(1) == y[1400:]).double().mean())
    return accuracy, removed


if __name__ == "__main__":
    print("test accuracy {:.1%} after {} removals under one random term".format(*main()))
