"""A study under way, as one progress bar in the output of a notebook's cell."""

import html
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from consilia.config.records import EpochReport, RefitProgress, TrialRecord, TrialTask
from consilia.metrics.scores import METRICS

_SECONDS = 0.2  # between two updates, so that short epochs do not flood the notebook


def in_notebook() -> bool:
    """Say whether this process is the kernel of a notebook; IPython in a terminal is not one."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class NotebookProgress:
    """Moves one bar through a study: images, then epochs of trials, then refits. A StudyView.

    Args:
        metric: Name of the study's metric.
        epochs: Epochs a fold.
        n_folds: Folds a trial.
        clock: Returns seconds; tests pass their own.
    """

    def __init__(self, *, metric: str, epochs: int, n_folds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._metric = metric
        self._epochs_a_trial = epochs * n_folds
        self._clock = clock
        self._display: Any = importlib.import_module("IPython.display")  # it is there, since a notebook runs us
        self._handle: Any = None
        self._last = -_SECONDS
        self._running: dict[int, int] = {}  # by trial: complete epochs
        self._records: dict[int, TrialRecord] = {}
        self._n_trials = 0

    def preparing(self, done: int, total: int) -> None:
        """Show how many images are decoded."""
        self._show(done, total, f"preparing images, {done:,} of {total:,}")

    def connected(self, *, dashboard: str, token_file: str) -> None:
        """Say where to watch."""
        if dashboard:
            self._show(0, 1, f"Ray dashboard at {dashboard}", at_once=True)

    def noted(self, text: str) -> None:
        """Show nothing: it is logged, and would push the bar away."""

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        """Take down the budget and what an earlier run has ended."""
        self._n_trials = n_trials
        self._records = {record.number: record for record in records if record.has_ended}
        self._show_search(at_once=True)

    def trial_started(self, task: TrialTask) -> None:
        """Add a running trial."""
        self._running[task.number] = 0
        self._show_search()

    def epoch_ended(self, report: EpochReport) -> None:
        """Move the bar by an epoch."""
        if report.number in self._running:
            self._running[report.number] += 1
        self._show_search()

    def trial_ended(self, record: TrialRecord) -> None:
        """Move the bar by a trial, if it is not paused."""
        self._running.pop(record.number, None)
        if record.has_ended:
            self._records[record.number] = record
        self._show_search(at_once=True)

    def refitting(self, progress: RefitProgress) -> None:
        """Show how many refits, or confirmations, are finished."""
        text = f"{progress.n_finished} of {progress.n_all} {progress.noun}s finished"
        self._show(progress.n_finished, progress.n_all, text, at_once=progress.n_finished == progress.n_all)

    def _show_search(self, *, at_once: bool = False) -> None:
        done = len(self._records) * self._epochs_a_trial + sum(self._running.values())
        parts = [f"{len(self._records)} of {self._n_trials} trials", f"{len(self._running)} running"]
        scores = [record.objective for record in self._records.values() if record.state == "finished"]
        if found := [score for score in scores if score is not None]:
            best = max(found) if METRICS[self._metric].higher_is_better else min(found)
            parts.append(f"best {self._metric} {best:.4f}")
        self._show(done, self._n_trials * self._epochs_a_trial, ", ".join(parts), at_once=at_once)

    def _show(self, done: int, total: int, text: str, *, at_once: bool = False) -> None:
        now = self._clock()
        if not at_once and done < total and now - self._last < _SECONDS:
            return
        self._last = now
        bar = self._display.HTML(
            f'<progress value="{done}" max="{max(total, 1)}" style="width: 20em"></progress> {html.escape(text)}'
        )
        if self._handle is None:
            self._handle = self._display.display(bar, display_id=True)
        else:
            self._handle.update(bar)
