"""A running study: a live table on a terminal, elsewhere one line for each trial that has ended.

Where there is one trial only, a line every ten seconds says how far it is.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from consilia.config.records import ALL_FOLDS, EpochReport, RefitProgress, TrialRecord, TrialTask
from consilia.metrics.scores import METRICS
from consilia.report.pace import Pace, describe_rate, describe_seconds
from consilia.report.steps import LINE_SECONDS


class PrepareProgress:
    """How many images are decoded, how fast, and how long the rest will take.

    A terminal gets a bar, which appears with the first call and disappears with the last image; anything else gets a
    line every ten seconds, and so none for a small set. If it took ten seconds, a last line says how fast it was.

    Args:
        console: Where to show it.
        clock: Returns seconds; tests pass their own.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (
            TextColumn("preparing images"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        # Without a terminal, rich would leave blank lines where the bar was.
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._console = console
        self._clock = clock
        self._task: TaskID | None = None
        self._pace = Pace()
        self._first = (0.0, 0)  # seconds, images done
        self._last_line = 0.0  # seconds

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` images are decoded; the first call says how many an earlier run has done."""
        now = self._clock()
        if self._task is None:
            self._begin(now, done, total)
        self._pace.add(now, done)
        speed = self._pace.describe(total, "images")
        if self._task is not None:
            self._progress.update(self._task, completed=done, speed=speed)
        if done >= total:
            self._end(now, done)
        elif not self._console.is_terminal and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            _say(self._console, f"prepared {done:,} of {total:,} images, {speed}")

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def _begin(self, now: float, done: int, total: int) -> None:
        self._task = self._progress.add_task("", total=total, completed=done, speed="")
        self._first, self._last_line = (now, done), now
        if 0 < done < total:
            _say(self._console, f"{done:,} of {total:,} images were prepared before and are not decoded again.")
        self._progress.start()

    def _end(self, now: float, done: int) -> None:
        self.close()
        seconds, count = now - self._first[0], done - self._first[1]
        if seconds >= LINE_SECONDS and count:
            rate = describe_rate(count / seconds, "images")
            _say(self._console, f"prepared {count:,} images in {describe_seconds(seconds)}, {rate}")


class StudyProgress:
    """Shows what a study does; a StudyView.

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
        self.preparing = PrepareProgress(console, clock=clock)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._running: dict[int, tuple[TrialTask, EpochReport | None]] = {}
        self._records: dict[int, TrialRecord] = {}
        self._n_trials = self._n_slots = self._n_epochs = self._n_ended_before = 0
        self._started = self._last_line = clock()
        self._n_complete = 0  # epochs of the trial that was heard last

    def __enter__(self) -> "StudyProgress":
        """Return this; the live table starts with the search."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the live parts; later output is printed below the search's lines."""
        self.preparing.close()
        if self._live:
            self._live.stop()

    def noted(self, text: str) -> None:
        """Print a note."""
        _say(self._console, text)

    def connected(self, *, dashboard: str, token_file: str) -> None:
        """Print the address of the dashboard."""
        if dashboard:
            token = f" (it asks for the token in {token_file})" if token_file else ""
            _say(self._console, f"Ray dashboard  {dashboard}{token}")

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        """Note the budget, and the trials that an earlier run has ended."""
        self._n_trials, self._n_slots = n_trials, n_slots
        self._records = {record.number: record for record in records if record.has_ended}
        self._n_ended_before = len(self._records)
        self._started = self._clock()
        if self._live:
            self._live.start()
        if self._records:
            best = self._best()
            so_far = f" Best so far: trial {best.number}, {self._metric} {best.objective:.4f}." if best else ""
            _say(self._console, f"{len(self._records)} trials are stored already and are not repeated.{so_far}")
        self._show()

    def trial_started(self, task: TrialTask) -> None:
        """Add a running trial."""
        self._running[task.number] = (task, None)
        self._show()

    def epoch_ended(self, report: EpochReport) -> None:
        """Update a running trial."""
        if report.number in self._running:
            task, before = self._running[report.number]
            if math.isnan(report.score) and before is not None and before.fold == report.fold:
                report = replace(report, score=before.score)  # until there is another one
            self._running[report.number] = (task, report)
            self._n_epochs += 1
            self._n_complete = report.fold * self._epochs + report.epoch
        self._show()
        if self._n_trials == 1 and self._live is None and self._clock() - self._last_line >= LINE_SECONDS:
            self._last_line = self._clock()
            _say(self._console, self._how_far(report))

    def trial_ended(self, record: TrialRecord) -> None:
        """Move a trial from the running to the ended ones, unless it is paused, and print one line."""
        self._running.pop(record.number, None)
        if record.has_ended:
            self._records[record.number] = record
        _say(self._console, self._line(record))
        self._show()

    def refitting(self, progress: RefitProgress) -> None:
        """Show the refits, or confirmations, in place of the search, which has ended."""
        if self._live:
            self._live.start()
            self._live.update(_refits_picture(progress, epochs=self._epochs), refresh=True)

    def _line(self, record: TrialRecord) -> str:
        score = "" if record.objective is None else f"  {self._metric} {record.objective:.4f}"
        reason = f"  {record.reason}" if record.reason else ""
        return (
            f"trial {record.number:>3}  {record.state:<8}  {record.hyperparameters.architecture:<18}"
            f"lr {record.hyperparameters.lr:.1e}{score}  {record.n_folds}/{self._n_folds} folds"
            f"  {record.seconds:.0f} s{reason}"
        )

    def _how_far(self, report: EpochReport) -> str:
        fold, epoch, score = self._place(report)
        scored = f", {self._metric} {score}" if score else ""
        return f"fold {fold}, epoch {epoch}{scored}, {self._time_left((self._clock() - self._started) / 60)}"

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
        score = "" if math.isnan(report.score) else f"{report.score:.4f}"
        return f"{report.fold + 1}/{self._n_folds}", f"{report.epoch}/{self._epochs}", score

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
        if n_ended == 0 and not (self._n_trials == 1 and self._n_epochs):
            return ""
        if self._n_trials == 1:
            left = minutes / self._n_epochs * (self._epochs * self._n_folds - self._n_complete)
        else:
            left = minutes / n_ended * (self._n_trials - len(self._records))
        return f"about {left:.0f} min left" if left >= 1 else f"about {60 * left:.0f} s left"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _refits_picture(progress: RefitProgress, *, epochs: int) -> Group:
    """Return a line of counts, and one row for each refit that is in a slot."""
    table = Table()
    for column in (f"{progress.noun} of trial", "architecture", "lr", "epoch", "training loss"):
        table.add_column(column, justify="left" if column == "architecture" else "right")
    for task, report in progress.running:
        at = ("", "starting") if report is None else (_epoch(report, epochs), f"{report.train_loss:.4f}")
        options = task.hyperparameters
        table.add_row(str(task.number), options.architecture, f"{options.lr:.1e}", *at)
    summary = (
        f"{progress.n_finished}/{progress.n_all} {progress.noun}s finished  ·  "
        f"{len(progress.running)} running in {progress.n_slots} slots"
    )
    return Group(summary, table)


def _epoch(report: EpochReport, epochs: int) -> str:
    """Return how far a refit is, or a confirmation, which has folds."""
    epoch = f"{report.epoch}/{epochs}"
    return epoch if report.fold == ALL_FOLDS else f"fold {report.fold + 1}, {epoch}"
