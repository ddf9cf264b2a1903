"""Runs as MLflow, TensorBoard and Weights & Biases show them: read from the events that every run folder holds, while it runs or later."""
