"""Trials as JSON and CSV: every number as it is, and nothing lost on the way."""

import csv
import io
import json
import math

import pytest

from consilia.config.records import FoldResult, TrialRecord
from consilia.config.space import Hyperparameters
from consilia.report.trial_rows import Place, TrialBoard, TrialRow, board_to_csv, board_to_json

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
