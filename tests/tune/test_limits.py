"""When a search has had enough, on a clock that the test moves."""

from dataclasses import replace
from pathlib import Path

import pytest
from search_records import epoch, task

from consilia.config.records import EpochReport, FoldResult, TrialRecord, TrialState
from consilia.config.study import Budget
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits

HOUR = 3600.0


class Clock:
    """Moves when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(
    number: int, objective: float | None, state: TrialState = "finished", *, fold_seconds: float | None = None
) -> TrialRecord:
    folds = ()
    if fold_seconds is not None:
        folds = (FoldResult(fold=0, epochs=1, metrics={}, n_images=1, seconds=fold_seconds),)
    return TrialRecord(
        number=number, state=state, hyperparameters=task().hyperparameters, objective=objective, folds=folds
    )


def fold_end(seconds: float, *, is_repeat: bool = False) -> EpochReport:
    report = epoch(0, 0, 1, 0.5, ends_fold=True)
    assert report.fold_result is not None
    return replace(report, fold_result=replace(report.fold_result, seconds=seconds), is_repeat=is_repeat)


def patient(patience: int, **arguments: object) -> Limits:
    return Limits(Budget(patience=patience), Ledger(), **arguments)


def trials_until_enough(limits: Limits, objectives: list[float]) -> int | None:
    for number, objective in enumerate(objectives, start=1):
        limits.ended(record(number, objective))
        if limits.enough():
            return number
    return None


def test_without_a_budget_it_is_never_enough():
    clock = Clock()
    limits = Limits(Budget(), Ledger(clock=clock))
    limits.ledger.reserve(100)
    limits.heard(fold_end(10.0))
    for number in range(1000):
        limits.ended(record(number, 1.0))
    clock.now = 1e9
    assert (limits.over(), limits.enough()) == ("", "")


def test_patience_counts_trials_since_the_last_gain():
    assert trials_until_enough(patient(3), [0.5, 0.6, 0.4, 0.5, 0.5, 0.5, 0.1]) == 6
    assert trials_until_enough(patient(3), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]) is None


def test_patience_follows_the_direction_of_the_metric():
    rising = [0.5, 0.6, 0.7, 0.8]
    assert trials_until_enough(patient(2), rising) == 3
    assert trials_until_enough(patient(2, higher_is_better=True), rising) is None


def test_a_gain_within_the_noise_is_none():
    def noise(best: TrialRecord) -> float:
        return 0.05

    assert trials_until_enough(patient(2, noise=noise), [0.50, 0.46, 0.46]) == 3
    assert trials_until_enough(patient(2, noise=noise), [0.50, 0.46, 0.44, 0.44]) is None


def test_small_gains_that_add_up_to_more_than_noise_count():
    assert trials_until_enough(patient(4, noise=lambda best: 0.05), [0.50, 0.48, 0.46, 0.44, 0.42, 0.40, 0.38]) is None


def test_the_noise_is_that_of_the_best_trial_and_asked_for_only_when_one_is_better():
    asked: list[int] = []

    def noise(best: TrialRecord) -> float:
        asked.append(best.number)
        return 0.01

    trials_until_enough(patient(9, noise=noise), [0.5, 0.6, 0.4, 0.395, 0.3])
    assert asked == [1, 3, 5]


def test_a_failed_trial_says_nothing():
    limits = patient(2)
    limits.ended(record(0, 0.5))
    for number in range(1, 9):
        limits.ended(record(number, None, "failed"))
    assert limits.enough() == ""


def test_a_stopped_trial_brought_no_gain_however_good_its_first_fold_was():
    limits = patient(2)
    limits.ended(record(0, 0.5))
    limits.ended(record(1, 0.1, "stopped"))
    assert limits.enough() == ""
    limits.ended(record(2, 0.1, "stopped"))
    assert limits.enough() == "no gain beyond the noise of 0.0000 over patients in 2 trials"


def test_patience_begins_with_the_first_finished_trial():
    limits = patient(2)
    for number in range(9):
        limits.ended(record(number, 0.5, "stopped"))
    assert limits.enough() == ""
    assert trials_until_enough(limits, [0.5, 0.6, 0.6]) == 3


def test_patience_lets_running_trials_go_on():
    limits = patient(1)
    trials_until_enough(limits, [0.5, 0.6])
    assert limits.enough()
    assert limits.over() == ""


def test_hours_are_those_of_the_wall_clock_whatever_the_slots():
    clock = Clock()
    limits = Limits(Budget(hours=2), Ledger(clock=clock))
    limits.ledger.reserve(50)
    clock.now = 2 * HOUR - 1
    assert limits.over() == ""
    clock.now = 2 * HOUR
    assert limits.over() == limits.enough() == "the budget of 2 hours is used up"


def test_device_hours_are_those_of_all_slots_together():
    clock = Clock()
    limits = Limits(Budget(device_hours=3), Ledger(devices=0.5, clock=clock))
    limits.ledger.reserve(4)  # two devices
    clock.now = HOUR
    limits.ledger.reserve(2)  # one
    clock.now = 2 * HOUR - 1
    assert limits.over() == ""
    clock.now = 2 * HOUR
    assert limits.over() == "the budget of 3 device-hours is used up"


def test_the_first_limit_to_be_reached_is_named():
    clock = Clock()
    limits = Limits(Budget(hours=2, device_hours=1, patience=1), Ledger(clock=clock))
    limits.ledger.reserve(1)
    clock.now = HOUR
    assert "device-hours" in limits.enough()
    clock.now = 2 * HOUR
    assert "2 hours" in limits.over()


def test_a_fold_that_does_not_fit_the_remaining_hours_is_not_begun():
    clock = Clock()
    limits = Limits(Budget(hours=1), Ledger(clock=clock))
    limits.ledger.reserve(1)
    for seconds in (100.0, 300.0, 9000.0):  # the median is 300 s: one slow fold decides nothing
        limits.heard(fold_end(seconds))
    clock.now = HOUR - 300
    assert limits.enough() == ""
    clock.now = HOUR - 299
    assert limits.enough() == "a fold takes 300 s, and the budget leaves 299 s"
    assert limits.over() == ""  # and those under way may end


def test_remaining_device_hours_are_shared_by_the_slots():
    clock = Clock()
    limits = Limits(Budget(device_hours=1), Ledger(devices=0.5, clock=clock))
    limits.ledger.reserve(4)  # two devices: what is left lasts half as long
    limits.heard(fold_end(300.0))
    clock.now = HOUR / 2 - 300
    assert limits.enough() == ""
    clock.now = HOUR / 2 - 299
    assert "leaves 299 s" in limits.enough()


def test_the_scarcer_of_two_budgets_counts():
    clock = Clock()
    limits = Limits(Budget(hours=1, device_hours=10), Ledger(clock=clock))
    limits.ledger.reserve(100)
    limits.heard(fold_end(400.0))
    assert "leaves 360 s" in limits.enough()


def test_nothing_is_known_of_folds_before_the_first_has_ended_and_repeats_do_not_count():
    clock = Clock()
    limits = Limits(Budget(hours=1), Ledger(clock=clock))
    clock.now = HOUR - 1
    limits.heard(epoch(0, 0, 1, 0.5))
    limits.heard(fold_end(300.0, is_repeat=True))
    assert limits.enough() == ""


def test_a_resumed_search_knows_from_its_records_how_long_a_fold_takes():
    clock = Clock()
    limits = Limits(Budget(hours=1), Ledger(clock=clock))
    limits.ended(record(0, 0.5, fold_seconds=300.0))
    clock.now = HOUR - 299
    assert "a fold takes 300 s" in limits.enough()
    limits.heard(fold_end(10.0))
    limits.ended(record(1, 0.5, fold_seconds=10.0))  # this run has reported it: it counts once
    limits.heard(fold_end(10.0))
    assert limits.enough() == ""


@pytest.mark.parametrize("budget", [Budget(hours=1), Budget(device_hours=2)])
def test_budgets_are_of_all_runs_together(budget: Budget, tmp_path: Path):
    path = tmp_path / "ledger.parquet"
    for run in range(2):
        clock = Clock()
        limits = Limits(budget, Ledger(path, devices=2.0, clock=clock))
        limits.ledger.reserve(1)
        clock.now = HOUR / 2 - 1
        assert limits.over() == "", run
        clock.now = HOUR / 2
        limits.ledger.reserve(0)
        limits.ledger.write()
    assert "is used up" in Limits(budget, Ledger(path, clock=Clock())).over()
