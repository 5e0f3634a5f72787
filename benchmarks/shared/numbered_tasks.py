"""The simplest controller that slots can run: numbered tasks, no racing, and every trial must finish."""

import sys
import time

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialTask
from consilia.config.space import Hyperparameters


class NumberedTasks:
    """Hands out `n_tasks` tasks and remembers when; the search's own controller does the same and more."""

    def __init__(self, n_tasks: int) -> None:
        self._n_tasks = n_tasks
        self._running: set[int] = set()
        self.assigned: dict[int, float] = {}  # clock seconds by number

    @property
    def n_running(self) -> int:
        """Tasks that were handed out and have not ended."""
        return len(self._running)

    def next_task(self) -> TrialTask | None:
        """Return the next task, or None."""
        number = len(self.assigned)
        if number == self._n_tasks:
            return None
        self._running.add(number)
        self.assigned[number] = time.time()
        return TrialTask(number=number, hyperparameters=Hyperparameters(architecture="none"))

    def taken(self, message: TaskTaken) -> None:
        """Do nothing."""

    def hear(self, report: EpochReport) -> str | None:
        """Stop no trial."""
        return None

    def left(self, number: int) -> bool:
        """Return False: no trial is told to leave."""
        return False

    def end(self, outcome: TrialOutcome) -> None:
        """Forget a finished task, and end the benchmark with any other."""
        if outcome.state != "finished":
            sys.exit(f"trial {outcome.number} {outcome.state}: {outcome.reason}")
        self._running.discard(outcome.number)

    def lost(self, number: int, reason: str, *, counts: bool = True) -> None:
        """End the benchmark: it would measure the loss."""
        sys.exit(f"trial {number} lost its slot: {reason}")

    def must_leave(self) -> str:
        """Return that no trial must leave."""
        return ""

    def reserve(self, n_slots: int) -> None:
        """Do nothing: no ledger is kept."""
