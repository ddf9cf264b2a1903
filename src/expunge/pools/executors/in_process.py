"""Jobs one after the other in this process."""

import time
from dataclasses import dataclass

from expunge.pools.executor import Shift, attempt


@dataclass(frozen=True)
class InProcess:
    """No worker at all: nothing to start, and nothing that could be lost without ending the command.

    Attributes:
        retries: without meaning here.
    """

    retries: int = 0

    def work(self, shift: Shift) -> None:
        """Run all jobs of a shift that can run."""
        while (ready := shift.ready()) or shift.rests:
            if not ready:
                time.sleep(0.1)
                continue
            job = ready[0]
            result = attempt(job, shift.needed(job), shift.report, shift.keep_going)
            shift.take(job)
            shift.finish(job, result)
