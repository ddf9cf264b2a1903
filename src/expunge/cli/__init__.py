"""The command line: one function per verb, which parses, calls and prints. Nothing here imports torch before a verb needs it."""

from expunge.cli import measure, many, look, deletion, names  # noqa: I001 - in the order of the help
from expunge.cli.shared import app
from expunge.cli.start import main

__all__ = ["app", "deletion", "look", "main", "many", "measure", "names"]
