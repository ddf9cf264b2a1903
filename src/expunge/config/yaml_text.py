"""YAML 1.2, read without surprises."""

import io
from pathlib import Path
from typing import Any

from expunge.errors import BadInput


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML 1.2 document: ``1e-3`` is a number, ``no`` and dates are texts, duplicate keys are refused."""
    from ruamel.yaml import YAML, SafeConstructor
    from ruamel.yaml.error import YAMLError

    class Constructor(SafeConstructor):
        """Reads a date as the text it is, as YAML 1.2 does."""

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        return yaml.load(text)
    except (YAMLError, ValueError, TypeError, AttributeError) as error:  # those are of tags such as !!int on what is no number
        detail = " ".join(str(getattr(error, "problem", error)).split())
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise BadInput(where, f"not valid YAML{line}: {detail}.", "Check brackets, colons and indentation.") from None


def to_yaml(tree: Any) -> str:
    """Return a tree of plain values as a YAML 1.2 document."""
    from ruamel.yaml import YAML

    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = False, 10_000  # a path is not wrapped
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(tree, out)
    return out.getvalue()


def read_yaml(file: Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        BadInput: it cannot be read, or is no YAML in UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            str(file), f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text in UTF-8'}.", "Give a YAML file."
        ) from None
    return parse_yaml(text, str(file))
