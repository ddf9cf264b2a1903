"""Certified removal from a linear head over frozen features; see `linear_head.CertifiedHead`.

The certificate rests on how the head was trained, so it is no method for models that were trained otherwise but an interface of its own.
"""
