"""The leaderboard and the counts of images."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from consilia.config.records import FoldResult, TrialRecord
from consilia.config.space import Hyperparameters
from consilia.report.tables import counts_table, hints, leaderboard_table
from consilia.report.trial_rows import Place, TrialBoard, TrialRow


def rows_of(table) -> list[list[str]]:
    output = io.StringIO()
    Console(file=output, width=300, markup=False).print(table)
    lines = [line for line in output.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


@pytest.fixture
def board() -> TrialBoard:
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


def test_the_leaderboard_keeps_the_order_and_shows_each_fold(board):
    first, second, third = rows_of(leaderboard_table(board, width=200))
    assert first[:6] == ["7", "finished", "0.4500", "0.400 0.500", "resnet18", "0.001"]
    assert first[-2:] == ["12", ""]
    assert second[:5] == ["2", "failed", "", "", "densenet121"]
    assert second[-1] == "out of memory"
    assert third[1:4] == ["paused", "", "0.400"]
    assert third[-1] == "fold 2/2, epoch 3/5: 2 hours are spent"


def test_a_narrow_leaderboard_keeps_architecture_and_learning_rate_of_the_hyperparameters(board):
    (first, *_) = rows_of(leaderboard_table(board, width=80))
    assert first == ["7", "finished", "0.4500", "0.400 0.500", "resnet18", "0.001", "12", ""]


def test_trials_that_nobody_trains_are_explained_unless_a_search_is_running(board):
    (hint,) = hints(board)
    assert hint.startswith("1 paused: consilia search with the same study file goes on")
    assert hints(replace(board, is_held=True)) == ()
    assert hints(replace(board, rows=board.rows[:2])) == ()


def test_counts_have_totals_and_zeros():
    counts = {"train": {"clear": 3, "nodule": 2}, "test": {"clear": 1}}
    assert rows_of(counts_table(counts, title="mine")) == [
        ["clear", "3", "1"],
        ["nodule", "2", "0"],
        ["all", "5", "1"],
    ]
