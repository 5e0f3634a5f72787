"""A study's trials as they stand at one moment, and as text for scripts."""

import csv
import io
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from consilia.config.records import TrialRecord
from consilia.config.space import Hyperparameters

TrialWord = Literal["running", "interrupted", "paused", "finished", "stopped", "failed"]
"""A trial's state for people. interrupted: its record says running, but no process works in the study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far an unfinished trial has come."""

    fold: int  # 0 ... k-1, the one in training
    epoch: int = 0  # of that fold, the last complete one; 0 before the first
    score: float | None = None  # the study's metric after that epoch
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

    @property
    def n_ended(self) -> int:
        """Number of trials that are over for good."""
        return sum(row.record.has_ended for row in self.rows)

    @property
    def is_over(self) -> bool:
        """Say whether nothing is left to wait for."""
        return not self.is_held or self.n_ended >= self.n_trials

    def count(self, *words: TrialWord) -> str:
        """Return "9 finished, 4 stopped" for the given states, without those that no trial is in."""
        counts = Counter(row.state for row in self.rows)
        return ", ".join(f"{counts[word]} {word}" for word in words if counts[word])


def board_to_json(board: TrialBoard) -> str:
    """Return a list of objects, one a trial, with every number in full precision."""
    rows = [
        {
            "trial": row.record.number,
            "state": row.state,
            "metric": board.metric,
            "objective": row.record.objective,
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
    """Return the columns of a table with one row a trial: a column for each fold's score and each hyperparameter."""
    folds = [f"fold_{fold}" for fold in range(board.n_folds)]
    return ["trial", "state", "metric", "objective", *folds, *Hyperparameters.model_fields, "seconds", "reason"]


def board_rows(board: TrialBoard) -> list[dict[str, Any]]:
    """Return one mapping a trial, unrounded, from `board_columns` to values; a fold that is not finished is missing."""
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
    """Return a header and one row a trial, with the columns of `board_columns`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, board_columns(board), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(board_rows(board))
    return text.getvalue()


def _number(value: float) -> Any:
    """Return the value, or None where it is undefined: JSON has no NaN."""
    return None if math.isnan(value) else value
