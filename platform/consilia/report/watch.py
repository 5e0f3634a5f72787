"""A running study followed by another process: a live picture on a terminal, lines of what has changed elsewhere."""

import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from consilia.report.trials import TrialBoard, TrialRow, hints

_FRAME = 3  # lines around the rows of the table: its head, "and 12 more", the cursor's
_LEAST_ROWS = 3


class TrialWatch:
    """Shows one board after another.

    Args:
        console: A terminal gets a picture that is redrawn; anything else gets the lines that have changed.
        clock: Returns seconds since 1970; tests pass their own.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.time) -> None:
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._lines: dict[int, str] = {}  # by trial, as last printed

    def __enter__(self) -> "TrialWatch":
        """Begin."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, and leave the last picture on the screen."""
        if self._live:
            self._live.stop()

    def show(self, board: TrialBoard) -> None:
        """Show the trials as they are; once nothing is left to wait for, a file gets a summary."""
        if self._live:
            self._live.update(self._picture(board), refresh=True)
            return
        for row in sorted(board.rows, key=lambda row: row.record.number):
            line = _line(row, board)
            if self._lines.get(row.record.number) != line:
                self._lines[row.record.number] = line
                self._print(line)
        if board.is_over:
            self._print(_summary(board))
            for hint in hints(board):
                self._print(hint)

    def _picture(self, board: TrialBoard) -> Group:
        rows = sorted(board.rows, key=lambda row: row.record.has_ended)  # stable: the best of the ended stay first
        above, below = _summary(board), hints(board)
        n_lines = sum(math.ceil(len(text) / self._console.width) for text in (above, *below))
        n_shown = max(_LEAST_ROWS, self._console.height - n_lines - _FRAME)
        table = Table(box=None, padding=(0, 1, 0, 0))
        for name in ("trial", "state", board.metric, "folds", "epoch", "architecture", "lr", ""):
            justify: JustifyMethod = "left" if name in ("state", "architecture", "") else "right"
            table.add_column(name, justify=justify, no_wrap=bool(name))  # only the last one gives way
        for row in rows[:n_shown]:
            table.add_row(*self._cells(row, board), Text(self._note(row), no_wrap=True, overflow="ellipsis"))
        if len(rows) > n_shown:
            below = (f"and {len(rows) - n_shown} more: consilia trials {board.study}", *below)
        return Group(above, table, *below)

    def _cells(self, row: TrialRow, board: TrialBoard) -> tuple[str, ...]:
        record = row.record
        return (
            str(record.number),
            row.state,
            "" if record.objective is None else f"{record.objective:.4f}",
            f"{record.n_folds}/{board.n_folds}",
            "" if row.place is None else f"{row.place.epoch}/{board.epochs}",
            record.hyperparameters.architecture,
            f"{record.hyperparameters.lr:.1e}",
        )

    def _note(self, row: TrialRow) -> str:
        """Return an unfinished trial's last score and its age, or why a trial ended."""
        place = row.place
        if place is None or place.updated is None:
            return row.record.reason
        score = "" if place.score is None else f"{place.score:.4f}, "
        return f"{score}{_age(self._clock() - place.updated)} ago"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _summary(board: TrialBoard) -> str:
    best = next((row for row in board.rows if row.state == "finished"), None)
    parts = (
        board.study,
        f"{board.n_ended}/{board.n_trials} trials",
        board.count("finished", "stopped", "failed"),
        board.count("running", "paused", "interrupted"),
        f"best {board.metric} {best.record.objective:.4f} (trial {best.record.number})" if best else "no score yet",
        "" if board.is_held or board.n_ended >= board.n_trials else "no search is running",
    )
    return "  ·  ".join(part for part in parts if part)


def _line(row: TrialRow, board: TrialBoard) -> str:
    record, place = row.record, row.place
    score = record.objective if place is None else place.score
    if place is not None:
        progress = f"fold {place.fold + 1}, epoch {place.epoch}/{board.epochs}"
    else:
        progress = f"{record.seconds:.0f} s" if record.has_ended else "ending"
    parts = [
        f"trial {record.number:>3}  {row.state:<11}  {record.hyperparameters.architecture:<18}",
        f"lr {record.hyperparameters.lr:.1e}",
        "" if score is None else f"{board.metric} {score:.4f}",
        f"{record.n_folds}/{board.n_folds} folds",
        progress,
        record.reason,
    ]
    return "  ".join(part for part in parts if part)


def _age(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.0f} h"
