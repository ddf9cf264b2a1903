"""Deletion requests that arrive one after another."""
