"""YAML and key=value -> validated, frozen configuration, and its fingerprint.

A configuration is a tree of components. A component's class is its schema: the Python API, the YAML, the command line and the
record of a run all read the same fields.
"""

from expunge.config.component import Component, build, validate
from expunge.config.evaluate import TIER_SIZES, Evaluate
from expunge.config.experiment import DEFAULTS, Experiment, Tuned, fingerprint, provenance, resolve, scenario_defaults
from expunge.config.fields import Flag, Fraction, Integer, NonNegativeFloat, NonNegativeInt, Number, PositiveFloat, PositiveInt, Text, hyper
from expunge.config.tree import KEYS, KINDS, LISTS, SEEDS, as_choice, as_choices, assign, is_file, method_file, parse_override, read
from expunge.config.words import describe
from expunge.config.yaml_text import parse_yaml, read_yaml, to_yaml

__all__ = [
    "Component",
    "DEFAULTS",
    "Evaluate",
    "Experiment",
    "Flag",
    "Fraction",
    "Integer",
    "KEYS",
    "KINDS",
    "LISTS",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Number",
    "PositiveFloat",
    "PositiveInt",
    "SEEDS",
    "TIER_SIZES",
    "Text",
    "Tuned",
    "as_choice",
    "as_choices",
    "assign",
    "build",
    "describe",
    "fingerprint",
    "hyper",
    "is_file",
    "method_file",
    "parse_override",
    "parse_yaml",
    "provenance",
    "read",
    "read_yaml",
    "resolve",
    "scenario_defaults",
    "to_yaml",
    "validate",
]
