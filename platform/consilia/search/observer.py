"""Who watches a search: the seam between the search and what people see."""

from typing import Protocol

from consilia.records import EpochReport, TrialRecord, TrialTask


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
