"""One file a scenario: which training examples are to be forgotten."""
