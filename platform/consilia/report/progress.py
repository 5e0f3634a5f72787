"""A running search, on a terminal as a live table, elsewhere as one line per finished trial."""

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from consilia.records import EpochReport, TrialRecord, TrialTask
from consilia.scoring.metrics import METRICS


class PrepareProgress:
    """A bar over the images while they are decoded; it appears with the first image and leaves with the last."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("preparing images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Without a terminal, rich would leave blank lines where the bar was.
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` images are decoded."""
        if self._task is None:
            self._task = self._progress.add_task("", total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


class StudyProgress:
    """Hears what a study does and shows it; a StudyView.

    Args:
        console: A terminal gets the live table; anything else gets lines.
        metric: Name of the study's metric.
        epochs: Epochs a fold.
        n_folds: Folds a trial.
        clock: Returns seconds; tests pass their own.
    """

    def __init__(
        self, console: Console, *, metric: str, epochs: int, n_folds: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._metric = metric
        self._epochs = epochs
        self._n_folds = n_folds
        self._clock = clock
        self.preparing = PrepareProgress(console)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._running: dict[int, tuple[TrialTask, EpochReport | None]] = {}
        self._records: dict[int, TrialRecord] = {}
        self._n_trials = self._n_slots = self._n_epochs = self._n_ended_before = 0
        self._started = clock()

    def __enter__(self) -> "StudyProgress":
        """Return this; the live table starts with the search."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take what is live away; what follows is printed below the search's lines."""
        self.preparing.close()
        if self._live:
            self._live.stop()

    def connected(self, *, dashboard: str, token_file: str) -> None:
        """Say where to watch."""
        if dashboard:
            token = f" (it asks for the token in {token_file})" if token_file else ""
            self._console.print(f"Ray dashboard  {dashboard}{token}", highlight=False, soft_wrap=True)

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        """Take down the budget and what an earlier run has ended."""
        self._n_trials, self._n_slots = n_trials, n_slots
        self._records = {record.number: record for record in records if record.state != "running"}
        self._n_ended_before = len(self._records)
        self._started = self._clock()
        if self._live:
            self._live.start()
        if self._records:
            self._console.print(f"{len(self._records)} trials are stored already and are not repeated.")
        self._show()

    def trial_started(self, task: TrialTask) -> None:
        """Add a running trial."""
        self._running[task.number] = (task, None)
        self._show()

    def epoch_ended(self, report: EpochReport) -> None:
        """Update a running trial."""
        if report.number in self._running:
            self._running[report.number] = (self._running[report.number][0], report)
            self._n_epochs += 1
        self._show()

    def trial_ended(self, record: TrialRecord) -> None:
        """Move a trial from the running to the ended ones, and say so in one line."""
        self._running.pop(record.number, None)
        self._records[record.number] = record
        self._console.print(self._line(record), highlight=False, markup=False, soft_wrap=True)
        self._show()

    def _line(self, record: TrialRecord) -> str:
        score = "" if record.objective is None else f"  {self._metric} {record.objective:.4f}"
        reason = f"  {record.reason}" if record.reason else ""
        return (
            f"trial {record.number:>3}  {record.state:<8}  {record.hyperparameters.architecture:<18}"
            f"lr {record.hyperparameters.lr:.1e}{score}  {record.n_folds}/{self._n_folds} folds"
            f"  {record.seconds:.0f} s{reason}"
        )

    def _show(self) -> None:
        if self._live:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        table = Table()
        for column in ("trial", "architecture", "lr", "fold", "epoch", self._metric):
            table.add_column(column, justify="left" if column == "architecture" else "right")
        for number, (task, report) in sorted(self._running.items()):
            at = ("", "", "starting") if report is None else self._place(report)
            hyperparameters = task.hyperparameters
            table.add_row(str(number), hyperparameters.architecture, f"{hyperparameters.lr:.1e}", *at)
        return Group(self._summary(), table)

    def _place(self, report: EpochReport) -> tuple[str, str, str]:
        return f"{report.fold + 1}/{self._n_folds}", f"{report.epoch}/{self._epochs}", f"{report.score:.4f}"

    def _summary(self) -> str:
        counts = {state: 0 for state in ("finished", "stopped", "failed")}
        for record in self._records.values():
            counts[record.state] += 1
        best = self._best()
        minutes = (self._clock() - self._started) / 60
        rate = f"{self._n_epochs / minutes:.0f} epochs/min" if minutes > 0 else ""
        parts = [
            f"{len(self._records)}/{self._n_trials} trials",
            f"{counts['finished']} finished, {counts['stopped']} stopped, {counts['failed']} failed",
            f"{len(self._running)} running in {self._n_slots} slots",
            f"best {self._metric} {best.objective:.4f} (trial {best.number})" if best else "no score yet",
            rate,
            self._time_left(minutes),
        ]
        return "  ·  ".join(part for part in parts if part)

    def _best(self) -> TrialRecord | None:
        finished = [record for record in self._records.values() if record.state == "finished"]
        sign = -1.0 if METRICS[self._metric].higher_is_better else 1.0
        return min(finished, key=lambda record: sign * (record.objective or 0.0), default=None)

    def _time_left(self, minutes: float) -> str:
        n_ended = len(self._records) - self._n_ended_before
        if n_ended == 0:
            return ""
        left = minutes / n_ended * (self._n_trials - len(self._records))
        return f"about {left:.0f} min left" if left >= 1 else f"about {60 * left:.0f} s left"
