"""A run that is killed in the middle and started again ends with the weights, bit for bit, of one that was not."""

import math
from pathlib import Path

import pytest
from registry_world import context_for, same, small, state_of

from expunge import registry
from expunge.engine.context import Context
from expunge.engine.run import Outcome, run
from expunge.training.checkpoints import DiskCheckpoints

LONGER = ("epochs", "collapse_epochs", "repair_epochs", "max_epochs")
LONG = {
    "famo": {"weight_lr": 0.5},
    "gdr_gma": {"bound": 1.0},
    "l2ul": {"lr": 1e-4},
    "lotus": {"lr": 3e-3, "alpha": 8.0},
    "mu_mis": {"lr": 1e-4, "check_every": 2},
    "lottery_ticket": {"rewind_epochs": 1},
    "scissorhands": {"lr": 0.05, "weight": 0.5},
    "sfron": {"iterations": 60, "every": 4},
    "scrub_r": {"lr": 0.02, "max_epochs": 2},  # the second epoch is the one gone back to
    "scrub_r+clip": {"lr": 1e-6, "epochs": 11, "max_epochs": 11},  # all errors are equal: the last of more than nine is
    "scrub_r+lora": {"lr": 0.008, "max_epochs": 2},  # here too
}
"""Settings of methods that remember something between steps: it matters, and the run does not end before it is killed."""
TOGETHER = (*(f"neggrad_plus+{name}" for name in registry.names("addons")), "famo+sam", "scissorhands+sam")


class Dying(DiskCheckpoints):
    """Dies after so many saved epochs."""

    def __init__(self, path: Path, after: int = 0):
        super().__init__(path)
        self.after, self.saves = after, 0

    def save(self, *state) -> None:
        super().save(*state)
        self.saves += 1
        if self.saves == self.after:
            raise KeyboardInterrupt


def play(case: str, path: Path, after: int = 0) -> tuple[Context, Outcome, list[dict]]:
    """Run a case or resume it, for a few epochs of each phase; return what came of it and what was reported."""
    name, *addons = case.split("+")
    scenarios = registry.find("methods", name).scenarios
    kind = "class" if "spotter" in addons or "random" not in scenarios else "random"
    given = LONG.get(case, LONG.get(name, {}))
    method = small("methods", name, kind, **given)
    longer = {key: 4 if given else 2 for key in LONGER if key in type(method).model_fields and key not in given}
    method = method.but(**longer)
    added, events = [small("addons", addon, **LONG.get(addon, {})) for addon in addons], []
    context, _ = context_for(method, added, kind=kind, report=events.append, recipe_epochs=3)
    return context, run(context, method, added, Dying(path, after)), events


def epochs(events: list[dict]) -> list[tuple[int, int]]:
    """Return phase and number of the epochs that were run."""
    return [(event["phase"], event["epoch"]) for event in events if event["event"] == "epoch"]


def counts(outcome: Outcome) -> dict:
    return {key: value for key, value in outcome.cost.items() if isinstance(value, int) and "bytes" not in key}


@pytest.mark.parametrize("case", [*registry.names("methods"), *TOGETHER])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(case: str, tmp_path: Path) -> None:
    context, outcome, events = play(case, tmp_path / "whole")
    if not outcome.phases:
        return
    half = math.ceil(len(epochs(events)) / 2)
    with pytest.raises(KeyboardInterrupt):
        play(case, tmp_path / "killed", half)
    again, repeated, rest = play(case, tmp_path / "killed")
    assert epochs(rest) == epochs(events)[half:], "it goes on where it was killed"
    assert same(state_of(context), state_of(again))
    assert outcome.phases == repeated.phases and counts(outcome) == counts(repeated)


@pytest.mark.parametrize("case", ["scrub_r", "scrub_r+clip", "scrub_r+lora", "finetune+lottery_ticket"])
def test_what_is_gone_back_to_outlives_a_kill_at_any_epoch(case: str, tmp_path: Path) -> None:
    """The weights that these go back to are from epochs, and phases, that a resumed run does not run again."""
    context, _, events = play(case, tmp_path / "whole")
    assert len(epochs(events)) > 3
    for after in range(1, len(epochs(events)) + 1):
        with pytest.raises(KeyboardInterrupt):
            play(case, tmp_path / str(after), after)
        again, _, rest = play(case, tmp_path / str(after))
        assert epochs(rest) == epochs(events)[after:] and same(state_of(context), state_of(again)), after
