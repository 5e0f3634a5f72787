"""A study's trials as they are at one moment: as JSON and CSV for scripts, as a table for people."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table

from consilia.config.records import Confirmation, TrialRecord
from consilia.config.space import Hyperparameters
from consilia.metrics.patients import BY_IMAGE

_SHOWN = ("architecture", "lr", "weight_decay", "label_smoothing", "mixup", "augmentation", "imbalance")
_WIDTH_OF_ALL = 140

TrialWord = Literal["running", "interrupted", "paused", "finished", "stopped", "failed"]
"""A trial's state for people. interrupted: its record says running, but no process works in the study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far an unfinished trial has come."""

    fold: int  # 0 ... k-1, the one in training
    epoch: int = 0  # of that fold, the last complete one; 0 before the first
    score: float | None = None  # the study's metric after the last epoch that was scored
    updated: float | None = None  # when that epoch ended, seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial."""

    record: TrialRecord  # with the finished folds of an unfinished trial too
    state: TrialWord
    place: Place | None = None  # of an unfinished trial


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialBoard:
    """All trials of a study, the best first, those without a final score after them."""

    study: str
    metric: str
    n_trials: int  # the budget
    n_folds: int
    epochs: int  # a fold
    is_held: bool  # a process works in the study
    rows: tuple[TrialRow, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()  # of the best trials, as far as they are finished

    @property
    def n_ended(self) -> int:
        """Number of trials that have ended and will not be resumed."""
        return sum(row.record.has_ended for row in self.rows)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to wait for."""
        return not self.is_held or self.n_ended >= self.n_trials

    def count(self, *words: TrialWord) -> str:
        """Return "9 finished, 4 stopped" for the given states, without those that no trial is in."""
        counts = Counter(row.state for row in self.rows)
        return ", ".join(f"{counts[word]} {word}" for word in words if counts[word])


def board_to_json(board: TrialBoard) -> str:
    """Return a list of objects, one per trial, with every number in full precision."""
    confirmed = {each.number: each.confirmed for each in board.confirmations}
    rows = [
        {
            "trial": row.record.number,
            "state": row.state,
            "metric": board.metric,
            "objective": row.record.objective,
            "confirmed": confirmed.get(row.record.number),
            "fold_scores": [_number(fold.metrics[board.metric]) for fold in row.record.folds],
            "hyperparameters": row.record.hyperparameters.model_dump(mode="json"),
            "seconds": row.record.seconds,
            "reason": row.record.reason,
            "place": row.place and {name: getattr(row.place, name) for name in ("fold", "epoch", "score")},
        }
        for row in board.rows
    ]
    return json.dumps(rows, indent=2, allow_nan=False) + "\n"


def board_columns(board: TrialBoard) -> list[str]:
    """Return the columns of a table with one row per trial: a column for each fold's score and each hyperparameter."""
    folds = [f"fold_{fold}" for fold in range(board.n_folds)]
    return ["trial", "state", "metric", "objective", *folds, *Hyperparameters.model_fields, "seconds", "reason"]


def board_rows(board: TrialBoard) -> list[dict[str, Any]]:
    """Return one mapping per trial, unrounded, from `board_columns` to values, without unfinished folds."""
    return [
        {
            **{"trial": row.record.number, "state": row.state, "metric": board.metric},
            "objective": row.record.objective,
            **{f"fold_{fold.fold}": _number(fold.metrics[board.metric]) for fold in row.record.folds},
            **row.record.hyperparameters.model_dump(mode="json"),
            **{"seconds": row.record.seconds, "reason": row.record.reason},
        }
        for row in board.rows
    ]


def board_to_csv(board: TrialBoard) -> str:
    """Return a header and one row per trial, with the columns of `board_columns`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, board_columns(board), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(board_rows(board))
    return text.getvalue()


def leaderboard_table(board: TrialBoard, *, width: int) -> Table:
    """Return one row per trial, in the board's order, with the score of every finished fold.

    Args:
        board: The study's trials.
        width: Characters in a line; below 140 only two hyperparameters are shown, architecture and lr.
    """
    shown = _SHOWN if width >= _WIDTH_OF_ALL else _SHOWN[:2]
    table = Table(title=f"Trials by {board.metric} (mean over folds; {BY_IMAGE})", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column(board.metric, justify="right")
    table.add_column("folds", justify="right")
    for name in shown:
        table.add_column(name, justify="right" if name != "architecture" else "left")
    table.add_column("seconds", justify="right")
    table.add_column("reason", overflow="fold")
    for row in board.rows:
        table.add_row(*_cells(row, board, shown))
    return table


def hints(board: TrialBoard) -> tuple[str, ...]:
    """Return how to resume trials that no process is training."""
    if board.is_held or not (waiting := board.count("paused", "interrupted")):
        return ()
    return (f"{waiting}: consilia search with the same study file resumes them where they stopped.",)


def _number(value: float) -> Any:
    """Return the value, or None where it is undefined: JSON has no NaN."""
    return None if math.isnan(value) else value


def _cells(row: TrialRow, board: TrialBoard, shown: Sequence[str]) -> list[str]:
    record = row.record
    objective = "" if record.objective is None else f"{record.objective:.4f}"
    folds = " ".join(f"{fold.metrics[board.metric]:.3f}" for fold in record.folds)
    values = [_cell(record.hyperparameters, name) for name in shown]
    return [str(record.number), row.state, objective, folds, *values, f"{record.seconds:.0f}", _reason(row, board)]


def _reason(row: TrialRow, board: TrialBoard) -> str:
    """Return why a trial ended or waits, or how far it has come."""
    if row.place is None:
        return row.record.reason
    place = f"fold {row.place.fold + 1}/{board.n_folds}, epoch {row.place.epoch}/{board.epochs}"
    return f"{place}: {row.record.reason}" if row.record.reason else place


def _cell(hyperparameters: Hyperparameters, name: str) -> str:
    value = getattr(hyperparameters, name)
    return f"{value:.2g}" if isinstance(value, float) else str(value)
