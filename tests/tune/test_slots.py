"""Slots on a real Ray: what trials, workers and the dashboard see, and what is left afterwards."""

import os
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import ray
from played_trials import CAPACITY, kill_actor
from prometheus_client.parser import text_string_to_metric_families
from ray.util.state import list_tasks
from search_records import Listener, epoch, task

from consilia.config.records import EpochReport, TrialOutcome, TrialTask
from consilia.config.study import Budget, SearchPlan
from consilia.config.study_folder import StudyFolder
from consilia.tune.broker import StopCause
from consilia.tune.controller import TrialController
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits
from consilia.tune.live import LiveSlots
from consilia.tune.nodes import living_nodes
from consilia.tune.racing import EveryFold
from consilia.tune.search_metrics import COUNTERS, GAUGES, SearchMetrics
from consilia.tune.tuner import run_in_slots
from consilia.tune.worker_groups import WorkerGroups
from processes import wait_until_idle

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_on_loopback")]

Report = Callable[[EpochReport], None]
LABELS = {label for each in (*GAUGES, *COUNTERS) for label in each.labels}
IN_TIME = "the search has waited for the worker of its last trial"
STUDY = "five-in-a-slot"  # as no other search on this Ray is called
LR = 0.7  # as no other trial on this Ray has: the dashboard shows all of them


class Numbers:
    """A Suggester of numbered trials."""

    def __init__(self) -> None:
        self.n_asked = 0

    def ask(self) -> TrialTask:
        self.n_asked += 1
        return task(self.n_asked - 1, lr=LR)

    def unfinished(self) -> list[TrialTask]:
        return []

    def resume(self, number: int) -> None:
        """Nothing is unfinished."""

    def tell(self, record: object, *, metric: str) -> None:
        """Remember nothing."""


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def earlier_rows(ray_on_loopback: None) -> set[str]:
    """Tasks that the dashboard shows of searches before this one."""
    return {row.task_id for row in list_tasks(limit=10_000)}


@pytest.fixture(scope="module")
def listener(earlier_rows: set[str], marks: Path, tmp_path_factory: pytest.TempPathFactory) -> Listener:
    """One search of five trials in one slot; its broker is killed in the middle of trial 3."""
    listener = Listener()
    folder = StudyFolder(tmp_path_factory.mktemp("slots") / "study")
    controller = TrialController(
        SearchPlan(trials=5),
        folder=folder,
        n_folds=2,
        suggester=Numbers(),
        racing=_StopTwo(),
        observer=listener,
        limits=Limits(Budget(), Ledger()),
    )
    with WorkerGroups(noted=listener.noted) as groups:
        groups.settle(CAPACITY, LiveSlots(CAPACITY, living_nodes, limit=1, seen=living_nodes()))
        metrics, play = SearchMetrics(STUDY, "log_loss", controller, groups), partial(_play, marks)
        run_in_slots(controller, groups=groups, run_trial=play, n_folds=2, storage=folder.ray, turn=metrics.turn)
        controller.close("it is over")
        metrics.close()
        if (marks / "left-4").exists():
            listener.notes.append(IN_TIME)
    return listener


class _StopTwo(EveryFold):
    """Stops trials 1 and 4 after their first epoch."""

    def hear(self, report: EpochReport) -> str | None:
        return "not among the best" if report.number in (1, 4) else None


def _play(marks: Path, task: TrialTask, report: Report, stopped: Callable[[], StopCause | None]) -> TrialOutcome:
    """Two folds of one epoch; 1 and 4 go on until they are stopped, and 4 then takes its time; 2 fails.

    Trial 3 kills the broker once.
    """
    import torch

    with (marks / f"trial-{task.number}").open("a") as file:
        file.write(f"{os.getpid()} {torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}\n")
    if task.number == 2:
        return TrialOutcome(number=2, state="failed", reason="the loss is not finite in fold 1, epoch 1, lr 3e-04")
    for fold in range(2):
        report(epoch(task.number, fold, 1, 0.5, ends_fold=True))
        deadline = time.monotonic() + 60
        while task.number in (1, 4) and time.monotonic() < deadline:
            if cause := stopped():
                time.sleep(2 * (task.number == 4))
                (marks / f"left-{task.number}").write_text(cause)
                return TrialOutcome(number=task.number, state="stopped")
            time.sleep(0.01)
        if task.number == 3 and not (marks / "killed").exists():
            (marks / "killed").touch()
            kill_actor("Broker")
    return TrialOutcome(number=task.number, state="finished")


def lines(marks: Path, number: int) -> list[list[str]]:
    return [line.split() for line in (marks / f"trial-{number}").read_text().splitlines()]


def rows(earlier: set[str]) -> dict[str, set[str]]:
    """States of every trial and fold in the dashboard's task table, by name; events take a moment to arrive."""
    deadline = time.monotonic() + 30
    while True:
        ours = [row for row in list_tasks(limit=10_000) if row.task_id not in earlier]
        found = defaultdict(set)
        for row in ours:
            found[row.name].add(row.state)
        if (
            "FINISHED" in found["trial 3 fold 2/2"] & found["trial 3 test_resnet lr=7e-01"]
            or time.monotonic() > deadline
        ):
            return found
        time.sleep(0.5)


def test_every_trial_ends_in_the_state_that_its_worker_or_the_racing_gave_it(listener: Listener):
    states = {record.number: record.state for record in listener.ended}
    assert states == {0: "finished", 1: "stopped", 2: "failed", 3: "finished", 4: "stopped"}
    assert [record.n_folds for record in sorted(listener.ended, key=lambda record: record.number)] == [2, 1, 0, 2, 1]


def test_a_stop_reaches_the_worker_in_the_middle_of_a_trial_that_nobody_goes_on_with(listener: Listener, marks: Path):
    assert (marks / "left-1").read_text() == "over"


def test_a_search_ends_when_its_last_worker_has_written_what_it_had_to(listener: Listener, marks: Path):
    assert (marks / "left-4").read_text() == "over"
    assert IN_TIME in listener.notes


def test_trials_share_one_worker_process(listener: Listener, marks: Path):
    pids = [lines(marks, number)[0][0] for number in (0, 1, 2, 3)]
    assert len(set(pids)) == 1


def test_a_broker_that_dies_is_started_again_and_the_worker_lives_on_and_takes_the_trial_up_again(
    listener: Listener, marks: Path
):
    first, second = lines(marks, 3)
    assert first[0] == second[0]
    assert [note for note in listener.notes if "its broker is gone" in note]


def test_a_worker_computes_with_its_share_of_the_threads(listener: Listener, marks: Path):
    assert lines(marks, 0)[0][1:] == ["1", "1"]


def test_the_dashboard_shows_trials_and_folds_by_name_and_state(listener: Listener, earlier_rows: set[str]):
    found = rows(earlier_rows)
    assert found["trial 0 test_resnet lr=7e-01"] == {"FINISHED"}
    assert found["trial 0 fold 1/2"] == found["trial 0 fold 2/2"] == {"FINISHED"}
    assert found["trial 1 test_resnet lr=7e-01"] == {"FINISHED"}
    assert found["trial 2 test_resnet lr=7e-01"] == {"FAILED"}
    assert "FINISHED" in found["trial 3 test_resnet lr=7e-01"]  # and that whose broker was killed


def test_a_failed_trial_shows_its_reason_in_the_dashboard(listener: Listener, earlier_rows: set[str]):
    rows(earlier_rows)
    (row,) = [row for row in list_tasks(detail=True, limit=10_000) if row.name == "trial 2 test_resnet lr=7e-01"]
    assert "the loss is not finite in fold 1, epoch 1" in row.error_message


def test_no_call_of_what_carries_messages_stands_in_the_dashboards_tasks(listener: Listener, earlier_rows: set[str]):
    rows(earlier_rows)
    ours = [row.func_or_class_name for row in list_tasks(limit=10_000) if row.task_id not in earlier_rows]
    messages = ("Broker.take", "Broker.report", "Broker.next_message", "Relay.train", "RayTrainWorker.poll_status")
    assert [name for name in ours if name in messages] == []
    assert len(ours) < 60, ours  # five trials; the waiting alone were hundreds


def test_a_node_serves_the_searchs_metrics(listener: Listener):
    def value(name: str, **labels: str) -> float | None:
        return served_metrics().get((f"ray_consilia_{name}", frozenset({"study": STUDY, **labels}.items())))

    wait_for(lambda: value("slots", state="wanted") == 0)  # the last that was published
    assert [value("trials", state=state) for state in ("finished", "stopped", "failed", "running")] == [2, 2, 1, 0]
    assert value("best_objective", metric="log_loss") == 0.5
    assert value("losses_total", cause="slot") == 1  # its broker was killed
    assert value("epochs_total") == len(listener.epochs)
    assert value("images_total") == sum(report.images for report in listener.epochs)
    assert value("slot_seconds", purpose="reserved") >= value("slot_seconds", purpose="useful") > 0


def served_metrics() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What every node serves of consilia, by name and labels, without those that Ray adds."""
    found = {}
    for node in ray.nodes():
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(address, timeout=30) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for name, labels, value, *_ in family.samples:
                    own = {key: labels[key] for key in ("study", *LABELS) if labels.get(key)}
                    found[name, frozenset(own.items())] = value
    return found


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, served_metrics()
        time.sleep(0.5)


def test_no_actor_and_no_placement_group_is_left(listener: Listener, ray_folder: Path):
    assert wait_until_idle(ray_folder) == (set(), [], {})


def test_platform_is_the_standard_librarys_in_a_worker_that_starts_in_the_checkout():
    root = Path(__file__).parents[2]

    @ray.remote(num_cpus=0)
    def where() -> str:
        import platform

        return platform.__file__

    environment = {"env_vars": {"PYTHONPATH": str(root)}}
    found = ray.get(where.options(runtime_env=environment).remote())
    assert Path(found).parent == Path(os.__file__).parent
