"""Membership attacks on one model."""
