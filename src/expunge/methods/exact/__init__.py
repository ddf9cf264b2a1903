"""Exact unlearning by training so that little has to be trained again; see `sharded_training.Sisa`.

It decides how the original is trained, and the model is an ensemble, so it is no method of the registry but an interface of its own.
"""
