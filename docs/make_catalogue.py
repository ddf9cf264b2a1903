"""Write docs/catalogue.md from what the components say about themselves: ``python docs/make_catalogue.py [FILE]``."""

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from expunge import catalogue, registry
from expunge.runs import atomic_write

TARGET = Path(__file__).with_name("catalogue.md")
INTRODUCTION = """# Catalogue

Everything that can be chosen by name, as the classes themselves say it. This page is made by `python docs/make_catalogue.py`; do not edit
it. On the command line, `expunge list methods` and `expunge show method salun` say the same.

A field is set with a dot (`method.lr=0.02`); *searched* is the range in which it is worth tuning. Where two kinds of requests want
different values, *defaults for ... requests* replace the field's own.
"""
TITLES = {
    "methods": "Methods",
    "addons": "Add-ons",
    "metrics": "Metrics",
    "audits": "Audits",
    "models": "Models",
    "datasets": "Data sets",
    "scenarios": "Scenarios",
    "recipes": "Recipes",
    "selections": "Selection rules",
    "trackers": "Trackers",
    "labs": "Laboratory",
}
KEYS = {
    "methods": "method",
    "models": "model",
    "datasets": "data",
    "scenarios": "forget",
    "recipes": "train",
    "selections": "tune.rule",
    "trackers": "track",
}
"""Kind -> the key of the command line that chooses one."""

FAMILIES = {
    "references": "References and controls",
    "finetuning": "Fine-tuning on what stays",
    "ascent": "Gradient ascent",
    "relabeling": "Other labels for the forget set",
    "distillation": "Distillation",
    "features": "Feature space",
    "weight_edits": "Edits of the weights",
    "reset_and_repair": "Reset and repair",
    "constrained": "Several objectives and constraints",
    "adversarial": "Adversarial",
    "exact": "Exact",
    "certified": "Certified",
    "meta": "Methods made of methods",
}
"""Folder of a family -> its title, in the order of the page; a folder that is not named here comes last, under its own name."""


def page() -> str:
    """Return the whole catalogue as Markdown."""
    lines = [INTRODUCTION]
    for kind, title in TITLES.items():
        entries = own(kind)
        lines += [f"## {title}", "", f"{len(entries)} in all: {', '.join(_link(kind, entry) for entry in entries)}.", ""]
        lines += _methods(entries) if kind == "methods" else [line for entry in entries for line in _entry(kind, entry)]
    return "\n".join(lines).rstrip() + "\n"


def own(kind: str) -> list[dict[str, Any]]:
    """Return the entries of a kind without those that other installed packages bring."""
    return [entry for entry in catalogue(kind) if registry.modules(kind)[entry["name"]][0].startswith("expunge.")]


def _methods(entries: list[dict[str, Any]]) -> list[str]:
    order = list(FAMILIES)
    entries = sorted(entries, key=lambda entry: (_place(order, _family(entry)), _family(entry), entry["name"]))
    lines = []
    for family, members in groupby(entries, key=_family):
        lines += [f"### {FAMILIES.get(family, family.replace('_', ' ').capitalize())}", ""]
        lines += [line for entry in members for line in _entry("methods", entry)]
    return lines


def _family(entry: dict[str, Any]) -> str:
    return registry.modules("methods")[entry["name"]][0].split(".")[2]


def _place(order: list[str], family: str) -> int:
    return order.index(family) if family in order else len(order)


def _entry(kind: str, entry: dict[str, Any]) -> Iterator[str]:
    yield f'<a id="{_anchor(kind, entry)}"></a>'
    yield f"**`{entry['name']}`** {_plain(entry['summary'])}"
    yield ""
    facts = list(_facts(kind, entry))
    if facts:
        yield from (f"- {fact}" for fact in facts)
        yield ""
    if entry["hyperparameters"]:
        yield from _fields(entry["hyperparameters"])
        yield ""


def _facts(kind: str, entry: dict[str, Any]) -> Iterator[str]:
    if kind in KEYS:
        rest = registry.find(kind, entry["name"]).prefix_field
        yield f"choose: `{KEYS[kind]}={entry['name']}`" + (f" or `{KEYS[kind]}={entry['name']}:{rest.upper()}`" if rest else "")
    if kind == "addons":
        yield f"choose: `addons=[{entry['name']}]`"
    if entry["aliases"]:
        yield f"also called: {', '.join(f'`{alias}`' for alias in entry['aliases'])}"
    for name, fields in entry.get("presets", {}).items():
        yield f"`{name}` stands for {', '.join(f'`{key}={json.dumps(value)}`' for key, value in fields.items())}"
    if entry["source"]:
        yield f"source: {_plain(entry['source'])}"
    if kind == "metrics":
        yield f"column: {entry['label']}{' in ' + entry['unit'] if entry['unit'] else ''}; target: `{entry['target']}`"
    if entry.get("needs"):
        yield f"needs: {', '.join(entry['needs'])}"
    if entry.get("scenarios"):
        reason = f" ({_plain(entry['scenario_reason'])})" if entry.get("scenario_reason") else ""
        yield f"requests: {', '.join(entry['scenarios'])}{reason}"
    for scenario, defaults in (entry.get("scenario_defaults") or {}).items():
        yield f"defaults for {scenario} requests: {', '.join(f'`{key}={json.dumps(value)}`' for key, value in defaults.items())}"
    for deviation in entry["deviations"]:
        yield f"deviation: {_plain(deviation)}"


def _fields(fields: list[dict[str, Any]]) -> Iterator[str]:
    yield "| field | default | allowed | searched | about |"
    yield "| --- | --- | --- | --- | --- |"
    for field in fields:
        default = field["default"] if isinstance(field["default"], str) else json.dumps(field["default"])
        cells = (f"`{field['name']}`", f"`{default}`", field["type"], _range(field["search"]), _plain(field["about"]))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _range(search: dict[str, Any] | None) -> str:
    return f"{search['low']:g} to {search['high']:g}{' (log)' if search['log'] else ''}" if search else ""


def _link(kind: str, entry: dict[str, Any]) -> str:
    return f"[{entry['name']}](#{_anchor(kind, entry)})"


def _anchor(kind: str, entry: dict[str, Any]) -> str:
    return f"{kind}-{entry['name']}".replace("_", "-")


def _plain(text: str) -> str:
    """Return a docstring's text as Markdown: stars outside of code are no emphasis."""
    parts = text.replace("``", "`").split("`")
    return "`".join(part if number % 2 else part.replace("*", "\\*").replace("<", "&lt;") for number, part in enumerate(parts))


def main() -> None:
    """Write the page, whole or not at all."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    with atomic_write(target) as temporary:
        temporary.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
