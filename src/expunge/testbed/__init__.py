"""The convex testbed: linear heads over frozen features, where retraining is exact and the truth of every metric is known.

`bed.Testbed` makes pools of models in seconds on a CPU; `truth` says what each metric should find on them.
"""
