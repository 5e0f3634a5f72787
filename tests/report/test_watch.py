"""A study followed from another terminal: boards of our own, a clock of our own."""

import io

from rich.console import Console

from consilia.config.records import FoldResult, TrialRecord
from consilia.config.space import Hyperparameters
from consilia.report.trials import Place, TrialBoard, TrialRow, TrialWord
from consilia.report.watch import TrialWatch

NOW = 1000.0


def row(
    number: int, state: TrialWord, objective: float | None = None, *, n_folds: int = 0, reason: str = "", place=None
) -> TrialRow:
    record = TrialRecord(
        number=number,
        state="running" if state == "interrupted" else state,
        hyperparameters=Hyperparameters(architecture="test_efficientnet", lr=3e-4),
        folds=tuple(
            FoldResult(fold=fold, epochs=4, metrics={"log_loss": 0.5}, n_images=5, seconds=1.0)
            for fold in range(n_folds)
        ),
        objective=objective,
        reason=reason,
        seconds=24.0,
    )
    return TrialRow(record=record, state=state, place=place)


def board(*rows: TrialRow, is_held: bool = True, n_trials: int = 8) -> TrialBoard:
    return TrialBoard(
        study="mine", metric="log_loss", n_trials=n_trials, n_folds=3, epochs=4, is_held=is_held, rows=rows
    )


def on_terminal(*, width: int = 100, height: int = 24) -> tuple[TrialWatch, io.StringIO]:
    output = io.StringIO()
    console = Console(
        file=output, force_terminal=True, width=width, height=height, color_system=None, markup=False, highlight=False
    )
    return TrialWatch(console, clock=lambda: NOW), output


def frame(*rows: TrialRow, width: int = 100, height: int = 24, **fields) -> list[str]:
    """The lines of the last picture of a board on a terminal."""
    view, output = on_terminal(width=width, height=height)
    with view:
        view.show(board(*rows, **fields))
        text = output.getvalue()
    return [line.rstrip() for line in text[text.rindex("mine  ·") :].splitlines()]


def in_a_file() -> tuple[TrialWatch, io.StringIO]:
    output = io.StringIO()
    return TrialWatch(Console(file=output, width=80, markup=False), clock=lambda: NOW), output


def test_the_picture_shows_counts_best_and_where_each_running_trial_is():
    place = Place(fold=1, epoch=3, score=0.76543, updated=NOW - 12)
    lines = frame(
        row(4, "finished", 0.4321, n_folds=3),
        row(1, "stopped", 0.9, n_folds=1, reason="beyond the bar"),
        row(5, "running", n_folds=1, place=place),
        row(6, "running", place=Place(fold=0)),
    )
    assert lines[0] == (
        "mine  ·  2/8 trials  ·  1 finished, 1 stopped  ·  2 running  ·  best log_loss 0.4321 (trial 4)"
    )
    assert [line.split() for line in lines[2:6]] == [
        ["5", "running", "1/3", "3/4", "test_efficientnet", "3.0e-04", "0.7654,", "12", "s", "ago"],
        ["6", "running", "0/3", "0/4", "test_efficientnet", "3.0e-04"],
        ["4", "finished", "0.4321", "3/3", "test_efficientnet", "3.0e-04"],
        ["1", "stopped", "0.9000", "1/3", "test_efficientnet", "3.0e-04", "beyond", "the", "bar"],
    ]


def test_ages_are_said_in_a_unit_that_fits_and_never_negative():
    ages = {0: "0 s", 119: "119 s", 200: "3 min", 7300: "2 h", -50: "0 s"}  # clocks of two machines differ
    for seconds, said in ages.items():
        place = Place(fold=0, epoch=1, score=0.5, updated=NOW - seconds)
        assert f"0.5000, {said} ago" in frame(row(0, "running", place=place))[2]


def test_a_picture_fits_its_terminal_and_says_how_many_trials_it_leaves_out():
    ended = [row(number, "finished", number / 100, n_folds=3) for number in range(40)]
    ended += [row(number, "stopped", 0.9, reason="a long reason " * 20) for number in range(40, 60)]
    running = [row(number, "running", place=Place(fold=0, epoch=1, score=0.5, updated=NOW)) for number in (60, 61)]
    for width, height in ((80, 16), (80, 24), (200, 50)):
        lines = frame(*ended, *running, width=width, height=height, n_trials=100)
        assert len(lines) <= height - 1
        assert max(map(len, lines)) <= width
        shown = [line.split()[0] for line in lines if "test_efficientnet" in line]
        assert shown == [*("60", "61"), *map(str, range(len(shown) - 2))]
        assert len(shown) >= height - 6
        assert lines[-1] == f"and {62 - len(shown)} more: consilia trials mine"


def test_on_a_narrow_terminal_only_the_reason_is_cut():
    trial = row(0, "interrupted", place=Place(fold=2, epoch=1, score=0.5, updated=NOW - 9999))
    (line,) = [line for line in frame(trial, width=72, is_held=False) if "test_efficientnet" in line]
    assert line.split()[:5] == ["0", "interrupted", "0/3", "1/4", "test_efficientnet"]
    assert line.endswith("…")


def test_a_search_whose_process_is_gone_is_said_with_what_goes_on():
    lines = frame(row(0, "interrupted", place=Place(fold=0)), row(1, "paused", place=Place(fold=1)), is_held=False)
    assert lines[0] == "mine  ·  0/8 trials  ·  1 paused, 1 interrupted  ·  no score yet  ·  no search is running"
    assert lines[-1].startswith("1 paused, 1 interrupted: consilia search with the same study file resumes them")


def test_a_finished_search_is_not_said_to_be_missing():
    lines = frame(row(0, "finished", 0.5, n_folds=3), is_held=False, n_trials=1)
    assert lines[0] == "mine  ·  1/1 trials  ·  1 finished  ·  best log_loss 0.5000 (trial 0)"


def test_a_file_gets_only_the_lines_that_have_changed_and_the_summary_at_the_end():
    view, output = in_a_file()

    def show(*rows: TrialRow, **fields) -> list[str]:
        before = len(output.getvalue())
        view.show(board(*rows, **fields))
        return output.getvalue()[before:].splitlines()

    with view:
        first = row(0, "running", place=Place(fold=0))
        second = row(1, "running", n_folds=1, place=Place(fold=1, epoch=2, score=0.7, updated=1.0))
        assert show() == []
        assert show(first) == ["trial   0  running      test_efficientnet   lr 3.0e-04  0/3 folds  fold 1, epoch 0/4"]
        assert show(second, first) == [
            "trial   1  running      test_efficientnet   lr 3.0e-04  log_loss 0.7000  1/3 folds  fold 2, epoch 2/4"
        ]
        assert show(second, first) == []
        assert show(row(1, "running", n_folds=3), first) == [
            "trial   1  running      test_efficientnet   lr 3.0e-04  3/3 folds  ending"
        ]
        stopped = row(1, "stopped", 0.75, n_folds=1, reason="beyond the bar " * 10)
        (line,) = show(stopped, first)
        assert line.startswith("trial   1  stopped ")
        assert "log_loss 0.7500  1/3 folds  24 s  beyond the bar" in line
        line, summary, hint = show(stopped, row(0, "interrupted", place=Place(fold=0)), is_held=False)
    assert line.startswith("trial   0  interrupted")
    assert summary.endswith("no search is running")
    assert hint.startswith("1 interrupted: consilia search with the same study file")
