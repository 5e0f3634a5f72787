"""What whoever runs the trials needs of the controller: Ray Tune in a search, virtual time in a simulation."""

from typing import Protocol

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialTask


class Controller(Protocol):
    """What Tune's adaptors need of a TrialController."""

    @property
    def n_running(self) -> int:
        """Trials that are in slots."""

    def next_task(self) -> TrialTask | None:
        """Return the next trial, or None while there is none; the last one to end may bring another."""

    def taken(self, message: TaskTaken) -> None:
        """A worker has taken a trial up."""

    def hear(self, report: EpochReport) -> str | None:
        """Take a report; return why the trial leaves its slot, or None."""

    def left(self, number: int) -> None:
        """A trial that `hear` has told to leave has left."""

    def end(self, outcome: TrialOutcome) -> None:
        """Take down how a trial ended."""

    def lost(self, number: int, reason: str, *, counts: bool = True) -> None:
        """A trial's slot is gone; whether it counts against the trial."""

    def must_leave(self) -> str:
        """Return why all trials must leave their slots now, or ""."""

    def reserve(self, n_slots: int) -> None:
        """Take down how many slots are held."""
