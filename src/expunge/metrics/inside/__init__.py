"""Metrics of what a model still holds inside, whatever it answers: what comes back with a little training, and what its features say.

They read what `expunge.pools.inspection` found. The good value is that of retrained models, never 0 or chance.
"""
