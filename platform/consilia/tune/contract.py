"""The two seams of a search: what a runner needs of it, and who watches it."""

import logging
from typing import Protocol

from consilia.config.records import EpochReport, RefitProgress, TaskTaken, TrialOutcome, TrialRecord, TrialTask

logger = logging.getLogger(__name__)


class Controller(Protocol):
    """What a runner needs: Ray Tune in a search, virtual time in a simulation."""

    @property
    def n_running(self) -> int:
        """Trials that are in slots."""

    def next_task(self) -> TrialTask | None:
        """Return the next trial, or None while there is none; the last one to end may bring another."""

    def taken(self, message: TaskTaken) -> None:
        """Note that a worker has started on a trial."""

    def hear(self, report: EpochReport) -> str | None:
        """Take a report; return why the trial leaves its slot, or None."""

    def left(self, number: int) -> bool:
        """Note that a trial which `hear` told to leave has left; say whether it has ended for good."""

    def end(self, outcome: TrialOutcome) -> None:
        """Record how a trial ended."""

    def lost(self, number: int, reason: str, *, counts: bool = True) -> None:
        """Note that a trial's slot is gone, and whether that counts against the trial."""

    def must_leave(self) -> str:
        """Return why all trials must leave their slots now, or ""."""

    def reserve(self, n_slots: int) -> None:
        """Record how many slots are held."""


class SearchObserver(Protocol):
    """Told of everything that happens, in the driver, in order."""

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        """The search begins; `records` are the trials that an earlier run has ended."""

    def trial_started(self, task: TrialTask) -> None:
        """A trial was given to a slot."""

    def epoch_ended(self, report: EpochReport) -> None:
        """A worker finished an epoch."""

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial finished, was stopped, or failed."""

    def noted(self, text: str) -> None:
        """Something happened that people should know, such as a worker that was lost."""


class Audience:
    """Several observers as one; each hears everything, in the order given, and what people should know is logged."""

    def __init__(self, *observers: SearchObserver) -> None:
        self._observers = observers

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        """Tell every observer that the search begins."""
        for observer in self._observers:
            observer.search_started(n_trials=n_trials, n_slots=n_slots, records=records)

    def trial_started(self, task: TrialTask) -> None:
        """Tell every observer of a trial that was given to a slot."""
        for observer in self._observers:
            observer.trial_started(task)

    def epoch_ended(self, report: EpochReport) -> None:
        """Tell every observer of an epoch."""
        for observer in self._observers:
            observer.epoch_ended(report)

    def trial_ended(self, record: TrialRecord) -> None:
        """Tell every observer how a trial ended."""
        for observer in self._observers:
            observer.trial_ended(record)

    def noted(self, text: str) -> None:
        """Log what people should know, and tell every observer."""
        logger.info("%s", text)
        for observer in self._observers:
            observer.noted(text)


class RefitView(Protocol):
    """Who watches refits: told in the driver, in order."""

    def refitting(self, progress: RefitProgress) -> None:
        """Something has changed: one began, an epoch ended, or one ended."""

    def noted(self, text: str) -> None:
        """Something happened that people should know."""
