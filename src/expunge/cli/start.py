"""From the words of a command line to its end."""

import os
import sys
from typing import Any

import typer

from expunge.cli.shared import app, end
from expunge.errors import BadInput, Diverged, RunFailed


def main() -> None:
    """Run the command line; wrong input ends with one line and status 2."""
    try:
        meet_ranks()
        if app(sys.argv[1:] or ["--help"], prog_name="expunge", standalone_mode=False) == 130:  # how typer tells of Ctrl-C
            raise KeyboardInterrupt
    except BadInput as error:
        end(str(error), 2)
    except (Diverged, RunFailed) as error:
        end(str(error), 1)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        end("interrupted; what was finished is kept: run the same command again to go on.", 130)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # wrong words on the command line
            end(_about_words(error), error.exit_code)
        if type(error).__name__ == "WorkersLost":
            end(str(error), 1)
        raise


def _about_words(error: Any) -> str:
    """Return what is wrong with the words of a command, and which page of the help says more."""
    from expunge.config import Experiment

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "expunge"
    found = error.format_message().rstrip(".")
    word = str(getattr(error, "option_name", "")).lstrip("-")
    if word.partition(".")[0] in Experiment.model_fields:
        return f"{found}. Settings have no dashes: write {word}=VALUE."
    if "=" in found.partition("Did you mean")[0] and path == "expunge":
        found = found.partition(" Did you mean")[0].rstrip(".")
        return f"{found}. A verb comes first, such as `expunge unlearn method=salun`; `expunge --help` shows them."
    return f"{found}{'' if found.endswith('?') else '.'} `{path} --help` shows what there is."


_ONE_MODEL = ("train", "unlearn")
_NO_MODEL = ("config", "list", "show")


def meet_ranks() -> None:
    """Meet the other processes that torchrun has started to work on one model; all but the first print nothing but errors.

    Raises:
        BadInput: the verb makes many models.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or "--print-config" in sys.argv or (verb := (sys.argv[1:] or ["list"])[0]) in _NO_MODEL:
        return
    from expunge.engine import parallel

    if not parallel.asked():
        return
    if verb not in _ONE_MODEL:
        raise BadInput(
            "torchrun",
            f"`expunge {verb}` makes many models, each in a process of its own; torchrun is for one model on many devices.",
            "Start it without torchrun, or use `train` and `unlearn`.",
        )
    parallel.start()
    if parallel.rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
