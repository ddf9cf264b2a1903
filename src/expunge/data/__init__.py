"""Data sets as device tensors or streams, and the scenarios that say what is forgotten."""
