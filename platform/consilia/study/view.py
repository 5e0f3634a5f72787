"""Who watches a study: a terminal, a notebook, or nobody."""

from collections.abc import Callable
from typing import Protocol

from consilia.config.records import EpochReport, RefitProgress, TrialRecord, TrialTask
from consilia.config.study import StudyPlan
from consilia.report.notebook import NotebookProgress, in_notebook
from consilia.tune.contract import RefitView, SearchObserver

Steps = Callable[[str, int, int], None]
"""Told which step is at work, how many of its items are done, and of how many; 0: nobody knows."""


class StudyView(SearchObserver, RefitView, Protocol):
    """Told of everything that a study does."""

    def preparing(self, done: int, total: int) -> None:
        """Images decoded so far."""

    def connected(self, *, dashboard: str, token_file: str) -> None:
        """Ray is there, and can be watched at this address with this file's token."""

    def noted(self, text: str) -> None:
        """Something happened that people should know."""


class SilentView:
    """A StudyView that shows nothing; what people should know is logged in any case."""

    def preparing(self, done: int, total: int) -> None:
        """Say nothing."""

    def connected(self, *, dashboard: str, token_file: str) -> None:
        """Say nothing."""

    def noted(self, text: str) -> None:
        """Say nothing."""

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        """Say nothing."""

    def trial_started(self, task: TrialTask) -> None:
        """Say nothing."""

    def epoch_ended(self, report: EpochReport) -> None:
        """Say nothing."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Say nothing."""

    def refitting(self, progress: RefitProgress) -> None:
        """Say nothing."""


SILENT = SilentView()


class StepsView(SilentView):
    """Shows how many images are decoded, as a step of a call that needs a study's images."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def preparing(self, done: int, total: int) -> None:
        """Show it."""
        self._steps("preparing images", done, total)


def no_steps(step: str, done: int, total: int) -> None:
    """Show no step."""


def default_view(plan: StudyPlan) -> StudyView:
    """Return a progress bar in a notebook, and silence in a script."""
    if not in_notebook():
        return SILENT
    return NotebookProgress(metric=plan.search.metric, epochs=plan.training.epochs, n_folds=plan.folds.k)
