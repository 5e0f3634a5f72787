"""What a search serves: numbers that the controller, the ledger and the groups hold, published now and then."""

from collections.abc import Callable
from pathlib import Path

import pytest
from search_records import Listener, epoch, task

from consilia.config.records import TaskTaken, TrialOutcome, TrialTask
from consilia.config.study import Budget, SearchPlan
from consilia.config.study_folder import StudyFolder
from consilia.tune.controller import TrialController
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits
from consilia.tune.racing import EveryFold
from consilia.tune.search_metrics import COUNTERS, GAUGES, SECONDS, SearchMetrics, Slots, measure


class Numbered:
    """A Suggester of numbered trials."""

    def __init__(self) -> None:
        self.n_asked = 0

    def ask(self) -> TrialTask:
        self.n_asked += 1
        return task(self.n_asked - 1)

    def unfinished(self) -> list[TrialTask]:
        return []

    def resume(self, number: int) -> None:
        """Nothing is unfinished."""

    def tell(self, record: object, *, metric: str) -> None:
        """Remember nothing."""


class ThreeWanted:
    """Groups of which one slot has started."""

    def __init__(self) -> None:
        self.n_asked = 0

    def n_wanted(self) -> int:
        self.n_asked += 1
        return 3

    def n_started(self) -> int:
        return 1


@pytest.fixture
def controller(tmp_path: Path) -> TrialController:
    return TrialController(
        SearchPlan(trials=6),
        folder=StudyFolder(tmp_path / "study"),
        n_folds=2,
        suggester=Numbered(),
        racing=EveryFold(),
        observer=Listener(),
        limits=Limits(Budget(), Ledger()),
    )


def take(controller: TrialController, *, attempt: int = 1) -> int:
    handed_out = controller.next_task()
    controller.taken(TaskTaken(number=handed_out.number, attempt=attempt))
    return handed_out.number


def finish(controller: TrialController, number: int, score: float) -> None:
    for fold in range(2):
        controller.hear(epoch(number, fold, 1, score, ends_fold=True))
    controller.end(TrialOutcome(number=number, state="finished"))


NO_SLOTS = Slots()


def served(
    controller: TrialController, slots: Slots = NO_SLOTS, metric: str = "log_loss"
) -> Callable[..., float | None]:
    found = {(name, *labels.values()): value for name, labels, value in measure(controller, slots, metric=metric)}
    return lambda *key: found.get(key)


def test_trials_are_counted_by_state_and_the_best_is_that_of_the_metrics_direction(controller: TrialController):
    assert served(controller)("consilia_best_objective", "log_loss") is None
    for score in (0.5, 0.2):
        finish(controller, take(controller), score)
    controller.end(TrialOutcome(number=take(controller), state="failed", reason="the loss is not finite"))
    take(controller)
    value = served(controller)
    states = ("finished", "failed", "running", "stopped")
    assert [value("consilia_trials", state) for state in states] == [2, 1, 1, 0]
    assert value("consilia_best_objective", "log_loss") == 0.2
    assert served(controller, metric="macro_auc")("consilia_best_objective", "macro_auc") == 0.5


def test_epochs_and_images_are_those_that_this_run_has_trained(controller: TrialController):
    number = take(controller)
    reports = [epoch(number, 0, 1, 0.5), epoch(number, 0, 2, 0.4)]
    for report in reports:
        controller.hear(report)
    value = served(controller)
    assert value("consilia_epochs") == 2
    assert value("consilia_images") == sum(report.images for report in reports)


def test_losses_are_counted_by_what_was_lost(controller: TrialController):
    take(controller, attempt=2)
    controller.lost(take(controller), "its relay died")
    controller.end(TrialOutcome(number=take(controller), state="failed", reason="out of memory", fault="memory"))
    value = served(controller)
    assert [value("consilia_losses", cause) for cause in ("worker", "slot", "memory", "disk")] == [1, 1, 1, None]


def test_slots_that_train_are_those_whose_trial_a_worker_has_taken(controller: TrialController):
    take(controller)
    controller.next_task()
    value = served(controller, Slots(wanted=3, started=2, training=controller.n_training))
    assert [value("consilia_slots", state) for state in ("wanted", "started", "training")] == [3, 2, 1]


def test_everything_that_is_measured_is_declared_with_its_labels(controller: TrialController):
    controller.lost(take(controller), "its relay died")
    finish(controller, take(controller), 0.5)
    declared = {each.name: each.labels for each in (*GAUGES, *COUNTERS)}
    measured = {name: tuple(labels) for name, labels, _ in measure(controller, NO_SLOTS, metric="log_loss")}
    assert measured.items() <= declared.items()


def test_it_publishes_at_once_and_then_every_few_seconds(controller: TrialController):
    groups, now = ThreeWanted(), [100.0]
    metrics = SearchMetrics("a-study", "log_loss", controller, groups, clock=lambda: now[0])
    asked = []
    for seconds in (0.0, 0.9 * SECONDS, 0.2 * SECONDS, 0.1 * SECONDS):
        now[0] += seconds
        metrics.turn()
        asked.append(groups.n_asked)
    assert asked == [1, 1, 2, 2]
