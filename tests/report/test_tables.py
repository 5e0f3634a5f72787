"""The leaderboard and the counts of images."""

import io

from rich.console import Console

from consilia.plan.hyperparameters import Hyperparameters
from consilia.records import FoldResult, TrialRecord
from consilia.report.tables import counts_table, leaderboard_table


def rows_of(table) -> list[list[str]]:
    output = io.StringIO()
    Console(file=output, width=300, markup=False).print(table)
    lines = [line for line in output.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


def test_the_leaderboard_keeps_the_order_and_shows_each_fold():
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
    failed = TrialRecord(
        number=2, state="failed", hyperparameters=Hyperparameters(architecture="densenet121"), reason="out of memory"
    )
    first, second = rows_of(leaderboard_table([best, failed], metric="log_loss"))
    assert first[:6] == ["7", "finished", "0.4500", "0.400 0.500", "resnet18", "0.001"]
    assert first[-2:] == ["12", ""]
    assert second[:5] == ["2", "failed", "", "", "densenet121"]
    assert second[-1] == "out of memory"


def test_counts_have_totals_and_zeros():
    counts = {"train": {"clear": 3, "nodule": 2}, "test": {"clear": 1}}
    assert rows_of(counts_table(counts, title="mine")) == [
        ["clear", "3", "1"],
        ["nodule", "2", "0"],
        ["all", "5", "1"],
    ]
