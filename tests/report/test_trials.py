"""Trials as JSON and CSV, with every number as it is; and as the leaderboard."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from consilia.config.records import FoldResult, TrialRecord
from consilia.config.space import Hyperparameters
from consilia.report.trials import (
    Place,
    TrialBoard,
    TrialRow,
    board_to_csv,
    board_to_json,
    hints,
    leaderboard_table,
)

LR = 0.1 + 0.2  # 0.30000000000000004: rounding would show


def fold(number: int, score: float) -> FoldResult:
    return FoldResult(fold=number, epochs=4, metrics={"log_loss": score}, n_images=5, seconds=1.0)


@pytest.fixture
def board() -> TrialBoard:
    finished = TrialRecord(
        number=7,
        state="finished",
        hyperparameters=Hyperparameters(architecture="resnet18", lr=LR, image_size=64),
        folds=(fold(0, 1 / 3), fold(1, 2 / 3)),
        objective=0.5,
        seconds=12.34,
    )
    failed = TrialRecord(
        number=2,
        state="failed",
        hyperparameters=Hyperparameters(architecture="densenet121"),
        reason='the loss became nan, "as\nfeared"',
    )
    running = TrialRecord(
        number=9,
        state="running",
        hyperparameters=Hyperparameters(architecture="resnet18", imbalance="focal"),
        folds=(fold(0, math.pi),),
    )
    rows = (
        TrialRow(record=finished, state="finished"),
        TrialRow(record=failed, state="failed"),
        TrialRow(record=running, state="interrupted", place=Place(fold=1, epoch=3, score=LR, updated=99.0)),
    )
    return TrialBoard(study="mine", metric="log_loss", n_trials=9, n_folds=2, epochs=4, is_held=False, rows=rows)


def empty(board: TrialBoard) -> TrialBoard:
    return TrialBoard(study="mine", metric="log_loss", n_trials=9, n_folds=2, epochs=4, is_held=False)


def test_json_is_a_list_of_objects_in_the_order_of_the_board(board):
    finished, failed, running = json.loads(board_to_json(board))
    assert finished == {
        "trial": 7,
        "state": "finished",
        "metric": "log_loss",
        "objective": 0.5,
        "confirmed": None,
        "fold_scores": [1 / 3, 2 / 3],
        "hyperparameters": board.rows[0].record.hyperparameters.model_dump(),
        "seconds": 12.34,
        "reason": "",
        "place": None,
    }
    assert finished["hyperparameters"]["lr"] == LR
    assert (failed["objective"], failed["fold_scores"], failed["reason"]) == (None, [], board.rows[1].record.reason)
    assert (running["state"], running["place"]) == ("interrupted", {"fold": 1, "epoch": 3, "score": LR})


def test_csv_has_a_column_for_each_fold_and_each_hyperparameter(board):
    rows = list(csv.DictReader(io.StringIO(board_to_csv(board))))
    assert list(rows[0]) == [
        *("trial", "state", "metric", "objective", "fold_0", "fold_1"),
        *Hyperparameters.model_fields,
        *("seconds", "reason"),
    ]
    assert [row["trial"] for row in rows] == ["7", "2", "9"]
    assert (float(rows[0]["fold_0"]), float(rows[0]["fold_1"]), float(rows[0]["lr"])) == (1 / 3, 2 / 3, LR)
    assert (rows[0]["image_size"], rows[1]["image_size"], rows[1]["objective"], rows[1]["fold_0"]) == ("64", "", "", "")
    assert rows[1]["reason"] == board.rows[1].record.reason
    assert (rows[2]["state"], rows[2]["fold_0"], rows[2]["fold_1"], rows[2]["imbalance"]) == (
        "interrupted",
        repr(math.pi),
        "",
        "focal",
    )


def test_a_study_without_trials_is_an_empty_list_and_a_header(board):
    assert json.loads(board_to_json(empty(board))) == []
    assert board_to_csv(empty(board)) == board_to_csv(board).split("\n")[0] + "\n"


def test_a_score_that_is_undefined_is_empty_and_still_json(board):
    record = TrialRecord(
        number=0, state="stopped", hyperparameters=Hyperparameters(architecture="x"), folds=(fold(0, math.nan),)
    )
    undefined = TrialBoard(
        **{name: getattr(board, name) for name in ("study", "metric", "n_trials", "n_folds", "epochs", "is_held")},
        rows=(TrialRow(record=record, state="stopped"),),
    )
    assert json.loads(board_to_json(undefined))[0]["fold_scores"] == [None]
    (row,) = csv.DictReader(io.StringIO(board_to_csv(undefined)))
    assert row["fold_0"] == ""


def rows_of(table) -> list[list[str]]:
    output = io.StringIO()
    Console(file=output, width=300, markup=False).print(table)
    lines = [line for line in output.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


@pytest.fixture
def leaders() -> TrialBoard:
    folds = tuple(
        FoldResult(fold=fold, epochs=1, metrics={"log_loss": 0.4 + fold / 10}, n_images=5, seconds=1.0)
        for fold in range(2)
    )
    best = TrialRecord(
        number=7,
        state="finished",
        hyperparameters=Hyperparameters(architecture="resnet18", lr=1e-3),
        folds=folds,
        objective=0.45,
        seconds=12.4,
    )
    other = Hyperparameters(architecture="densenet121")
    failed = TrialRecord(number=2, state="failed", hyperparameters=other, reason="out of memory")
    paused = TrialRecord(number=3, state="paused", hyperparameters=other, folds=folds[:1], reason="2 hours are spent")
    rows = (
        TrialRow(record=best, state="finished"),
        TrialRow(record=failed, state="failed"),
        TrialRow(record=paused, state="paused", place=Place(fold=1, epoch=3, score=0.7, updated=0.0)),
    )
    return TrialBoard(study="mine", metric="log_loss", n_trials=9, n_folds=2, epochs=5, is_held=False, rows=rows)


def test_the_leaderboard_keeps_the_order_and_shows_each_fold(leaders):
    first, second, third = rows_of(leaderboard_table(leaders, width=200))
    assert first[:6] == ["7", "finished", "0.4500", "0.400 0.500", "resnet18", "0.001"]
    assert first[-2:] == ["12", ""]
    assert second[:5] == ["2", "failed", "", "", "densenet121"]
    assert second[-1] == "out of memory"
    assert third[1:4] == ["paused", "", "0.400"]
    assert third[-1] == "fold 2/2, epoch 3/5: 2 hours are spent"


def test_a_narrow_leaderboard_keeps_architecture_and_learning_rate_of_the_hyperparameters(leaders):
    (first, *_) = rows_of(leaderboard_table(leaders, width=80))
    assert first == ["7", "finished", "0.4500", "0.400 0.500", "resnet18", "0.001", "12", ""]


def test_trials_that_nobody_trains_are_explained_unless_a_search_is_running(leaders):
    (hint,) = hints(leaders)
    assert hint.startswith("1 paused: consilia search with the same study file resumes them")
    assert hints(replace(leaders, is_held=True)) == ()
    assert hints(replace(leaders, rows=leaders.rows[:2])) == ()
