"""Who watches a search: the seam between the search and what people see."""

from typing import Protocol

from consilia.config.records import EpochReport, TrialRecord, TrialTask


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
    """Several observers as one; each hears everything, in the order given."""

    def __init__(self, *observers: SearchObserver) -> None:
        self._observers = observers

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        """Tell everybody that the search begins."""
        for observer in self._observers:
            observer.search_started(n_trials=n_trials, n_slots=n_slots, records=records)

    def trial_started(self, task: TrialTask) -> None:
        """Tell everybody of a trial that was given to a slot."""
        for observer in self._observers:
            observer.trial_started(task)

    def epoch_ended(self, report: EpochReport) -> None:
        """Tell everybody of an epoch."""
        for observer in self._observers:
            observer.epoch_ended(report)

    def trial_ended(self, record: TrialRecord) -> None:
        """Tell everybody how a trial ended."""
        for observer in self._observers:
            observer.trial_ended(record)

    def noted(self, text: str) -> None:
        """Tell everybody what people should know."""
        for observer in self._observers:
            observer.noted(text)
