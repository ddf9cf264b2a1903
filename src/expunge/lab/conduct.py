"""A study -> its record and its page, in a folder named by all that decides them; what is there is not computed again."""

import time
from typing import Any

import torch

from expunge import runs
from expunge.config import fingerprint, to_yaml
from expunge.lab import page
from expunge.lab.settings import Study
from expunge.pools import remote
from expunge.pools.workplace import code_fingerprint

CODE = (
    *("engine", "models", "data", "training", "methods", "addons", "attacks", "metrics", "lab", "statistics.py", "requests/sequence.py"),
    *(f"pools/{name}.py" for name in ("stacked", "stacked_net", "feed")),
)
"""What a record depends on; a changed program makes a new one."""


def conduct(study: Study, progress: Any, command: str = "") -> list[str]:
    """Run a study, or find it done, write its page, and return what to print.

    Args:
        study: the study.
        progress: see `expunge.progress.Progress`.
        command: for the record.
    """
    folder = remote.folder_of(study.experiment.out) / f"lab-{study.lab.name}-{fingerprint(_identity(study))[:12]}"
    file = folder / "record.json"
    remote.check_writable(folder)
    if not remote.agree(folder, file.name):
        torch.set_num_threads(study.experiment.evaluate.threads)
        with progress as shown:
            record = _record(study, shown.report, command)
        with runs.atomic_write(folder / "config.yaml") as temporary:
            temporary.write_text(to_yaml(study.tree()), encoding="utf-8")
        runs.write_json(file, record)
    record = runs.read_json(file)
    sheet = study.lab.sheet(record["found"])
    page.write(study.lab.title, sheet, record, folder / "page.html")
    remote.push(folder, anew=True)
    return [*(f"- {finding}" for finding in sheet.findings), f"page: {remote.shown(folder / 'page.html')}", f"record: {file}"]


def _identity(study: Study) -> dict[str, Any]:
    tree = {key: value for key, value in study.tree().items() if key != "out"}
    return {"study": tree, "code": code_fingerprint(*CODE)}


def _record(study: Study, report: Any, command: str) -> dict[str, Any]:
    start = time.monotonic()
    found = study.lab.run(study.experiment, report)
    return {
        "format": 1,
        "lab": study.lab.name,
        "config": study.tree(),
        "command": command or f"expunge lab {study.lab.name}",
        "seconds": round(time.monotonic() - start, 2),
        "environment": runs.environment(),
        "found": found,
    }
